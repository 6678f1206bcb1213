#!/usr/bin/env bash
# Compares this daemon with its peers on this machine, side by side. docs/performance.md says what each of them is.
#
# Usage: benches/compare.sh [--place tmpfs|direct|buffered] [--dir FOLDER] [--rounds N] [--seconds N] [--jobs NAME,...]
#            [--contenders NAME,...] [--against BINARY] [--json FILE] [--list]
#
# --place: files in memory; on a disk, past the page cache; or on a disk, through the page cache.
# --against: an older build of this program, which is the contender "zbd-older".
#
# Each round runs every contender on each job once, for a few seconds, so that what else the machine does meets all of
# them alike. Printed are medians over the rounds; --json keeps every run.
# Installs what it needs (apt, as root; otherwise it says what to install). Needs about 9 GiB of memory (tmpfs) or disk.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "compare: $*" >&2; }
die() {
    say "$*"
    exit 1
}

all_contenders=(zbd zbd-older zbd-nopoll zbd-cached zbd-recorded qsd-raw-uring qsd-raw-threads qsd-raw-iothread qsd-qcow2 fio ram ram-fresh)
contenders=(zbd zbd-nopoll qsd-raw-uring qsd-raw-threads qsd-qcow2 fio ram ram-fresh)

# NAME JOB BLOCK QD QUEUES ZONES FLUSH-EVERY. QD and ZONES are those of all queues together; a zone has one write in
# flight, as in Linux. Peers without zones run seqwrite for zonewrite and append.
job_table='
randread-4k-qd1       randread  4K   1 1  0  0
randread-4k-qd32      randread  4K  32 1  0  0
randread-4k-2q        randread  4K  64 2  0  0
seqread-128k-qd8      seqread   128K 8 1  0  0
seqread-1m-qd4        seqread   1M   4 1  0  0
zonewrite-4k-qd1      zonewrite 4K   1 1  1  0
zonewrite-4k-qd32     zonewrite 4K  32 1 32  0
zonewrite-4k-2q       zonewrite 4K  64 2 64  0
flush64-4k-qd32       zonewrite 4K  32 1 32 64
append-4k-qd32-1zone  append    4K  32 1  1  0
append-4k-qd32-4zone  append    4K  32 1  4  0
append-4k-qd32-32zone append    4K  32 1 32  0
zonewrite-128k-qd8    zonewrite 128K 8 1  8  0
zonewrite-128k-qd1    zonewrite 128K 1 1  1  0
zonewrite-1m-qd4      zonewrite 1M   4 1  4  0
'
mapfile -t jobs < <(awk 'NF { print $1 }' <<<"$job_table")

# The disk, how much of it is written before zones are used again, and how much is there to be read.
disk_size=8G
zone_size=64M
write_size=4G
read_size=1G
# The do-nothing backend takes its whole disk from memory at once.
ram_size=1G

place=tmpfs folder='' rounds=5 seconds=2 json='' older=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --list)
            printf 'jobs: %s\ncontenders: %s\n' "${jobs[*]}" "${all_contenders[*]}"
            exit
            ;;
        --help | -h)
            sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
            exit
            ;;
    esac
    [[ $# -ge 2 ]] || die "option $1 is not known or needs a value"
    case $1 in
        --place) place=$2 ;;
        --dir) folder=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --jobs) IFS=, read -ra jobs <<<"$2" ;;
        --contenders) IFS=, read -ra contenders <<<"$2" ;;
        --against) older=$(realpath "$2") ;;
        --json) json=$(realpath "$2") ;;
        *) die "option $1 is not known" ;;
    esac
    shift 2
done
case $place in
    tmpfs) folder=${folder:-/dev/shm} cache=writeback direct=off ;;
    direct) folder=${folder:-${TMPDIR:-/var/tmp}} cache=none direct=on ;;
    buffered) folder=${folder:-${TMPDIR:-/var/tmp}} cache=writeback direct=off ;;
    *) die "--place is \"$place\"; it can be tmpfs, direct or buffered" ;;
esac

for job in "${jobs[@]}"; do
    grep -q "^$job " <<<"$job_table" || die "there is no job $job; --list shows all"
done
for contender in "${contenders[@]}"; do
    [[ " ${all_contenders[*]} " == *" $contender "* ]] || die "there is no contender $contender; --list shows all"
done

if [[ -n $older && " ${contenders[*]} " != *" zbd-older "* ]]; then
    contenders=("${contenders[0]}" zbd-older "${contenders[@]:1}")
fi
[[ " ${contenders[*]} " != *" zbd-older "* || -x $older ]] || die "the contender \"zbd-older\" is a program: --against BINARY"

milliseconds=$(awk -v seconds="$seconds" 'BEGIN { printf "%d", seconds * 1000 }')

qemu-scripts/deps.sh --bench
cargo build --locked --release
zbd=target/release/vhost-user-zbd
load=$(cargo bench --locked --bench load --no-run --message-format json |
    sed -n 's/.*"name":"load".*"executable":"\([^"]*\)".*/\1/p')
[[ -x $load ]] || die "cargo has built no load generator"

# The option is newer than the comparison.
if ! "$zbd" serve --help | grep -q -- --poll-us; then
    kept=()
    for contender in "${contenders[@]}"; do
        [[ $contender == zbd-nopoll ]] || kept+=("$contender")
    done
    contenders=("${kept[@]}")
fi

work=$(mktemp -d "$folder/zbd-compare.XXXXXX")
backend=''
stop_backend() {
    [[ -n $backend ]] || return 0
    kill "$backend" 2>/dev/null || true
    wait "$backend" 2>/dev/null || true
    backend=''
}
clean_up() {
    stop_backend
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

socket=$work/socket
runs=$work/runs
: >"$runs"

# What a contender's disk is kept in: some share it.
file_of() {
    case $1 in
        zbd*) echo zbd.qcow2 ;;
        qsd-qcow2) echo plain.qcow2 ;;
        *) echo raw ;;
    esac
}

make_file() {
    rm -f "$1"
    # What the file system does about the files of the runs before it does now.
    sync -f "$work"
    case $1 in
        *.zbd.qcow2) "$zbd" create "$1" "$disk_size" --zone-size "$zone_size" >/dev/null ;;
        *.plain.qcow2) qemu-img create -q -f qcow2 "$1" "$disk_size" ;;
        *) truncate -s "$disk_size" "$1" ;;
    esac
}

# start CONTENDER FILE QUEUES: starts a backend in the background.
start() {
    local aio=io_uring format=raw program=$zbd options=() thread=() on_thread=''
    rm -f "$socket" "$work/recording"
    case $1 in
        qsd-raw-threads) aio=threads ;;
        qsd-raw-iothread) thread=(--object 'iothread,id=io') on_thread=,iothread=io ;;
        qsd-qcow2) format=qcow2 ;;
        zbd-nopoll) options=(--poll-us 0) ;;
        zbd-cached) options=(--volatile-cache) ;;
        zbd-recorded) options=(--record "$work/recording") ;;
        zbd-older) program=$older ;;
    esac
    case $1 in
        zbd*)
            "$program" serve "$2" --socket-path "$socket" --num-queues "$3" --cache "$cache" "${options[@]}" 2>"$work/log" &
            ;;
        qsd-*)
            qemu-storage-daemon "${thread[@]}" \
                --blockdev driver=file,node-name=file,filename="$2",aio="$aio",cache.direct="$direct" \
                --blockdev driver="$format",node-name=disk,file=file,cache.direct="$direct" \
                --export type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path="$socket",writable=on,num-queues="$3""$on_thread" \
                2>"$work/log" &
            ;;
        ram) "$load" backend --socket "$socket" --size "$ram_size" 2>"$work/log" & ;;
        ram-fresh) "$load" backend --socket "$socket" --size "$disk_size" --fresh 2>"$work/log" & ;;
    esac
    backend=$!
}

# run_fio FILE JOB BLOCK QD QUEUES ZONES FLUSH-EVERY: as much as possible of the same, without a backend.
run_fio() {
    local rw=write size=$write_size direct_io=0
    case $2 in
        randread) rw=randread size=$read_size ;;
        seqread) rw=read size=$read_size ;;
    esac
    [[ $direct == off ]] || direct_io=1
    local share=$((${size%G} * 1024 / $5))M
    # Not ramped: the processor time is that of the whole process.
    benches/table.py fio --name=load --filename="$1" --rw="$rw" --bs="$3" --iodepth=$(($4 / $5)) --numjobs="$5" \
        --size="$share" --offset_increment="$share" --ioengine=io_uring --direct="$direct_io" --fdatasync="$7" \
        --time_based --runtime="$milliseconds"ms --group_reporting --thread --fallocate=none --invalidate=0 \
        --norandommap --randrepeat=1 2>"$work/log"
}

# run_load CONTENDER FILE JOB BLOCK QD QUEUES ZONES FLUSH-EVERY
run_load() {
    local job=$3 options=(--bs "$4" --qd $(($5 / $6)) --queues "$6" --flush-every "$8") size=$write_size status=0
    case $job in
        randread | seqread) size=$read_size ;;
        *) [[ $1 == zbd* ]] && options+=(--zones "$7") || job=seqwrite ;;
    esac
    [[ $1 != ram ]] || size=$ram_size
    start "$1" "$2" "$6"
    "$load" run "$job" --socket "$socket" --pid "$backend" --seconds "$seconds" --size "$size" --json "${options[@]}" || status=$?
    stop_backend
    # As large as all that was written.
    rm -f "$work/recording"
    return "$status"
}

# measure ROUND CONTENDER NAME JOB BLOCK QD QUEUES ZONES FLUSH-EVERY
measure() {
    local round=$1 contender=$2 name=$3 job=$4 file run=(run_load "$2")
    shift 3
    case $job in
        *read) file=$work/read.$(file_of "$contender") ;;
        *)
            file=$work/write.$(file_of "$contender")
            [[ $contender == ram* ]] || make_file "$file"
            ;;
    esac
    [[ $contender != fio ]] || run=(run_fio)
    "${run[@]}" "$file" "$@" >"$work/result" || {
        cat "$work/log" >&2
        die "$contender failed at $name"
    }
    [[ $job == *read ]] || rm -f "$file"
    printf '{"place":"%s","round":%s,"contender":"%s","name":"%s","result":%s}\n' "$place" "$round" "$contender" "$name" "$(<"$work/result")" >>"$runs"
}

progress() { [[ ! -t 2 ]] || printf '\r\e[K%s' "$*" >&2; }

# The disks that are read, once, with real data.
for contender in "${contenders[@]}"; do
    file=$work/read.$(file_of "$contender")
    [[ $contender != ram* && ! -e $file ]] || continue
    progress "filling $(file_of "$contender")"
    make_file "$file"
    filler=$contender
    [[ $contender != fio ]] || filler=qsd-raw-threads
    start "$filler" "$file" 1
    "$load" run fill --socket "$socket" --size "$read_size" --qd 8 >/dev/null || die "$contender's disk could not be filled"
    stop_backend
done

# A host gives a virtual machine its memory as it is first written, a page at a time: whoever took more of the page cache
# would pay for all.
progress "having memory ready"
head -c "$(awk '/^MemAvailable/ { print int($2 * 0.6) "K" }' /proc/meminfo)" /dev/zero >"/dev/shm/zbd-compare.$$" || true
rm -f "/dev/shm/zbd-compare.$$"

total=$((rounds * ${#jobs[@]} * ${#contenders[@]})) count=0
for ((round = 1; round <= rounds; round++)); do
    for name in "${jobs[@]}"; do
        read -ra job < <(grep "^$name " <<<"$job_table")
        for ((place_in_round = 0; place_in_round < ${#contenders[@]}; place_in_round++)); do
            # Each is the first as often as the others: whoever comes first pays for the job before.
            contender=${contenders[(place_in_round + round) % ${#contenders[@]}]}
            count=$((count + 1))
            # Reading memory that nobody has written measures nothing.
            [[ ${job[1]} != *read || $contender != ram-fresh ]] || continue
            progress "$count/$total: round $round, $name, $contender"
            measure "$round" "$contender" "${job[@]}"
        done
    done
done
progress ''

[[ -z $json ]] || benches/table.py json <"$runs" >"$json"
benches/table.py table <"$runs"
