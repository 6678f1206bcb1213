#!/usr/bin/env bash
# shellcheck disable=SC2317,SC2329 # the parts are called by their names
# What a loss of power may leave of a few small workloads, state by state (harness/explore.py): all is good with barriers, and without
# barriers it is found that it is not.
#
# Usage: tests/guest/explore.sh [--keep FOLDER] [PART...]          all parts when none is named
#
#   zonefs, f2fs, btrfs   a workload each
#   nobarrier             that of btrfs, mounted with nobarrier: states are bad, and the printed command makes one again
#
# --keep has the reports in FOLDER, and images of states that have failed. Output as all.sh.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PARTS=(zonefs f2fs btrfs nobarrier)
keep=$temp

while [[ ${1:-} == --* ]]; do
    need_value "$1" $#
    case $1 in
        --keep) keep=$2 ;;
        *) die "unknown option $1 (see the head of explore.sh)" ;;
    esac
    shift 2
done

# explored NAME STATUS FS OPTION...: harness/explore.py ends so.
explored() {
    local name=$1 expected=$2 fs=$3 code=0
    shift 3
    "$VUZ_TOP/harness/explore.py" --fs "$fs" -o "$keep/$name" "$@" >"$temp/said" 2>&1 || code=$?
    sed 's/^/# /' "$temp/said"
    expect "$name/ends-with-$expected" test "$code" -eq "$expected"
}

# report NAME: of the report of that name, a number.
report() { /usr/bin/python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$keep/$1/report.json" "$2"; }

# replayed NAME: the first state that has failed is made again by the command that the report has.
replayed() {
    local command
    command=$(/usr/bin/python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["failures"][0]["command"])' "$keep/$1/report.json")
    (cd "$temp" && eval "\"\$VUZ_BIN\" ${command#vhost-user-zbd }") && [[ -s $temp/OUT.qcow2 ]]
}

zonefs() {
    explored zonefs 0 zonefs "append seq/1 8192; fsync seq/1; truncate seq/0 0; fsync seq/0"
    expect zonefs/states test "$(report zonefs distinct)" -ge 6
}

# What f2fs makes stable by a node block behind the data is not always all right (docs/explore.md); what it makes so by a checkpoint is.
f2fs() {
    explored f2fs 0 f2fs "rename A B; sync"
    expect f2fs/states test "$(report f2fs distinct)" -ge 6
}

WORKLOAD="write A 0 4096; fsync A"

btrfs() {
    explored btrfs 0 btrfs "$WORKLOAD"
    expect btrfs/states test "$(report btrfs distinct)" -ge 20
}

nobarrier() {
    explored nobarrier 1 btrfs --mount nobarrier --level 1 "$WORKLOAD"
    expect nobarrier/the-printed-command-makes-the-state-again replayed nobarrier
}

[[ $# -gt 0 ]] || set -- "${PARTS[@]}"
for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || die "no part $part; there are: ${PARTS[*]}"
done
"$VUZ_SCRIPTS/deps.sh"
daemon_build
export VUZ_BIN
mkdir -p "$keep"
started=$SECONDS
for part in "$@"; do
    "$part"
done
finish
