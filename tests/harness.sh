#!/usr/bin/env bash
# Tests the harnesses on stand-ins for xfstests and blktests (tests/harness): a guest of user-mode Linux each, some seconds in all.
# Usage: tests/harness.sh
set -euo pipefail
cd "$(dirname "$0")/.."

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
passed=0

# harness STATUS SUITE OPTION...: runs the suite's stand-in and expects that exit status.
harness() {
    local expected=$1 suite=$2 code=0
    shift 2
    "harness/$suite.sh" "tests/harness/$suite" --results "$temp/results" --junit "$temp/junit.xml" "$@" >"$temp/said" 2>&1 || code=$?
    [[ $code -eq $expected ]] || fail "$suite.sh $* ends with status $code, expected $expected"
}

fail() {
    echo "FAIL: $*"
    cat "$temp/said"
    tail -n 40 "$temp"/results/{transcript,console*} 2>/dev/null || true
    exit 1
}

# says TEXT: what was printed, has this line.
says() { grep -qxF -- "$1" "$temp/said" || fail "this was not said: $1"; }

# junit XPATH COUNT: so many elements of the file are like that.
junit() {
    local count
    count=$(/usr/bin/python3 -c 'import sys, xml.etree.ElementTree as tree; print(len(tree.parse(sys.argv[1]).getroot().findall(sys.argv[2])))' \
        "$temp/junit.xml" "$1")
    [[ $count -eq $2 ]] || fail "JUnit's file has $count of $1, expected $2"
}

ok() {
    passed=$((passed + 1))
    echo "ok $1"
}

printf 'demo/002 is meant to fail\ndemo/004 was seen to fail\nzbd/002 is meant to fail\n' >"$temp/known"

harness 0 xfstests --fs btrfs --known "$temp/known"
says 'known failure: demo/002: is meant to fail'
says 'passed though known to fail: demo/004: was seen to fail'
says '7 passed, 0 failed, 2 skipped'
junit 'testcase' 9
junit 'testcase/failure' 0
[[ -s $temp/results/check/demo/001.full ]] || fail "what check writes is not there"
ok known-failures-are-excused-and-those-that-pass-are-said

harness 1 xfstests --fs xfs demo/002 demo/001
says 'FAIL demo/002'
says '3 passed, 1 failed, 0 skipped'
junit 'testcase/failure' 1
ok a-failure-that-is-not-known-fails

harness 1 xfstests --fs f2fs --test-seconds 4 --group die --group hang --group quick --known "$temp/known"
says '# the guest died, see console1'
says '# the guest hung for 4 seconds, see console2'
says '4 passed, 2 failed, 2 skipped'
ok a-guest-that-dies-or-hangs-fails-its-test-and-the-others-are-run

harness 0 blktests --known "$temp/known"
says 'known failure: zbd/002: is meant to fail'
says '2 passed, 0 failed, 2 skipped'
[[ -s $temp/results/check/vda/zbd/001 ]] || fail "what check writes is not there"
harness 1 blktests zbd/002
ok blktests-likewise

printf 'demo/002\n' >"$temp/no-reason"
harness 2 xfstests --fs xfs --known "$temp/no-reason" demo/001
harness 2 xfstests --fs ext4
harness 2 xfstests --fs xfs --disk 10G,zone.size=3M
harness 2 xfstests --fs xfs --group none
harness 2 xfstests --fs xfs --group trouble
# shellcheck disable=SC2016 # as it is printed
says 'check gave up: "check: failed to mkfs $SCRATCH_DEV using specified options"'
mkdir "$temp/mine"
touch "$temp/mine/work"
harness 2 xfstests --fs xfs --results "$temp/mine"
[[ -e $temp/mine/work ]] || fail "a folder that is not the harness's was removed"
ok what-keeps-the-harness-from-its-work-is-not-taken-for-a-failed-test

printf '%d passed, 0 failed\n' "$passed"
