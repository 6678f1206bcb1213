# shellcheck shell=bash
# In the guest: files for filling and churning a file system, sourced by btrfs-churn.sh, f2fs.sh, xfs.sh and those that come after them.
# A file is one block that says which file and which generation it is, and the same random bytes behind it.

MOUNT=/mnt
BASE=/tmp/churn-base
BASE_SIZE=$((8 << 20))

churn_base() {
    # The same in every guest.
    [[ -s $BASE ]] || pattern "bytes of every file in the churn" "$BASE_SIZE" >"$BASE"
}

# churn_write NAME GENERATION
churn_write() {
    cp "$BASE" "$MOUNT/$1" && churn_header "$1" "$2" | dd of="$MOUNT/$1" bs=4096 iflag=fullblock conv=notrunc status=none
}

churn_header() { pattern "file $1 generation $2" 4096; }

# churn_same NAME GENERATION
churn_same() {
    cmp -n 4096 "$MOUNT/$1" <(churn_header "$1" "$2")
    cmp -i 4096 "$MOUNT/$1" "$BASE"
}

# churn_fill PREFIX KEEP: files until less than KEEP bytes are free or one does not fit; FILLED is their number, AVAILABLE what is left
churn_fill() {
    FILLED=0
    while churn_available && ((AVAILABLE > $2 + BASE_SIZE)); do
        if ! churn_write "$1$FILLED" 0; then
            rm -f "$MOUNT/$1$FILLED"
            break
        fi
        FILLED=$((FILLED + 1))
        ((FILLED % 8 > 0)) || sync -f "$MOUNT" || break
    done
    sync -f "$MOUNT"
    churn_available
}

churn_available() {
    # shellcheck disable=SC2034 # for the caller
    AVAILABLE=$(stat -f -c '%a * %S' "$MOUNT")
    AVAILABLE=$((AVAILABLE))
}

# device_written: bytes that the disk was given, by the kernel's count
device_written() {
    local sectors
    read -r _ _ _ _ _ _ sectors _ <"/sys/block/${DISK#/dev/}/stat"
    printf '%s\n' $((sectors * 512))
}

# churn_two_thirds NAME: of the files that churn_fill has put there (their number in /tmp/filled) two of three are deleted and written
# again: the file system has to clean zones for that
churn_two_thirds() {
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
    note "$1: two thirds deleted and written again, $(($(device_written) - before >> 20)) MiB to the disk"
}

# churn_two_thirds_same: they and the third are what they were
churn_two_thirds_same() {
    local index
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        churn_same "fill$index" $((index % 3 == 0 ? 0 : 1))
    done
}
