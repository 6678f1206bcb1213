# shellcheck shell=bash
# In the guest: several writers at once on btrfs, round after round, while the daemon is killed and started anew under it. Whoever does
# that counts the lines "# round N".
. ./in-guest-lib.sh
. ./btrfs-lib.sh

WRITERS=3

# One writer's round: new files, an old one overwritten in part, one renamed, one deleted; what is there is compared.
writer() {
    local writer=$1 round=$2 folder=$MOUNT/$1 size file
    mkdir -p "$folder"
    for size in 1 4096 70000 300000 1500000; do
        pattern "writer $writer round $round size $size" "$size" >"$folder/$round-$size"
    done
    pattern "again $round" 8192 | dd of="$folder/$round-70000" bs=4096 seek=3 conv=notrunc,fsync status=none
    mv "$folder/$round-1" "$folder/$round-one"
    ((round <= 2)) || rm -f "$folder/$((round - 2))"-*
    sync -f "$folder"
    echo 1 >/proc/sys/vm/drop_caches
    for file in "$folder"/*-1500000; do
        round=${file##*/}
        pattern "writer $writer round ${round%-*} size 1500000" 1500000 | cmp - "$file"
    done
}

kills_rounds() {
    local round writer pids
    modprobe btrfs
    reset_all
    mkfs.btrfs -q -f -O zoned -d single -m single "$DISK"
    mount_btrfs
    for ((round = 1; round <= $(cat ./rounds); round++)); do
        pids=()
        for ((writer = 0; writer < WRITERS; writer++)); do
            writer "$writer" "$round" &
            pids+=($!)
        done
        for writer in "${pids[@]}"; do
            wait "$writer"
        done
        echo "# round $round" >&"$STANDARD_OUTPUT"
    done
}

kills_scrub() {
    btrfs scrub start -B -R "$MOUNT"
    umount "$MOUNT"
    btrfs check --readonly "$DISK"
}

kills_without_complaints() {
    local complaints
    complaints=$(dmesg | grep -i -E 'I/O error|blk_update_request|critical|timed out|BTRFS (error|warning|critical)' || true)
    equal "the kernel's complaints" "$complaints" ""
}

exec {STANDARD_OUTPUT}>&1
check kills-rounds
check kills-scrub
check kills-without-complaints
