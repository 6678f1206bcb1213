# shellcheck shell=bash
# In the guest: writes files on btrfs until the machine is killed, and prints of each one that fsync has made stable a line
# "MANIFEST CHECKSUM  NAME" for btrfs-crashed.sh. With the file "manifest" the file system is that of the guests before, else a new one.
. ./in-guest-lib.sh
. ./btrfs-lib.sh
. ./churn-lib.sh

STABLE_WRITERS=3

stable_writer() {
    local source=/tmp/stable-$1 sum file
    while :; do
        head -c $((RANDOM * 8 + 1)) /dev/urandom >"$source"
        sum=$(sha256sum <"$source")
        file=$(mktemp "$MOUNT/stable.XXXXXX")
        cp "$source" "$file"
        sync "$file"
        echo "MANIFEST ${sum%-}${file##*/}" >&"$STANDARD_OUTPUT"
    done
}

# Files of which nothing is promised, replaced over and over; btrfs commits now and then.
volatile_writer() {
    local index
    for ((index = 0; ; index++)); do
        churn_write "volatile$((index % 40))" "$index"
        ((index % 4 > 0)) || sync -f "$MOUNT"
    done
}

stable_until_killed() {
    local writer
    churn_base
    modprobe btrfs
    [[ -s ./manifest ]] || mkfs.btrfs -q -f -O zoned -d single -m single "$DISK"
    mount_btrfs
    for ((writer = 0; writer < STABLE_WRITERS; writer++)); do
        stable_writer "$writer" &
    done
    volatile_writer &
    wait -n
    echo "a writer ended before the machine was killed"
    return 1
}

exec {STANDARD_OUTPUT}>&1
check stable-until-killed
