# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for those who source this
# What the tests inside the guest share: the disk and its geometry, looking at zones, reporting results.
#
# Sourced by each in-guest script. "image.env" beside it says how the image was made (host-lib.sh writes it):
#   SIZE ZONE_SIZE ZONE_CAPACITY CONVENTIONAL MAX_OPEN MAX_ACTIVE MAX_APPEND   in bytes and in zones
#   BLOCK QUEUES                                                               how it is served
#
# A test is a function; "check some-name" at the start of a line runs the function some_name and prints "ok some-name" or
# "FAIL some-name" with the function's output behind "# ". host-lib.sh finds the names of a script's tests by those lines, so that a
# test that was never reached counts as failed. A test that counts the kernel's requests says so: "check some-name counting". A kernel that
# has no probes (user-mode Linux) skips it and says that.

DISK=${DISK:-/dev/vda}
# shellcheck source=/dev/null
. ./image.env
QUEUE=/sys/block/${DISK#/dev/}/queue
ZONES=$(((SIZE + ZONE_SIZE - 1) / ZONE_SIZE))
export LC_ALL=C

check() {
    local check_name=$1 check_code
    if [[ ${2:-} == counting ]] && ! counts_requests; then
        printf 'skip %s: this kernel has no probes to count requests with\n' "$check_name"
        return
    fi
    (
        set -Eeuo pipefail
        trap 'printf "line %s: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR
        "${check_name//-/_}"
    ) >/tmp/check.log 2>&1
    check_code=$?
    if [[ $check_code -eq 0 ]]; then
        printf 'ok %s\n' "$check_name"
    else
        printf 'FAIL %s\n' "$check_name"
        sed -n '1,40s/^/# /p' /tmp/check.log
    fi
}

# equal WHAT ACTUAL EXPECTED
equal() {
    [[ $2 == "$3" ]] || {
        printf '%s is "%s", expected "%s"\n' "$1" "$2" "$3"
        return 1
    }
}

# refused COMMAND...: the command fails.
refused() {
    if "$@"; then
        printf 'this was not refused: %s\n' "$*"
        return 1
    fi
}

zone_start() { printf '%s\n' $(($1 * ZONE_SIZE)); }
# The last zone ends with the disk.
zone_length() {
    local rest=$((SIZE - $1 * ZONE_SIZE))
    printf '%s\n' $((rest < ZONE_SIZE ? rest : ZONE_SIZE))
}
zone_capacity() {
    local length
    length=$(zone_length "$1")
    printf '%s\n' $((length > ZONE_CAPACITY && $1 >= CONVENTIONAL ? ZONE_CAPACITY : length))
}

# zones [BLKZONE OPTION...]: one line a zone, in bytes: start length capacity write-pointer(from the zone's start) state type
zones() {
    # Newer ones say N/A of a pointer that a zone does not have.
    blkzone report "$@" "$DISK" | sed 's/[,:()]/ /g; s|N/A|0|g' |
        while read -r _ start _ length _ capacity _ pointer _ _ _ _ _ _ state _ _ type _; do
            printf '%s %s %s %s %s %s\n' $((start * 512)) $((length * 512)) $((capacity * 512)) $((pointer * 512)) "$state" "$type"
        done
}
# zone N: that zone's line
zone() { zones -o $(($(zone_start "$1") / 512)) -c 1; }
zone_state() { zone "$1" | cut -d' ' -f5; }
zone_pointer() { zone "$1" | cut -d' ' -f4; }

# manage COMMAND N: blkzone's open, close, finish or reset of one zone. One at a time: blkzone opens the disk exclusively.
manage() { flock /tmp/blkzone.lock blkzone "$1" -o $(($(zone_start "$2") / 512)) -l $(($(zone_length "$2") / 512)) "$DISK"; }

reset_all() { blkzone reset "$DISK"; }

# pattern TEXT LENGTH: that many bytes that tell what they were written as
pattern() { { yes "$1" || true; } | head -c "$2"; }

# put OFFSET [BYTES]: writes standard input there, past the page cache, BYTES a request (64 KiB). What is written has to be a multiple of
# that: dd would send a shorter rest through the page cache. Where the disk is gone, as that of user-mode Linux is when its daemon was
# killed, dd would make a file of that name, and say that all is well.
put() { dd of="$DISK" bs="${2:-65536}" iflag=fullblock oflag=direct,seek_bytes seek="$1" conv=notrunc,nocreat status=none; }

# put_zone N FROM LENGTH [BYTES]: writes a pattern into a zone, FROM bytes from its start; LENGTH below 64 KiB is one request
put_zone() {
    local bytes=${4:-65536}
    pattern "zone $1 from $2" "$3" | put $(($(zone_start "$1") + $2)) $(($3 < bytes ? $3 : bytes))
}

# get OFFSET LENGTH: reads past the page cache
get() { dd if="$DISK" bs=64K iflag=direct,skip_bytes,count_bytes skip="$1" count="$2" status=none; }

# same FILE FILE: equal bytes (say the first difference)
same() { cmp "$1" "$2"; }

# count_requests NAME EXPRESSION: from now on the kernel counts the requests that it starts, by EXPRESSION of its "struct request *rq"
# requests_counted NAME VALUE: how many had that value
# counts_requests: the kernel can do that; without it the first of these does nothing, and a test that wants the second says "counting"
TRACING=/sys/kernel/tracing
counts_requests() { [[ -e $TRACING/kprobe_events ]]; }
count_requests() {
    counts_requests || return 0
    echo "p:$1 blk_mq_start_request value=$2" >>"$TRACING/kprobe_events"
    echo 'hist:keys=value' >"$TRACING/events/kprobes/$1/trigger"
    echo 1 >"$TRACING/events/kprobes/$1/enable"
}
requests_counted() {
    local count
    count=$(sed -n "s/.*value: *$2 *}.*hitcount: *\([0-9]*\).*/\1/p" "$TRACING/events/kprobes/$1/hist")
    printf '%s\n' "${count:-0}"
}
