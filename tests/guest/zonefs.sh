# shellcheck shell=bash
# In the guest: zonefs, each zone a file. Conventional files, sequential files and what they refuse, conventional zones as one file, zones
# opened explicitly by opening a file, and what zonefs makes of a zone that was changed behind its back.
. ./in-guest-lib.sh
. ./software-lib.sh

MOUNT=/mnt
# zonefs keeps the first zone for itself: its file N is the disk's zone N + CONVENTIONAL, of conventional files zone N + 1.
first=$CONVENTIONAL

# make_zonefs FEATURES MOUNT-OPTIONS
make_zonefs() {
    modprobe zonefs
    ! findmnt "$MOUNT" || umount "$MOUNT"
    reset_all
    mkzonefs -f ${1:+-o "$1"} "$DISK"
    mount -t zonefs ${2:+-o "$2"} "$DISK" "$MOUNT"
}

# append FILE LENGTH [BYTES]: at the file's end, past the page cache, BYTES a request
append() {
    pattern "appended to $1" "$2" |
        dd of="$MOUNT/$1" bs="${3:-65536}" iflag=fullblock oflag=direct,append conv=notrunc status=none
}

size() { stat -c %s "$MOUNT/$1"; }
file_capacity() { zone_capacity $((first + $1)); }

zonefs_files() {
    make_zonefs "" ""
    equal "conventional files" "$(find "$MOUNT/cnv" -type f | wc -l)" $((CONVENTIONAL - 1))
    equal "sequential files" "$(find "$MOUNT/seq" -type f | wc -l)" $((ZONES - CONVENTIONAL))
    equal "size of a conventional file" "$(size cnv/0)" "$ZONE_SIZE"
    equal "size of an empty sequential file" "$(size seq/0)" 0
    equal "its blocks" "$(stat -c '%b' "$MOUNT/seq/0")" $((ZONE_CAPACITY / 512))
    note "zonefs: $((CONVENTIONAL - 1)) conventional and $((ZONES - CONVENTIONAL)) sequential files"
}

zonefs_conventional() {
    pattern "anywhere" 65536 | dd of="$MOUNT/cnv/1" bs=4096 seek=100 conv=notrunc,fsync iflag=fullblock status=none
    pattern "again" 65536 | dd of="$MOUNT/cnv/1" bs=4096 seek=20 conv=notrunc iflag=fullblock oflag=direct status=none
    pattern "anywhere" 65536 | cmp - <(get $((2 * ZONE_SIZE + 100 * 4096)) 65536)
    pattern "again" 65536 | cmp - <(get $((2 * ZONE_SIZE + 20 * 4096)) 65536)
    errno truncate -s 0 "$MOUNT/cnv/1"
    equal "truncating a conventional file" "$ERRNO" EPERM
}

zonefs_append() {
    append seq/0 131072
    equal "size" "$(size seq/0)" 131072
    equal "pointer" "$(zone_pointer "$first")" 131072
    append seq/0 "$BLOCK" "$BLOCK"
    equal "size" "$(size seq/0)" $((131072 + BLOCK))
    { pattern "appended to seq/0" 131072 && pattern "appended to seq/0" "$BLOCK"; } | cmp - "$MOUNT/seq/0"
}

# What a file of a sequential zone refuses, and that nothing changes by it.
zonefs_refuses() {
    errno dd if=/dev/zero of="$MOUNT/seq/0" bs=4096 count=1 seek=0 oflag=direct conv=notrunc status=none
    equal "a write at the start" "$ERRNO" EINVAL
    errno dd if=/dev/zero of="$MOUNT/seq/0" bs=4096 count=1 seek=200 oflag=direct conv=notrunc status=none
    equal "a write past the end" "$ERRNO" EINVAL
    errno dd if=/dev/zero of="$MOUNT/seq/0" bs=4096 count=1 oflag=append conv=notrunc status=none
    equal "a write through the page cache" "$ERRNO" EIO
    errno truncate -s 65536 "$MOUNT/seq/0"
    equal "truncating to a part" "$ERRNO" EPERM
    errno rm "$MOUNT/seq/0"
    equal "deleting" "$ERRNO" EPERM
    errno touch "$MOUNT/seq/new"
    [[ $ERRNO != OK ]]
    equal "size" "$(size seq/0)" $((131072 + BLOCK))
    equal "pointer" "$(zone_pointer "$first")" $((131072 + BLOCK))
}

zonefs_to_the_end() {
    append seq/1 "$(file_capacity 1)"
    equal "size" "$(size seq/1)" "$(file_capacity 1)"
    equal "state" "$(zone_state $((first + 1)))" fu
    errno append seq/1 4096 4096
    equal "an append to a full file" "$ERRNO" EFBIG
    pattern "appended to seq/1" "$(file_capacity 1)" | cmp - "$MOUNT/seq/1"
}

# To 0 is a reset, to the capacity is a finish.
zonefs_truncate() {
    truncate -s 0 "$MOUNT/seq/1"
    equal "size" "$(size seq/1)" 0
    equal "state" "$(zone_state $((first + 1)))" em
    append seq/1 65536
    truncate -s "$(file_capacity 1)" "$MOUNT/seq/1"
    equal "size" "$(size seq/1)" "$(file_capacity 1)"
    equal "state" "$(zone_state $((first + 1)))" fu
    { pattern "appended to seq/1" 65536 && head -c $(($(file_capacity 1) - 65536)) /dev/zero; } | cmp - "$MOUNT/seq/1"
    truncate -s "$(file_capacity 2)" "$MOUNT/seq/2"
    equal "state of a zone finished empty" "$(zone_state $((first + 2)))" fu
    truncate -s 0 "$MOUNT/seq/2"
    equal "state" "$(zone_state $((first + 2)))" em
}

zonefs_remount() {
    append seq/3 65536
    umount "$MOUNT"
    mount -t zonefs "$DISK" "$MOUNT"
    equal "size" "$(size seq/3)" 65536
    equal "size of a full file" "$(size seq/1)" "$(file_capacity 1)"
    equal "size of an empty file" "$(size seq/2)" 0
    append seq/3 65536
    { pattern "appended to seq/3" 65536 && pattern "appended to seq/3" 65536; } | cmp - "$MOUNT/seq/3"
}

zonefs_aggregated() {
    make_zonefs aggr_cnv ""
    equal "conventional files" "$(find "$MOUNT/cnv" -type f | wc -l)" 1
    equal "its size" "$(size cnv/0)" $(((CONVENTIONAL - 1) * ZONE_SIZE))
    pattern "across two zones" 131072 | dd of="$MOUNT/cnv/0" bs=65536 seek=$((ZONE_SIZE - 65536)) \
        oflag=direct,seek_bytes iflag=fullblock conv=notrunc status=none
    pattern "across two zones" 131072 | cmp - <(get $((2 * ZONE_SIZE - 65536)) 131072)
}

# A file open for writing is a zone explicitly open; as many as the limit allows, the next one is EBUSY.
zonefs_explicit_open() {
    local index
    make_zonefs "" explicit-open
    exec 7>>"$MOUNT/seq/0"
    equal "state of an open file" "$(zone_state "$first")" oe
    append seq/0 65536
    equal "state when it is written" "$(zone_state "$first")" oe
    exec 7>&-
    equal "state of a closed file" "$(zone_state "$first")" cl
    exec 7>>"$MOUNT/seq/1"
    exec 7>&-
    equal "state of a closed file without data" "$(zone_state $((first + 1)))" em
    (
        for ((index = 0; index < MAX_OPEN; index++)); do
            # shellcheck disable=SC2034 # it is held open by being one
            exec {descriptor}>>"$MOUNT/seq/$index"
        done
        equal "zones explicitly open" "$(zones | grep -c ' oe ')" "$MAX_OPEN"
        errno append "seq/$MAX_OPEN" 65536
        echo "$ERRNO" >/tmp/past-limit
    )
    note "zonefs: with $MAX_OPEN files open one more is $(cat /tmp/past-limit)"
    equal "opening one more" "$(cat /tmp/past-limit)" EBUSY
    equal "zones explicitly open afterwards" "$(zones | grep -c ' oe ' || true)" 0
    append "seq/$MAX_OPEN" 65536
}

# The zone is reset below the mounted file system: the next write finds no pointer there. Each kind of reaction by its mount option.
zonefs_errors() {
    local option
    for option in remount-ro zone-ro zone-offline repair; do
        make_zonefs "" "errors=$option"
        append seq/5 131072
        behind_its_back $((first + 5))
        errno append seq/5 4096 4096
        note "zonefs errors=$option: an append to a zone that was reset behind it: $ERRNO, then size $(size seq/5)," \
            "mode $(stat -c %A "$MOUNT/seq/5"), $(findmnt -n -o OPTIONS "$MOUNT" | cut -d, -f1)"
        [[ $ERRNO != OK ]]
        case $option in
            remount-ro) equal "the mount" "$(findmnt -n -o OPTIONS "$MOUNT" | cut -d, -f1)" ro ;;
            zone-ro) equal "the file" "$(stat -c %A "$MOUNT/seq/5")" -r--r----- ;;
            zone-offline) equal "the file" "$(stat -c %A "$MOUNT/seq/5")" ---------- ;;
            repair)
                equal "the size" "$(size seq/5)" 0
                append seq/5 65536
                ;;
        esac
        append seq/6 65536 || equal "the mount" "$option" remount-ro
    done
    umount "$MOUNT"
}

# behind_its_back N: resets a zone of the disk while it is in use; not through blkzone, which wants the disk for itself
behind_its_back() { zbd reset -ofst $(($1 * ZONE_SIZE)) -len "$ZONE_SIZE" "$DISK"; }

check zonefs-files
check zonefs-conventional
check zonefs-append
check zonefs-refuses
check zonefs-to-the-end
check zonefs-truncate
check zonefs-remount
check zonefs-aggregated
check zonefs-explicit-open
check zonefs-errors
