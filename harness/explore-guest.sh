# shellcheck shell=bash
# In the guest: what explore.py asks for, a line of shell at a time, and the words that such a line may have.
# shellcheck source=/dev/null
. ./explore.env

MOUNT=/mnt
mkdir -p /run/tasks
mount -t hostfs --read-only -o "hostfs=$TASKS" host /run/tasks 2>/dev/null || mount -t hostfs --read-only -o "$TASKS" host /run/tasks
DRIVER=/sys/bus/platform/drivers/virtio-uml

# plug NUMBER, unplug NUMBER: the driver connects to that disk, or lets go of it.
plug() { echo "virtio-uml.$1" >"$DRIVER/bind" && [[ -b /dev/vda ]]; }
unplug() { echo "virtio-uml.$1" >"$DRIVER/unbind"; }

# fs_make FS: on /dev/vda
fs_make() {
    case $1 in
        btrfs) mkfs.btrfs -q -f -O zoned -d single -m single /dev/vda ;;
        xfs) mkfs.xfs -q -f /dev/vda ;;
        f2fs) mkfs.f2fs -q -f -m /dev/vda >/dev/null ;;
        zonefs) mkzonefs -f /dev/vda >/dev/null ;;
    esac
}

fs_mount() {
    [[ $1 != f2fs && $1 != btrfs ]] || echo mq-deadline >/sys/block/vda/queue/scheduler
    mount -t "$1" ${2:+-o "$2"} /dev/vda "$MOUNT"
}

# fs_check FS: looks for faults, and changes nothing.
fs_check() {
    case $1 in
        btrfs) btrfs check --readonly /dev/vda ;;
        xfs) xfs_repair -n /dev/vda ;;
        f2fs) fsck.f2fs --dry-run /dev/vda ;;
        zonefs) ;;
    esac
}

# record FS OPTIONS SCRIPT: a workload on a file system that is mounted for it alone.
record() {
    plug 0 && plug 1 && fs_mount "$1" "$2" || return 1
    ok=0
    sh "/run/tasks/$3" "$MOUNT" /dev/vdb || ok=$?
    umount "$MOUNT" || ok=$?
    unplug 1
    unplug 0
    return "$ok"
}

# A step of what follows has failed: says which, with the first that it has printed of what is wrong, or the last.
failed() {
    local why
    sed 's/^/said /' /tmp/said
    # That the kernel may have said more is nothing of this state.
    sed -i '/dmesg(/d' /tmp/said
    why=$(grep -m 1 -i 'error\|bad \|corrupt\|invalid\|mismatch\|fail' /tmp/said) || why=$(tail -n 1 /tmp/said)
    echo "verdict $1: $why"
    ! grep -q " $MOUNT " /proc/mounts || umount "$MOUNT" || umount -l "$MOUNT"
    unplug 0
}

# examine FS OPTIONS LISTER: what a crash has left. Prints the listing, each line behind "found ", and what is wrong, behind "verdict ".
examine() {
    plug 0 || { echo "verdict the disk does not come"; return; }
    fs_mount "$1" "$2" >/tmp/said 2>&1 || { failed "it cannot be mounted"; return; }
    sh "/run/tasks/$3" "$MOUNT" >/tmp/found 2>/tmp/said || { failed "it cannot be read"; return; }
    while IFS= read -r line; do echo "found $line"; done </tmp/found
    if [[ $1 != zonefs ]]; then
        { echo after >"$MOUNT/after" && sync -f "$MOUNT/after"; } >/tmp/said 2>&1 || { failed "it cannot be written"; return; }
    fi
    umount "$MOUNT" >/tmp/said 2>&1 || { failed "it cannot be unmounted"; return; }
    fs_check "$1" >/tmp/said 2>&1 || { failed "its check fails"; return; }
    unplug 0
}

exec 8<>/dev/tty2
stty raw -echo <&8
echo "end 0"
while IFS= read -r line <&8; do
    code=0
    eval "$line" || code=$?
    echo "end $code"
done
