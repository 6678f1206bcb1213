#!/usr/bin/env bash
# Boots the guest with a zoned disk and gives a shell in it on this terminal.
#
# Usage: boot.sh [--socket PATH | --image FILE] [--queues N] [--smp N] [--mem SIZE]
#
#   --socket    the vhost-user socket of a running daemon
#   --image     or an image, which is served as long as the guest runs
#   --queues    queues of the disk (1); has to equal the daemon's --num-queues (QEMU's generic device: or the guest refuses the disk)
#   --smp       processors (1)
#   --mem       memory (512M)
#
# The disk is /dev/vda. "exit" in the shell powers the guest off; Ctrl-a x ends QEMU at once (like pulling the plug of the guest).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/machine.sh"
. "$VUZ_SCRIPTS/daemon.sh"

socket='' image='' queues=1 cpus=1 memory=512M
while [[ $# -gt 0 ]]; do
    need_value "$1" $#
    case $1 in
        --socket) socket=$2 ;;
        --image) image=$2 ;;
        --queues) queues=$2 ;;
        --smp) cpus=$2 ;;
        --mem) memory=$2 ;;
        *) die "unknown option $1 (see the head of boot.sh)" ;;
    esac
    shift 2
done
[[ -z $socket || -z $image ]] || die "--socket and --image exclude each other"
[[ -n $socket || -n $image ]] || die "say which disk: --socket PATH or --image FILE"
[[ -z $socket || -S $socket ]] || die "$socket is not a socket"

"$VUZ_SCRIPTS/deps.sh"
machine_get
accel=$("$VUZ_SCRIPTS/accel.sh")

temp=$(mktemp -d)
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    daemon_cleanup
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM

if [[ -n $image ]]; then
    daemon_build
    socket=$temp/socket
    daemon_start "$image" "$socket" --num-queues "$queues"
fi
machine_arguments "$accel" "$cpus" "$memory"
machine_disk_arguments "$socket" "$queues"
machine_shell_arguments
say "booting the guest; its shell comes in some ten seconds"
"$MACHINE_QEMU/run" "${MACHINE_ARGUMENTS[@]}"
[[ -z $image ]] || daemon_stop
