#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the sections are called by their names
# Other people's software on the zoned disk, and the disk beside null_blk, the kernel's own zoned disk. Takes an hour without KVM.
#
# Usage: tests/guest/software.sh [SECTION...]          all sections when none is named
#
#   compare  the same steps on the disk and on null_blk of the same geometry; differences are listed with their justification
#   btrfs    fill, delete, balance, scrub; write and delete for CHURN_SECONDS (environment, 420); a guest and a daemon that die, and after
#   zonefs   its files of both kinds, its features and mount options, its reactions to errors
#   zbd      libzbd's zbd, each command
#   dm       device mapper: linear and crypt with btrfs on them, dm-zoned
#   f2fs     fill, delete and write again, mount again, check
#   xfs      the same of XFS on zones
#
# Prints what all.sh prints, and between the tests the figures and findings of a run, behind "# ". VUZ_OUTPUT (environment) is a folder
# where the guests' whole output is kept.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

SECTIONS=(compare btrfs zonefs zbd dm f2fs xfs)
PHASE_SECONDS=900

# use_guest NAME: small, full or newest, from now on
use_guest() {
    unset MACHINE_GUEST
    export VUZ_GUEST=$1
    machine_get
}

# run NAME SCRIPT...: a phase with its figures and its time
run() {
    local from=$SECONDS
    phase "$@"
    show "$1" "$from"
}

# show NAME FROM: the figures of the last guest
show() {
    sed -n 's/^NOTE /# /p' "$temp/output"
    printf '# phase %s took %d seconds\n' "$1" $((SECONDS - $2))
    [[ -z ${VUZ_OUTPUT:-} ]] || cp "$temp/output" "$VUZ_OUTPUT/${1//\//-}"
}

# null_blk has a short last zone or a capacity below the zone size, not both.
compare() {
    local block
    use_guest small
    for block in 512 4096; do
        if [[ $block == 512 ]]; then
            geometry SIZE=$((256 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
                MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=2
        else
            geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
                MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=2
        fi
        expect "compare-$block/create" create_image "$temp/compare-$block.qcow2"
        serve "compare-$block" "$temp/compare-$block.qcow2"
        run "compare-$block" compare.sh
        stop "compare-$block" "$temp/compare-$block.qcow2"
        rm "$temp/compare-$block.qcow2"
    done
}

# The guest dies of its own hand (status 125 of run.sh), the daemon is killed, both begin again.
btrfs() {
    local from=$SECONDS code=0
    use_guest small
    MEMORY=1G PHASE_SECONDS=1800
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((14 << 20)) CONVENTIONAL=0 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((256 << 10)) BLOCK=4096 QUEUES=1 CHURN_SECONDS="${CHURN_SECONDS:-420}"
    expect btrfs/create create_image "$temp/btrfs.qcow2"
    serve btrfs "$temp/btrfs.qcow2"
    say "phase btrfs: booting a guest for btrfs-churn.sh"
    guest btrfs-churn.sh
    wait "$run_pid" || code=$?
    run_pid=
    daemon_kill
    results btrfs btrfs-churn.sh
    expect btrfs/guest-died test "$code" -eq 125
    sed -n 's/^MANIFEST //p' "$temp/output" >"$temp/manifest"
    show btrfs "$from"
    serve btrfs-crashed "$temp/btrfs.qcow2"
    run btrfs-crashed btrfs-crashed.sh
    stop btrfs-crashed "$temp/btrfs.qcow2" leaks
    rm "$temp/btrfs.qcow2" "$temp/manifest"
}

# section NAME SCRIPT...: one image by the geometry that is set, one guest, and the image is without fault afterwards
section() {
    expect "$1/create" create_image "$temp/$1.qcow2"
    serve "$1" "$temp/$1.qcow2"
    run "$@"
    stop "$1" "$temp/$1.qcow2"
    rm "$temp/$1.qcow2"
}

zonefs() {
    use_guest small
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    section zonefs zonefs.sh
}

zbd() {
    use_guest small
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=512 QUEUES=1
    section zbd zbd.sh
}

# dm-zoned wants the capacity to be the zone size, and conventional zones. The guest is the newest: the full one lacks the modules with the
# checksums that btrfs asks the older kernel for.
dm() {
    use_guest newest
    MEMORY=1G
    geometry SIZE=$((1 << 30)) ZONE_SIZE=$((8 << 20)) ZONE_CAPACITY=$((8 << 20)) CONVENTIONAL=12 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    section dm dm.sh
}

# f2fs wants zones of a multiple of 2 MiB, an active zone for each of its six logs, and conventional zones for its metadata. With a
# capacity below the zone size fsck.f2fs 1.16.0 counts other free segments than the file system does ("free segment_count matched with
# CP: Fail"), with every file as it was written.
f2fs() {
    use_guest newest
    MEMORY=1G
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((16 << 20)) CONVENTIONAL=16 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    section f2fs f2fs.sh
}

# XFS wants at least 300 MiB of conventional zones for its metadata. With a capacity below the zone size mkfs.xfs 7.2.0 counts the
# conventional zones as if they were that short too, puts the data inside the last of them, and the mount is refused.
xfs() {
    use_guest newest
    MEMORY=1G
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((16 << 20)) CONVENTIONAL=32 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    section xfs xfs.sh
}

[[ $# -gt 0 ]] || set -- "${SECTIONS[@]}"
for name in "$@"; do
    [[ " ${SECTIONS[*]} " == *" $name "* ]] || die "no section $name; there are: ${SECTIONS[*]}"
done
[[ -z ${VUZ_OUTPUT:-} ]] || mkdir -p "$VUZ_OUTPUT"
"$VUZ_SCRIPTS/deps.sh"
daemon_build
started=$SECONDS
for name in "$@"; do
    MEMORY=768M
    "$name"
done
finish
