# shellcheck shell=bash
# In the guest: dd at the write pointer works and elsewhere fails; what is read back.
. ./in-guest-lib.sh

first=$CONVENTIONAL

write_at_pointer() {
    local start
    reset_all
    start=$(zone_start "$first")
    put_zone "$first" 0 "$BLOCK"
    equal pointer "$(zone_pointer "$first")" "$BLOCK"
    equal state "$(zone_state "$first")" oi
    pattern second $((65536 * 3)) | put $((start + BLOCK))
    equal "pointer after a second write" "$(zone_pointer "$first")" $((BLOCK + 65536 * 3))
    { pattern "zone $first from 0" "$BLOCK" && pattern second $((65536 * 3)); } | cmp - <(get "$start" $((BLOCK + 65536 * 3)))
}

write_behind_pointer() {
    refused put_zone "$first" 0 "$BLOCK"
    equal pointer "$(zone_pointer "$first")" $((BLOCK + 65536 * 3))
    pattern "zone $first from 0" "$BLOCK" | cmp - <(get "$(zone_start "$first")" "$BLOCK")
}

write_past_pointer() {
    refused put_zone "$first" $((BLOCK * 2 + 65536 * 3)) "$BLOCK"
    refused put_zone $((first + 1)) "$BLOCK" "$BLOCK"
    equal pointer "$(zone_pointer "$first")" $((BLOCK + 65536 * 3))
    equal "state of the other zone" "$(zone_state $((first + 1)))" em
    # The zone is not spoiled by that.
    pattern third 65536 | put $(($(zone_start "$first") + BLOCK + 65536 * 3))
    equal "pointer after a right write" "$(zone_pointer "$first")" $((BLOCK + 65536 * 4))
}

read_past_pointer() {
    local pointer
    pointer=$(zone_pointer "$first")
    get $(($(zone_start "$first") + pointer)) $((ZONE_SIZE - pointer)) | cmp -n $((ZONE_SIZE - pointer)) - /dev/zero
}

write_to_capacity() {
    local capacity
    reset_all
    capacity=$(zone_capacity "$first")
    put_zone "$first" 0 $((capacity - 65536))
    pattern "nearly last" $((65536 - BLOCK)) | put $(($(zone_start "$first") + capacity - 65536)) $((65536 - BLOCK))
    equal "state before the last block" "$(zone_state "$first")" oi
    pattern last "$BLOCK" | put $(($(zone_start "$first") + capacity - BLOCK)) "$BLOCK"
    equal state "$(zone_state "$first")" fu
    refused put_zone "$first" "$capacity" "$BLOCK"
    { pattern "zone $first from 0" $((capacity - 65536)) && pattern "nearly last" $((65536 - BLOCK)) && pattern last "$BLOCK"; } |
        cmp - <(get "$(zone_start "$first")" "$capacity")
}

write_last_zone() {
    local last=$((ZONES - 1)) capacity
    capacity=$(zone_capacity "$last")
    put_zone "$last" 0 "$capacity"
    equal state "$(zone_state "$last")" fu
    pattern "zone $last from 0" "$capacity" | cmp - <(get "$(zone_start "$last")" "$capacity")
}

write_conventional() {
    pattern three 65536 | put $((3 * 65536))
    pattern one 65536 | put 65536
    pattern "three again" 65536 | put $((3 * 65536))
    pattern end "$BLOCK" | put $((CONVENTIONAL * ZONE_SIZE - BLOCK)) "$BLOCK"
    pattern "three again" 65536 | cmp - <(get $((3 * 65536)) 65536)
    pattern one 65536 | cmp - <(get 65536 65536)
    pattern end "$BLOCK" | cmp - <(get $((CONVENTIONAL * ZONE_SIZE - BLOCK)) "$BLOCK")
}

flush() {
    put_zone $((first + 1)) 0 65536
    sync "$DISK"
    pattern flushed 65536 | dd of="$DISK" bs=64K iflag=fullblock oflag=direct,seek_bytes conv=notrunc,fsync status=none \
        seek=$(($(zone_start $((first + 1))) + 65536))
}

check write-at-pointer
check write-behind-pointer
check write-past-pointer
check read-past-pointer
check write-to-capacity
check write-last-zone
check write-conventional
check flush
