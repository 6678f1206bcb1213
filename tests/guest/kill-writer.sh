# shellcheck shell=bash
# shellcheck disable=SC2153 # QUEUES comes from image.env
# In the guest: writes, finishes and resets zones from the guest's processors, two at most, without end and without any flush, until the daemon is killed.
#
# Prints "begin OPERATION" before and "done OPERATION" after each, one line each, when the disk has acknowledged it. OPERATION is
# "write ZONE GENERATION BLOCK", "finish ZONE GENERATION" or "reset ZONE GENERATION" (GENERATION counts a zone's resets).
# kill-verify.sh checks in the next guest what those lines promise.
. ./in-guest-lib.sh
. ./kill-lib.sh
set -euo pipefail

# run OPERATION...
run() {
    echo "begin $*"
    case $1 in
        write) kill_block "$2" "$3" "$4" | put $(($(zone_start "$2") + $4 * KILL_BLOCK)) "$KILL_BLOCK" ;;
        finish) manage finish "$2" ;;
        reset) manage reset "$2" ;;
    esac
    echo "done $*"
}

# worker FIRST: three zones from FIRST on, round and round
worker() {
    local generation zone block
    for ((generation = 1; ; generation++)); do
        for ((zone = $1; zone < $1 + 3; zone++)); do
            run reset "$zone" "$generation"
            for ((block = 0; block < 4 + zone % 3; block++)); do
                run write "$zone" "$generation" "$block"
            done
            if ((zone % 2 == generation % 2)); then
                run finish "$zone" "$generation"
            fi
        done
    done
}

taskset -pc 0 $BASHPID >/dev/null
worker "$KILL_FIRST" &
(
    taskset -pc $((QUEUES - 1)) $BASHPID >/dev/null
    worker $((KILL_FIRST + 3))
)
