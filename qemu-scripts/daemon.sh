# shellcheck shell=bash
# The daemon under a script's control: build, start, stop, kill.
#
# Sourced after lib.sh, never run. One daemon at a time; the sourcing script calls daemon_cleanup in its exit trap, or has its traps taken.
#
#   daemon_build                           builds the release binary when VUZ_BIN is not given (cargo does nothing when it is fresh)
#   daemon_start IMAGE SOCKET OPTION...    serves IMAGE on SOCKET in the background and waits until it listens (1: it does not); its log is SOCKET.log
#   daemon_stop                            SIGTERM; returns the daemon's exit status (1 also when it does not end, or refused a request for its memory)
#   daemon_kill                            SIGKILL
#   daemon_cleanup                         ends a daemon that is still there, quietly
#   daemon_take_traps                      takes the traps: with the script go the guest that run_pid names (run.sh in the background), the
#                                          daemon, and the folder $temp

DAEMON_PID=
DAEMON_LOG=
# How long a daemon may take to listen or to end before the script gives up on it.
DAEMON_SECONDS=60

daemon_build() {
    if [[ -n ${VUZ_BIN:-} ]]; then
        [[ -x $VUZ_BIN ]] || die "VUZ_BIN: $VUZ_BIN is not a program"
        return
    fi
    say "building the daemon (cargo build --release) ..."
    cargo build --quiet --release --manifest-path "$VUZ_TOP/Cargo.toml" >&2
    VUZ_BIN=${CARGO_TARGET_DIR:-$VUZ_TOP/target}/release/vhost-user-zbd
}

# daemon_listens SOCKET: some process listens there now. (A daemon that was killed leaves its socket file behind; that does not count.)
daemon_listens() {
    awk -v path="$1" '$4 == "00010000" && $8 == path { found = 1 } END { exit !found }' /proc/net/unix
}

daemon_start() {
    local image=$1 socket=$2 deadline=$((SECONDS + DAEMON_SECONDS))
    shift 2
    [[ $socket == /* ]] || socket=$PWD/$socket
    DAEMON_LOG=$socket.log
    # The daemon goes with this script, however that ends.
    setpriv --pdeathsig KILL "$VUZ_BIN" serve "$image" --socket-path "$socket" "$@" </dev/null >>"$DAEMON_LOG" 2>&1 &
    DAEMON_PID=$!
    until daemon_listens "$socket"; do
        if ! kill -0 "$DAEMON_PID" 2>/dev/null; then
            wait "$DAEMON_PID" || true
            DAEMON_PID=
            tail -n 20 "$DAEMON_LOG" >&2
            say "the daemon ended at its start, see its log above"
            return 1
        fi
        if ((SECONDS >= deadline)); then
            daemon_kill
            say "the daemon did not listen on $socket within $DAEMON_SECONDS seconds and was killed"
            return 1
        fi
        sleep 0.05
    done
}

daemon_stop() {
    local pid=$DAEMON_PID deadline=$((SECONDS + DAEMON_SECONDS))
    # That it is gone already shows in the exit status.
    kill "$pid" 2>/dev/null || say "the daemon was gone before it was told to end"
    while kill -0 "$pid" 2>/dev/null; do
        if ((SECONDS >= deadline)); then
            daemon_kill
            say "the daemon was not done $DAEMON_SECONDS seconds after SIGTERM and was killed"
            return 1
        fi
        sleep 0.05
    done
    DAEMON_PID=
    wait "$pid" && daemon_saw_all_memory
}

# daemon_saw_all_memory: no request had a buffer in memory that its guest does not share. A request that fails for that is a fault of the
# guest's machine and never to be taken for one of the disk.
daemon_saw_all_memory() {
    if grep -q "a buffer lies outside the guest's memory" "$DAEMON_LOG"; then
        say "the guest used memory that it does not share with the daemon, so that a request was refused (docs/uml.md, \"Memory that is not shared\")"
        return 1
    fi
}

daemon_kill() {
    local pid=$DAEMON_PID
    DAEMON_PID=
    kill -KILL "$pid" 2>/dev/null || say "the daemon was gone before it was killed"
    wait "$pid" 2>/dev/null || true
}

daemon_cleanup() {
    [[ -z $DAEMON_PID ]] || daemon_kill 2>/dev/null || true
}

# shellcheck disable=SC2317,SC2329 # called by the trap
daemon_tidy_up() {
    if [[ -n ${run_pid:-} ]]; then
        kill "$run_pid" 2>/dev/null || true
        wait "$run_pid" 2>/dev/null || true
    fi
    daemon_cleanup
    rm -rf "${temp:?}"
}

daemon_take_traps() {
    trap daemon_tidy_up EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
}
