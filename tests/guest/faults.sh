#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the parts are called by their names
# A disk that fails as told, under a guest: what Linux and its file systems make of it, and that all is there again afterwards.
#
# Usage: tests/guest/faults.sh [PART...]          all parts when none is named
#
#   script   run.sh --faults, by the example of docs/faults.md
#   digest   rules of every kind on the bare disk, and then none: what is read is what was read before
#   zonefs   zones that go read-only and offline at a mount and while mounted, writes that fail in part, by each mount option
#   late     requests that are answered late, or not until they are let go
#   btrfs    a zone of one of two disks goes offline, with metadata on both; and of one disk
#   fio      a job that goes on behind writes that failed (recover_zbd_write_error)
#   xfs      XFS on zones: a write that fails in part, and zones that are read-only and offline at the mount
#
# Prints what all.sh prints, and what was seen behind "# ". VUZ_OUTPUT (environment) is a folder where the guests' whole output is kept.
# fio and xfs want Linux 6.15 and fio 3.40, which the guest "newest" has.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PARTS=(script digest zonefs late btrfs fio xfs)
PHASE_SECONDS=600
SECOND_PID=

# use_guest NAME: small or newest, from now on
use_guest() {
    unset MACHINE_GUEST
    export VUZ_GUEST=$1
    machine_get
}

# part NAME: an image by the geometry that is set, served with a control socket, one guest with ./fault, and what was seen. RUN_OPTIONS may
# have more disks.
part() {
    local image=$temp/$1.qcow2 from=$SECONDS
    expect "$1/create" create_image "$image"
    SERVE_OPTIONS=(--control-path "$temp/control" --faults "$temp/$1.faults")
    RUN_OPTIONS+=(--control "$temp/control")
    serve "$1" "$image"
    phase "$1" "faults-$1.sh"
    sed -n 's/^NOTE /# /p' "$temp/output"
    printf '# phase %s took %d seconds\n' "$1" $((SECONDS - from))
    [[ -z ${VUZ_OUTPUT:-} ]] || cp "$temp/output" "$VUZ_OUTPUT/$1"
    expect "$1/no-rule-is-left" no_rule "$temp/$1.faults"
    stop "$1" "$image"
    SERVE_OPTIONS=() RUN_OPTIONS=()
    rm "$image"
}

# no_rule FILE: no rule and no zone that is away is in this file of rules
no_rule() {
    python3 -c '
import json, sys
saved = json.load(open(sys.argv[1]))
sys.exit(str(saved) if saved.get("rules") or saved.get("zones") else 0)' "$1"
}

# torn: what the example prints
torn() {
    "$VUZ_SCRIPTS/run.sh" --image "$temp/image.qcow2" --timeout "$PHASE_SECONDS" --faults "$VUZ_TOP/examples/faults/torn.sh" \
        >"$temp/output" 2>"$temp/errors" || {
        cat "$temp/output" "$temp/errors"
        return 1
    }
    diff "$temp/output" - <<'END'
write 1 at 0: answered
write 2 at 65536: answered
write 3 at 131072: failed, and the pointer is at 163840
the same again at 131072: failed, as the pointer is at 163840
write 4 at 163840: answered
torn: on write zone 4 nth 3 do error=ioerr landed=half: acted on 1 of 4
END
}

script() {
    use_guest small
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    expect script/create create_image "$temp/image.qcow2"
    expect script/half-a-write-lands torn
    expect script/check checked "$temp/image.qcow2"
}

digest() {
    use_guest small
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=12 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    part digest
}

zonefs() {
    use_guest small
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=2 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    part zonefs
}

late() {
    use_guest small
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=0 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    part late
}

# The second disk has a daemon of its own, without rules.
btrfs() {
    use_guest small
    geometry SIZE=$((512 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=0 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    expect btrfs/create-second create_image "$temp/second.qcow2"
    daemon_start "$temp/second.qcow2" "$temp/second" --block-size "$BLOCK" --num-queues "$QUEUES" || finish
    SECOND_PID=$DAEMON_PID
    RUN_OPTIONS=(--socket "$temp/second")
    part btrfs
    DAEMON_PID=$SECOND_PID
    stop btrfs-second "$temp/second.qcow2"
    rm "$temp/second.qcow2"
}

fio() {
    use_guest newest
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    part fio
}

# XFS wants at least 300 MiB of conventional zones for its metadata.
xfs() {
    use_guest newest
    MEMORY=1G
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((16 << 20)) CONVENTIONAL=32 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    part xfs
}

[[ $# -gt 0 ]] || set -- "${PARTS[@]}"
for name in "$@"; do
    [[ " ${PARTS[*]} " == *" $name "* ]] || die "no part $name; there are: ${PARTS[*]}"
done
[[ -z ${VUZ_OUTPUT:-} ]] || mkdir -p "$VUZ_OUTPUT"
"$VUZ_SCRIPTS/deps.sh"
daemon_build
export VUZ_BIN
started=$SECONDS
for name in "$@"; do
    MEMORY=768M
    "$name"
done
finish
