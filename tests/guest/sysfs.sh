# shellcheck shell=bash
# In the guest: the attributes in sysfs and the first zone report are exactly the image's geometry. Wants a fresh image.
. ./in-guest-lib.sh

attribute() { equal "$1" "$(cat "$QUEUE/$1")" "$2"; }

sysfs_zoned() { attribute zoned host-managed; }

sysfs_geometry() {
    equal size "$(($(cat "$QUEUE/../size") * 512))" "$SIZE"
    attribute chunk_sectors $((ZONE_SIZE / 512))
    attribute nr_zones "$ZONES"
}

sysfs_limits() {
    attribute max_open_zones "$MAX_OPEN"
    attribute max_active_zones "$MAX_ACTIVE"
}

sysfs_append_limit() { attribute zone_append_max_bytes "$MAX_APPEND"; }

sysfs_block_size() {
    attribute logical_block_size "$BLOCK"
    attribute zone_write_granularity "$BLOCK"
}

report_of_fresh_disk() {
    local index=0 expected state type
    while ((index < ZONES)); do
        state=em type=SEQ_WRITE_REQUIRED
        if ((index < CONVENTIONAL)); then
            state=nw type=CONVENTIONAL
        fi
        expected="$(zone_start "$index") $(zone_length "$index") $(zone_capacity "$index") 0 $state $type"
        printf '%s\n' "$expected"
        index=$((index + 1))
    done >/tmp/expected
    zones >/tmp/zones
    diff /tmp/expected /tmp/zones
}

# A report may begin anywhere and have any length.
report_of_a_part() {
    equal "zones from 5 on, 3" "$(zones -o $((5 * ZONE_SIZE / 512)) -c 3)" "$(zones | sed -n 6,8p)"
    equal "the last zone" "$(zones -o $(((ZONES - 1) * ZONE_SIZE / 512)) -c 9)" "$(zones | tail -n 1)"
}

fresh_disk_reads_zeros() {
    get 0 $((2 * ZONE_SIZE)) | cmp -n $((2 * ZONE_SIZE)) - /dev/zero
    get "$(zone_start $((ZONES - 2)))" $((SIZE - (ZONES - 2) * ZONE_SIZE)) | cmp -n $((SIZE - (ZONES - 2) * ZONE_SIZE)) - /dev/zero
}

check sysfs-zoned
check sysfs-geometry
check sysfs-limits
check sysfs-append-limit
check sysfs-block-size
check report-of-fresh-disk
check report-of-a-part
check fresh-disk-reads-zeros
