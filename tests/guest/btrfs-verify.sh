# shellcheck shell=bash
# In a later guest: the file system of btrfs-write.sh has the same files (file "manifest"), passes a scrub, and takes more.
. ./in-guest-lib.sh
. ./btrfs-lib.sh

btrfs_files_as_before() {
    [[ -s ./manifest ]]
    mount_btrfs
    checksums | diff ./manifest -
    btrfs scrub start -B -R "$MOUNT"
}

btrfs_goes_on() {
    pattern more $((4 << 20)) >"$MOUNT/more"
    sync
    umount "$MOUNT"
    mount_btrfs
    pattern more $((4 << 20)) | cmp - "$MOUNT/more"
    umount "$MOUNT"
    btrfs check --readonly "$DISK"
}

check btrfs-files-as-before
check btrfs-goes-on
