# shellcheck shell=bash
# In the guest: fio in zoned mode with verification, sequential and at random over several zones, with several requests in flight.
. ./in-guest-lib.sh

# zoned_fio OPTION...: in the sequential zones, quiet unless it fails.
zoned_fio() {
    reset_all
    fio --name=job --filename="$DISK" --zonemode=zbd --direct=1 --ioengine=libaio --offset="${CONVENTIONAL}z" --randseed=1 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 "$@"
}

fio_sequential() { zoned_fio --rw=write --bs=64K --iodepth=8 --size=4z; }

fio_sequential_small() { zoned_fio --rw=write --bs="$BLOCK" --iodepth=16 --size=4z --io_size=1M; }

fio_random_over_zones() { zoned_fio --rw=randwrite --bs=16K --iodepth=8 --size=12z --io_size=8M --max_open_zones="$MAX_OPEN"; }

fio_random_sizes() { zoned_fio --rw=randwrite --bsrange=4K-256K --blockalign=4K --iodepth=8 --size=12z --io_size=8M --max_open_zones=4; }

# Several writers at once, each in zones of its own.
fio_writers() {
    zoned_fio --rw=randwrite --bs=32K --iodepth=4 --size=4z --io_size=4M --numjobs=3 --offset_increment=4z --max_open_zones="$MAX_OPEN" \
        --job_max_open_zones=2 --group_reporting
}

check fio-sequential
check fio-sequential-small
check fio-random-over-zones
check fio-random-sizes
check fio-writers
