#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the sections are called by their names
# The tests with QEMU's own vhost-user-blk-pci, which stock QEMU does not let have zones: all that the generic device is tested with, and
# what only this device can do, connecting again to a new daemon under a running guest, and coming and going while the guest runs.
#
# Usage: tests/guest/blk.sh [SECTION...]          all sections when none is named
#
#   blk       what all.sh tests with the generic device
#   restarts  the daemon is by turns ended and killed, and started again, under fio with verification
#   power     the power goes and comes back, the guest's driver having let go of the disk and taken it again
#   plug      the disk is plugged in, out, and in again
#   kills     the daemon is killed KILLS times (environment, 10) under btrfs, at any moment; then a scrub and a check
#   machine   QEMU, and QEMU with the daemon, are killed MACHINE_KILLS times (environment, 4) by turns under btrfs, each time with a guest
#             after it that finds what had been made stable
#
# Output as all.sh. QEMU is built for it once, which takes a quarter of an hour (qemu-scripts/qemu-source.sh); VUZ_QEMU=FOLDER takes one
# that was built already.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PHASE_SECONDS=900
KILLS=${KILLS:-10}

sections=("$@")
[[ $# -gt 0 ]] || sections=(blk power restarts plug kills machine)
for section in "${sections[@]}"; do
    [[ $section =~ ^(blk|power|restarts|plug|kills|machine)$ ]] || die "no section \"$section\" (see the head of blk.sh)"
done

# under NAME SCRIPT COUNT HOW: a guest that runs SCRIPT; COUNT times meanwhile, each time when the guest has come a round further, the
# daemon is ended and started again, HOW: by turns (ended, killed), or killed
under() {
    local name=$1 script=$2 count=$3 how=$4 code=0 restarts=0
    say "phase $name: booting a guest for $script, to start the daemon again under it"
    guest "$script"
    while kill -0 "$run_pid" 2>/dev/null; do
        # Not in step with the guest's rounds: a round takes a second or more.
        sleep 0.$((RANDOM % 8 + 1))
        if ((restarts < count && $(grep -c '^# round ' "$temp/output" || true) > restarts)); then
            restarts=$((restarts + 1))
            if [[ $how == killed ]] || ((restarts % 2)); then daemon_kill; else daemon_stop || code=$?; fi
            serve "$name" "$temp/image.qcow2"
        fi
    done
    wait "$run_pid" || code=$?
    run_pid=
    results "$name" "$script"
    expect "$name/daemon-and-guest-end-well" test "$code" -eq 0
    expect "$name/restarts" test "$restarts" -eq "$count"
}

# monitor COMMAND: a command of QEMU's human monitor.
monitor() { printf '%s\n' "$*" >"$temp/monitor.in"; }

# wait_for LINE: until the guest says so, or is gone.
wait_for() {
    until grep -qx "$1" "$temp/output"; do
        kill -0 "$run_pid" 2>/dev/null || return 1
        sleep 0.1
    done
}

plug() {
    monitor "chardev-add socket,id=zoned,path=$temp/socket$(cat "$MACHINE_QEMU/chardev")"
    monitor "device_add vhost-user-blk-pci,id=disk,chardev=zoned,bus=root1,zoned=on"
}

# unplugged: takes the connection away when QEMU has let go of the device, which comes a moment after the guest's letting go
unplugged() {
    local try refusals
    for ((try = 0; try < 60; try++)); do
        refusals=$(grep -c 'is busy' "$temp/monitor.log" || true)
        monitor chardev-remove zoned
        sleep 0.5
        [[ $(grep -c 'is busy' "$temp/monitor.log" || true) != "$refusals" ]] || return 0
    done
}

# plugged_phase NAME: a guest that has no disk until it is plugged in; it is taken away and plugged in once more.
plugged_phase() {
    local name=$1 code=0
    say "phase $name: booting a guest for plug.sh, to plug the disk in and out"
    : >"$temp/output"
    mkfifo "$temp/monitor.in" "$temp/monitor.out"
    cat "$temp/monitor.out" >"$temp/monitor.log" &
    MACHINE_EXTRA="-device pcie-root-port,id=root1,chassis=1 -chardev pipe,id=monitor,path=$temp/monitor -mon chardev=monitor" \
        "$VUZ_SCRIPTS/run.sh" --timeout "$PHASE_SECONDS" "$HERE/plug.sh" "$temp/image.env" "$HERE/in-guest-lib.sh" >"$temp/output" &
    run_pid=$!
    # Kept open, so that the monitor does not see its end after each command.
    exec {monitor_fd}<>"$temp/monitor.in"
    if wait_for 'ok plug-no-disk-yet'; then plug; fi
    if wait_for 'ok plug-disk-comes'; then monitor device_del disk; fi
    if wait_for 'ok plug-disk-goes'; then
        unplugged
        plug
    fi
    wait "$run_pid" || code=$?
    run_pid=
    exec {monitor_fd}>&-
    results "$name" plug.sh
    expect "$name/guest-ends-well" test "$code" -eq 0
    [[ $failed -eq 0 ]] || sed 's/^/# monitor: /' "$temp/monitor.log"
}

"$VUZ_SCRIPTS/deps.sh"
daemon_build
VUZ_QEMU_ROAD=source machine_get
[[ $(cat "$MACHINE_QEMU/device") == vhost-user-blk-pci,* ]] || die "$MACHINE_QEMU is not a QEMU with zones in vhost-user-blk"
started=$SECONDS

blk() {
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
    fresh blk
    phase blk sysfs.sh zones.sh writes.sh fio.sh queues.sh
    stop blk "$temp/image.qcow2"
}

power() {
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=2
    power_cycles power
}

restarts() {
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
    fresh restarts
    under restarts rounds.sh 8 by-turns
    stop restarts "$temp/image.qcow2" leaks
}

plug_in_and_out() {
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    fresh plug
    plugged_phase plug
    stop plug "$temp/image.qcow2"
}

kills() {
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((14 << 20)) CONVENTIONAL=0 MAX_OPEN=12 MAX_ACTIVE=16 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=2
    fresh kills
    # Some rounds more, for those that a kill falls between.
    echo $((KILLS + 3)) >"$temp/rounds"
    under kills btrfs-rounds.sh "$KILLS" killed
    rm "$temp/rounds"
    stop kills "$temp/image.qcow2" leaks
}

machine() { machine_deaths machine "${MACHINE_KILLS:-4}"; }

# fresh NAME: a new image, served
fresh() {
    rm -f "$temp/image.qcow2"
    expect "$1/create" create_image "$temp/image.qcow2"
    serve "$1" "$temp/image.qcow2"
}

for section in "${sections[@]}"; do
    case $section in
        plug) plug_in_and_out ;;
        *) "$section" ;;
    esac
done
finish
