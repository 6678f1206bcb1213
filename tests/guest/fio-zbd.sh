#!/usr/bin/env bash
# fio's own tests of zoned block devices (t/zbd/test-zbd-support of its source) in a guest, on a disk that the daemon serves.
#
# Usage: tests/guest/fio-zbd.sh [--quick] [--tests "N N ..."] [--geometry NAME]... [--null-blk] [--source FOLDER] [--keep FOLDER]
#
#   --quick      the most telling tests that take little time, a minute of tests and two boots
#   --tests      only the tests with these numbers
#   --geometry   only on this disk; more than once: on each of them. All have 256 zones of 4 MiB, the first 16 conventional:
#                   limits     capacity 3 MiB, at most 14 zones open and 14 active
#                   unlimited  capacity 4 MiB, no limits
#                   few        capacity 3 MiB, at most 8 zones open and 8 active (only when asked for)
#   --null-blk   also on the kernel's null_blk of the same geometry in the same guest, for comparison: what fails there too is not the
#                daemon's. Says nothing about the exit status
#   --source     an unpacked source of fio, rather than Debian's
#   --keep       copies the guests' and the daemon's output into FOLDER
#
# Prints a line for each test, for each geometry "NAME: N passed, N failed, N skipped", how many of the tests that apply to a virtio disk
# passed in one geometry at least, and the sum. Exits 1 when a test failed, was not come to, or was skipped for another reason than those
# that lie in the kind of disk (see the_kind and the_limits below). A quarter of an hour without KVM.
#
# VUZ_GUEST is newest here, unless it is given: Debian sid's fio has the most tests. The tests have to be of the fio that is in the guest;
# nothing of fio is in this repository: its source comes as a Debian source package and stays in the cache.
. "$(dirname "${BASH_SOURCE[0]}")/../../qemu-scripts/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"
. "$VUZ_SCRIPTS/machine.sh"
. "$VUZ_SCRIPTS/apt.sh"

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VUZ_GUEST=${VUZ_GUEST:-newest}
# A test that takes longer is given up; under TCG the longest takes a bit more than a minute.
TEST_SECONDS=300
# The guest is given up after this long for each device it tests.
DEVICE_SECONDS=3600
QUEUES=2

quick='' tests='' geometries=() null_blk='' source='' keep=
while [[ $# -gt 0 ]]; do
    case $1 in
        --quick)
            quick=1
            shift
            continue
            ;;
        --null-blk)
            null_blk=1
            shift
            continue
            ;;
    esac
    need_value "$1" $#
    case $1 in
        --tests) tests=$2 ;;
        --geometry) geometries+=("$2") ;;
        --source) source=$2 ;;
        --keep) keep=$2 ;;
        *) die "unknown option $1 (see the head of fio-zbd.sh)" ;;
    esac
    shift 2
done
[[ -z $tests || -z $quick ]] || die "--quick and --tests do not go together"
[[ -z $tests || $tests =~ ^[0-9\ ]+$ ]] || die "--tests takes numbers with blanks between them"
[[ -z $source || -e $source/t/zbd/test-zbd-support ]] || die "$source is not a source of fio"
[[ ${#geometries[@]} -gt 0 ]] || geometries=(limits unlimited)

temp=$(mktemp -d)
run_pid=
daemon_take_traps

# get_suite VERSION: sets "source" to a folder with t/zbd of that Debian version's source package; made once.
get_suite() {
    local version=$1 suite=source:trixie name=fio-zbd-$1 folder dsc archive
    [[ $VUZ_GUEST != newest ]] || suite=source:sid
    source=$VUZ_CACHE/$name
    [[ ! -e $source ]] || return 0
    cache_lock
    [[ ! -e $source ]] || return 0
    say "fetching the source of fio $version (8 MB) ..."
    folder=$(cache_temp)
    apt_begin "$folder/apt" "$suite"
    if apt_source "$folder/download" "fio=$version"; then
        command -v dpkg-source >/dev/null || die "dpkg-source is missing: install dpkg-dev"
        dsc=$(echo "$folder"/download/*.dsc)
        dpkg-source --no-check -x "$dsc" "$folder/whole" >/dev/null
    else
        # A mirror may have fio's archive, which apt checks by itself as it comes, and not what Debian adds to it. These tests are all
        # in the former.
        archive=$(find "$folder/download" -name 'fio_*.orig.tar.*' ! -name '*.asc' ! -name '*.FAILED')
        [[ -n $archive ]] || die "apt's sources do not have the source of fio $version; try another VUZ_GUEST or --source"
        say "the source package is not complete at the mirror; taking fio's own archive, ${archive##*/}, without Debian's patches"
        mkdir "$folder/whole"
        tar -xf "$archive" -C "$folder/whole" --strip-components=1
    fi
    mkdir -p "$folder/t"
    mv "$folder/whole/t/zbd" "$folder/t/zbd"
    mv "$folder/whole/COPYING" "$folder/"
    rm -rf "$folder"/{apt,download,whole}
    cache_publish "$folder" "$name"
}

# geometry NAME: sets CAPACITY (MiB), LIMIT and TESTS.
geometry() {
    local quick_tests="4 5 8 11 13 17 29 46 53 62 65 66 67 70"
    case $1 in
        limits) CAPACITY=3 LIMIT=14 ;;
        unlimited) CAPACITY=4 LIMIT=0 quick_tests="5 8 12 71" ;;
        few) CAPACITY=3 LIMIT=8 ;;
        *) die "no geometry is called $1 (see the head of fio-zbd.sh)" ;;
    esac
    TESTS=$tests
    [[ -z $quick ]] || TESTS=$quick_tests
    [[ -n $TESTS ]] || TESTS=$(sed -n 's/^test\([0-9]*\)().*/\1/p' "$source/t/zbd/test-zbd-support" | sort -n | tr '\n' ' ')
}

# the_kind REASON: a test is skipped because it is not for a zoned virtio disk at all: for SCSI, for disks without zones, or for disks
# that can be told to fail.
the_kind() {
    case $1 in
        *'is not a SCSI device' | *'is not a regular block device' | *'does not support either badblocks or error injection' | \
            *'does not have badblocks attribute' | *'is not null_blk') return 0 ;;
    esac
    return 1
}

# the_limits REASON: a test is skipped because of this geometry's limits; another geometry has it.
the_limits() {
    case $1 in
        *'does not have max_active_zones limit') [[ $LIMIT -eq 0 ]] ;;
        *'has max_active_zones limit') [[ $LIMIT -gt 0 ]] ;;
        *) return 1 ;;
    esac
}

declare -A passed failed skipped # counts, by geometry and by GEOMETRY-null_blk
declare -A skip_names # tests, by GEOMETRY:REASON
declare -A passed_once failed_once other_kind # of the disk, by test

# take_result NAME NUMBER RESULT SECONDS REASON: counts and prints one test.
take_result() {
    local name=$1 number=$2 outcome=$3 seconds=$4 reason=${5:-}
    case $outcome in
        pass)
            passed[$name]=$((${passed[$name]} + 1))
            printf 'ok %s/%s (%s s)\n' "$name" "$number" "$seconds"
            [[ $name == *-null_blk ]] || passed_once[$number]=1
            return
            ;;
        skip)
            if [[ $name == *-null_blk ]] || the_kind "$reason" || the_limits "$reason"; then
                skipped[$name]=$((${skipped[$name]} + 1))
                skip_names[$name:$reason]+=" $number"
                printf 'skip %s/%s: %s\n' "$name" "$number" "$reason"
                if [[ $name != *-null_blk ]] && the_kind "$reason"; then
                    other_kind[$number]=1
                fi
                return
            fi
            reason="was skipped: $reason"
            ;;
    esac
    failed[$name]=$((${failed[$name]} + 1))
    [[ $name == *-null_blk ]] || failed_once[$number]=1
    printf 'FAIL %s/%s (%s s) %s\n' "$name" "$number" "$seconds" "$reason"
}

# problem NAME TEXT: something else than a test went wrong.
problem() {
    failed[$1]=$((${failed[$1]} + 1))
    printf 'FAIL %s: %s\n' "$1" "$2"
}

# follow NAME: takes the lines of the guest's output as they come, until run_pid is gone; returns that one's exit status.
follow() {
    local name=$1 line device number outcome seconds reason code=0
    while IFS= read -r line; do
        if [[ $line == 'result '* ]]; then
            read -r _ device number outcome seconds reason <<<"$line"
            [[ $device == /dev/vda ]] && device=$name || device=$name-null_blk
            take_result "$device" "$number" "$outcome" "$seconds" "$reason"
        else
            [[ $line != '#'* ]] || printf '%s\n' "$line"
        fi
    done < <(tail -f -s 0.5 -n +1 --pid="$run_pid" "$temp/output")
    wait "$run_pid" || code=$?
    run_pid=
    return "$code"
}

# summary NAME: the closing lines of a geometry.
summary() {
    local name=$1 key
    printf '%s: %d passed, %d failed, %d skipped\n' "$name" "${passed[$name]}" "${failed[$name]}" "${skipped[$name]}"
    for key in "${!skip_names[@]}"; do
        [[ $key != "$name:"* ]] || printf '    skipped, %s:%s\n' "${key#*:}" "${skip_names[$key]}"
    done | sort
}

run_geometry() {
    local name=$1 image=$temp/$1.qcow2 code=0 devices=1 number begun=$SECONDS options='' null_lines=''
    geometry "$name"
    passed[$name]=0 failed[$name]=0 skipped[$name]=0
    "$VUZ_BIN" create "$image" 1G --zone-size 4M --zone-capacity "${CAPACITY}M" --conventional-zones 16 \
        --max-open-zones "$LIMIT" --max-active-zones "$LIMIT" >/dev/null
    daemon_start "$image" "$temp/$name.sock" --block-size 4096 --num-queues "$QUEUES"
    # With limits each test has to begin with no zone active; the suite's -w sees to that.
    [[ $LIMIT -eq 0 ]] || options=-w
    if [[ -n $null_blk ]]; then
        devices=2
        passed[$name-null_blk]=0 failed[$name-null_blk]=0 skipped[$name-null_blk]=0
        printf -v null_lines '%s\n' 'size 1024' 'blocksize 4096' 'memory_backed 1' 'completion_nsec 0' "submit_queues $QUEUES" 'zoned 1' \
            'zone_size 4' "zone_capacity $CAPACITY" 'zone_nr_conv 16' "zone_max_open $LIMIT" "zone_max_active $LIMIT"
    fi
    printf '%s=%q\n' TESTS "$TESTS" TEST_SECONDS "$TEST_SECONDS" OPTIONS "$options" NULL_BLK "${null_lines%$'\n'}" >"$temp/fio-zbd.env"
    say "$name: booting a guest for fio's tests"
    : >"$temp/output"
    # Test 34 has 256 buffers of almost a zone's capacity, 0.8 to 1 GiB; what null_blk stores is in the guest's memory too.
    "$VUZ_SCRIPTS/run.sh" --socket "$temp/$name.sock" --queues "$QUEUES" --smp "$QUEUES" --mem "$((2 * devices))G" \
        --timeout $((devices * DEVICE_SECONDS)) --console "$temp/console" \
        "$HERE/fio-zbd-in-guest.sh" "$temp/fio-zbd.env" "$source/t/zbd" >"$temp/output" &
    run_pid=$!
    follow "$name" || code=$?
    [[ $code -eq 0 ]] || problem "$name" "the guest ended with status $code"
    for number in $TESTS; do
        grep -q "^result /dev/vda $number " "$temp/output" || take_result "$name" "$number" fail - "the guest said nothing of this test"
    done
    code=0
    daemon_stop || code=$?
    [[ $code -eq 0 ]] || problem "$name" "the daemon ended with status $code"
    "$VUZ_BIN" check "$image" >"$temp/check" 2>&1 || problem "$name" "check: $(tail -n 1 "$temp/check")"
    if [[ -n $keep ]]; then
        mkdir -p "$keep"
        cp "$temp/output" "$keep/$name.output"
        cp "$temp/console" "$keep/$name.console"
        cp "$temp/$name.sock.log" "$keep/$name.daemon"
    fi
    rm -f "$image"
    summary "$name"
    if [[ -n $null_blk ]]; then
        grep -qx 'end /dev/nullb0' "$temp/output" || say "$name: the suite did not come to its end on null_blk"
        summary "$name-null_blk"
    fi
    say "$name: $((SECONDS - begun)) seconds"
}

"$VUZ_SCRIPTS/deps.sh"
daemon_build
machine_get
[[ -n $source ]] || get_suite "$(sed -n 's/^fio //p' "$MACHINE_GUEST/versions")"
for name in "${geometries[@]}"; do
    geometry "$name"
done
for name in "${geometries[@]}"; do
    run_geometry "$name"
done

sum_passed=0 sum_failed=0 sum_skipped=0
for name in "${geometries[@]}"; do
    sum_passed=$((sum_passed + ${passed[$name]}))
    sum_failed=$((sum_failed + ${failed[$name]}))
    sum_skipped=$((sum_skipped + ${skipped[$name]}))
done
# The tests that were to be run in one geometry at least.
wanted=$(for name in "${geometries[@]}"; do
    geometry "$name"
    tr ' ' '\n' <<<"$TESTS"
done | sed '/^$/d' | sort -nu)
apply=0 good=0 missed=
for number in $wanted; do
    [[ -z ${other_kind[$number]:-} ]] || continue
    apply=$((apply + 1))
    if [[ -n ${passed_once[$number]:-} && -z ${failed_once[$number]:-} ]]; then
        good=$((good + 1))
    else
        missed+=" $number"
    fi
done
printf "of fio's tests %d apply to a virtio disk, %d of them passed%s\n" "$apply" "$good" "${missed:+; not:$missed}"
# With limits and without there is a disk for every test.
if [[ -n $missed && " ${geometries[*]} " == *' limits '* && " ${geometries[*]} " == *' unlimited '* && $sum_failed -eq 0 ]]; then
    sum_failed=1
fi
printf '%d passed, %d failed, %d skipped\n' "$sum_passed" "$sum_failed" "$sum_skipped"
[[ $sum_failed -eq 0 ]] || exit 1
