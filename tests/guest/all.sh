#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the parts are called by their names
# The tests with a real Linux guest: an image is made and served, guests are booted on it, what they see is compared.
#
# Usage: tests/guest/all.sh [PART...]          when none is named: all, but machine only with QEMU, peers only without
#
# Prints a line "ok NAME" or "FAIL NAME" for each test (of a failed one also what it said), at the end "N passed, N failed". Exits 1 when
# any failed. Takes some minutes without KVM; needs no root once qemu-scripts/deps.sh is content. With VUZ_MACHINE=uml the guests are
# user-mode Linux: one processor, Linux's newest kernel instead of 6.12, and a part takes seconds.
#
# A part is some phases. A phase is one boot of the guest, running some of the in-guest scripts of this folder. The guest is off between
# two phases; what happens to the daemon meanwhile is what the phases are about:
#   zones     512: a fresh image, served with blocks of 512 bytes, two queues for two processors. reboot: a new guest, the same daemon.
#             restart: after SIGTERM, a new daemon, a new guest; it writes until the daemon is killed with SIGKILL under it.
#             killed: a new daemon, a new guest
#   btrfs     4096: another image, served with blocks of 4096 bytes, one queue; btrfs. The daemon is killed when the guest is off.
#             btrfs-again: a new daemon, a new guest
#   machine   the guest's machine killed in the middle of btrfs's writes, then the machine and the daemon at once; the next guest finds
#             what was stable. MACHINE_KILLS (environment, 2) is how often in all. (The btrfs of Linux 7.2 fails under it after a while,
#             on null_blk as well: docs/uml.md)
#   software  an image that null_blk can be like; the same steps on both, and what of software.sh is quick
#   zloop     a disk becomes a directory of the kernel's zoned loop driver, and that a disk again; only with user-mode Linux, whose kernel has it
#   peers     that benches/uml.sh still measures; only with user-mode Linux
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PARTS=(zones btrfs machine software zloop peers)
# The guest is given up after this long; all phases together take less.
PHASE_SECONDS=400
# Acknowledged operations to wait for before the daemon is killed.
OPERATIONS_BEFORE_KILL=150

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

# 64 whole zones and a short one; every limit below what Linux would set by itself.
zones() {
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
}

btrfs() {
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((32 << 20)) ZONE_CAPACITY=$((24 << 20)) CONVENTIONAL=2 MAX_OPEN=10 MAX_ACTIVE=12 \
        MAX_APPEND=$((64 << 10)) BLOCK=4096 QUEUES=1
    expect 4096/create create_image "$temp/second.qcow2"
    serve 4096 "$temp/second.qcow2"
    phase 4096 sysfs.sh zones.sh writes.sh fio.sh queues.sh btrfs-write.sh
    daemon_kill
    serve btrfs-again "$temp/second.qcow2"
    phase btrfs-again btrfs-verify.sh
    stop btrfs-again "$temp/second.qcow2" leaks
}

machine() {
    machine_deaths machine "${MACHINE_KILLS:-2}"
}

software() {
    geometry SIZE=$((256 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
    expect software/create create_image "$temp/third.qcow2"
    serve software "$temp/third.qcow2"
    phase software compare.sh zonefs.sh zbd.sh
    stop software "$temp/third.qcow2"
}

zloop() {
    geometry SIZE=$((16 << 20)) ZONE_SIZE=$((2 << 20)) ZONE_CAPACITY=$((1 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((64 << 10)) BLOCK=4096 QUEUES=1
    expect zloop/create create_image "$temp/fourth.qcow2"
    serve zloop "$temp/fourth.qcow2"
    phase zloop-write zloop-write.sh
    stop zloop-write "$temp/fourth.qcow2"
    expect zloop/convert "$VUZ_BIN" convert "$temp/fourth.qcow2" "$temp/0" --to zloop
    tar -czf "$temp/zloop.tgz" -C "$temp" 0
    serve zloop-again "$temp/fourth.qcow2"
    phase zloop zloop.sh
    stop zloop "$temp/fourth.qcow2"
    rm -rf "$temp/0" "$temp/zloop.tgz"
    base64 -d <"$temp/manifest" | tar -xz -C "$temp"
    rm -f "$temp/manifest"
    expect zloop/convert-back "$VUZ_BIN" convert "$temp/0" "$temp/back.qcow2" --zone-capacity "$ZONE_CAPACITY" --max-append-bytes "$MAX_APPEND"
    expect zloop/check checked "$temp/back.qcow2"
    expect zloop/same-zones-and-bytes "$VUZ_BIN" diff "$temp/fourth.qcow2" "$temp/back.qcow2"
}

# A figure for each of two jobs on each of three disks.
peers() {
    local name contender
    say "phase peers: a short form of benches/uml.sh"
    expect peers/ends-well "$VUZ_TOP/benches/uml.sh" --rounds 1 --seconds 0.2 --jobs write-4k-qd32,write-128k-qd1 --json "$temp/peers.json"
    for name in write-4k-qd32 write-128k-qd1; do
        for contender in zbd null_blk zloop; do
            expect "peers/$name-$contender" measured "$temp/peers.json" "$name" "$contender"
        done
    done
}

# measured FILE NAME CONTENDER: there is one run of it, with a rate
measured() {
    python3 -c '
import json, sys
file, *wanted = sys.argv[1:]
rates = [run["result"]["requests_per_s"] for run in json.load(open(file)) if [run["name"], run["contender"]] == wanted]
sys.exit(rates == [] or min(rates) <= 0)' "$@"
}

if [[ $# -eq 0 ]]; then
    set -- zones btrfs machine software
    [[ ${VUZ_MACHINE:-qemu} != uml ]] || set -- zones btrfs software zloop peers
fi
for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || die "no part $part; there are: ${PARTS[*]}"
done
"$VUZ_SCRIPTS/deps.sh"
daemon_build
machine_get
started=$SECONDS
for part in "$@"; do
    rm -f "$temp/manifest"
    "$part"
done
finish
