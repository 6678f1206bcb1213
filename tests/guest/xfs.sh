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
    note "XFS filled with $FILLED files, $((FILLED * BASE_SIZE >> 20)) MiB, $((AVAILABLE >> 20)) MiB left"
    echo "$FILLED" >/tmp/filled
}

xfs_appends() {
    note "XFS: $(requests_counted operations "$ZONE_APPEND") zone appends"
    (($(requests_counted operations "$ZONE_APPEND") > 0))
}

xfs_delete_and_write() { churn_two_thirds XFS; }

xfs_remount() {
    umount "$MOUNT"
    mount_xfs
    churn_two_thirds_same
}

xfs_check() {
    umount "$MOUNT"
    xfs_repair -n "$DISK"
}

check xfs-make
check xfs-fill
check xfs-appends counting
check xfs-delete-and-write
check xfs-remount
check xfs-check
