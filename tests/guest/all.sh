#!/usr/bin/env bash
# The tests with a real Linux guest: an image is made and served, guests are booted on it, what they see is compared.
#
# Usage: tests/guest/all.sh
#
# Prints a line "ok NAME" or "FAIL NAME" for each test (of a failed one also what it said), at the end "N passed, N failed". Exits 1 when
# any failed. Takes some minutes without KVM; needs no root once qemu-scripts/deps.sh is content.
#
# A phase is one boot of the guest, running some of the in-guest scripts of this folder. The guest is off between two phases; what happens
# to the daemon meanwhile is what the phases are about:
#   512          a fresh image, served with blocks of 512 bytes, two queues for two processors
#   reboot       a new guest, the same daemon
#   restart      after SIGTERM, a new daemon, a new guest; it writes until the daemon is killed with SIGKILL under it
#   killed       a new daemon, a new guest
#   4096         another image, served with blocks of 4096 bytes, one queue; btrfs. The daemon is killed when the guest is off
#   btrfs-again  a new daemon, a new guest
. "$(dirname "${BASH_SOURCE[0]}")/../../qemu-scripts/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"
. "$VUZ_SCRIPTS/machine.sh"

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The guest is given up after this long; all phases together take less.
PHASE_SECONDS=400
# Acknowledged operations to wait for before the daemon is killed.
OPERATIONS_BEFORE_KILL=150

temp=$(mktemp -d)
run_pid=
passed=0
failed=0

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    if [[ -n $run_pid ]]; then
        kill "$run_pid" 2>/dev/null || true
        wait "$run_pid" 2>/dev/null || true
    fi
    daemon_cleanup
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

pass() {
    passed=$((passed + 1))
    printf 'ok %s\n' "$1"
}

fail() {
    failed=$((failed + 1))
    printf 'FAIL %s\n' "$1"
}

# expect NAME COMMAND...: a test on the host: the command succeeds.
expect() {
    local name=$1
    shift
    if "$@" >"$temp/expect.log" 2>&1; then
        pass "$name"
    else
        fail "$name"
        sed 's/^/# /' "$temp/expect.log"
    fi
}

# geometry NAME=VALUE...: the image's geometry, for this script and for the guest (see in-guest-lib.sh).
geometry() {
    printf '%s\n' "$@" >"$temp/image.env"
    # shellcheck source=/dev/null
    . "$temp/image.env"
}

# shellcheck disable=SC2317,SC2329 # called by expect
create_image() {
    "$VUZ_BIN" create "$1" "$SIZE" --zone-size "$ZONE_SIZE" --zone-capacity "$ZONE_CAPACITY" --conventional-zones "$CONVENTIONAL" \
        --max-open-zones "$MAX_OPEN" --max-active-zones "$MAX_ACTIVE" --max-append-bytes "$MAX_APPEND"
}

# finish: the closing line; the script's end.
finish() {
    say "the tests took $((SECONDS - started)) seconds"
    if [[ $failed -gt 0 && -s $temp/socket.log ]]; then
        echo "# the end of the daemon's log:"
        tail -n 20 "$temp/socket.log" | sed 's/^/# /'
    fi
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [[ $failed -eq 0 ]] || exit 1
    exit 0
}

# serve PHASE IMAGE: starts the daemon; without it the tests are over.
serve() {
    local code=0
    daemon_start "$2" "$temp/socket" --block-size "$BLOCK" --num-queues "$QUEUES" || code=$?
    if [[ $code -ne 0 ]]; then
        fail "$1/serve"
        finish
    fi
}

# stop PHASE IMAGE [leaks]: ends the daemon; what it leaves behind is without fault. After a kill clusters may be leaked, no more.
stop() {
    local code=0
    daemon_stop || code=$?
    expect "$1/daemon-ends-well" test "$code" -eq 0
    expect "$1/check" checked "$2" "${3:-}"
}

# checked IMAGE [leaks]: "check" finds nothing; with "leaks" it may find leaked clusters (exit status 3).
# shellcheck disable=SC2317,SC2329 # called by expect
checked() {
    local code=0
    "$VUZ_BIN" check "$1" || code=$?
    [[ $code -eq 0 || ($code -eq 3 && -n ${2:-}) ]]
}

# guest SCRIPT...: boots a guest in the background (run_pid) that runs these in-guest scripts; their output goes to $temp/output.
guest() {
    local libraries=("$HERE"/*-lib.sh) scripts=("${@/#/$HERE/}") more=()
    printf '%s\n' "$*" >"$temp/suite"
    [[ ! -e $temp/manifest ]] || more+=("$temp/manifest")
    [[ ! -e $temp/operations ]] || more+=("$temp/operations")
    "$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" --queues "$QUEUES" --smp "$QUEUES" --mem 768M --timeout "$PHASE_SECONDS" \
        "$HERE/suite.sh" "$temp/suite" "$temp/image.env" "${libraries[@]}" "${scripts[@]}" "${more[@]}" >"$temp/output" &
    run_pid=$!
}

# results PHASE SCRIPT...: counts what $temp/output says of each of the scripts' tests.
results() {
    local phase=$1 name
    shift
    while read -r name; do
        if grep -qx "ok $name" "$temp/output"; then
            pass "$phase/$name"
        else
            fail "$phase/$name"
            if grep -qx "FAIL $name" "$temp/output"; then
                sed -n "/^FAIL $name\$/,/^[^#]/{/^#/p}" "$temp/output"
            else
                echo "# the guest did not come to this test"
            fi
        fi
    done < <(cd "$HERE" && sed -n 's/^check //p' "$@")
    # Complaints of the guest's kernel, for the reader.
    grep '^# kernel: ' "$temp/output" | head -n 20 || true
}

# phase NAME SCRIPT...: a boot and its results.
phase() {
    local name=$1 code=0
    shift
    say "phase $name: booting a guest for $*"
    guest "$@"
    wait "$run_pid" || code=$?
    run_pid=
    results "$name" "$@"
    if [[ $code -ne 0 ]]; then
        fail "$name/guest-ends-well"
        echo "# run.sh ended with status $code"
        tail -n 5 "$temp/output" | sed 's/^/# /'
    fi
    sed -n 's/^MANIFEST //p' "$temp/output" >"$temp/manifest.new"
    [[ ! -s $temp/manifest.new ]] || mv "$temp/manifest.new" "$temp/manifest"
}

# killed_phase NAME: a guest that writes, and the daemon killed while it does; its output becomes $temp/operations.
killed_phase() {
    local deadline=$((SECONDS + PHASE_SECONDS)) count=0
    say "phase $1: booting a guest for kill-writer.sh, to kill the daemon under it"
    guest kill-writer.sh
    while kill -0 "$run_pid" 2>/dev/null && ((count < OPERATIONS_BEFORE_KILL && SECONDS < deadline)); do
        sleep 0.1
        count=$(grep -c '^done ' "$temp/output" || true)
    done
    daemon_kill
    kill "$run_pid" 2>/dev/null || true
    wait "$run_pid" 2>/dev/null || true
    run_pid=
    mv "$temp/output" "$temp/operations"
    expect "$1/operations-before-the-kill" test "$count" -ge "$OPERATIONS_BEFORE_KILL"
}

"$VUZ_SCRIPTS/deps.sh"
daemon_build
machine_get
started=$SECONDS

# 64 whole zones and a short one; every limit below what Linux would set by itself.
geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
    MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
expect 512/create create_image "$temp/first.qcow2"
serve 512 "$temp/first.qcow2"
phase 512 sysfs.sh zones.sh writes.sh fio.sh queues.sh persist-write.sh
phase reboot persist-verify.sh
stop reboot "$temp/first.qcow2"
serve restart "$temp/first.qcow2"
phase restart persist-verify.sh
killed_phase restart
serve killed "$temp/first.qcow2"
phase killed persist-verify.sh kill-verify.sh
stop killed "$temp/first.qcow2" leaks

rm -f "$temp/manifest" "$temp/operations"
geometry SIZE=$((2 << 30)) ZONE_SIZE=$((32 << 20)) ZONE_CAPACITY=$((24 << 20)) CONVENTIONAL=2 MAX_OPEN=10 MAX_ACTIVE=12 \
    MAX_APPEND=$((64 << 10)) BLOCK=4096 QUEUES=1
expect 4096/create create_image "$temp/second.qcow2"
serve 4096 "$temp/second.qcow2"
phase 4096 sysfs.sh zones.sh writes.sh fio.sh queues.sh btrfs-write.sh
daemon_kill
serve btrfs-again "$temp/second.qcow2"
phase btrfs-again btrfs-verify.sh
stop btrfs-again "$temp/second.qcow2" leaks
finish
