#!/bin/bash
# In the guest: faults of its disk. run.sh puts it beside the script as ./fault, where the disk's daemon has a control socket.
#
#   ./fault add NAME OPTION...    adds a rule, as "vhost-user-zbd ctl ... fault add" does
#   ./fault list                  prints the rules
#   ./fault clear NAME            removes a rule; --all: all of them
#   ./fault release NAME          lets go what a rule holds back
#   ./fault reset [DISK]          resets the disk (vda), so that zones come back that are to be restored: what is mounted of it is
#                                 unmounted, and its driver lets go of it and takes it again
#
# What is wrong is one line, and exit status 1. It asks the other end of a line, power.sh, which answers "ok" or "no" and why.
# shellcheck source=/dev/null
. "$(dirname "$0")/.line"

case ${1:-} in
    add | list | clear | release) ask fault "$@" || wrong "$ANSWER" ;;
    reset)
        [[ -e /sys/block/${2:-vda}/device ]] || wrong "there is no disk $2"
        reset_disk "${2:-vda}"
        ;;
    *) wrong "expected add NAME OPTION..., list, clear NAME, release NAME or reset [DISK]" ;;
esac
