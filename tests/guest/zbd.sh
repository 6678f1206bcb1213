# shellcheck shell=bash
# In the guest: libzbd's "zbd", another client than blkzone of each of the kernel's zone requests; a dump of the disk and its restoration.
. ./in-guest-lib.sh
. ./software-lib.sh

first=$CONVENTIONAL

# zbd_zone COMMAND N
zbd_zone() { zbd "$1" -ofst $(($2 * ZONE_SIZE)) -len "$ZONE_SIZE" "$DISK"; }

zbd_information() {
    zbd report -i -n "$DISK" | tee /tmp/information
    grep -qi 'host-managed' /tmp/information
    grep -q "^ *Maximum number of open zones: $MAX_OPEN\$" /tmp/information
    grep -q "^ *Maximum number of active zones: $MAX_ACTIVE\$" /tmp/information
}

# The same zones as blkzone sees them, and by state.
zbd_report() {
    reset_all
    put_zone "$first" 0 65536
    manage open $((first + 1))
    put_zone $((first + 2)) 0 65536
    manage close $((first + 2))
    manage finish $((first + 3))
    # number, type, start, length, capacity, pointer, state ...
    zbd report -csv "$DISK" >/tmp/report
    equal "zones" "$(grep -c '^[0-9]' /tmp/report)" "$ZONES"
    equal "implicitly open" "$(zbd report -n -ro oi "$DISK" | grep -o '[0-9]*' | head -n 1)" 1
    equal "explicitly open" "$(zbd report -n -ro oe "$DISK" | grep -o '[0-9]*' | head -n 1)" 1
    equal "closed" "$(zbd report -n -ro cl "$DISK" | grep -o '[0-9]*' | head -n 1)" 1
    equal "full" "$(zbd report -n -ro fu "$DISK" | grep -o '[0-9]*' | head -n 1)" 1
    equal "conventional" "$(zbd report -n -ro nw "$DISK" | grep -o '[0-9]*' | head -n 1)" "$CONVENTIONAL"
    equal "empty" "$(zbd report -n -ro em "$DISK" | grep -o '[0-9]*' | head -n 1)" $((ZONES - CONVENTIONAL - 4))
}

zbd_manage() {
    reset_all
    zbd_zone open "$first"
    equal "state after open" "$(zone_state "$first")" oe
    put_zone "$first" 0 65536
    zbd_zone close "$first"
    equal "state after close" "$(zone_state "$first")" cl
    zbd_zone finish "$first"
    equal "state after finish" "$(zone_state "$first")" fu
    zbd_zone reset "$first"
    equal "state after reset" "$(zone_state "$first")" em
    refused zbd_zone close "$first"
    # Several at once; zbd takes no range that ends with a short zone.
    zbd finish -ofst $((first * ZONE_SIZE)) -len $((3 * ZONE_SIZE)) "$DISK"
    equal "zones finished" "$(zones | grep -c ' fu ')" 3
    zbd reset -ofst $((first * ZONE_SIZE)) -len $(((ZONES - first - 1) * ZONE_SIZE)) "$DISK"
    equal "zones finished after their reset" "$(zones | grep -c ' fu ' || true)" 0
}

# Saved, spoiled and brought back; a zone that was empty is no part of it, zbd leaves it as it is.
zbd_dump_restore() {
    local zone
    mkdir -p /tmp/dump
    reset_all
    put_zone "$first" 0 131072
    put_zone $((first + 1)) 0 "$(zone_capacity $((first + 1)))"
    put_zone $((first + 2)) 0 65536
    manage finish $((first + 2))
    put_zone $((first + 3)) 0 65536
    manage close $((first + 3))
    dump_zones >/tmp/before
    zbd dump -d /tmp/dump -f disk -ofst $((first * ZONE_SIZE)) -len $((5 * ZONE_SIZE)) "$DISK"
    reset_all
    put_zone "$first" 0 $((4 * 65536))
    zbd restore -d /tmp/dump -f disk "$DISK"
    dump_zones >/tmp/after
    diff /tmp/before /tmp/after
    note "zbd: dump and restoration of 5 zones, $(du -k /tmp/dump | cut -f1) KiB of dump"
    rm -r /tmp/dump
}

# Pointer or full, and the bytes.
dump_zones() {
    local zone state pointer
    for ((zone = first; zone < first + 5; zone++)); do
        read -r _ _ _ pointer state _ <<<"$(zone "$zone")"
        [[ $state != fu ]] || pointer=full
        printf '%s %s %s\n' "$zone" "$pointer" "$(get "$(zone_start "$zone")" "$ZONE_SIZE" | sha256sum)"
    done
}

check zbd-information
check zbd-report
check zbd-manage
check zbd-dump-restore
