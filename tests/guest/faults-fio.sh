# shellcheck shell=bash
# In the guest (with fio 3.40 or newer): jobs that go on behind writes that failed in part, as fio's own tests 72 to 75 want them: fio looks
# where the zone stands and fills it up to where the write was to end, so that the next one is at the pointer.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

FIRST=$CONVENTIONAL
COUNT=4
BYTES=65536
WRITES=$((COUNT * ZONE_CAPACITY / BYTES))

# job OPTION...: writes COUNT zones from the first; what fio says becomes /tmp/fio, and FIO its status. ERRORS is how many it counted.
job() {
    FIO=0
    fio --name=job --filename="$DISK" --direct=1 --zonemode=zbd --rw=write --bs="$BYTES" --offset="$(zone_start "$FIRST")" \
        --size=$((COUNT * ZONE_SIZE)) --continue_on_error=1 --debug=zbd "$@" >/tmp/fio 2>&1 || FIO=$?
    ERRORS=$(sed -n 's/.*errors *: total= *\([0-9]*\).*/\1/p' /tmp/fio | tail -n 1)
    grep -v '^zbd ' /tmp/fio | tail -n 30
    grep '^zbd ' /tmp/fio | grep -i -E 'move|recover' | head -n 10 || true
}

moves() { grep -c 'Write pointer move succeeded' /tmp/fio || true; }
failed_moves() { grep -c 'Failed to recover write pointer' /tmp/fio || true; }
states() { zones -o $((FIRST * ZONE_SIZE / 512)) -c "$COUNT" | cut -d' ' -f5 | tr '\n' ' '; }
acted() { ./fault list | sed 's/.*acted on //' | tr '\n' ' '; }

# torn_writes: in each of three zones one write fails with half of it in the zone.
torn_writes() {
    local zone
    reset_all
    for ((zone = 0; zone < 3; zone++)); do
        ./fault add "torn$zone" --on write --zone $((FIRST + zone)) --nth $((5 * zone + 2)) --do error=ioerr landed=half
    done
}

# One write after another: the rest of the failed one is written, so that all of it can be verified.
fio_one_after_another() {
    torn_writes
    job --ioengine=psync --verify=md5 --recover_zbd_write_error=1 --ignore_error=,EIO
    note "fio, one write after another: status $FIO, ${ERRORS:-no} errors of $WRITES writes, $(moves) times the pointer was moved on; the rules acted on $(acted)"
    ./fault clear --all
    equal "fio's status" "$FIO" 0
    equal "moves of the pointer" "$(moves)" 3
    equal "states of the zones" "$(states)" "fu fu fu fu "
    # What fio itself verifies behind an error is one block.
    job --ioengine=psync --verify=md5 --verify_fatal=1 --rw=read
    equal "fio's status, reading all of it" "$FIO" 0
    grep "issued rwts: total=$WRITES,0,0,0" /tmp/fio
}

# Many at once, of eight jobs: those behind a failed one fail too, as they are not at the pointer any more.
fio_many_at_once() {
    torn_writes
    job --ioengine=libaio --iodepth=32 --numjobs=8 --group_reporting=1 --recover_zbd_write_error=1
    note "fio, 8 jobs with 32 writes at once: status $FIO, ${ERRORS:-no} errors, $(moves) times the pointer was moved on; the rules acted on $(acted)"
    ./fault clear --all
    equal "fio's status" "$FIO" 0
    (($(moves) >= 1))
}

# What fills the zone up fails as well.
fio_recovery_fails() {
    torn_writes
    ./fault add again --on write --zone "$FIRST" --nth 3 --do error=ioerr
    job --ioengine=psync --recover_zbd_write_error=1 --ignore_error=,EIO
    note "fio, the write that is to move the pointer fails too: status $FIO, ${ERRORS:-no} errors, $(failed_moves) times not moved; the rules acted on $(acted)"
    ./fault clear --all
    (($(failed_moves) >= 1))
    note "fio: $(grep -m 1 'Failed to recover write pointer' /tmp/fio)"
}

fio_recovery_fails_of_many() {
    reset_all
    ./fault add all --on write --zone "$FIRST-$((FIRST + COUNT - 1))" --every 3 --do error=ioerr landed=half
    job --ioengine=libaio --iodepth=32 --numjobs=8 --group_reporting=1 --recover_zbd_write_error=1
    note "fio, every third write of 8 jobs fails: status $FIO, ${ERRORS:-no} errors, $(moves) times moved, $(failed_moves) times not; the rules acted on $(acted)"
    ./fault clear --all
    (($(failed_moves) >= 1))
}

# Without that option.
fio_without_recovery() {
    torn_writes
    job --ioengine=psync --ignore_error=,EIO
    note "fio without recover_zbd_write_error: status $FIO, ${ERRORS:-no} errors of $WRITES writes; the rules acted on $(acted); states $(states)"
    ./fault clear --all
    equal "states of the zones" "$(states)" "oi em em em "
}

check fio-one-after-another
check fio-many-at-once
check fio-recovery-fails
check fio-recovery-fails-of-many
check fio-without-recovery
