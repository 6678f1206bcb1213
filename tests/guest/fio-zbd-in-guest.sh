# shellcheck shell=bash
# Runs in the guest: fio's tests of zoned block devices (its t/zbd/test-zbd-support, here as the folder "zbd") on the disk.
#
# fio-zbd.sh sends it with the file "fio-zbd.env":
#   TESTS          the tests' numbers, in the order to run them
#   TEST_SECONDS   a test that takes longer is given up
#   OPTIONS        options for the suite
#   NULL_BLK       not empty: run them on a null_blk device too, which is set up by the lines of this variable: "attribute value"
#
# Prints for each device and test one line:
#   result DEVICE NUMBER pass|skip|fail SECONDS [REASON]
# and behind a failed one what it wrote, each line with "# " before it. "end DEVICE" says that the suite came to its end.
set -u
# shellcheck source=/dev/null
. ./fio-zbd.env
# Lines of a failed test's log to show. Most of a log is what fio's --debug=zbd says, which is left out.
LOG_LINES=60

# The suite looks for fio two folders above itself, and writes its logs beside itself: into memory, which is why they do not stay.
suite=/tmp/fio/t/zbd/test-zbd-support
mkdir -p /tmp/fio/t
cp -r zbd /tmp/fio/t/zbd
ln -s "$(type -p fio)" /tmp/fio/fio
# shellcheck disable=SC2206 # a list of numbers
tests=($TESTS)

# result DEVICE NUMBER RESULT SECONDS REASON
result() {
    local log=$suite.log.$2
    printf 'result %s\n' "$*"
    if [[ $3 == fail ]]; then
        printf '%s\n' "${notes[@]}" | sed '/^$/d; s/^/# /'
        [[ ! -e $log ]] || grep -a -v '^zbd  *[0-9]' "$log" | tail -n "$LOG_LINES" | cut -c1-300 | sed 's/^/# /'
        dmesg | tail -n 10 | sed 's/^/# kernel: /'
    fi
    rm -f "$log"
}

# run_tests DEVICE: the suite is started with all tests, and again with what is left when one hangs or ends it.
run_tests() {
    local device=$1 left=("${tests[@]}") number output pid line begun code arguments
    while [[ ${#left[@]} -gt 0 ]]; do
        arguments=()
        for number in "${left[@]}"; do
            arguments+=(-t "$number")
        done
        # A session of its own, so that all of it can be killed.
        # shellcheck disable=SC2086 # a list of options
        exec {output}< <(exec setsid bash "$suite" $OPTIONS "${arguments[@]}" "$device" 2>&1)
        pid=$!
        begun=$EPOCHSECONDS
        notes=()
        while true; do
            read -r -t "$TEST_SECONDS" -u "$output" line
            code=$?
            if [[ $code -ne 0 ]]; then
                break
            fi
            line=${line#Running test * ... }
            case $line in
                PASS*) result "$device" "${left[0]}" pass $((EPOCHSECONDS - begun)) ;;
                FAIL*) result "$device" "${left[0]}" fail $((EPOCHSECONDS - begun)) ;;
                SKIP*) result "$device" "${left[0]}" skip $((EPOCHSECONDS - begun)) "${line#SKIP* }" ;;
                *)
                    notes+=("$line")
                    continue
                    ;;
            esac
            left=("${left[@]:1}")
            begun=$EPOCHSECONDS
            notes=()
        done
        if [[ ${#left[@]} -gt 0 ]]; then
            if [[ $code -gt 128 ]]; then
                notes+=("still running after $TEST_SECONDS seconds:")
                while read -r line; do
                    notes+=("$line")
                done < <(pgrep -a -x fio)
                kill -KILL -- "-$pid"
            else
                notes+=("the suite ended in this test")
            fi
            result "$device" "${left[0]}" fail $((EPOCHSECONDS - begun))
            left=("${left[@]:1}")
        fi
        exec {output}<&-
    done
    printf 'end %s\n' "$device"
}

# make_null_blk: a null_blk device as the lines of NULL_BLK say; prints its name.
make_null_blk() {
    local folder=/sys/kernel/config/nullb/nullb0 attribute value
    modprobe null_blk nr_devices=0 || return
    [[ -d /sys/kernel/config/nullb ]] || mount -t configfs configfs /sys/kernel/config || return
    mkdir "$folder" || return
    while read -r attribute value; do
        echo "$value" >"$folder/$attribute" || return
    done <<<"$NULL_BLK"
    echo 1 >"$folder/power" || return
    echo mq-deadline >/sys/block/nullb0/queue/scheduler
}

if [[ ! -b /dev/vda ]]; then
    echo "# the guest has no /dev/vda"
    dmesg | grep -i -E 'virtio|vda' | sed 's/^/# /'
    exit 1
fi
echo mq-deadline >/sys/block/vda/queue/scheduler
printf '# %s, Linux %s; /dev/vda: %s, %s zones, %s open, %s active\n' "$(fio --version)" "$(uname -r)" \
    "$(cat /sys/block/vda/queue/zoned)" "$(cat /sys/block/vda/queue/nr_zones)" "$(cat /sys/block/vda/queue/max_open_zones)" \
    "$(cat /sys/block/vda/queue/max_active_zones)"
run_tests /dev/vda
if [[ -n $NULL_BLK ]]; then
    if make_null_blk; then
        run_tests /dev/nullb0
    else
        echo "# no null_blk device in this guest"
    fi
fi
# What the kernel complained about; that it saw requests refused is meant to be.
dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|blocked for more than|rcu.*stall' | sed 's/^/# kernel: /'
exit 0
