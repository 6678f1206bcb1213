# shellcheck shell=bash
# In the guest: btrfs with a zone that goes offline: the only copy there is, and one of two, on the disks /dev/vda and /dev/vdb.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

MOUNT=/mnt
OTHER=/dev/vdb
MIB=$((1 << 20))

write_file() { pattern "$1" "$2" >"$MOUNT/$1" && sync "$MOUNT/$1"; }
same_file() { pattern "$1" "$2" | cmp - "$MOUNT/$1"; }
mount_btrfs() { mount -t btrfs "$DISK" "$MOUNT"; }
mount_degraded() { mount -t btrfs -o degraded "$DISK" "$MOUNT"; }

# fullest_zone: of those that are not full
fullest_zone() { zones | awk -v size="$ZONE_SIZE" '$4 > most && $5 != "fu" { most = $4; zone = $1 / size } END { print zone }'; }

# One copy of everything: its zone goes, and what was in it is an error, nothing else.
single_offline_zone() {
    local zone before
    modprobe btrfs
    reset_all
    mkfs.btrfs -q -f -O zoned -d single -m single "$DISK"
    mount_btrfs
    write_file data $((2 * MIB))
    sync -f "$MOUNT"
    zone=$(fullest_zone)
    echo "$zone" >/tmp/zone
    before=$(digest "$zone" "$zone")
    (($(zone_pointer "$zone") >= 2 * MIB))
    fault_zone "$zone" offline
    drop_caches
    dmesg -c >/dev/null
    errno same_file data $((2 * MIB))
    note "btrfs single, the zone of a file's data ($zone) is offline: reading it says $ERRNO"
    equal "reading it" "$ERRNO" EIO
    kernel_says 'BTRFS'
    heal "$zone"
    equal "the digest of the zone" "$(digest "$zone" "$zone")" "$before"
    mount_btrfs
    same_file data $((2 * MIB))
    btrfs scrub start -B -R "$MOUNT" | tee /tmp/scrub
    grep -q 'csum_errors: 0' /tmp/scrub
    umount "$MOUNT"
}

# What it makes of such a zone at a mount.
single_offline_at_mount() {
    local zone
    zone=$(cat /tmp/zone)
    fault_zone "$zone" offline
    ./fault reset
    dmesg -c >/dev/null
    errno mount_btrfs
    note "btrfs single, the mount with that zone offline: $ERRNO"
    [[ $ERRNO != OK ]]
    kernel_says 'BTRFS.*(zone|zoned)'
    heal "$zone"
    mount_btrfs
    same_file data $((2 * MIB))
    umount "$MOUNT"
}

# A bit of what is read is wrong, and the read is answered well: the checksums tell.
single_rot() {
    local zone
    zone=$(cat /tmp/zone)
    mount_btrfs
    ./fault add rot --on read --zone "$zone" --do corrupt=flip:1
    drop_caches
    dmesg -c >/dev/null
    errno same_file data $((2 * MIB))
    note "btrfs single, one bit of what is read is wrong: $ERRNO"
    equal "reading it" "$ERRNO" EIO
    kernel_says 'BTRFS.*csum'
    ./fault clear --all
    drop_caches
    same_file data $((2 * MIB))
    umount "$MOUNT"
}

# small_files FIRST LAST: files that are so small that they are kept in the metadata, of which there are two copies
small_files() {
    local number
    for ((number = $1; number <= $2; number++)); do
        pattern "small $number" 1500 >"$MOUNT/small$number"
    done
    sync -f "$MOUNT"
}
same_small_files() {
    local number
    for ((number = $1; number <= $2; number++)); do
        pattern "small $number" 1500 | cmp - "$MOUNT/small$number"
    done
}

# errors DEVICE: what btrfs has counted of it
errors() { btrfs device stats "$1" | sed -n 's/.*\.\(write\|read\)_io_errs *//p' | tr '\n' ' '; }

# grown BEFORE: the zone that has grown most since "zones" has printed that, but for those of the superblocks
grown() {
    paste -d ' ' "$1" <(zones) | awk -v size="$ZONE_SIZE" '
        NR > 2 { by = $10 - $4; if (by > most) { most = by; zone = $1 / size } }
        END { print zone }'
}

# Two copies of the metadata. (Of data there is one: two would need a raid-stripe-tree, which this mkfs does not make.)
raid1_make() {
    reset_all
    blkzone reset "$OTHER"
    mkfs.btrfs -q -f -O zoned -d single -m raid1 "$DISK" "$OTHER"
    btrfs device scan
    mount_btrfs
    btrfs filesystem df "$MOUNT"
    btrfs filesystem df "$MOUNT" | grep -q 'Metadata, RAID1'
    zones >/tmp/before
    small_files 1 30
    grown /tmp/before >/tmp/zone
    write_file data $MIB
    note "btrfs RAID1: the metadata is in zone $(cat /tmp/zone) of the first disk"
}

raid1_lives_on() {
    local zone
    zone=$(cat /tmp/zone)
    digest "$zone" "$zone" >/tmp/digest
    fault_zone "$zone" offline
    drop_caches
    dmesg -c >/dev/null
    same_small_files 1 30
    small_files 31 60
    errno write_file more $MIB
    drop_caches
    same_small_files 1 60
    same_file data $MIB
    same_file more $MIB
    note "btrfs RAID1, a zone of the metadata offline: all files are written and read; write and read errors $(errors "$DISK")of the one disk," \
        "$(errors "$OTHER")of the other"
    kernel_says 'BTRFS'
    equal "errors of the other disk" "$(errors "$OTHER")" "0 0 "
}

raid1_scrub() {
    local code=0
    dmesg -c >/dev/null
    btrfs scrub start -B -R "$MOUNT" >/tmp/scrub 2>&1 || code=$?
    cat /tmp/scrub
    note "btrfs RAID1, scrub: status $code, $(grep -E '(read|csum|super|corrected|uncorrectable)_errors|uncorrectable' /tmp/scrub | tr -s '\t\n ' ' ')"
    dmesg | tail -n 30
    drop_caches
    same_small_files 1 60
    same_file data $MIB
}

raid1_mounts_again() {
    umount "$MOUNT"
    dmesg -c >/dev/null
    errno mount_btrfs
    note "btrfs RAID1, the mount with that zone offline: $ERRNO"
    kernel_says 'BTRFS.*(zone|zoned)'
    if [[ $ERRNO != OK ]]; then
        errno mount_degraded
        note "btrfs RAID1, the mount with that zone offline, degraded: $ERRNO"
    fi
    same_small_files 1 60
    same_file data $MIB
    same_file more $MIB
}

raid1_heals() {
    local zone
    zone=$(cat /tmp/zone)
    heal "$zone"
    equal "the digest of the zone" "$(digest "$zone" "$zone")" "$(cat /tmp/digest)"
    dmesg -c >/dev/null
    errno mount_btrfs
    note "btrfs RAID1, the mount with the zone back: $ERRNO"
    if [[ $ERRNO != OK ]]; then
        kernel_says 'BTRFS.*(zone|zoned)'
        errno mount_degraded
        note "btrfs RAID1, the mount with the zone back, degraded: $ERRNO"
    fi
    same_small_files 1 60
    same_file data $MIB
    same_file more $MIB
    small_files 61 90
    umount "$MOUNT"
}

check single-offline-zone
check single-offline-at-mount
check single-rot
check raid1-make
check raid1-lives-on
check raid1-scrub
check raid1-mounts-again
check raid1-heals
