# shellcheck shell=bash
# In the guest: a disk that answers late, and one that does not answer until it is told to.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

ZONE=$CONVENTIONAL
READS=100

# latencies [OPTION...]: random reads of a zone one after another: LEAST, MEDIAN, P99 and MOST, in us
latencies() {
    local line
    line=$(fio --name=job --filename="$DISK" --direct=1 --ioengine=psync --rw=randread --bs=4k --offset="$(zone_start "$ZONE")" --size="$ZONE_CAPACITY" \
        --norandommap --number_ios="$READS" --zonemode=none --output-format=terse --terse-version=3 | tail -n 1)
    equal "fio's error" "$(cut -d';' -f5 <<<"$line")" 0
    LEAST=$(cut -d';' -f14 <<<"$line") MOST=$(cut -d';' -f15 <<<"$line")
    MEDIAN=$(tr ';' '\n' <<<"$line" | sed -n 's/^50.000000%=//p' | head -n 1)
    P99=$(tr ';' '\n' <<<"$line" | sed -n 's/^99.000000%=//p' | head -n 1)
    note "$1: $READS reads took $LEAST us at least, half of them $MEDIAN at most, 99 of 100 $P99 at most, the slowest $MOST"
}

late_begin() {
    reset_all
    put_zone "$ZONE" 0 "$ZONE_CAPACITY"
    put_zone $((ZONE + 1)) 0 65536
    latencies "no rule"
    ((MEDIAN < 20000))
}

late_all() {
    ./fault add late --on read --zone "$ZONE" --do delay=20ms
    latencies "delay=20ms"
    ./fault clear late
    ((LEAST >= 20000))
}

late_one_in_ten() {
    ./fault add late --on read --every 10 --do delay=60ms
    latencies "every 10 delay=60ms"
    equal "the rule" "$(./fault list)" "late: on read every 10 do delay=60ms: acted on $((READS / 10)) of $READS"
    ./fault clear late
    ((LEAST < 60000 && MEDIAN < 60000 && P99 >= 60000))
}

late_exponential() {
    ./fault add late --on read --prob 0.2 --seed 7 --do delay=exp:30ms
    latencies "prob 0.2 seed 7 delay=exp:30ms"
    ./fault list
    ./fault clear late
    ((MEDIAN < 30000 && MOST > 30000))
}

late_answer_of_a_write() {
    local before=${EPOCHREALTIME/./} took
    ./fault add late --on write --nth 1 --do delay=300ms after
    put_zone $((ZONE + 1)) 65536 4096
    took=$((${EPOCHREALTIME/./} - before))
    ./fault clear late
    note "delay=300ms after: a write took $((took / 1000)) ms"
    ((took >= 300000))
    equal "the pointer" "$(zone_pointer $((ZONE + 1)))" $((65536 + 4096))
}

late_never_until_released() {
    local hung
    ./fault add hung --on read --zone "$ZONE" --nth 1 --do hang
    get "$(zone_start "$ZONE")" 4096 >/tmp/hung &
    hung=$!
    sleep 2
    kill -0 "$hung"
    equal "the rule" "$(./fault list)" "hung: on read zone $ZONE nth 1 do hang: acted on 1 of 1, holds back 1"
    # The others go on.
    get "$(zone_start $((ZONE + 1)))" 65536 | same - <(pattern "zone $((ZONE + 1)) from 0" 65536)
    get "$(zone_start "$ZONE")" 4096 >/dev/null
    ./fault release hung
    wait "$hung"
    pattern "zone $ZONE from 0" 4096 | same - /tmp/hung
    note "hang: a read that hung for two seconds went on when it was released"
    ./fault clear --all
}

check late-begin
check late-all
check late-one-in-ten
check late-exponential
check late-answer-of-a-write
check late-never-until-released
