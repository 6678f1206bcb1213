# shellcheck shell=bash
# In the guest: the power goes and comes back while it lives. What is read of the zones afterwards is what was stable, and no more.
. ./in-guest-lib.sh

FIRST=$CONVENTIONAL
flush() { sync -d "$DISK"; }

# expect_zone N STATE POINTER
expect_zone() { equal "state and pointer of zone $1" "$(zone "$1" | cut -d' ' -f4,5)" "$3 $2"; }

power_cycle_finds_what_was_stable() {
    reset_all
    put_zone "$FIRST" 0 65536
    put_zone $((FIRST + 1)) 0 $((3 * 65536))
    put_zone $((FIRST + 2)) 0 65536
    put_zone $((FIRST + 3)) 0 65536
    [[ $CONVENTIONAL -eq 0 ]] || pattern old 65536 | put 0
    flush
    # Nothing of this is.
    put_zone "$FIRST" 65536 $((2 * 65536))
    manage reset $((FIRST + 1))
    manage finish $((FIRST + 2))
    manage open $((FIRST + 3))
    put_zone $((FIRST + 4)) 0 65536
    put_zone $((FIRST + 5)) 0 "$ZONE_CAPACITY"
    [[ $CONVENTIONAL -eq 0 ]] || pattern new 65536 | put 0
    expect_zone $((FIRST + 1)) em 0
    equal "state of a zone written to its end" "$(zone_state $((FIRST + 5)))" fu
    ./power cut lose=all
    refused get 0 4096
    ./power cycle
    expect_zone "$FIRST" cl 65536
    expect_zone $((FIRST + 1)) cl $((3 * 65536))
    expect_zone $((FIRST + 2)) cl 65536
    expect_zone $((FIRST + 3)) cl 65536
    expect_zone $((FIRST + 4)) em 0
    expect_zone $((FIRST + 5)) em 0
}

power_cycle_finds_the_bytes() {
    get "$(zone_start "$FIRST")" $((3 * 65536)) >/tmp/read
    { pattern "zone $FIRST from 0" 65536; head -c $((2 * 65536)) /dev/zero; } | same - /tmp/read
    get "$(zone_start $((FIRST + 1)))" $((4 * 65536)) >/tmp/read
    { pattern "zone $((FIRST + 1)) from 0" $((3 * 65536)); head -c 65536 /dev/zero; } | same - /tmp/read
    get "$(zone_start $((FIRST + 5)))" "$ZONE_CAPACITY" | same - <(head -c "$ZONE_CAPACITY" /dev/zero)
    [[ $CONVENTIONAL -eq 0 ]] || get 0 65536 | same - <(pattern old 65536)
}

# The kernel has read the pointers anew: it takes a write at them.
power_cycle_goes_on() {
    put_zone "$FIRST" 65536 65536
    put_zone $((FIRST + 4)) 0 65536
    flush
    ./power cut lose=all
    ./power cycle
    expect_zone "$FIRST" cl $((2 * 65536))
    expect_zone $((FIRST + 4)) cl 65536
}

power_cycle_at_a_mark() {
    put_zone $((FIRST + 6)) 0 65536
    flush
    ./power cut lose=all at=mark:here
    put_zone $((FIRST + 6)) 65536 65536
    ./power mark elsewhere
    put_zone $((FIRST + 6)) $((2 * 65536)) 65536
    refused ./power cycle
    ./power mark here
    until ! get 0 4096 >/dev/null 2>&1; do :; done
    ./power cycle
    expect_zone $((FIRST + 6)) cl 65536
}

power_cycle_a_wrong_word_is_refused() {
    refused ./power cut lose=some 2>/tmp/said
    grep -q "^power: lose is 'some': expected all, nothing or zone:N,N,..." /tmp/said
    get 0 4096 >/dev/null
}

check power-cycle-finds-what-was-stable
check power-cycle-finds-the-bytes
check power-cycle-goes-on
check power-cycle-at-a-mark
check power-cycle-a-wrong-word-is-refused
