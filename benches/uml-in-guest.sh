# shellcheck shell=bash
# In the guest of benches/uml.sh: null_blk and zloop are made beside /dev/vda, and the jobs run on all of them. "jobs" has a job a line,
# "sizes" the rest. Prints "RUN ROUND CONTENDER NAME REQUESTS-A-SECOND" for each run; every other line is for the reader.
set -euo pipefail
# shellcheck source=/dev/null
. ./sizes
mapfile -t JOBS <./jobs

die() {
    echo "$*"
    dmesg | tail -n 5
    exit 1
}

declare -A DISK=([zbd]=vda)
contenders=(zbd)
[[ -b /dev/vda ]] || die "the guest has no /dev/vda"

null_blk() {
    local folder=/sys/kernel/config/nullb/nullb0 attribute
    modprobe null_blk nr_devices=0
    [[ -d /sys/kernel/config/nullb ]] || mount -t configfs configfs /sys/kernel/config
    mkdir "$folder"
    # As many entries in a queue as this disk's has. Without max_sectors (what Linux sets for other disks) 128 KiB would be two requests.
    for attribute in size="$SIZE_MIB" blocksize=4096 memory_backed=1 zoned=1 zone_size="$ZONE_MIB" zone_capacity="$ZONE_MIB" \
        zone_nr_conv=0 submit_queues=1 hw_queue_depth=256 max_sectors=2560 zone_append_max_sectors=2032; do
        echo "${attribute#*=}" >"$folder/${attribute%%=*}"
    done
    echo 1 >"$folder/power"
    [[ -b /dev/nullb0 ]]
}

zloop() {
    mkdir -p /mnt/zloop
    mount -t tmpfs -o "size=$((SIZE_MIB + 64))M" zloop /mnt/zloop
    mkdir /mnt/zloop/0
    echo "add id=0,capacity_mb=$SIZE_MIB,zone_size_mb=$ZONE_MIB,conv_zones=0,base_dir=/mnt/zloop,nr_queues=1,queue_depth=256" \
        >/dev/zloop-control
    [[ -b /dev/zloop0 ]]
}

# What the guest has never touched the host has to give it first, which is not to be in the peers' figures.
mkdir -p /mnt/warm
mount -t tmpfs -o size=90% warm /mnt/warm
dd if=/dev/zero of=/mnt/warm/all bs=1M count=$((SIZE_MIB * 5 / 2)) status=none
umount /mnt/warm

if (null_blk) 2>/tmp/said; then
    contenders+=(null_blk)
    DISK[null_blk]=nullb0
else
    echo "without null_blk: $(tail -n 1 /tmp/said)"
fi
if [[ -c /dev/zloop-control ]] && (zloop) 2>/tmp/said; then
    contenders+=(zloop)
    DISK[zloop]=zloop0
else
    echo "without zloop: $(tail -n 1 /tmp/said)"
fi
for contender in "${contenders[@]}"; do
    echo none >"/sys/block/${DISK[$contender]}/queue/scheduler"
done

run_fio() { fio --name=job --direct=1 --ioengine=io_uring --gtod_reduce=1 --output-format=terse --terse-version=3 "$@"; }

# Which disks have something to be read.
declare -A filled
fill() {
    [[ -z ${filled[$1]:-} ]] || return 0
    blkzone reset "/dev/$1"
    run_fio --filename="/dev/$1" --zonemode=zbd --rw=write --bs=1M --iodepth=4 --size="${READ_ZONES}z" >/dev/null
    filled[$1]=1
}

new_xfs() {
    command -v mkfs.xfs >/dev/null || die "appends need a guest that has mkfs.xfs (VUZ_GUEST=newest)"
    unset "filled[$1]"
    blkzone reset "/dev/$1"
    # The metadata is not the disk's: a disk without conventional zones can have none.
    rm -f /tmp/metadata
    truncate -s 512M /tmp/metadata
    mkdir -p /mnt/xfs
    mkfs.xfs -q -f -r "zoned=1,rtdev=/dev/$1" /tmp/metadata
    mount -t xfs -o "loop,rtdev=/dev/$1" /tmp/metadata /mnt/xfs
    # Inside a file of this size writes do not wait for each other.
    truncate -s 256M /mnt/xfs/file
}

# measure NAME DISK RW BLOCK QD ZONES: prints the rate
measure() {
    local name=$1 disk=$2 rw=$3 options=(--bs="$4" --iodepth="$5" --time_based --runtime="${MILLISECONDS}ms" --randrepeat=1 --norandommap)
    local zones=$6 zone_sectors=$((ZONE_MIB * 2048)) write_zones=$((SIZE_MIB / ZONE_MIB - READ_ZONES)) rate
    case $rw in
        read | randread)
            fill "$disk"
            options+=(--filename="/dev/$disk" --zonemode=zbd --rw="$rw" --size="${READ_ZONES}z")
            ;;
        write)
            blkzone reset -o $((READ_ZONES * zone_sectors)) -l $((write_zones * zone_sectors)) "/dev/$disk"
            ((zones == 1)) || rw=randwrite
            options+=(--filename="/dev/$disk" --zonemode=zbd --rw="$rw" --max_open_zones="$zones")
            options+=(--offset="${READ_ZONES}z" --size="${write_zones}z")
            ;;
        append)
            new_xfs "$disk"
            options+=(--filename=/mnt/xfs/file --rw=write --size=256M --fallocate=none)
            ;;
    esac
    # Of the terse line field 8 is the reads' rate and field 49 the writes'.
    run_fio "${options[@]}" >/tmp/fio || die "fio failed at $name on $disk: $(</tmp/fio)"
    rate=$(sed -n '/^3;/p' /tmp/fio | cut -d';' -f8,49)
    [[ $rw != append ]] || umount /mnt/xfs
    RATE=$((${rate%;*} + ${rate#*;}))
    ((RATE > 0)) || die "no request of $name on $disk was done"
}

for ((round = 1; round <= ROUNDS; round++)); do
    for job in "${JOBS[@]}"; do
        read -r name rw block depth zones <<<"$job"
        for ((turn = 0; turn < ${#contenders[@]}; turn++)); do
            contender=${contenders[(turn + round) % ${#contenders[@]}]}
            measure "$name" "${DISK[$contender]}" "$rw" "$block" "$depth" "$zones"
            echo "RUN $round $contender $name $RATE"
        done
    done
done
