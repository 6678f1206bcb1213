#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the parts are called by their names
# The power of the disk goes under a guest: what it finds afterwards, and what software that forgets to flush loses.
#
# Usage: tests/guest/power.sh [--rounds N] [--seed N] [--keep FOLDER] [PART...]          all parts when none is named
#
#   cycle    the power goes and comes back while the guest lives, its driver having let go of the disk and taken it again. (With
#            VUZ_MACHINE=uml on user-mode Linux, else on QEMU's generic device; blk.sh power is the same on vhost-user-blk-pci.)
#   scripts  run.sh --power-cut: its two scripts in one guest and in two, and what it says when one of them fails
#   log      a log that forgets fdatasync is caught in ten cuts; one that does not is not
#   btrfs    files that fsync has made stable, mounted with barriers and with nobarrier
#   f2fs     the same
#
# --rounds is how many cuts a file system gets, once with barriers and once without (4); with 20 and more a table is printed at the end.
# --seed is the first round's; of each round the seed is shown whose files were lost though there were barriers, and
# "--rounds 1 --seed N" has that one again. --keep has what each cut has left in FOLDER, and what the guests said.
#
# Output as all.sh.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PARTS=(cycle scripts log btrfs f2fs)
PHASE_SECONDS=300
EXAMPLES=$VUZ_TOP/examples/power
rounds=4 seed=1 keep=

while [[ ${1:-} == --* ]]; do
    need_value "$1" $#
    case $1 in
        --rounds) rounds=$2 ;;
        --seed) seed=$2 ;;
        --keep) keep=$2 ;;
        *) die "unknown option $1 (see the head of power.sh)" ;;
    esac
    shift 2
done
[[ $rounds =~ ^[1-9][0-9]{0,5}$ ]] || die "--rounds is '$rounds': expected a whole number from 1"
[[ $seed =~ ^[0-9]{1,15}$ ]] || die "--seed is '$seed': expected a whole number"
table=()

# use_guest NAME: small or newest, from now on
use_guest() {
    unset MACHINE_GUEST
    export VUZ_GUEST=$1
    machine_get
}

cycle() {
    use_guest small
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    power_cycles cycle
}

# ran STATUS TEXT OPTION... BEFORE AFTER: run.sh --power-cut ends so, and says that
ran() {
    local code=0 expected=$1 said=$2
    shift 2
    rm -f "$temp/cuts"
    "$VUZ_SCRIPTS/run.sh" --image "$temp/image.qcow2" --timeout "$PHASE_SECONDS" --cut "$temp/cuts" "$@" >"$temp/output" 2>&1 || code=$?
    cat "$temp/output"
    [[ $code -eq $expected ]] || { echo "status $code"; return 1; }
    # Whatever it was, the daemon has ended in order.
    grep -q "$said" "$temp/output" && "$VUZ_BIN" check "$temp/image.qcow2"
}

# left POINTER: the one zone of the one cut is there, counted from its start
left() {
    python3 -c '
import json, sys
[cut] = [json.loads(line) for line in open(sys.argv[1])]
[zone] = cut["zones"]
kept = zone["kept"] % int(sys.argv[2])
sys.exit(kept != int(sys.argv[3]))' "$temp/cuts" "$ZONE_SIZE" "$1"
}

scripts() {
    use_guest small
    geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    rm -f "$temp/image.qcow2"
    expect scripts/create create_image "$temp/image.qcow2"
    : >"$temp/careful"
    printf 'exit 3\n' >"$temp/fails"
    expect scripts/one-guest ran 1 'lost: 8 records' --power-cut 'lose=all then=fail' "$EXAMPLES"/{append,recover}.sh
    expect scripts/one-guest-left left 0
    expect scripts/one-guest-careful ran 0 'found: 8 records' --power-cut 'lose=all then=fail' "$EXAMPLES"/{append,recover}.sh "$temp/careful"
    expect scripts/two-guests ran 0 'found: 8 records' --power-cut 'lose=nothing' "$EXAMPLES"/{append,recover}.sh
    expect scripts/two-guests-left left 32768
    expect scripts/two-guests-at-a-moment ran 0 'found: 2 records' --power-cut 'lose=all at=flush:2' "$EXAMPLES"/{append,recover}.sh "$temp/careful"
    expect scripts/two-daemons ran 0 'found: 0 records' --power-cut 'lose=all then=exit' "$EXAMPLES"/{append,recover}.sh
    expect scripts/two-daemons-at-a-moment ran 0 'found: 2 records' --power-cut 'lose=all at=flush:2 then=exit' "$EXAMPLES"/{append,recover}.sh "$temp/careful"
    expect scripts/two-daemons-at-a-moment-told grep -q '"then":"exit"' "$temp/cuts"
    expect scripts/moment-that-does-not-come ran 123 'the moment flush:1 did not come' --power-cut 'at=flush:1' "$EXAMPLES"/{append,recover}.sh
    expect scripts/refused ran 1 "power-cut 'lose=some': lose is 'some': expected all, nothing" --power-cut 'lose=some' "$EXAMPLES"/{append,recover}.sh
    expect scripts/refused-moment ran 1 "at is 'noon': expected request:N" --power-cut 'at=noon' "$EXAMPLES"/{append,recover}.sh
    expect scripts/refused-no-moment ran 1 "at is 'never': expected the moment of the cut" --power-cut 'at=never' "$temp/fails" "$temp/fails"
    expect scripts/first-fails ran 3 'before the cut (fails) ended with status 3' --power-cut 'then=fail' "$temp/fails" "$EXAMPLES/recover.sh"
    expect scripts/first-fails-no-cut test ! -s "$temp/cuts"
    expect scripts/second-fails ran 3 'after the cut (fails) ended with status 3' --power-cut 'then=fail' "$EXAMPLES/append.sh" "$temp/fails"
    expect scripts/a-word-is-wrong ran 1 "then is 'die': expected dead, fail or exit" --power-cut 'then=die' "$temp/fails" "$temp/fails"
}

# rounds_of NAME WHAT OPTIONS COUNT: a guest with so many rounds; CAUGHT is how many lost something, LAST_SEED the first such round's number
rounds_of() {
    local name=$1 code=0
    printf '%s\n' "WHAT=$2" "OPTIONS=$3" "ROUNDS=$4" "FIRST_SEED=$seed" >"$temp/rounds.env"
    volatile "$name"
    say "phase $name: $4 rounds"
    guest power-rounds.sh
    wait "$run_pid" || code=$?
    run_pid=
    grep '^ROUND ' "$temp/output" | tr -d '\r' >"$temp/verdicts" || true
    CAUGHT=$(grep -c -E '^ROUND [0-9]+ (lost|unmountable) ' "$temp/verdicts" || true)
    expect "$name/rounds" test "$(grep -c -E '^ROUND [0-9]+ (kept|lost|unmountable) ' "$temp/verdicts")" -eq "$4"
    expect "$name/guest-ends-well" test "$code" -eq 0
    expect "$name/cuts" test "$(wc -l <"$temp/cuts")" -eq "$4"
    [[ -z $keep ]] || for file in cuts output console; do cp "$temp/$file" "$keep/${name//\//-}.$file"; done
    stop "$name" "$temp/image.qcow2"
    grep -E '^ROUND [0-9]+ failed ' "$temp/verdicts" | sed 's/^/# /' || true
    printf '# %s: caught in %d of %d cuts (%d unmountable), %d files or records were acknowledged\n' "$name" "$CAUGHT" "$4" \
        "$(grep -c -E '^ROUND [0-9]+ unmountable ' "$temp/verdicts" || true)" "$(awk '{ sum += $4 } END { print sum + 0 }' "$temp/verdicts")"
}

log() {
    use_guest small
    geometry SIZE=$((64 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((4 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    rounds_of log/forgetful log forgetful 10
    expect log/one-that-forgets-is-caught-in-10-cuts test "$CAUGHT" -ge 1
    rounds_of log/careful log careful 10
    expect log/one-that-does-not-is-not test "$CAUGHT" -eq 0
}

# barriers FS: rounds with barriers and without. A few rounds show that it can be caught, many that it is in nine of ten.
barriers() {
    local without least=1
    ((rounds < 20)) || least=$(((rounds * 9 + 9) / 10))
    rounds_of "$1/nobarrier" "$1" nobarrier "$rounds"
    without=$CAUGHT
    expect "$1/without-barriers-it-is-caught" test "$CAUGHT" -ge "$least"
    rounds_of "$1/barriers" "$1" defaults "$rounds"
    grep -E '^ROUND [0-9]+ (lost|unmountable) ' "$temp/verdicts" | sed 's/^/# /' || true
    expect "$1/with-barriers-nothing-is-lost" test "$CAUGHT" -eq 0
    table+=("$(printf '%-6s %16s %16s' "$1" "$without of $rounds" "$CAUGHT of $rounds")")
}

btrfs() {
    use_guest small
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((14 << 20)) CONVENTIONAL=0 MAX_OPEN=12 MAX_ACTIVE=16 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    barriers btrfs
}

f2fs() {
    use_guest newest
    geometry SIZE=$((2 << 30)) ZONE_SIZE=$((16 << 20)) ZONE_CAPACITY=$((16 << 20)) CONVENTIONAL=16 MAX_OPEN=16 MAX_ACTIVE=24 \
        MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
    barriers f2fs
}

[[ $# -gt 0 ]] || set -- "${PARTS[@]}"
for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || die "no part $part; there are: ${PARTS[*]}"
done
[[ -z $keep ]] || mkdir -p "$keep"
"$VUZ_SCRIPTS/deps.sh"
daemon_build
export VUZ_BIN
machine_get
# More rounds, more time: a round of a file system takes a second or so.
PHASE_SECONDS=$((PHASE_SECONDS + rounds * 10))
started=$SECONDS
for part in "$@"; do
    "$part"
done
if ((rounds >= 20 && ${#table[@]} > 0)); then
    printf '%-6s %16s %16s\n' '' 'nobarrier' 'barriers'
    printf '%s\n' "${table[@]}"
fi
finish
