# shellcheck shell=bash
# In the guest: what the programs share that run.sh puts beside a script (guest-power.sh, guest-fault.sh): questions to the host, and the
# reset of a disk.
#
# Sourced as .line, never run. The other end of the line is power.sh.
#
#   wrong TEXT        ends the program: one line, and exit status 1
#   ask WORD...       one question at a time. Prints the lines that the answer has. Returns 1 where it is no; ANSWER has why
#   reset_disk DISK   unmounts what is mounted of the disk, and has its driver let go of it and take it again

set -euo pipefail

wrong() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
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

ask() {
    local at said=()
    at=$(line)
    exec 9>/tmp/power.lock
    flock 9
    exec 8<>"$at"
    # A terminal in user-mode Linux.
    [[ $at != /dev/tty* ]] || stty raw -echo <&8
    printf '%s\n' "$*" >&8
    while IFS= read -r ANSWER <&8 && [[ $ANSWER == 'says '* ]]; do
        said+=("${ANSWER#says }")
    done
    exec 8>&- 9>&-
    # Whoever reads this may go away before its end; the line is free by then.
    [[ ${#said[@]} -eq 0 ]] || printf '%s\n' "${said[@]}"
    ANSWER=${ANSWER#no }
    [[ $ANSWER == ok ]]
}

reset_disk() {
    local disk=$1 queue=/sys/block/$1/queue device=/sys/block/$1/device places=() place source scheduler driver
    while read -r source place _; do
        [[ $source != "/dev/$disk" ]] || places=("$(printf '%b' "$place")" "${places[@]}")
    done </proc/self/mounts
    for place in "${places[@]}"; do
        umount "$place" || wrong "$place is in use, and the disk cannot be reset before it is unmounted"
    done
    scheduler=$(sed 's/.*\[\(.*\)\].*/\1/' "$queue/scheduler")
    device=$(readlink -f "$device")
    driver=$(readlink -f "$device/driver")
    echo "${device##*/}" >"$driver/unbind"
    echo "${device##*/}" >"$driver/bind"
    [[ -b /dev/$disk ]] || wrong "$disk has come back under another name: something has it open"
    echo "$scheduler" >"$queue/scheduler"
}
