#!/usr/bin/env bash
# The tests with QEMU's own vhost-user-blk-pci, which stock QEMU does not let have zones: all that the generic device is tested with, and
# what only this device can do, connecting again to a new daemon under a running guest, and coming and going while the guest runs.
#
# Usage: tests/guest/blk.sh
#
# Output as all.sh. QEMU is built for it once, which takes a quarter of an hour (qemu-scripts/qemu-source.sh); VUZ_QEMU=FOLDER takes one
# that was built already.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PHASE_SECONDS=400
# How often the daemon is started again under the guest, each time after a round of the guest's work.
RESTARTS=8

# restarted_phase NAME: a guest that writes, reads and verifies, and meanwhile the daemon is ended and started again.
restarted_phase() {
    local name=$1 code=0 restarts=0
    say "phase $name: booting a guest for rounds.sh, to start the daemon again under it"
    guest rounds.sh
    while kill -0 "$run_pid" 2>/dev/null; do
        sleep 0.1
        if ((restarts < RESTARTS && $(grep -c '^# round ' "$temp/output" || true) > restarts)); then
            restarts=$((restarts + 1))
            # By turns told to end, and killed.
            if ((restarts % 2)); then daemon_kill; else daemon_stop || code=$?; fi
            serve "$name" "$temp/image.qcow2"
        fi
    done
    wait "$run_pid" || code=$?
    run_pid=
    results "$name" rounds.sh
    expect "$name/daemon-and-guest-end-well" test "$code" -eq 0
    expect "$name/restarts" test "$restarts" -eq "$RESTARTS"
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
        monitor chardev-remove zoned
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

geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
    MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
expect blk/create create_image "$temp/image.qcow2"
serve blk "$temp/image.qcow2"
phase blk sysfs.sh zones.sh writes.sh fio.sh queues.sh
restarted_phase restarts
plugged_phase plug
stop blk "$temp/image.qcow2" leaks
finish
