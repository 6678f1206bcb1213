#!/usr/bin/env bash
# In the guest: a file system of btrfs with five files, each made stable by fsync. Files "options" beside it has the options of the mount.
set -eu
mkfs.btrfs -q -f -O zoned -d single -m single /dev/vda
mount -t btrfs -o "$(cat options 2>/dev/null || echo defaults)" /dev/vda /mnt
for number in 1 2 3 4 5; do
    yes "file $number" | head -c 100000 | dd of=/mnt/$number bs=64K conv=fsync status=none
done
