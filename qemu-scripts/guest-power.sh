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
# shellcheck source=/dev/null
. "$(dirname "$0")/.line"

cut() {
    [[ " $*" == *' then='* || $* == at=never ]] || set -- "$@" then=fail
    ask cut "$@" || wrong "$ANSWER"
}

cycle() {
    [[ -e /sys/block/$1/device ]] || wrong "there is no disk $1"
    ask off || wrong "$ANSWER"
    reset_disk "$1"
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
