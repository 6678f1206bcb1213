#!/usr/bin/env bash
# In the guest, after files.sh and a loss of power: the files.
set -eu
mount -t btrfs /dev/vda /mnt
lost=0
for number in 1 2 3 4 5; do
    yes "file $number" | head -c 100000 | cmp - /mnt/$number || lost=$((lost + 1))
done
echo "$lost of 5 files lost"
[ $lost -eq 0 ]
