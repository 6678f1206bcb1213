#!/usr/bin/env bash
# Compares this disk with the kernel's own two zoned disks, null_blk and zloop, in one guest of user-mode Linux: the same fio jobs on all
# three. docs/performance.md says what comes of it.
#
# Usage: benches/uml.sh [--rounds N] [--seconds N] [--jobs NAME,...] [--json FILE] [--list]
#
# All three have the same zones and are in memory: this disk in a file in /dev/shm that the daemon serves, null_blk in its driver, zloop
# in files of a tmpfs of the guest. Each round runs each job once on each disk, for a second, in changing order. Printed are medians over
# five rounds, the ratios, and how far the rounds lie apart; --json keeps every run.
# Installs what it needs (apt, as root; otherwise it says what to install). Needs 6 GiB of memory. The kernel and the guest's programs
# are those of qemu-scripts/uml.sh and guest.sh (VUZ_GUEST; appends want "newest", which is the default with them).
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"

HERE=$VUZ_TOP/benches

# NAME RW BLOCK QD ZONES. With one zone the writes fill zone after zone; with 32 each goes into any of 32 open ones. Linux has no
# append for programs (zonefs writes): what appends is a file of XFS with its data in the zones.
job_table='
randread-4k-qd1    randread 4k    1  0
randread-4k-qd32   randread 4k   32  0
read-128k-qd1      read     128k  1  0
read-128k-qd32     read     128k 32  0
write-4k-qd1       write    4k    1  1
write-4k-qd32      write    4k   32 32
write-128k-qd1     write    128k  1  1
write-128k-qd32    write    128k 32 32
append-4k-qd1      append   4k    1  0
append-4k-qd32     append   4k   32  0
append-128k-qd1    append   128k  1  0
append-128k-qd32   append   128k 32  0
'
mapfile -t jobs < <(awk 'NF { print $1 }' <<<"$job_table")

# Of the disk's zones the first are there to be read.
size_mib=1024 zone_mib=16 read_zones=16
# What null_blk and zloop hold is the guest's memory.
memory=4G

rounds=5 seconds=1 json=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --list)
            printf 'jobs: %s\n' "${jobs[*]}"
            exit
            ;;
    esac
    need_value "$1" $#
    case $1 in
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --jobs) IFS=, read -ra jobs <<<"$2" ;;
        --json) json=$(realpath "$2") ;;
        *) die "option $1 is not known" ;;
    esac
    shift 2
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds is \"$rounds\"; it is a number from 1"
milliseconds=$(awk -v seconds="$seconds" 'BEGIN { printf "%d", seconds * 1000 }')
((milliseconds > 0)) || die "--seconds is \"$seconds\"; it is a number above 0"
guest=small
for job in "${jobs[@]}"; do
    grep -q "^$job " <<<"$job_table" || die "there is no job \"$job\"; --list shows all"
    [[ $job != append-* ]] || guest=newest
done

export VUZ_MACHINE=uml VUZ_GUEST=${VUZ_GUEST:-$guest}
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/daemon.sh"
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/machine.sh"
"$VUZ_SCRIPTS/deps.sh"
command -v python3 >/dev/null || "$VUZ_SCRIPTS/deps.sh" --bench
daemon_build
machine_get

temp=$(mktemp -d /dev/shm/zbd-uml.XXXXXX)
run_pid=
daemon_take_traps

for job in "${jobs[@]}"; do
    grep "^$job " <<<"$job_table"
done >"$temp/jobs"
printf '%s\n' "ROUNDS=$rounds" "MILLISECONDS=$milliseconds" "SIZE_MIB=$size_mib" "ZONE_MIB=$zone_mib" "READ_ZONES=$read_zones" \
    >"$temp/sizes"
"$VUZ_BIN" create -q "$temp/disk.qcow2" "${size_mib}M" --zone-size "${zone_mib}M"
daemon_start "$temp/disk.qcow2" "$temp/socket"
mkfifo "$temp/output"
# What is not fio's time: its start, new zones, a file system.
limit=$((120 + rounds * ${#jobs[@]} * 3 * (10 + milliseconds / 1000)))
"$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" --mem "$memory" --timeout "$limit" "$HERE/uml-in-guest.sh" "$temp/jobs" "$temp/sizes" \
    >"$temp/output" &
run_pid=$!

progress() { [[ ! -t 2 ]] || printf '\r\e[K%s' "$*" >&2; }
total=$((rounds * ${#jobs[@]} * 3)) count=0
progress "booting a guest"
: >"$temp/runs"
while read -r kind round contender name rate; do
    if [[ $kind == RUN ]]; then
        count=$((count + 1))
        progress "$count/$total: round $round, $name, $contender"
        printf '{"place":"uml","round":%s,"contender":"%s","name":"%s","result":{"requests_per_s":%s}}\n' \
            "$round" "$contender" "$name" "$rate" >>"$temp/runs"
    else
        progress ''
        say "$kind $round $contender $name $rate"
    fi
done <"$temp/output"
progress ''
code=0
wait "$run_pid" || code=$?
run_pid=
((code == 0)) || die "the guest ended with status $code after $count of $total runs"
daemon_stop || die "the daemon did not end well"

[[ -z $json ]] || "$HERE/table.py" json <"$temp/runs" >"$json"
printf '%s\n' "$(<"$MACHINE_UML/version")"
"$HERE/table.py" peers <"$temp/runs"
