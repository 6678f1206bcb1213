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

# Two files of three go and come again; f2fs has to clean zones for that.
f2fs_delete_and_write() {
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
    note "f2fs: two thirds deleted and written again, $(($(device_written) - before >> 20)) MiB to the disk"
}

f2fs_remount() {
    local index
    umount "$MOUNT"
    mount_f2fs
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        churn_same "fill$index" $((index % 3 == 0 ? 0 : 1))
    done
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
