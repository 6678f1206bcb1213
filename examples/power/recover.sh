#!/usr/bin/env bash
# In the guest, after append.sh and a loss of power: what of the log is there.
set -eu
disk=/dev/vda
pointer=$(blkzone report $disk | sed -n '/SEQ_WRITE/{s/.*wptr \(0x[0-9a-f]*\).*/\1/p;q}')
found=$((pointer / 8))
echo "found: $found records"
if [ -e /tmp/kept ] && [ $found -lt "$(cat /tmp/kept)" ]; then
    echo "lost: $(($(cat /tmp/kept) - found)) records that were said to be kept"
    exit 1
fi
