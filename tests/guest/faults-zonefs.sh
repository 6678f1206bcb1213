# shellcheck shell=bash
# In the guest: zonefs whose zones go read-only and offline, at a mount and while it is mounted, and whose writes fail. These look at what
# the tests 0610 to 0627 of zonefs-tests look at, of which each is one row: state of the zone, mount option, and when zonefs hears of it.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./faults-lib.sh

MOUNT=/mnt
OPTIONS=(remount-ro zone-ro zone-offline repair)
# zonefs keeps the first zone for itself: its sequential file N is the disk's zone N + CONVENTIONAL.
VICTIM=$CONVENTIONAL
ONE=$((64 << 10))

# begin OPTION: new files, of which seq/0 has 4096 bytes
begin() {
    heal "$VICTIM"
    reset_all
    mkzonefs -f "$DISK" >/dev/null
    mount_zonefs "$1"
    append seq/0 4096
}

mount_zonefs() { mount -t zonefs -o "errors=$1" "$DISK" "$MOUNT"; }

# append FILE LENGTH [BYTES]: at the file's end, past the page cache, BYTES a request
append() {
    local bytes=${3:-$ONE}
    pattern "appended to $1" "$2" |
        dd of="$MOUNT/$1" bs=$(($2 < bytes ? $2 : bytes)) iflag=fullblock oflag=direct,append conv=notrunc status=none
}

size() { stat -c %s "$MOUNT/$1"; }
mounted() { findmnt -n -t zonefs -o OPTIONS "$MOUNT" | cut -d, -f1; }

# looks FILE SIZE MODE: so it is, and so it is when its inode was forgotten
looks() {
    local times
    for times in now 'when its inode was forgotten'; do
        equal "size and mode of $1, $times" "$(stat -c '%s %a' "$MOUNT/$1")" "$2 $3"
        drop_caches
    done
}

# at_mount STATE: its zone was in this state when zonefs was mounted: nobody knows how much was in the file, and it is as one that is gone.
at_mount() {
    local option
    for option in "${OPTIONS[@]}"; do
        begin "$option"
        umount "$MOUNT"
        digest "$VICTIM" "$VICTIM" >/tmp/digest
        fault_zone "$VICTIM" "$1"
        mount_zonefs "$option"
        looks seq/0 0 0
        equal "the mount" "$(mounted)" rw
        errno append seq/0 4096
        [[ $ERRNO != OK ]]
        note "zonefs, a zone $1 at the mount, errors=$option: size $(size seq/0), mode $(stat -c %a "$MOUNT/seq/0"), mounted $(mounted), a write: $ERRNO"
        looks seq/0 0 0
        append seq/1 4096
        is_back "$option"
    done
}

# at_error STATE: it went into this state while zonefs was mounted, which hears of it by a write.
at_error() {
    local option expected mode write
    for option in "${OPTIONS[@]}"; do
        begin "$option"
        digest "$VICTIM" "$VICTIM" >/tmp/digest
        fault_zone "$VICTIM" "$1"
        errno append seq/0 4096
        write=$ERRNO
        equal "a write" "$write" EIO
        errno truncate -s 0 "$MOUNT/seq/0"
        [[ $ERRNO != OK ]]
        note "zonefs, a zone $1 while mounted, errors=$option: size $(size seq/0), mode $(stat -c %a "$MOUNT/seq/0"), mounted $(mounted)," \
            "a write: $write, a truncation: $ERRNO"
        expected=4096 mode=440
        [[ $1 != offline && $option != zone-offline ]] || expected=0 mode=0
        looks seq/0 "$expected" "$mode"
        if [[ $mode == 440 ]]; then
            pattern "appended to seq/0" 4096 | cmp - "$MOUNT/seq/0"
        fi
        if [[ $option == remount-ro ]]; then
            equal "the mount" "$(mounted)" ro
            errno append seq/1 4096
            [[ $ERRNO != OK ]]
            looks seq/1 0 640
        else
            equal "the mount" "$(mounted)" rw
            append seq/1 4096
        fi
        is_back "$option"
    done
}

# is_back OPTION: once the zone is, the file is what it was, and can be written.
is_back() {
    heal "$VICTIM"
    equal "the digest of the zone" "$(digest "$VICTIM" "$VICTIM")" "$(cat /tmp/digest)"
    mount_zonefs "$1"
    looks seq/0 4096 640
    append seq/0 4096
    looks seq/0 8192 640
    { pattern "appended to seq/0" 4096 && pattern "appended to seq/0" 4096; } | cmp - "$MOUNT/seq/0"
}

zonefs_read_only_at_mount() { at_mount read-only; }
zonefs_read_only_while_mounted() { at_error read-only; }
zonefs_offline_at_mount() { at_mount offline; }
zonefs_offline_while_mounted() { at_error offline; }

# In the middle of a file that is written: what was answered before is there.
zonefs_read_only_at_the_third_write() {
    begin zone-ro
    ./fault add dies --on write,append --zone "$VICTIM" --nth 3 --do zone-state=read-only
    errno append seq/0 $((5 * ONE))
    equal "the write" "$ERRNO" EIO
    note "zonefs, a zone read-only at the third write: size $(size seq/0), mode $(stat -c %a "$MOUNT/seq/0")"
    looks seq/0 $((4096 + 2 * ONE)) 440
    { pattern "appended to seq/0" 4096 && pattern "appended to seq/0" $((2 * ONE)); } | cmp - "$MOUNT/seq/0"
}

# A write fails with half of it in the zone.
zonefs_half_a_write() {
    local option size mode
    for option in "${OPTIONS[@]}"; do
        begin "$option"
        ./fault add torn --on write,append --zone "$VICTIM" --nth 1 --do error=ioerr landed=half
        errno append seq/0 "$ONE"
        equal "the write" "$ERRNO" EIO
        equal "the pointer" "$(zone_pointer "$VICTIM")" $((4096 + ONE / 2))
        size=$(size seq/0) mode=$(stat -c %a "$MOUNT/seq/0")
        note "zonefs, half of a write of 64 KiB landed, errors=$option: size $size, mode $mode, mounted $(mounted)"
        case $option in
            # Nothing is done to the file, as nothing can be written any more.
            remount-ro) equal "size, mode, mount" "$size $mode $(mounted)" "4096 640 ro" ;;
            zone-ro) equal "size, mode, mount" "$size $mode $(mounted)" "4096 440 rw" ;;
            zone-offline) equal "size, mode, mount" "$size $mode $(mounted)" "0 0 rw" ;;
            repair) equal "size, mode, mount" "$size $mode $(mounted)" "$((4096 + ONE / 2)) 640 rw" ;;
        esac
        ./fault clear torn
        [[ $option == repair ]] || ./fault reset
        [[ $option == repair ]] || mount_zonefs "$option"
        looks seq/0 $((4096 + ONE / 2)) 640
        append seq/0 "$ONE"
        { pattern "appended to seq/0" 4096 && pattern "appended to seq/0" $((ONE / 2)) && pattern "appended to seq/0" "$ONE"; } |
            cmp - "$MOUNT/seq/0"
    done
}

# A write fails and nothing of it is there.
zonefs_no_write() {
    begin repair
    ./fault add failed --on write,append --zone "$VICTIM" --nth 1 --do error=ioerr
    errno append seq/0 "$ONE"
    equal "the write" "$ERRNO" EIO
    looks seq/0 4096 640
    append seq/0 "$ONE"
    looks seq/0 $((4096 + ONE)) 640
}

zonefs_unreadable() {
    begin remount-ro
    append seq/0 "$ONE"
    ./fault add sick --on read --sectors $((VICTIM * ZONE_SIZE / 512 + 16)) --do unreadable
    drop_caches
    errno cmp "$MOUNT/seq/0" /dev/zero
    errno dd if="$MOUNT/seq/0" of=/dev/null bs=4096 iflag=direct status=none
    equal "reading it" "$ERRNO" EIO
    note "zonefs, an unreadable sector: size $(size seq/0), mode $(stat -c %a "$MOUNT/seq/0"), mounted $(mounted)"
    ./fault clear sick
    { pattern "appended to seq/0" 4096 && pattern "appended to seq/0" "$ONE"; } | cmp - "$MOUNT/seq/0"
    umount "$MOUNT"
}

modprobe zonefs
check zonefs-read-only-at-mount
check zonefs-read-only-while-mounted
check zonefs-offline-at-mount
check zonefs-offline-while-mounted
check zonefs-read-only-at-the-third-write
check zonefs-half-a-write
check zonefs-no-write
check zonefs-unreadable
