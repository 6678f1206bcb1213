#!/usr/bin/env bash
# Boots the guest, runs a script in it as root, powers off. The script's exit status is this program's.
#
# Usage: run.sh [--uml] [--socket PATH]... [--queues N] [--smp N] [--mem SIZE] [--timeout SECONDS] [--console FILE] SCRIPT [FILES...]
#
#   --uml       the guest is user-mode Linux and not QEMU's: up in a third of a second, as any user, without KVM; one processor, one queue
#   --socket    the vhost-user socket of a running daemon; its disk is /dev/vda, that of a second one /dev/vdb. Without it: no disk.
#   --queues    queues of a disk (1); has to equal the daemon's --num-queues (QEMU's generic device: or the guest refuses the disk)
#   --smp       processors (1)
#   --mem       memory (512M)
#   --timeout   the guest is stopped after this long (300); exit status 124
#   --console   keeps the kernel's console output in FILE
#
# SCRIPT is run by bash with FILES (files or folders) beside it as its current folder. Its output comes to standard output as it is
# written, byte by byte. Exit status 125: the guest did not boot, or died or hung before the script was done; which of these is said, and
# the end of its console is shown.
#
# VUZ_MACHINE=uml in the environment is --uml; MACHINE_PIDFILE is where the number of the machine's process goes. VUZ_GUEST says which
# programs are in the guest (see guest.sh); VUZ_UML_ROOT=/ shows a guest of user-mode Linux this machine's own, read-only.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A guest gives a sign of life every ten seconds; one that has given none for this long hangs.
SILENT_SECONDS=40

sockets=() queues=1 cpus=1 memory=512M seconds=300 console=
while [[ ${1:-} == --* ]]; do
    if [[ $1 == --uml ]]; then
        VUZ_MACHINE=uml
        shift
        continue
    fi
    need_value "$1" $#
    case $1 in
        --socket) sockets+=("$2") ;;
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
for socket in "${sockets[@]}"; do
    [[ -S $socket ]] || die "$socket is not a socket"
done

. "$VUZ_SCRIPTS/machine.sh"
machine_get

temp=$(mktemp -d)
MACHINE_PID='' cat_pid=

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    if [[ -n $MACHINE_PID ]]; then
        { machine_end && machine_wait; } 2>/dev/null
    fi
    if [[ -n $cat_pid ]]; then
        kill "$cat_pid" 2>/dev/null || true
        wait "$cat_pid" 2>/dev/null || true
    fi
    if [[ -n $console ]]; then
        cp "$temp/console" "$console" 2>/dev/null || true
    fi
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

mkfifo "$temp/output"
machine_begin "$cpus" "$memory"
for socket in "${sockets[@]}"; do
    machine_disk "$socket" "$queues"
done
machine_job "$temp" "$@"

show_end() {
    say "$1; the end of the guest's console and of its machine's messages:"
    tail -n 40 "$temp/console" "$temp/machine.log" >&2 2>/dev/null || true
}

# silent_seconds: prints how long ago the guest last said something on its status line.
silent_seconds() { printf '%s\n' $(($(date +%s) - $(stat -c %Y "$temp/status"))); }

# complaint PATTERN: prints the first line of the console that matches, without its time.
complaint() { sed -n "s/^\[[ 0-9.]*\] //; /$1/{p;q}" "$temp/console" 2>/dev/null || true; }

# boot: one try. Returns 0 when the job was begun, having waited for its end; 1 when the guest never came up.
boot() {
    local begun=$SECONDS up=
    : >"$temp/status"
    cat "$temp/output" &
    cat_pid=$!
    machine_start "$temp"
    [[ -z ${MACHINE_PIDFILE:-} ]] || printf '%s\n' "$MACHINE_PID" >"$MACHINE_PIDFILE"
    timed_out='' silent=0
    # What bash itself says of a machine that a signal has ended is nobody's business.
    while kill -0 "$MACHINE_PID"; do
        if [[ -z $up ]]; then
            if [[ -s $temp/status ]]; then
                up=1
            elif ((SECONDS - begun >= MACHINE_BOOT_SECONDS)); then
                break
            fi
        elif ((SECONDS - begun >= seconds)); then
            timed_out=1
            silent=$(silent_seconds)
            break
        fi
        # A guest may be done in half a second.
        if ((SECONDS - begun < 3)); then sleep 0.02; else sleep 0.1; fi
    done 2>/dev/null
    { machine_end && machine_wait; } 2>/dev/null
    MACHINE_PID=
    # When the machine ended before it opened the FIFO, cat is still waiting for a writer.
    if [[ -z $up && ! -s $temp/status ]]; then
        kill "$cat_pid" 2>/dev/null || true
    fi
    wait "$cat_pid" || true
    cat_pid=
    [[ -s $temp/status ]]
}

tries=1
until boot; do
    if ((tries == MACHINE_TRIES)); then
        show_end "the guest did not come up"
        exit 125
    fi
    show_end "the guest did not come up; booting it once more"
    tries=$((tries + 1))
done
code=$(sed -n 's/^exit //p' "$temp/status")
if [[ -n $code && -z $timed_out ]]; then
    exit "$code"
fi
if [[ -n $timed_out ]]; then
    stuck=$(complaint 'blocked for more than')
    if ((silent >= SILENT_SECONDS)); then
        show_end "stopped the guest, which hung: its last sign of life was $silent seconds before the end of its time of $seconds seconds"
        exit 125
    elif [[ -n $stuck ]]; then
        show_end "stopped the guest after $seconds seconds, in which something hung (\"$stuck\")"
        exit 125
    fi
    show_end "stopped the guest: the script was not done after $seconds seconds"
    exit 124
fi
oops=$(complaint 'Oops\|BUG: \|Kernel panic')
show_end "the guest died before the script was done${oops:+, of a fault in its kernel (\"$oops\")}"
exit 125
