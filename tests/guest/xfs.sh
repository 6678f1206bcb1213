# shellcheck shell=bash
# In the guest (with Linux 6.15 or newer): XFS with its data in the zones and its metadata in the conventional ones.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./churn-lib.sh

# enum req_op of the kernel
ZONE_APPEND=7

mount_xfs() { mount -t xfs "$DISK" "$MOUNT"; }

xfs_make() {
    churn_base
    modprobe xfs
    reset_all
    mkfs.xfs -f "$DISK" >/tmp/mkfs
    cat /tmp/mkfs
    grep -q 'zoned=1' /tmp/mkfs
    count_requests operations 'rq->cmd_flags:b8@0/32'
    mount_xfs || {
        dmesg | tail -n 12
        return 1
    }
}

xfs_fill() {
    churn_fill fill $((SIZE / 20))
    ((FILLED * BASE_SIZE > SIZE / 3))
    note "XFS filled with $FILLED files, $((FILLED * BASE_SIZE >> 20)) MiB, $((AVAILABLE >> 20)) MiB left," \
        "$(requests_counted operations "$ZONE_APPEND") zone appends"
    echo "$FILLED" >/tmp/filled
    (($(requests_counted operations "$ZONE_APPEND") > 0))
}

# Two files of three go and come again: XFS has to collect what is left of zones.
xfs_delete_and_write() {
    local index before
    before=$(device_written)
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        ((index % 3 == 0)) || rm "$MOUNT/fill$index"
    done
    sync -f "$MOUNT"
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        ((index % 3 == 0)) || churn_write "fill$index" 1
    done
    sync -f "$MOUNT"
    note "XFS: two thirds deleted and written again, $(($(device_written) - before >> 20)) MiB to the disk"
}

xfs_remount() {
    local index
    umount "$MOUNT"
    mount_xfs
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        churn_same "fill$index" $((index % 3 == 0 ? 0 : 1))
    done
}

xfs_check() {
    umount "$MOUNT"
    xfs_repair -n "$DISK"
}

check xfs-make
check xfs-fill
check xfs-delete-and-write
check xfs-remount
check xfs-check
