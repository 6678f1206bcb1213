# shellcheck shell=bash
# In the guest: fio on the zoned disk and on the plain one beside it, by turns. "speed" says how often and for how long each.
read -r ROUNDS SECONDS_EACH <speed

zoned='' plain=''
for disk in /sys/block/vd?; do
    echo none >"$disk/queue/scheduler"
    if [[ $(cat "$disk/queue/zoned") == host-managed ]]; then zoned=/dev/${disk##*/}; else plain=/dev/${disk##*/}; fi
done
[[ -n $zoned && -n $plain ]] || {
    echo "# the guest has not both disks: zoned \"$zoned\", plain \"$plain\""
    exit 1
}

unmeasured=()
# rate NAME DISK OPTION...: runs fio, says how many requests a second
rate() {
    local name=$1 disk=$2 iops
    shift 2
    # Of fio's terse lines (version 3) field 8 is the reads' rate and field 49 the writes'.
    iops=$(fio --name="$name" --filename="$disk" --direct=1 --ioengine=io_uring --time_based --runtime="$SECONDS_EACH" --norandommap \
        --randrepeat=1 --output-format=terse --terse-version=3 "$@" | awk -F';' '/^3;/ { print $8 + $49 }')
    [[ ${iops:-0} != 0 ]] || unmeasured+=("$name on $disk")
    printf 'RATE %s %s %s\n' "$name" "$([[ $disk == "$zoned" ]] && echo zoned || echo plain)" "${iops:-0}"
}

reads=$((64 << 20))
fill() { fio --name=fill --filename="$1" --direct=1 --ioengine=io_uring --rw=write --bs=1M --iodepth=4 --size="$reads" "${@:2}" >/dev/null; }
fill "$plain"
blkzone reset "$zoned"
fill "$zoned" --zonemode=zbd

for ((round = 0; round < ROUNDS; round++)); do
    for disk in "$plain" "$zoned"; do
        rate randread-4k-qd1 "$disk" --rw=randread --bs=4k --iodepth=1 --size="$reads"
        rate randread-4k-qd32 "$disk" --rw=randread --bs=4k --iodepth=32 --size="$reads"
        rate seqread-128k-qd8 "$disk" --rw=read --bs=128k --iodepth=8 --size="$reads"
    done
    rate write-4k-qd32 "$plain" --rw=write --bs=4k --iodepth=32 --offset="$reads" --size=1G
    rate write-4k-qd32 "$zoned" --zonemode=zbd --rw=write --bs=4k --iodepth=32 --offset="$reads" --size=1G
    rate write-128k-qd8 "$plain" --rw=write --bs=128k --iodepth=8 --offset="$reads" --size=1G
    rate write-128k-qd8 "$zoned" --zonemode=zbd --rw=write --bs=128k --iodepth=8 --offset="$reads" --size=1G
done
if [[ ${#unmeasured[@]} -eq 0 ]]; then
    echo "ok speed"
else
    printf '# without a figure: %s\n' "${unmeasured[@]}"
fi
