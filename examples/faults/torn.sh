#!/usr/bin/env bash
# In the guest: the third write of a zone fails, and half of it is there. A writer that goes on where the failed write began is not at the
# pointer; one that asks where the zone stands is.
set -u
disk=/dev/vda
sectors=$(cat /sys/block/vda/queue/chunk_sectors)
zone=4
start=$((zone * sectors * 512))

# write AT: 64 KiB, so many bytes from the zone's start
write() {
    dd if=/dev/zero of=$disk bs=64K count=1 conv=notrunc oflag=direct,seek_bytes seek=$((start + $1)) status=none 2>/dev/null
}
# pointer: so many bytes from the zone's start
pointer() { echo $(($(blkzone report -o $((start / 512)) -c 1 $disk | sed 's/.*wptr \(0x[0-9a-f]*\).*/\1/') * 512)); }

./fault add torn --on write --zone $zone --nth 3 --do error=ioerr landed=half
at=0
for number in 1 2 3; do
    if write $at; then
        echo "write $number at $at: answered"
        at=$((at + 65536))
    else
        echo "write $number at $at: failed, and the pointer is at $(pointer)"
    fi
done
write $at || echo "the same again at $at: failed, as the pointer is at $(pointer)"
at=$(pointer)
write "$at" && echo "write 4 at $at: answered"
./fault list
