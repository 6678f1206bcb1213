# shellcheck shell=bash
# In the guest: the file system of btrfs-write.sh and btrfs-verify.sh.

MOUNT=/mnt

mount_btrfs() {
    modprobe btrfs
    mount -t btrfs "$DISK" "$MOUNT"
}

# checksums: of every file, in a fixed order
checksums() { (cd "$MOUNT" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
