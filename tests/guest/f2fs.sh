# shellcheck shell=bash
# In the guest: f2fs on the zones, its metadata in the conventional ones; filled, emptied, written again, mounted again, checked.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./churn-lib.sh

mount_f2fs() { mount -t f2fs "$DISK" "$MOUNT"; }

f2fs_make() {
    churn_base
    modprobe f2fs
    reset_all
    mkfs.f2fs -f -m "$DISK"
    mount_f2fs
}

f2fs_fill() {
    # To two thirds of what there is: nearly full, f2fs cleans zones for minutes under software emulation.
    churn_fill fill $((SIZE / 3))
    ((FILLED * BASE_SIZE > SIZE / 3))
    note "f2fs filled with $FILLED files, $((FILLED * BASE_SIZE >> 20)) MiB, $((AVAILABLE >> 20)) MiB left"
    echo "$FILLED" >/tmp/filled
}

f2fs_delete_and_write() { churn_two_thirds f2fs; }

f2fs_remount() {
    umount "$MOUNT"
    mount_f2fs
    churn_two_thirds_same
}

f2fs_small_files() {
    local index
    mkdir "$MOUNT/small"
    rm "$MOUNT/fill1" "$MOUNT/fill2"
    for ((index = 0; index < 200; index++)); do
        pattern "small $index" $((index * 97)) >"$MOUNT/small/$index"
    done
    sync -f "$MOUNT"
    umount "$MOUNT"
    mount_f2fs
    for ((index = 0; index < 200; index += 7)); do
        pattern "small $index" $((index * 97)) | cmp - "$MOUNT/small/$index"
    done
    umount "$MOUNT"
}

f2fs_check() { fsck.f2fs --dry-run "$DISK"; }

check f2fs-make
check f2fs-fill
check f2fs-delete-and-write
check f2fs-remount
check f2fs-small-files
check f2fs-check
