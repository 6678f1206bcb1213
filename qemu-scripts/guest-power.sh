#!/bin/bash
# In the guest: the power of its disk. run.sh puts it beside the script as ./power, where the disk has a volatile cache.
#
#   ./power cut [WORD...]     cuts it, now or at the moment that at= says, as "vhost-user-zbd ctl ... power-cut" does. Where no then= is said:
#                             then=fail, so that this guest goes on. "./power cut at=never" calls off one that waits
#   ./power mark NAME         sets a mark, which a cut may wait for
#   ./power cycle [DISK]      brings it back: what is mounted of the disk (vda) is unmounted, and its driver lets go of it and takes it again
#   ./power both              runs ./.before and ./.after, with the cut between them that run.sh was told
#
# What is wrong is one line, and exit status 1. It asks the other end of a line, power.sh, which answers "ok" or "no" and why.
set -euo pipefail

wrong() {
    printf 'power: %s\n' "$*" >&2
    exit 1
}

# line: prints the guest's end of the line.
line() {
    local port
    for port in /sys/class/virtio-ports/*; do
        if [[ -e $port/name && $(<"$port/name") == power ]]; then
            printf '/dev/%s\n' "${port##*/}"
            return
        fi
    done
    printf '/dev/tty2\n'
}

# ask WORD...: one question at a time. Returns 1 where the answer is no; ANSWER has why.
ask() {
    local at
    at=$(line)
    exec 9>/tmp/power.lock
    flock 9
    exec 8<>"$at"
    # A terminal in user-mode Linux.
    [[ $at != /dev/tty* ]] || stty raw -echo <&8
    printf '%s\n' "$*" >&8
    IFS= read -r ANSWER <&8
    exec 8>&- 9>&-
    ANSWER=${ANSWER#no }
    [[ $ANSWER == ok ]]
}

cut() {
    [[ " $*" == *' then='* || $* == at=never ]] || set -- "$@" then=fail
    ask cut "$@" || wrong "$ANSWER"
}

cycle() {
    local disk=$1 queue=/sys/block/$1/queue device=/sys/block/$1/device places=() place source scheduler driver
    [[ -e $device ]] || wrong "there is no disk $disk"
    ask off || wrong "$ANSWER"
    while read -r source place _; do
        [[ $source != "/dev/$disk" ]] || places=("$(printf '%b' "$place")" "${places[@]}")
    done </proc/self/mounts
    for place in "${places[@]}"; do
        umount "$place" || wrong "$place is in use, and the power cannot come back before it is unmounted"
    done
    scheduler=$(sed 's/.*\[\(.*\)\].*/\1/' "$queue/scheduler")
    device=$(readlink -f "$device")
    driver=$(readlink -f "$device/driver")
    echo "${device##*/}" >"$driver/unbind"
    echo "${device##*/}" >"$driver/bind"
    [[ -b /dev/$disk ]] || wrong "$disk has come back under another name: something has it open"
    echo "$scheduler" >"$queue/scheduler"
}

both() {
    local code=0
    ask begin || exit 1
    bash ./.before || code=$?
    # Waits until the host has what it said, where that goes over a terminal.
    [[ ! -t 1 ]] || stty raw <&1
    ask ended "$code" || exit 1
    cycle vda
    ask after || exit 1
    exec bash ./.after
}

case ${1:-} in
    cut) cut "${@:2}" ;;
    mark) ask mark "${2:-}" || wrong "$ANSWER" ;;
    cycle) cycle "${2:-vda}" ;;
    both) both ;;
    *) wrong "expected cut [WORD...], mark NAME or cycle [DISK]" ;;
esac
