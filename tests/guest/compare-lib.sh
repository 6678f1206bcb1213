# shellcheck shell=bash
# In the guest: a disk of null_blk with the image's geometry, and the steps that compare.sh takes on both disks.
#
# A group is a function that prints one line for each step: "NAME: RESULT", the result being an errno and, behind it, the zone's state and
# its write pointer in bytes from the zone's start. It works on $DISK after compare_begin.

NULL_BLK=/sys/kernel/config/nullb/compare
# The kernel names the disk as the folder is called.
NULL_DISK=/dev/compare

# null_blk_make: a fresh one, in memory; null_blk's sizes are in MiB. Without max_sectors (what Linux sets for other
# disks) no append could be longer than 127.5 KiB.
null_blk_make() {
    local attribute
    modprobe null_blk nr_devices=0
    [[ -d /sys/kernel/config/nullb ]] || mount -t configfs configfs /sys/kernel/config
    null_blk_end
    mkdir "$NULL_BLK"
    for attribute in size=$((SIZE >> 20)) blocksize="$BLOCK" memory_backed=1 zoned=1 zone_size=$((ZONE_SIZE >> 20)) \
        zone_capacity=$((ZONE_CAPACITY >> 20)) zone_nr_conv="$CONVENTIONAL" zone_max_open="$MAX_OPEN" zone_max_active="$MAX_ACTIVE" \
        zone_append_max_sectors=$((MAX_APPEND / 512)) max_sectors=2560; do
        echo "${attribute#*=}" >"$NULL_BLK/${attribute%%=*}"
    done
    echo 1 >"$NULL_BLK/power"
    [[ -b $NULL_DISK ]]
}

null_blk_end() {
    [[ ! -d $NULL_BLK ]] || {
        echo 0 >"$NULL_BLK/power"
        rmdir "$NULL_BLK"
    }
}

# Under software emulation a process costs most of the time: the functions here leave their result in a variable rather than print it.
TEMP=/tmp/compare-
compare_begin() { TEMP=/tmp/compare-${DISK##*/}-; }

# state N: STATE becomes "STATE POINTER" of one zone.
state() {
    local line
    blkzone report -o $(($1 * ZONE_SIZE / 512)) -c 1 "$DISK" >"${TEMP}report"
    read -r line <"${TEMP}report"
    [[ $line =~ wptr\ (0x[0-9a-f]+).*zcond:\ *[0-9]+\((..)\) ]]
    STATE="${BASH_REMATCH[2]} $((BASH_REMATCH[1] * 512))"
}

# step NAME ZONE COMMAND...
step() {
    local name=$1 zone=$2
    shift 2
    errno "$@"
    state "$zone"
    printf '%s: %s, %s\n' "$name" "$ERRNO" "$STATE"
}

# What is written is the beginning of one file, what is read is compared with it and with these.
compare_data() {
    local length=$((ZONE_CAPACITY > 1 << 20 ? ZONE_CAPACITY : 1 << 20))
    pattern "what the comparison writes" "$length" >/tmp/data
    head -c 262144 /dev/zero >/tmp/zeros
    tr '\0' '\377' </tmp/zeros >/tmp/ones
}

# manage_zone COMMAND N: "manage" without its lock, which nobody else wants here
manage_zone() { blkzone "$1" -o $(($2 * ZONE_SIZE / 512)) -l $((ZONE_SIZE / 512)) "$DISK"; }

# write N FROM LENGTH: one request as long as it is not longer than 128 KiB
write() { dd if=/tmp/data of="$DISK" bs="$3" count=1 oflag=direct,seek_bytes seek=$(($1 * ZONE_SIZE + $2)) conv=notrunc,nocreat status=none; }

# fill N LENGTH: from the zone's start, in requests of 64 KiB; of the rest 4 KiB or a block a request
fill() {
    local whole=$(($2 / 65536)) rest=$(($2 % 65536)) unit
    ((whole == 0)) || {
        dd if=/tmp/data of="$DISK" bs=64K count="$whole" oflag=direct,seek_bytes seek=$(($1 * ZONE_SIZE)) conv=notrunc,nocreat status=none
    }
    ((rest == 0)) || {
        unit=$((rest % 4096 == 0 ? 4096 : BLOCK))
        dd if=/tmp/data of="$DISK" bs="$unit" count=$((rest / unit)) oflag=direct,seek_bytes seek=$(($1 * ZONE_SIZE + whole * 65536)) \
            conv=notrunc,nocreat status=none
    }
}

# kind FILE FROM LENGTH: KIND becomes what is there: "data", "zeros", "ones" or "other", also when the file is shorter
kind() {
    for KIND in data zeros ones; do
        if cmp -s -i "$2:0" -n "$3" "$1" "/tmp/$KIND"; then
            return
        fi
    done
    KIND=other
}

# content NAME N FROM LENGTH: reads and tells both halves.
content() {
    local first
    errno get $(($2 * ZONE_SIZE + $3)) "$4" >"${TEMP}read"
    if [[ $ERRNO != OK ]]; then
        printf '%s: %s\n' "$1" "$ERRNO"
        return
    fi
    kind "${TEMP}read" 0 $(($4 / 2))
    first=$KIND
    kind "${TEMP}read" $(($4 / 2)) $(($4 / 2))
    printf '%s: %s, %s\n' "$1" "$first" "$KIND"
}

attributes() {
    local name
    for name in zoned chunk_sectors nr_zones max_open_zones max_active_zones zone_append_max_bytes zone_write_granularity \
        logical_block_size physical_block_size discard_max_bytes write_zeroes_max_bytes; do
        printf '%s: %s\n' "$name" "$(cat "/sys/block/${DISK#/dev/}/queue/$name")"
    done
    printf 'size: %s\n' "$(cat "/sys/block/${DISK#/dev/}/size")"
}

fresh() {
    local index=0 line
    while read -r line; do
        printf 'zone %s: %s\n' "$index" "$line"
        index=$((index + 1))
    done < <(zones)
}

# prepare N STATE: brings a zone into a state; "-0" is without data.
prepare() {
    manage_zone reset "$1"
    case $2 in
        em) ;;
        oi) fill "$1" 65536 ;;
        oi-near) fill "$1" $((capacity - BLOCK)) ;;
        oe) manage_zone open "$1" && fill "$1" 65536 ;;
        oe-0) manage_zone open "$1" ;;
        cl) fill "$1" 65536 && manage_zone close "$1" ;;
        fu) fill "$1" "$capacity" ;;
        fu-finished) fill "$1" 65536 && manage_zone finish "$1" ;;
        fu-0) manage_zone finish "$1" ;;
    esac
}

# Every request in every state of a zone.
matrix() {
    local first=$CONVENTIONAL capacity state request pointer
    capacity=$(zone_capacity "$first")
    for state in em oi oi-near oe oe-0 cl fu fu-finished fu-0; do
        case $state in
            em | oe-0 | fu-0) pointer=0 ;;
            oi-near) pointer=$((capacity - BLOCK)) ;;
            fu) pointer=$capacity ;;
            *) pointer=65536 ;;
        esac
        for request in open close finish reset write-at-pointer write-at-start write-past-pointer write-past-capacity \
            write-behind-capacity write-zeroes discard; do
            prepare "$first" "$state"
            case $request in
                open | close | finish | reset) step "$state $request" "$first" manage_zone "$request" "$first" ;;
                write-at-pointer) step "$state $request" "$first" write "$first" "$pointer" "$BLOCK" ;;
                write-at-start) step "$state $request" "$first" write "$first" 0 "$BLOCK" ;;
                write-past-pointer) step "$state $request" "$first" write "$first" $((pointer + 2 * BLOCK)) "$BLOCK" ;;
                # From the pointer on, only with little room left is it past the capacity.
                write-past-capacity) step "$state $request" "$first" write "$first" "$pointer" $((2 * BLOCK)) ;;
                write-behind-capacity) step "$state $request" "$first" write "$first" "$capacity" "$BLOCK" ;;
                write-zeroes)
                    step "$state $request" "$first" blkdiscard -z -o $((first * ZONE_SIZE + pointer)) -l "$BLOCK" "$DISK"
                    ;;
                discard) step "$state $request" "$first" blkdiscard -o $((first * ZONE_SIZE)) -l "$BLOCK" "$DISK" ;;
            esac
        done
    done
}

# What a read finds below the pointer, behind it, in what the capacity leaves out, and across two zones.
reads() {
    local first=$CONVENTIONAL capacity state
    capacity=$(zone_capacity "$first")
    prepare $((first + 1)) em
    for state in em oi oe oe-0 cl fu fu-finished fu-0; do
        prepare "$first" "$state"
        content "$state, written" "$first" 0 65536
        content "$state, behind" "$first" 131072 65536
        content "$state, across the pointer" "$first" 0 131072
        content "$state, end" "$first" $((ZONE_SIZE - 65536)) 65536
        content "$state, into the next zone" "$first" $((ZONE_SIZE - 65536)) 131072
    done
    prepare "$first" oi
    prepare "$first" em
    content "after a reset" "$first" 0 65536
    content "conventional, not written" 1 0 65536
    content "across the end" $((ZONES - 1)) $(($(zone_length $((ZONES - 1))) - 65536)) 131072
}

# Places that are not a sequential zone's start, and the short last zone.
places() {
    local request last=$((ZONES - 1)) start capacity
    for request in open close finish reset; do
        step "$request conventional" 0 manage_zone "$request" 0
        start=$((CONVENTIONAL * ZONE_SIZE / 512))
        step "$request inside a zone" "$CONVENTIONAL" blkzone "$request" -o $((start + 8)) -l $((ZONE_SIZE / 512)) "$DISK"
        step "$request half a zone" "$CONVENTIONAL" blkzone "$request" -o "$start" -l $((ZONE_SIZE / 1024)) "$DISK"
        step "$request beyond the disk" "$CONVENTIONAL" blkzone "$request" -o $((ZONES * ZONE_SIZE / 512)) -l $((ZONE_SIZE / 512)) "$DISK"
        step "$request of two zones" "$CONVENTIONAL" blkzone "$request" -o "$start" -l $((2 * ZONE_SIZE / 512)) "$DISK"
        state $((CONVENTIONAL + 1))
        printf '%s of two zones, the second: %s\n' "$request" "$STATE"
    done
    reset_all
    capacity=$(zone_capacity "$last")
    step "conventional write at the end" 0 write $((CONVENTIONAL - 1)) $((ZONE_SIZE - BLOCK)) "$BLOCK"
    step "conventional write again" 0 write $((CONVENTIONAL - 1)) $((ZONE_SIZE - BLOCK)) "$BLOCK"
    step "write into the next zone" "$CONVENTIONAL" write $((CONVENTIONAL - 1)) $((ZONE_SIZE - BLOCK)) $((2 * BLOCK))
    step "last zone filled" "$last" fill "$last" "$capacity"
    step "write beyond the disk" "$last" write "$last" "$(zone_length "$last")" "$BLOCK"
    step "last zone reset" "$last" manage_zone reset "$last"
    step "last zone finished" "$last" manage_zone finish "$last"
    step "reset of all" "$last" blkzone reset "$DISK"
}

# At the limits. The zones are opened in order, written in order, and the first one again.
limits() {
    local first=$CONVENTIONAL index
    reset_all
    for ((index = 0; index < MAX_OPEN; index++)); do
        step "explicit open $index" $((first + index)) manage_zone open $((first + index))
    done
    step "explicit open past the limit" $((first + MAX_OPEN)) manage_zone open $((first + MAX_OPEN))
    step "write past the limit" $((first + MAX_OPEN)) write $((first + MAX_OPEN)) 0 "$BLOCK"
    step "finish past the limit" $((first + MAX_OPEN)) manage_zone finish $((first + MAX_OPEN))
    step "write of an open zone" "$first" write "$first" 0 "$BLOCK"
    step "close makes room" "$first" manage_zone close "$first"
    step "write when there is room" $((first + MAX_OPEN)) write $((first + MAX_OPEN)) 0 "$BLOCK"
    reset_all
    for ((index = 0; index < MAX_ACTIVE; index++)); do
        step "active $index, written" $((first + index)) write $((first + index)) 0 "$BLOCK"
        step "active $index, closed" $((first + index)) manage_zone close $((first + index))
    done
    step "write past the active limit" $((first + MAX_ACTIVE)) write $((first + MAX_ACTIVE)) 0 "$BLOCK"
    step "open past the active limit" $((first + MAX_ACTIVE)) manage_zone open $((first + MAX_ACTIVE))
    step "finish past the active limit" $((first + MAX_ACTIVE)) manage_zone finish $((first + MAX_ACTIVE))
    step "a refused zone reset" $((first + MAX_ACTIVE)) manage_zone reset $((first + MAX_ACTIVE))
    for ((index = 0; index < MAX_OPEN; index++)); do
        step "closed zone $index written on" $((first + index)) write $((first + index)) "$BLOCK" "$BLOCK"
    done
    step "another closed zone at both limits" $((first + MAX_OPEN)) write $((first + MAX_OPEN)) "$BLOCK" "$BLOCK"
    step "finish makes room" $((first + 1)) manage_zone finish $((first + 1))
    step "write when a zone is full" $((first + MAX_ACTIVE)) write $((first + MAX_ACTIVE)) 0 "$BLOCK"
}

# More zones written than may be open: which of them is closed for the next.
implicit_close() {
    local first=$CONVENTIONAL index
    for ((index = 0; index < MAX_OPEN; index++)); do
        write $((first + index)) 0 "$BLOCK"
    done
    write "$first" "$BLOCK" "$BLOCK"
    write $((first + MAX_OPEN)) 0 "$BLOCK"
    for ((index = 0; index <= MAX_OPEN; index++)); do
        state $((first + index))
        printf 'zone written as number %d: %s\n' "$index" "$STATE"
    done
}

# fill_on N FROM: writes on to the capacity and one request more
fill_on() {
    local rest=$(((ZONE_CAPACITY - $2) % 65536))
    ((rest == 0)) || dd if=/tmp/data of="$DISK" bs="$BLOCK" count=$((rest / BLOCK)) oflag=direct,seek_bytes seek=$(($1 * ZONE_SIZE + $2)) \
        conv=notrunc,nocreat status=none
    dd if=/tmp/data of="$DISK" bs=64K count=$(((ZONE_CAPACITY - $2) / 65536 + 1)) oflag=direct,seek_bytes \
        seek=$(($1 * ZONE_SIZE + $2 + rest)) conv=notrunc,nocreat status=none
}

# Requests by dice, the same on both disks: in as many zones as may be active, so that only the choice of the zone that is closed for
# another could tell the disks apart: "oi" and "cl" are one here, and a full zone's pointer is left out.
dice() {
    local count=$1 first=$CONVENTIONAL index zone pointer request state
    RANDOM=7
    local -a pointers
    for ((index = 0; index < count; index++)); do
        zone=$((RANDOM % 9))
        pointer=${pointers[zone]:-0}
        zone=$((zone == 8 ? ZONES - 1 : first + zone))
        case $((RANDOM % 16)) in
            0 | 1) request=open && errno manage_zone open "$zone" ;;
            2 | 3) request=close && errno manage_zone close "$zone" ;;
            4) request=finish && errno manage_zone finish "$zone" ;;
            5 | 6) request=reset && errno manage_zone reset "$zone" ;;
            7) request="write at 0" && errno write "$zone" 0 "$BLOCK" ;;
            8) request="write past the pointer" && errno write "$zone" $((pointer + BLOCK)) "$BLOCK" ;;
            # With the capacity in reach: ends a block behind it.
            9)
                request="write of the rest and more"
                errno fill_on "$zone" "$pointer"
                ;;
            *) request="write at the pointer" && errno write "$zone" "$pointer" $((2 * BLOCK)) ;;
        esac
        state "$zone"
        read -r state pointer <<<"$STATE"
        pointers[zone == ZONES - 1 ? 8 : zone - first]=$((pointer > ZONE_CAPACITY ? ZONE_CAPACITY : pointer))
        case $state in
            oi | cl) state=active ;;
            fu) pointer=full ;;
        esac
        printf '%d zone %d %s: %s, %s %s\n' "$index" "$zone" "$request" "$ERRNO" "$state" "$pointer"
    done
    for ((index = 0; index < 8; index++)); do
        ((${pointers[index]:-0} == 0)) || content "bytes of zone $((first + index))" $((first + index)) 0 $((2 * BLOCK))
    done
}
