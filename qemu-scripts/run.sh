#!/usr/bin/env bash
# Boots the guest, runs a script in it as root, powers off. The script's exit status is this program's.
#
# Usage: run.sh [--socket PATH] [--queues N] [--smp N] [--mem SIZE] [--timeout SECONDS] [--console FILE] SCRIPT [FILES...]
#
#   --socket    the vhost-user socket of a running daemon; its disk is /dev/vda. Without it the guest has no disk.
#   --queues    queues of the disk (1); has to equal the daemon's --num-queues (QEMU's generic device: or the guest refuses the disk)
#   --smp       processors (1)
#   --mem       memory (512M)
#   --timeout   the guest is stopped after this long (300); exit status 124
#   --console   keeps the kernel's console output in FILE
#
# SCRIPT is run by bash with FILES (files or folders) beside it as its current folder. Its output comes to standard output as it is
# written, byte by byte. Exit status 125: the guest did not boot, or died before the script was done; the end of its console is shown.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/machine.sh"

# Under TCG a boot takes some ten seconds; a guest that is not up by then is hung.
BOOT_SECONDS=120

socket='' queues=1 cpus=1 memory=512M seconds=300 console=
while [[ ${1:-} == --* ]]; do
    need_value "$1" $#
    case $1 in
        --socket) socket=$2 ;;
        --queues) queues=$2 ;;
        --smp) cpus=$2 ;;
        --mem) memory=$2 ;;
        --timeout) seconds=$2 ;;
        --console) console=$2 ;;
        *) die "unknown option $1 (see the head of run.sh)" ;;
    esac
    shift 2
done
[[ $# -ge 1 ]] || die "usage: run.sh [options] SCRIPT [FILES...] (see the head of run.sh)"
for file in "$@"; do
    [[ -e $file ]] || die "no such file: $file"
done
[[ -z $socket || -S $socket ]] || die "$socket is not a socket"

machine_get
accel=$("$VUZ_SCRIPTS/accel.sh")

temp=$(mktemp -d)
qemu_pid='' cat_pid=
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    local pid
    for pid in $qemu_pid $cat_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [[ -n $console ]]; then
        cp "$temp/console" "$console" 2>/dev/null || true
    fi
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

machine_initramfs "$temp" "$@"
mkfifo "$temp/output"
machine_arguments "$accel" "$cpus" "$memory"
[[ -z $socket ]] || machine_disk_arguments "$socket" "$queues"
machine_job_arguments "$temp"

show_end() {
    say "$1; the end of the guest's console and of QEMU's messages:"
    tail -n 40 "$temp/console" "$temp/qemu.log" >&2 2>/dev/null || true
}

# boot: one try. Returns 0 when the job was begun, having waited for its end; 1 when the guest never came up.
boot() {
    local deadline=$((SECONDS + seconds)) boot_deadline=$((SECONDS + BOOT_SECONDS)) up=
    : >"$temp/status"
    cat "$temp/output" &
    cat_pid=$!
    # QEMU goes with this script, however that ends.
    setpriv --pdeathsig TERM "$MACHINE_QEMU/run" "${MACHINE_ARGUMENTS[@]}" </dev/null >"$temp/qemu.log" 2>&1 &
    qemu_pid=$!
    timed_out=
    while kill -0 "$qemu_pid" 2>/dev/null; do
        if [[ -z $up ]]; then
            if [[ -s $temp/status ]]; then
                up=1
            elif ((SECONDS >= boot_deadline)); then
                break
            fi
        elif ((SECONDS >= deadline)); then
            timed_out=1
            break
        fi
        sleep 0.1
    done
    kill "$qemu_pid" 2>/dev/null || true
    wait "$qemu_pid" || true
    qemu_pid=
    # When QEMU ended before it opened the FIFO, cat is still waiting for a writer.
    if [[ -z $up && ! -s $temp/status ]]; then
        kill "$cat_pid" 2>/dev/null || true
    fi
    wait "$cat_pid" || true
    cat_pid=
    [[ -s $temp/status ]]
}

# TCG with two processors has been seen to hit "Oops: int3" about once in 70 boots while the kernel patches itself, before init runs.
# Nothing of the job has run then: the guest is booted once more.
if ! boot; then
    show_end "the guest did not come up; booting it once more"
    boot || {
        show_end "the guest did not come up"
        exit 125
    }
fi
if [[ -n $timed_out ]]; then
    show_end "stopped the guest: the script was not done after $seconds seconds"
    exit 124
fi
code=$(sed -n 's/^exit //p' "$temp/status")
if [[ -z $code ]]; then
    show_end "the guest died before the script was done"
    exit 125
fi
exit "$code"
