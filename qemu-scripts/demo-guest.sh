# shellcheck shell=bash
# What demo.sh runs in the guest: shows the zoned disk, writes to it, shows it again.
set -euo pipefail
disk=/dev/vda
queue=/sys/block/vda/queue

title() { printf '\n--- %s\n' "$*"; }

title "the disk's zoned attributes"
for name in zoned chunk_sectors nr_zones max_open_zones max_active_zones zone_append_max_bytes zone_write_granularity logical_block_size; do
    printf '%-24s %s\n' "$name" "$(cat "$queue/$name")"
done
lsblk -z "$disk"

title "its zones before any write"
blkzone report "$disk"

title "dd at the write pointer of zone 2: 1 MiB"
start=$((2 * $(cat "$queue/chunk_sectors") * 512))
dd if=/dev/urandom of="$disk" bs=64K count=16 oflag=direct,seek_bytes seek="$start" 2>&1

title "dd away from the write pointer is refused"
if dd if=/dev/zero of="$disk" bs=4K count=1 oflag=direct,seek_bytes seek="$((start + (8 << 20)))" 2>&1; then
    echo "it was not refused"
    exit 1
fi

title "fio writes into zones 4 to 7 in random order and verifies what it reads back"
echo mq-deadline >/sys/block/vda/queue/scheduler
fio --name=zones --filename="$disk" --zonemode=zbd --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=128K --offset=4z --size=4z --max_open_zones=4 \
    --io_size=16M --verify=crc32c --verify_fatal=1 --output-format=terse --terse-version=3 >/tmp/fio || { cat /tmp/fio; exit 1; }
echo "verified"

title "finish of zone 8, explicit open of zone 9"
blkzone finish -o "$((8 * $(cat "$queue/chunk_sectors")))" -c 1 "$disk"
blkzone open -o "$((9 * $(cat "$queue/chunk_sectors")))" -c 1 "$disk"

title "its zones after the writes"
blkzone report "$disk"
