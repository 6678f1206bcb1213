# shellcheck shell=bash
# In the guest after the one that died: the file system mounts, the files that were stable (file "manifest", their checksums) are whole,
# and it goes on.
. ./in-guest-lib.sh
. ./btrfs-lib.sh
. ./software-lib.sh
. ./churn-lib.sh

crashed_mount() {
    churn_base
    mount_btrfs
}

crashed_files() {
    [[ -s ./manifest ]]
    (cd "$MOUNT" && sha256sum --check --strict --quiet) <./manifest
    note "after the guest's death: $(wc -l <./manifest) stable files are whole, $(find "$MOUNT" -name 'volatile*' | wc -l) others are there"
}

crashed_scrub() { btrfs scrub start -B -R "$MOUNT"; }

crashed_goes_on() {
    local index
    for ((index = 0; index < 10; index++)); do
        churn_write "after$index" 2
    done
    sync -f "$MOUNT"
    umount "$MOUNT"
    mount_btrfs
    for ((index = 0; index < 10; index++)); do
        churn_same "after$index" 2
    done
    umount "$MOUNT"
    btrfs check --readonly "$DISK"
}

check crashed-mount
check crashed-files
check crashed-scrub
check crashed-goes-on
