# shellcheck shell=bash
# In the guest: leaves zones in every state behind, with data, and prints what they are as lines "MANIFEST ..." for persist-verify.sh.
. ./in-guest-lib.sh
. ./kill-lib.sh
. ./persist-lib.sh

leave_zones() {
    local zone=$CONVENTIONAL
    reset_all
    pattern "conventional" $((4 * 65536)) | put 65536
    # Implicitly open, explicitly open, explicitly open without data, closed.
    put_zone "$zone" 0 $((3 * 65536))
    manage open $((zone + 1))
    put_zone $((zone + 1)) 0 $((2 * 65536))
    manage open $((zone + 2))
    put_zone $((zone + 3)) 0 65536
    manage close $((zone + 3))
    # Finished with and without data, filled.
    put_zone $((zone + 4)) 0 65536
    manage finish $((zone + 4))
    manage finish $((zone + 5))
    put_zone $((zone + 6)) 0 "$(zone_capacity $((zone + 6)))"
    # Written and reset, and written again with less.
    put_zone $((zone + 7)) 0 $((8 * 65536))
    manage reset $((zone + 7))
    put_zone $((zone + 8)) 0 $((8 * 65536))
    manage reset $((zone + 8))
    pattern "after the reset" "$BLOCK" | put "$(zone_start $((zone + 8)))" "$BLOCK"
    # The last zone, short.
    put_zone $((ZONES - 1)) 0 65536
}

check leave-zones
manifest | sed 's/^/MANIFEST /'
