# shellcheck shell=bash
# In the guest: blkzone's open, close, finish, reset and reset of all, and the limits of open and active zones.
. ./in-guest-lib.sh

first=$CONVENTIONAL

zone_open() {
    reset_all
    manage open $((first + 1))
    equal state "$(zone_state $((first + 1)))" oe
    manage open $((first + 1))
    equal "state after a second open" "$(zone_state $((first + 1)))" oe
    put_zone $((first + 1)) 0 65536
    equal "state when written" "$(zone_state $((first + 1)))" oe
    equal pointer "$(zone_pointer $((first + 1)))" 65536
    equal "its neighbour" "$(zone_state "$first")" em
}

zone_open_limit() {
    local index
    reset_all
    for ((index = 0; index < MAX_OPEN; index++)); do
        manage open $((first + index))
    done
    refused manage open $((first + MAX_OPEN))
    equal "state of the refused zone" "$(zone_state $((first + MAX_OPEN)))" em
    manage close "$first"
    manage open $((first + MAX_OPEN))
    equal "state when there is room" "$(zone_state $((first + MAX_OPEN)))" oe
}

zone_close() {
    reset_all
    put_zone "$first" 0 65536
    equal "state when written" "$(zone_state "$first")" oi
    manage close "$first"
    equal "state of a written zone" "$(zone_state "$first")" cl
    equal pointer "$(zone_pointer "$first")" 65536
    manage close "$first"
    equal "state after a second close" "$(zone_state "$first")" cl
    manage open $((first + 1))
    manage close $((first + 1))
    equal "state of a zone without data" "$(zone_state $((first + 1)))" em
    refused manage close $((first + 2))
    equal "state of an empty zone" "$(zone_state $((first + 2)))" em
    # A closed zone goes on where it was.
    pattern "goes on" 65536 | put $(($(zone_start "$first") + 65536))
    equal "state when written again" "$(zone_state "$first")" oi
}

zone_finish() {
    reset_all
    put_zone "$first" 0 65536
    manage finish "$first"
    equal "state of a written zone" "$(zone_state "$first")" fu
    manage finish $((first + 1))
    equal "state of an empty zone" "$(zone_state $((first + 1)))" fu
    manage finish $((first + 1))
    equal "state after a second finish" "$(zone_state $((first + 1)))" fu
    manage finish $((ZONES - 1))
    equal "state of the last zone" "$(zone_state $((ZONES - 1)))" fu
    refused manage open "$first"
    refused manage close "$first"
    refused put_zone "$first" 65536 65536
    pattern "zone $first from 0" 65536 | cmp - <(get "$(zone_start "$first")" 65536)
    get $(($(zone_start "$first") + 65536)) 65536 | cmp -n 65536 - /dev/zero
}

zone_reset() {
    reset_all
    put_zone "$first" 0 131072
    put_zone $((first + 1)) 0 131072
    manage reset "$first"
    equal state "$(zone_state "$first")" em
    equal pointer "$(zone_pointer "$first")" 0
    get "$(zone_start "$first")" "$ZONE_SIZE" | cmp -n "$ZONE_SIZE" - /dev/zero
    equal "its neighbour's pointer" "$(zone_pointer $((first + 1)))" 131072
    manage reset "$first"
    pattern again 65536 | put "$(zone_start "$first")"
    pattern again 65536 | cmp - <(get "$(zone_start "$first")" 65536)
    get $(($(zone_start "$first") + 65536)) 65536 | cmp -n 65536 - /dev/zero
    put_zone $((ZONES - 1)) 0 65536
    manage reset $((ZONES - 1))
    equal "state of the last zone" "$(zone_state $((ZONES - 1)))" em
}

zone_reset_all() {
    local index
    pattern "stays" 65536 | put 0
    reset_all
    manage finish "$first"
    manage open $((first + 1))
    put_zone $((first + 2)) 0 65536
    put_zone $((first + 3)) 0 65536
    manage close $((first + 3))
    put_zone $((ZONES - 1)) 0 65536
    reset_all
    zones | cut -d' ' -f4,5 >/tmp/zones
    for ((index = 0; index < ZONES; index++)); do
        if ((index < CONVENTIONAL)); then
            echo "0 nw"
        else
            echo "0 em"
        fi
    done | diff - /tmp/zones
    pattern "stays" 65536 | cmp - <(get 0 65536)
}

conventional_zones_have_no_state() {
    local command
    for command in open close finish reset; do
        refused manage "$command" 0
    done
    equal state "$(zone_state 0)" nw
}

# One more zone than may be open: the one written longest ago is closed by the device.
implicit_close() {
    local index
    reset_all
    for ((index = 0; index <= MAX_OPEN; index++)); do
        put_zone $((first + index)) 0 65536
    done
    equal "state of the first zone" "$(zone_state "$first")" cl
    for ((index = 1; index <= MAX_OPEN; index++)); do
        equal "state of the zone $index" "$(zone_state $((first + index)))" oi
    done
}

active_limit() {
    local index
    reset_all
    for ((index = 0; index < MAX_ACTIVE; index++)); do
        put_zone $((first + index)) 0 65536
    done
    refused put_zone $((first + MAX_ACTIVE)) 0 65536
    equal "state of the refused zone" "$(zone_state $((first + MAX_ACTIVE)))" em
    refused manage open $((first + MAX_ACTIVE))
    manage finish "$first"
    put_zone $((first + MAX_ACTIVE)) 0 65536
    equal "state when there is room" "$(zone_state $((first + MAX_ACTIVE)))" oi
}

check zone-open
check zone-open-limit
check zone-close
check zone-finish
check zone-reset
check zone-reset-all
check conventional-zones-have-no-state
check implicit-close
check active-limit
