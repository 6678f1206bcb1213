# shellcheck shell=bash
# What the scripts that test with a guest share on the host's side: images, the daemon, booting, counting results.
#
# Sourced by all.sh, blk.sh and software.sh, never run; takes the traps and makes a folder, $temp, that goes with the script. Variables of the
# sourcing script:
#   PHASE_SECONDS   a guest is given up after this long
#   MEMORY          the guest's memory (768M)
#   SERVE_OPTIONS   further options of the daemon, an array
#   RUN_OPTIONS     further options of run.sh, an array
# With VUZ_MACHINE=uml the guests are user-mode Linux instead of QEMU's. They have one processor, hence one queue.
. "$(dirname "${BASH_SOURCE[0]}")/../../qemu-scripts/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"
. "$VUZ_SCRIPTS/machine.sh"

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
temp=$(mktemp -d)
run_pid=
# When the tests began; the sourcing script sets it again after it has built what it needs.
started=$SECONDS
SERVE_OPTIONS=() RUN_OPTIONS=()
passed=0
failed=0
skipped=0

daemon_take_traps

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
    [[ ${VUZ_MACHINE:-qemu} != uml ]] || printf 'QUEUES=1\n' >>"$temp/image.env"
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
    local skips=''
    [[ $skipped -eq 0 ]] || skips=", $skipped skipped"
    say "the tests took $((SECONDS - started)) seconds"
    if [[ $failed -gt 0 && -s $temp/socket.log ]]; then
        echo "# the end of the daemon's log:"
        tail -n 20 "$temp/socket.log" | sed 's/^/# /'
    fi
    printf '%d passed, %d failed%s\n' "$passed" "$failed" "$skips"
    [[ $failed -eq 0 ]] || exit 1
    exit 0
}

# serve PHASE IMAGE: starts the daemon; without it the tests are over.
serve() {
    local code=0
    daemon_start "$2" "$temp/socket" --block-size "$BLOCK" --num-queues "$QUEUES" "${SERVE_OPTIONS[@]}" || code=$?
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

# guest_files SCRIPT...: what suite.sh needs beside it to run these in-guest scripts becomes GUEST_FILES.
guest_files() {
    local file
    mapfile -t GUEST_FILES < <(find "$HERE" -maxdepth 1 -name '*-lib.sh' ! -name host-lib.sh)
    printf '%s\n' "$*" >"$temp/suite"
    GUEST_FILES+=("$temp/suite" "$temp/image.env" "${@/#/$HERE/}")
    for file in manifest operations rounds rounds.env speed zloop.tgz; do
        [[ ! -e $temp/$file ]] || GUEST_FILES+=("$temp/$file")
    done
}

# guest SCRIPT...: boots a guest in the background (run_pid) that runs these in-guest scripts; their output goes to $temp/output, and at
# its end the kernel's messages to $temp/console.
guest() {
    guest_files "$@"
    # That of the guest before is not to be taken for this one's.
    : >"$temp/output"
    "$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" --queues "$QUEUES" --smp "$QUEUES" --mem "${MEMORY:-768M}" --timeout "$PHASE_SECONDS" \
        --console "$temp/console" "${RUN_OPTIONS[@]}" "$HERE/suite.sh" "${GUEST_FILES[@]}" >"$temp/output" &
    run_pid=$!
}

# results PHASE SCRIPT...: counts what $temp/output says of each of the scripts' tests.
results() {
    local phase=$1 name
    shift
    while read -r name; do
        if grep -qx "ok $name" "$temp/output"; then
            pass "$phase/$name"
        elif [[ ${VUZ_MACHINE:-qemu} == uml ]] && grep -q "^skip $name: " "$temp/output"; then
            # QEMU's guests show it.
            skipped=$((skipped + 1))
            sed -n "s|^skip $name: |skip $phase/$name: |p" "$temp/output"
        else
            fail "$phase/$name"
            if grep -qx "FAIL $name" "$temp/output"; then
                sed -n "/^FAIL $name\$/,/^[^#]/{/^#/p}" "$temp/output"
            else
                echo "# the guest did not come to this test"
            fi
        fi
    done < <(cd "$HERE" && sed -n 's/^check \([^ ]*\).*/\1/p' "$@")
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

# without_complaints: no error of the disk or of btrfs is on the last guest's console, up to its end (warnings do not go there)
# shellcheck disable=SC2317,SC2329 # called by expect
without_complaints() {
    [[ -e $temp/console ]] && ! grep -i -E 'I/O error|blk_update_request|critical|timed out|BTRFS (error|critical)' "$temp/console"
}

# machine_deaths NAME COUNT: COUNT times a guest that writes to btrfs is killed with SIGKILL at any moment of its writing, by turns its machine
# alone, so that the same daemon has to serve the next one, and the machine and the daemon at once. Each guest after it finds every file that had
# been told to be stable, whichever guest wrote it, and goes on writing.
machine_deaths() {
    local name=$1 count=$2 image=$temp/$1.qcow2 death code victims scripts=(btrfs-stable.sh)
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((14 << 20)) CONVENTIONAL=0 MAX_OPEN=12 MAX_ACTIVE=16 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=2
    rm -f "$temp/manifest"
    expect "$name/create" create_image "$image"
    serve "$name" "$image"
    for ((death = 1; death <= count; death++)); do
        rm -f "$temp/machine.pid"
        say "phase $name-$death: booting a guest for ${scripts[*]}, to kill its machine"
        MACHINE_PIDFILE=$temp/machine.pid guest "${scripts[@]}"
        while kill -0 "$run_pid" 2>/dev/null && ! grep -q '^MANIFEST ' "$temp/output"; do
            sleep 0.1
        done
        sleep $((RANDOM % 6)).$RANDOM
        victims=("$(cat "$temp/machine.pid" || true)")
        ((death % 2)) || victims+=("$DAEMON_PID")
        expect "$name-$death/killed-while-it-writes" kill -KILL "${victims[@]}"
        if ((${#victims[@]} == 2)); then
            wait "$DAEMON_PID" 2>/dev/null || true
            serve "$name-$death" "$image"
        fi
        code=0
        wait "$run_pid" || code=$?
        run_pid=
        expect "$name-$death/guest-died" test "$code" -eq 125
        ((death == 1)) || results "$name-$death" btrfs-crashed.sh
        expect "$name-$death/no-writer-failed" test "$(grep -c '^FAIL stable-until-killed' "$temp/output")" -eq 0
        expect "$name-$death/without-complaints" without_complaints
        sed -n 's/^MANIFEST //p' "$temp/output" >>"$temp/manifest"
        printf '# %d files have been told to be stable\n' "$(wc -l <"$temp/manifest")"
        scripts=(btrfs-crashed.sh btrfs-stable.sh)
    done
    phase "$name-last" btrfs-crashed.sh
    expect "$name-last/without-complaints" without_complaints
    stop "$name" "$image" leaks
    rm "$image"
}

# volatile NAME: a fresh image, served with a volatile cache, whose power the guest may cut
volatile() {
    rm -f "$temp/image.qcow2" "$temp/cuts"
    expect "$1/create" create_image "$temp/image.qcow2"
    SERVE_OPTIONS=(--volatile-cache --control-path "$temp/control")
    RUN_OPTIONS=(--control "$temp/control" --cut "$temp/cuts")
    serve "$1" "$temp/image.qcow2"
}

# power_cycles NAME: a guest under which the power goes and comes back; QUEUES and the rest are set
power_cycles() {
    volatile "$1"
    phase "$1" power-cycle.sh
    expect "$1/what-each-cut-left" test "$(grep -c '"digest"' "$temp/cuts")" -eq 3
    expect "$1/kept-what-was-stable" same_pointers "$temp/cuts"
    stop "$1" "$temp/image.qcow2"
    SERVE_OPTIONS=() RUN_OPTIONS=()
}

# same_pointers CUTS: each zone was left at its stable pointer
# shellcheck disable=SC2317,SC2329 # called by expect
same_pointers() {
    python3 -c '
import json, sys
zones = [zone for line in open(sys.argv[1]) for zone in json.loads(line)["zones"]]
wrong = [zone for zone in zones if zone["kept"] != zone["stable"]]
sys.exit(f"{len(zones)} zones, wrong: {wrong}" if wrong or not zones else 0)' "$1"
}
