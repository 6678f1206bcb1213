#!/usr/bin/env bash
# How fast a guest finds this disk beside QEMU's own virtio-blk over a raw file: the same fio on both, by turns, in one guest.
#
# Usage: tests/guest/speed.sh [ROUNDS [SECONDS]]          three rounds of four seconds when not said
#
# Both files are in memory, in a folder of /dev/shm. Prints the medians and their ratio. Without KVM it is the emulated processor that
# is measured first of all.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PHASE_SECONDS=1800
MEMORY=1G
rounds=${1:-3}
seconds=${2:-4}
[[ $rounds =~ ^[1-9][0-9]*$ && $seconds =~ ^[1-9][0-9]*$ ]] || die "usage: speed.sh [ROUNDS [SECONDS]], not \"$*\""

export VUZ_GUEST=full
daemon_build
machine_get
files=$(mktemp -d /dev/shm/vuz-speed.XXXXXX)
trap 'rm -rf "$files"; daemon_tidy_up' EXIT

geometry SIZE=$((4 << 30)) ZONE_SIZE=$((64 << 20)) ZONE_CAPACITY=$((64 << 20)) CONVENTIONAL=0 MAX_OPEN=0 MAX_ACTIVE=0 \
    MAX_APPEND=$((1 << 20)) BLOCK=4096 QUEUES=1
printf '%s %s\n' "$rounds" "$seconds" >"$temp/speed"
expect speed/create create_image "$files/zoned.qcow2"
truncate -s "$SIZE" "$files/plain"
serve speed "$files/zoned.qcow2"
plain=(-drive "if=none,id=plain,format=raw,aio=io_uring,file=$files/plain" -device "virtio-blk-pci,drive=plain,num-queues=1")
say "booting a guest with both disks: $((rounds * 10 * seconds)) seconds of load"
MACHINE_EXTRA="${MACHINE_EXTRA:-} ${plain[*]}" guest speed-in-guest.sh
code=0
wait "$run_pid" || code=$?
run_pid=
expect speed/guest-ends-well test "$code" -eq 0
expect speed/all-measured grep -qx 'ok speed' "$temp/output"
grep '^# ' "$temp/output" || true
stop speed "$files/zoned.qcow2"

# The median of a job on one of the disks.
middle() { awk -v job="$1" -v disk="$2" '$1 == "RATE" && $2 == job && $3 == disk { print $4 }' "$temp/output" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
printf '# %-18s %12s %12s %7s\n' requests/s "this disk" virtio-blk ratio
while read -r job; do
    ours=$(middle "$job" zoned) theirs=$(middle "$job" plain)
    printf '# %-18s %12.0f %12.0f %7.2f\n' "$job" "$ours" "$theirs" "$(awk "BEGIN { print $ours / $theirs }")"
done < <(awk '$1 == "RATE" { print $2 }' "$temp/output" | awk '!seen[$0]++')
finish
