# shellcheck shell=bash
# In the guest: device mapper on the zoned disk. Zones remapped by linear, and encrypted by crypt, which emulates zone appends;
# btrfs, which appends, on both; dm-zoned, which makes an ordinary disk of the zones (their capacity has to be their size).
. ./in-guest-lib.sh
. ./software-lib.sh
. ./churn-lib.sh

# Device mapper's targets begin here, at a zone's start: not at the disk's.
OFFSET=2
MAPPED=$((ZONES - OFFSET))
KEY=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f

# map NAME TARGET: the disk without its first OFFSET zones
map() {
    nothing_mapped
    reset_all
    # There is no udev here: dmsetup makes the nodes.
    dmsetup create --noudevsync "$1" --table "0 $((MAPPED * ZONE_SIZE / 512)) $2"
    dmsetup mknodes "$1"
    [[ -b /dev/mapper/$1 ]]
}

# What a test that failed may have left.
nothing_mapped() {
    modprobe dm-mod
    ! findmnt "$MOUNT" || umount "$MOUNT"
    dmsetup remove_all --noudevsync
}

unmap() { dmsetup remove --noudevsync "$1"; }

# mapped_queue NAME ATTRIBUTE
mapped_queue() {
    local node
    node=$(readlink -f "/dev/mapper/$1")
    [[ -d /sys/block/${node#/dev/} ]] || node=/dev/dm-$(dmsetup info -c --noheadings -o minor "$1")
    cat "/sys/block/${node#/dev/}/queue/$2"
}

# The same zones, OFFSET earlier, whatever their states are.
same_zones() {
    local below start rest
    below=$(zones | tail -n +$((OFFSET + 1)) | while read -r start rest; do echo "$((start - OFFSET * ZONE_SIZE)) $rest"; done)
    diff <(echo "$below") <(DISK=/dev/mapper/$1 zones)
}

write_zeros() { dd if=/dev/zero of="$1" bs=64K count=1 oflag=direct,seek_bytes seek="$2" conv=notrunc,nocreat status=none; }

# zones_through NAME: writes, refusals and requests through the mapped disk, looked at from below.
zones_through() {
    local name=$1 mapped=/dev/mapper/$1 zone=$CONVENTIONAL above=$((CONVENTIONAL - OFFSET))
    equal zoned "$(mapped_queue "$name" zoned)" host-managed
    equal zones "$(mapped_queue "$name" nr_zones)" "$MAPPED"
    note "dm $name: limits $(mapped_queue "$name" max_open_zones) open, $(mapped_queue "$name" max_active_zones) active," \
        "appends up to $(mapped_queue "$name" zone_append_max_bytes) bytes"
    same_zones "$name"
    pattern "through $name" $((4 * 65536)) | dd of="$mapped" bs=64K iflag=fullblock oflag=direct,seek_bytes conv=notrunc status=none \
        seek=$((above * ZONE_SIZE))
    equal "the pointer below" "$(zone_pointer "$zone")" $((4 * 65536))
    pattern "through $name" $((4 * 65536)) | cmp - <(DISK=$mapped get $((above * ZONE_SIZE)) $((4 * 65536)))
    errno write_zeros "$mapped" $((above * ZONE_SIZE))
    equal "a write behind the pointer" "$ERRNO" EIO
    errno write_zeros "$mapped" $(((above + 1) * ZONE_SIZE + 65536))
    equal "a write past the pointer" "$ERRNO" EIO
    blkzone finish -o $(((above + 1) * ZONE_SIZE / 512)) -l $((ZONE_SIZE / 512)) "$mapped"
    blkzone open -o $(((above + 2) * ZONE_SIZE / 512)) -l $((ZONE_SIZE / 512)) "$mapped"
    equal "a finished zone below" "$(zone_state $((zone + 1)))" fu
    equal "an opened zone below" "$(zone_state $((zone + 2)))" oe
    same_zones "$name"
    blkzone reset -o $((above * ZONE_SIZE / 512)) -l $((ZONE_SIZE / 512)) "$mapped"
    equal "a reset zone below" "$(zone_state "$zone")" em
    blkzone reset -o $((above * ZONE_SIZE / 512)) "$mapped"
    equal "zones in use after a reset of all" "$(zones | grep -c -v -E ' (em|nw) ' || true)" 0
}

# btrfs_through NAME: a file system that appends to zones
btrfs_through() {
    local index
    churn_base
    modprobe btrfs
    mkfs.btrfs -q -f -O zoned -d single -m single "/dev/mapper/$1"
    mount -t btrfs "/dev/mapper/$1" "$MOUNT"
    for index in 0 1 2 3 4 5; do
        churn_write "file$index" 1
    done
    rm "$MOUNT/file0"
    umount "$MOUNT"
    mount -t btrfs "/dev/mapper/$1" "$MOUNT"
    for index in 1 2 3 4 5; do
        churn_same "file$index" 1
    done
    btrfs scrub start -B -R "$MOUNT"
    umount "$MOUNT"
    btrfs check --readonly "/dev/mapper/$1"
}

linear_zones() {
    map linear "linear $DISK $((OFFSET * ZONE_SIZE / 512))"
    zones_through linear
}

linear_btrfs() {
    btrfs_through linear
    unmap linear
}

crypt_zones() {
    modprobe dm-crypt
    map crypt "crypt aes-cbc-plain64 $KEY 0 $DISK $((OFFSET * ZONE_SIZE / 512))"
    zones_through crypt
}

# What stands on the disk is not what was written.
crypt_encrypts() {
    local zone=$CONVENTIONAL
    pattern "secret" 65536 | dd of=/dev/mapper/crypt bs=64K iflag=fullblock oflag=direct,seek_bytes conv=notrunc status=none \
        seek=$(((zone - OFFSET) * ZONE_SIZE))
    equal "the pointer below" "$(zone_pointer "$zone")" 65536
    get "$(zone_start "$zone")" 65536 >/tmp/encrypted
    refused grep -q secret /tmp/encrypted
    blkzone reset -o $(((CONVENTIONAL - OFFSET) * ZONE_SIZE / 512)) /dev/mapper/crypt
}

# The kernel makes writes at the pointer of the appends: a block is encrypted for its place.
crypt_btrfs() {
    btrfs_through crypt
    unmap crypt
}

# cryptsetup's own way to the same
crypt_by_cryptsetup() {
    nothing_mapped
    reset_all
    head -c 32 /dev/zero | cryptsetup open --type plain --cipher aes-cbc-plain64 --key-size 256 --hash plain --key-file=- \
        --offset $((OFFSET * ZONE_SIZE / 512)) "$DISK" plain
    equal zoned "$(mapped_queue plain zoned)" host-managed
    same_zones plain
    cryptsetup close plain
}

zoned_format() {
    modprobe dm-zoned
    nothing_mapped
    reset_all
    dmzadm --format "$DISK" --force --label=zoned
    # The table that "dmzadm --start" would load; that wants udev.
    dmsetup create --noudevsync zoned --table "0 $(zoned_sectors) zoned $DISK"
    dmsetup mknodes zoned
    equal "the zones of the made disk" "$(mapped_queue zoned zoned)" none
    note "dm-zoned: $(dmsetup status zoned)"
}

# The size of the disk that comes out, from dm-zoned's super block: at byte 32 the number of its chunks, each as large as a zone.
zoned_sectors() {
    local chunks
    chunks=$(od -A n -t u4 -j 32 -N 4 "$DISK")
    printf '%s\n' $((chunks * ZONE_SIZE / 512))
}

# Written at random, over and over, as no zone could be: the same bytes in a file in memory say what has to be there.
zoned_random_writes() {
    local index place size=$((96 << 20))
    truncate -s "$size" /tmp/mirror
    pattern "dm-zoned" $((1 << 20)) >/tmp/bytes
    RANDOM=11
    for ((index = 0; index < 200; index++)); do
        place=$(((RANDOM * 32768 + RANDOM) % (size / 4096 - 32) * 4096))
        for target in /dev/mapper/zoned /tmp/mirror; do
            dd if=/tmp/bytes of="$target" bs=$((4096 * (1 + index % 32))) count=1 iflag=skip_bytes skip=$((index * 4096)) oflag=seek_bytes \
                seek="$place" conv=notrunc status=none
        done
    done
    sync /dev/mapper/zoned
    blockdev --flushbufs /dev/mapper/zoned
    cmp -n "$size" /tmp/mirror /dev/mapper/zoned
    rm /tmp/mirror
}

# A file system that knows nothing of zones.
zoned_file_system() {
    local index generation
    churn_base
    mkfs.btrfs -q -f -d single -m single /dev/mapper/zoned
    mount -t btrfs /dev/mapper/zoned "$MOUNT"
    for ((generation = 0; generation < 2; generation++)); do
        for ((index = 0; index < 24; index++)); do
            churn_write "file$index" "$generation"
        done
        sync -f "$MOUNT"
    done
    btrfs scrub start -B -R "$MOUNT"
    umount "$MOUNT"
    note "dm-zoned: $(dmsetup status zoned)"
}

# Taken down and up again, and what dmzadm says of it.
zoned_again() {
    local index
    dmsetup remove --noudevsync zoned
    dmzadm --check "$DISK"
    dmsetup create --noudevsync zoned --table "0 $(zoned_sectors) zoned $DISK"
    dmsetup mknodes zoned
    mount -t btrfs /dev/mapper/zoned "$MOUNT"
    for ((index = 0; index < 24; index++)); do
        churn_same "file$index" 1
    done
    umount "$MOUNT"
    btrfs check --readonly /dev/mapper/zoned
    dmsetup remove --noudevsync zoned
}

check linear-zones
check linear-btrfs
check crypt-zones
check crypt-encrypts
check crypt-btrfs
check crypt-by-cryptsetup
check zoned-format
check zoned-random-writes
check zoned-file-system
check zoned-again
