#!/usr/bin/env bash
# In the guest: a small log on the first zone that has a write pointer. A record is a block; it is said to be kept once it was appended.
# A file "careful" beside it has each made stable before that.
set -eu
disk=/dev/vda
begin=$(blkzone report $disk | sed -n '/SEQ_WRITE/{s/.*start: \(0x[0-9a-f]*\),.*/\1/p;q}')
blkzone reset -o $((begin)) -c 1 $disk
for number in 1 2 3 4 5 6 7 8; do
    printf 'record %d\n' $number | dd of=$disk bs=4096 conv=sync,notrunc oflag=direct,seek_bytes seek=$((begin * 512 + (number - 1) * 4096)) status=none
    [ ! -e careful ] || sync -d $disk
    echo $number >/tmp/kept
done
echo "kept: $(cat /tmp/kept) records"
