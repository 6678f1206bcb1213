# shellcheck shell=bash
# In the guest: faults of every kind on the bare disk, and then none: what is read is what was read before.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

FIRST=$CONVENTIONAL
LAST=$((FIRST + 11))

# Zones in each state: written in part, open, full, finished, empty.
digest_written() {
    local zone
    reset_all
    for ((zone = FIRST; zone < FIRST + 8; zone++)); do
        put_zone "$zone" 0 $((65536 * (zone - FIRST + 1)))
    done
    manage close $((FIRST + 1))
    manage open $((FIRST + 2))
    put_zone $((FIRST + 8)) 0 "$ZONE_CAPACITY"
    put_zone $((FIRST + 9)) 0 65536
    manage finish $((FIRST + 9))
    pattern conventional 262144 | put 0
    sync -d "$DISK"
    digest 0 "$LAST" >/tmp/digest
}

digest_is_spoilt_by_each_rule() {
    fault_zone "$FIRST-$((FIRST + 2))" offline
    fault_zone "$((FIRST + 3))-$((FIRST + 4))" read-only
    fault_zone "$((FIRST + 8))-$((FIRST + 10))" offline
    refused get "$(zone_start "$FIRST")" 4096
    equal "state of an offline zone" "$(zone_state "$FIRST")" of
    equal "state of a read-only zone" "$(zone_state $((FIRST + 3)))" ro
    get "$(zone_start $((FIRST + 3)))" 65536 | same - <(pattern "zone $((FIRST + 3)) from 0" 65536)
    refused put_zone $((FIRST + 3)) $((4 * 65536)) 4096
    refused manage reset $((FIRST + 3))
    refused manage finish $((FIRST + 10))

    ./fault add unreadable --on read --sectors $((FIRST * ZONE_SIZE / 512 + 5 * ZONE_SIZE / 512))-$((FIRST * ZONE_SIZE / 512 + 5 * ZONE_SIZE / 512 + 7)) \
        --do unreadable
    refused get "$(zone_start $((FIRST + 5)))" 4096
    get $(($(zone_start $((FIRST + 5))) + 4096)) 4096 >/dev/null
    ./fault add rot --on read --zone $((FIRST + 6)) --do corrupt=flip:1
    refused same <(get "$(zone_start $((FIRST + 6)))" 65536) <(pattern "zone $((FIRST + 6)) from 0" 65536)
    ./fault add blank --on read --zone 0 --do corrupt=zero
    get 0 65536 | same - <(head -c 65536 /dev/zero)
    ./fault add full --on write --zone $((FIRST + 7)) --do error=ioerr
    refused put_zone $((FIRST + 7)) $((8 * 65536)) 65536
    ./fault add stuck --on reset,finish,reset-all --do error=ioerr
    refused manage reset $((FIRST + 7))
    [[ $(digest 0 "$LAST") != $(cat /tmp/digest) ]]
    ./fault list
    note "$(./fault list | sed -n 1p)"
    equal "rules and zones of the list" "$(./fault list | wc -l)" 13
}

digest_is_the_same_afterwards() {
    heal "$FIRST-$LAST"
    equal "rules and zones of the list" "$(./fault list)" "no rule, and no zone is taken away"
    equal "the digest" "$(digest 0 "$LAST")" "$(cat /tmp/digest)"
    note "the digest of $((LAST + 1)) zones before and after: $(cat /tmp/digest)"
    # And all of it takes writes where it stands.
    put_zone "$FIRST" 65536 65536
    put_zone $((FIRST + 7)) $((8 * 65536)) 65536
    manage reset $((FIRST + 8))
    equal "state" "$(zone_state $((FIRST + 8)))" em
}

digest_wrong_words_are_refused() {
    refused ./fault add wrong --on write --zone 100000 --do error=ioerr 2>/tmp/said
    grep -q "^fault: zone is '100000': expected a number below $ZONES" /tmp/said
    refused ./fault add wrong --on write 2>/tmp/said
    grep -q '^fault: the following required arguments were not provided: --do' /tmp/said
    refused ./fault clear nobody 2>/tmp/said
    refused ./fault tell 2>/tmp/said
    grep -q '^fault: expected add NAME' /tmp/said
}

check digest-written
check digest-is-spoilt-by-each-rule
check digest-is-the-same-afterwards
check digest-wrong-words-are-refused
