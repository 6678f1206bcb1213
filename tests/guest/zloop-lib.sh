# shellcheck shell=bash
# What is done to zones so that there is something of every kind: $1 is the disk. Its zones are as image.env says.

put() { dd if=/dev/urandom of="$1" bs=4096 seek=$(($2 / 4096)) count=$(($3 / 4096)) oflag=direct conv=nocreat status=none; }

at_first() {
    put "$1" 8192 12288
    put "$1" "$(zone_start "$CONVENTIONAL")" 204800
    put "$1" "$(zone_start $((CONVENTIONAL + 1)))" "$ZONE_CAPACITY"
    put "$1" "$(zone_start $((CONVENTIONAL + 2)))" 4096
    blkzone finish -o $(($(zone_start $((CONVENTIONAL + 2))) / 512)) -c 1 "$1"
    put "$1" "$(zone_start $((CONVENTIONAL + 3)))" 69632
    blkzone reset -o $(($(zone_start $((CONVENTIONAL + 3))) / 512)) -c 1 "$1"
    put "$1" "$(zone_start $((CONVENTIONAL + 3)))" 4096
}

# The same bytes on every disk.
later() {
    local zeros=(if=/dev/zero of="$1" bs=4096 oflag=direct conv=nocreat status=none)
    printf '%08192d' 7 >/tmp/bytes
    dd "${zeros[@]}" seek=$((($(zone_start "$CONVENTIONAL") + 204800) / 4096)) count=3
    dd if=/tmp/bytes of="$1" bs=4096 oflag=direct conv=nocreat,fsync status=none seek=1 count=2
    blkzone reset -o $(($(zone_start $((CONVENTIONAL + 1))) / 512)) -c 1 "$1"
    dd if=/tmp/bytes of="$1" bs=4096 oflag=direct conv=nocreat,fsync status=none seek=$(($(zone_start $((CONVENTIONAL + 1))) / 4096)) count=2
    blkzone finish -o $(($(zone_start $((CONVENTIONAL + 3))) / 512)) -c 1 "$1"
}

# zones_and_bytes DISK: a line a zone, and a digest of all that can be read.
zones_and_bytes() {
    # Open ones are closed after the disk was away. The write pointer of a full one says nothing.
    DISK=$1 zones | sed -E 's/ oi / cl /; s/ [-0-9]+ fu / - fu /'
    dd if="$1" bs=1M status=none | sha256sum
}
