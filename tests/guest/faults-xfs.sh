# shellcheck shell=bash
# In the guest (with Linux 6.15 or newer): XFS with its data in zones, of which writes fail, or which go read-only or offline.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

MOUNT=/mnt
FIRST=$CONVENTIONAL
LAST=$((ZONES - 1))
MIB=$((1 << 20))

mount_xfs() { mount -t xfs "$DISK" "$MOUNT"; }
write_file() { pattern "$1" "$2" >"$MOUNT/$1" && sync "$MOUNT/$1"; }
same_file() { pattern "$1" "$2" | cmp - "$MOUNT/$1"; }

xfs_make() {
    modprobe xfs
    reset_all
    mkfs.xfs -f "$DISK" >/tmp/mkfs
    grep -q 'zoned=1' /tmp/mkfs
    mount_xfs
    write_file kept $((8 * MIB))
    umount "$MOUNT"
    zones | awk -v size="$ZONE_SIZE" '$6 ~ /SEQ/ && $4 > 0 && !found { print $1 / size; found = 1 }' >/tmp/data
    note "XFS: the data is in zone $(cat /tmp/data)"
    (($(cat /tmp/data) >= FIRST))
    mount_xfs
}

# A write fails with the pointer moved.
xfs_half_a_write() {
    local errno
    ./fault add torn --on write,append --zone "$FIRST-$LAST" --nth 2 --do error=ioerr landed=half
    dmesg -c >/dev/null
    errno write_file torn $((4 * MIB))
    errno=$ERRNO
    note "XFS, half of a write landed: fsync says $errno"
    note "$(./fault list | sed -n 1p)"
    kernel_says 'I/O error, dev vda'
    kernel_says 'XFS.*(shut|error|Error|unrecoverable)'
    [[ $errno != OK ]]
    errno touch "$MOUNT/more"
    note "XFS, and afterwards: touch says $ERRNO"
    equal "touch" "$ERRNO" EIO
    ./fault clear --all
    errno touch "$MOUNT/more"
    equal "touch, without the rule" "$ERRNO" EIO
}

xfs_comes_back() {
    umount "$MOUNT"
    mount_xfs
    same_file kept $((8 * MIB))
    write_file after $MIB
    same_file after $MIB
    umount "$MOUNT"
    xfs_repair -n "$DISK"
}

# refuses STATE: the mount is refused with a zone in this state, and goes well when it is back. Linux 7 mounts by what it knows of zones, so
# that it has to look at them anew; older ones look at each mount.
refuses() {
    local zone before errno
    zone=$(cat /tmp/data)
    before=$(digest "$zone" "$zone")
    fault_zone "$zone" "$1"
    errno mount_xfs
    note "XFS, the mount with a zone $1 that Linux has not looked at since: $ERRNO"
    if [[ $ERRNO == OK && $1 == offline ]]; then
        errno same_file kept $((8 * MIB))
        note "XFS, and reading a file that is in it: $ERRNO"
        equal "reading it" "$ERRNO" EIO
    fi
    ./fault reset
    dmesg -c >/dev/null
    errno mount_xfs
    errno=$ERRNO
    note "XFS, the mount with a zone $1: $errno"
    [[ $errno != OK ]]
    kernel_says 'XFS.*(zone|Zone)'
    heal "$zone"
    equal "the digest of the zone" "$(digest "$zone" "$zone")" "$before"
    mount_xfs
    same_file kept $((8 * MIB))
    same_file after $MIB
    umount "$MOUNT"
}

xfs_refuses_a_read_only_zone() { refuses read-only; }
xfs_refuses_an_offline_zone() { refuses offline; }

# A zone dies under it, while it is written.
xfs_zone_dies_while_mounted() {
    mount_xfs
    ./fault add dies --on write,append --zone "$FIRST-$LAST" --nth 3 --do zone-state=offline
    dmesg -c >/dev/null
    errno write_file dies $((4 * MIB))
    note "XFS, all zones offline at the third write: fsync says $ERRNO"
    [[ $ERRNO != OK ]]
    kernel_says 'XFS.*(shut|error|Error|unrecoverable)'
    heal "$FIRST-$LAST"
    mount_xfs
    same_file kept $((8 * MIB))
    same_file after $MIB
    umount "$MOUNT"
    xfs_repair -n "$DISK"
}

check xfs-make
check xfs-half-a-write
check xfs-comes-back
check xfs-refuses-a-read-only-zone
check xfs-refuses-an-offline-zone
check xfs-zone-dies-while-mounted
