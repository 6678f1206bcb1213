# shellcheck shell=bash
# In the guest: btrfs in zoned mode, which writes its data with zone appends. Prints the files' checksums as lines "MANIFEST ..." for
# btrfs-verify.sh.
. ./in-guest-lib.sh
. ./btrfs-lib.sh

# enum req_op of the kernel
ZONE_APPEND=7

btrfs_make() {
    local index
    modprobe btrfs
    reset_all
    mkfs.btrfs -q -f -O zoned -d single -m single "$DISK"
    mount_btrfs
    count_requests operations 'rq->cmd_flags:b8@0/32'
    for ((index = 0; index < 4; index++)); do
        pattern "big file $index" $((6 << 20)) >"$MOUNT/big-$index" &
    done
    wait
    mkdir "$MOUNT/small"
    for ((index = 0; index < 100; index++)); do
        pattern "small file $index" $((index * 997)) >"$MOUNT/small/$index"
    done
    sync
    # Overwritten and deleted, so that there is something to be cleaned up.
    pattern "big file 0, again" $((3 << 20)) | dd of="$MOUNT/big-0" bs=64K iflag=fullblock conv=notrunc,fsync status=none
    rm "$MOUNT/big-1" "$MOUNT"/small/1?
    sync
    checksums >/tmp/checksums
    umount "$MOUNT"
}

btrfs_appends() {
    echo "zone appends: $(requests_counted operations "$ZONE_APPEND")"
    (($(requests_counted operations "$ZONE_APPEND") > 20))
}

btrfs_same_after_mount() {
    mount_btrfs
    checksums | diff /tmp/checksums -
    btrfs scrub start -B -R "$MOUNT"
    umount "$MOUNT"
    btrfs check --readonly "$DISK"
}

check btrfs-make
check btrfs-appends counting
check btrfs-same-after-mount
sed 's/^/MANIFEST /' /tmp/checksums
