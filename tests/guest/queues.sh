# shellcheck shell=bash
# shellcheck disable=SC2153 # QUEUES comes from image.env
# In the guest: the disk's queues are there, one for each processor, and each of them carries requests.
. ./in-guest-lib.sh

name=${DISK#/dev/}

queues_for_processors() {
    local queue
    equal "number of queues" "$(find "/sys/block/$name/mq" -mindepth 1 -maxdepth 1 | wc -l)" "$QUEUES"
    for ((queue = 0; queue < QUEUES; queue++)); do
        equal "processors of queue $queue" "$(cat "/sys/block/$name/mq/$queue/cpu_list")" "$queue"
    done
}

# The kernel's own count of the requests it started, by queue: 16 writes from each processor, each into a zone of its own.
queues_used() {
    local queue
    reset_all
    count_requests queues 'rq->mq_hctx->queue_num'
    for ((queue = 0; queue < QUEUES; queue++)); do
        pattern "queue $queue" $((16 * 65536)) |
            taskset -c "$queue" dd of="$DISK" bs=64K iflag=fullblock oflag=direct,seek_bytes conv=notrunc status=none \
                seek="$(zone_start $((CONVENTIONAL + queue)))" &
    done
    wait
    for ((queue = 0; queue < QUEUES; queue++)); do
        echo "queue $queue: $(requests_counted queues "$queue") requests"
        (($(requests_counted queues "$queue") >= 16))
        pattern "queue $queue" $((16 * 65536)) | cmp - <(get "$(zone_start $((CONVENTIONAL + queue)))" $((16 * 65536)))
    done
}

# Both processors write and read at once for a while, with several requests in flight each.
queues_together() {
    reset_all
    fio --name=job --filename="$DISK" --zonemode=zbd --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16K --randseed=1 \
        --offset="${CONVENTIONAL}z" --offset_increment=6z --size=6z --io_size=8M --numjobs="$QUEUES" --cpus_allowed="0-$((QUEUES - 1))" \
        --cpus_allowed_policy=split --job_max_open_zones=3 --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting
}

check queues-for-processors
check queues-used counting
check queues-together
