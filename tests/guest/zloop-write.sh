# shellcheck shell=bash
# In the guest: the disk that is to become a directory of zloop gets something in its zones.
. ./in-guest-lib.sh
. ./zloop-lib.sh

zones_written() {
    at_first "$DISK"
    sync
    zones_and_bytes "$DISK"
}

check zones-written
