#!/usr/bin/env bash
# Boots the guest with a zoned disk and gives a shell in it on this terminal.
#
# Usage: boot.sh [--uml] [--socket PATH... | --image FILE [--volatile-cache]] [--queues N] [--smp N] [--mem SIZE]
#
#   --uml       the guest is user-mode Linux and not QEMU's (see run.sh); so it is without it where the kernel is kept and one processor and
#               queue are asked for. VUZ_MACHINE=qemu is QEMU's in any case
#   --socket    the vhost-user socket of a running daemon; may be given several times
#   --image     or an image, which is served as long as the guest runs; with --volatile-cache, so that its power can be cut (docs/power.md):
#               how is said
#   --queues    queues of a disk (1); has to equal the daemon's --num-queues (QEMU's generic device: or the guest refuses the disk)
#   --smp       processors (1)
#   --mem       memory (512M)
#
# The disk is /dev/vda. "exit" in the shell powers the guest off; Ctrl-a x ends QEMU at once (like pulling the plug of the guest). A signal
# that ends boot.sh ends the machine and the daemon.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"

sockets=() image='' volatile='' queues=1 cpus=1 memory=512M
while [[ $# -gt 0 ]]; do
    if [[ $1 == --uml || $1 == --volatile-cache ]]; then
        if [[ $1 == --uml ]]; then VUZ_MACHINE=uml; else volatile=1; fi
        shift
        continue
    fi
    need_value "$1" $#
    case $1 in
        --socket) sockets+=("$2") ;;
        --image) image=$2 ;;
        --queues) queues=$2 ;;
        --smp) cpus=$2 ;;
        --mem) memory=$2 ;;
        *) die "unknown option $1 (see the head of boot.sh)" ;;
    esac
    shift 2
done
[[ ${#sockets[@]} -eq 0 || -z $image ]] || die "--socket and --image exclude each other"
[[ ${#sockets[@]} -gt 0 || -n $image ]] || die "say which disk: --socket PATH or --image FILE"
[[ -z $volatile || -n $image ]] || die "--volatile-cache is of the daemon that serves --image"
for socket in "${sockets[@]}"; do
    [[ -S $socket ]] || die "$socket is not a socket"
done

"$VUZ_SCRIPTS/deps.sh"
[[ $queues$cpus != 11 ]] || prefer_kept_uml
. "$VUZ_SCRIPTS/machine.sh"
machine_get

temp=$(mktemp -d)
MACHINE_PID=
# As it was before the machine set it for itself.
terminal=$(stty -g 2>/dev/null) || terminal=
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    # The machine first: its last writes are in the image.
    if [[ -n $MACHINE_PID ]]; then
        { machine_end && wait "$MACHINE_PID"; } 2>/dev/null || true
    fi
    [[ -z $DAEMON_PID ]] || daemon_stop || true
    daemon_cleanup
    [[ -z $terminal ]] || stty "$terminal" 2>/dev/null || true
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP

if [[ -n $image ]]; then
    daemon_build
    sockets=("$temp/socket")
    options=(--num-queues "$queues")
    [[ -z $volatile ]] || options+=(--volatile-cache --control-path "$temp/control")
    daemon_start "$image" "$temp/socket" "${options[@]}"
    [[ -z $volatile ]] || say "the power is cut by: vhost-user-zbd ctl $temp/control power-cut then=fail"
fi
machine_begin "$cpus" "$memory"
for socket in "${sockets[@]}"; do
    machine_disk "$socket" "$queues"
done
machine_shell "$temp"
say "booting the guest; $MACHINE_SHELL_HINT"
# bash runs a trap when the program that it has begun in the foreground is done; so this one is in the background. It has the terminal all
# the same, and its signals, which bash would have it ignore.
setpriv --pdeathsig KILL env --default-signal=INT,QUIT "${MACHINE_COMMAND[@]}" <&0 &
MACHINE_PID=$!
code=0
wait "$MACHINE_PID" || code=$?
MACHINE_PID=
[[ $code -eq 0 ]] || exit "$code"
[[ -z $image ]] || daemon_stop
