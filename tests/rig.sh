#!/usr/bin/env bash
# Tests the scripts of the guest rig as somebody calls them: what they say of themselves, and boot.sh on a terminal, with user-mode Linux.
# The guests' own tests are in tests/guest. Usage: tests/rig.sh
set -euo pipefail
cd "$(dirname "$0")/.."

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
passed=0

fail() {
    echo "FAIL: $*"
    exit 1
}

ok() {
    passed=$((passed + 1))
    echo "ok $1"
}

# helps WORD...: the command prints what its script's head says, to whom asked for it, and does nothing else.
helps() {
    local said
    said=$("$@" 2>"$temp/errors" </dev/null) || fail "$* ends with status $?: $(cat "$temp/errors")"
    [[ ! -s $temp/errors ]] || fail "$* complains: $(cat "$temp/errors")"
    grep -q "^Usage: \(.*/\)\?${1##*/}" <<<"$said" || fail "$* does not say how it is called: $said"
    ! grep -E '^#|shellcheck|^set |^\. ' <<<"$said" || fail "$* prints more than its head"
}

# What is sourced, or runs in the guest, is called by nobody.
mapfile -t scripts < <(grep -l '^# Usage: ' qemu-scripts/*.sh harness/*.sh)
((${#scripts[@]} >= 13)) || fail "${#scripts[@]} scripts were found that say how they are called"
for script in "${scripts[@]}"; do
    helps "$script" --help
    helps "$script" -h
done
helps qemu-scripts/run.sh --uml --timeout 5 --help
helps qemu-scripts/boot.sh --uml -h
helps harness/xfstests.sh folder --fs xfs --help
ok every-script-says-how-it-is-called-when-asked-and-does-nothing-else

# refuses TEXT WORD...: the command says that, in one line, and ends with status 1.
refuses() {
    local text=$1 code=0
    shift
    "$@" >"$temp/said" 2>"$temp/errors" </dev/null || code=$?
    [[ $code -eq 1 && $(wc -l <"$temp/errors") -eq 1 ]] || fail "$* ends with status $code and says: $(cat "$temp/errors")"
    grep -qF -- "$text" "$temp/errors" || fail "$* says: $(cat "$temp/errors")"
}

: >"$temp/image"
refuses 'option --power-cut needs a value' qemu-scripts/run.sh --power-cut
refuses 'usage: run.sh --power-cut WORDS' qemu-scripts/run.sh --image "$temp/image" --power-cut lose=all "$0"
refuses 'no such file: none.sh' qemu-scripts/run.sh --image "$temp/image" --power-cut lose=all "$0" none.sh
refuses 'say which disk: --image FILE, or --socket PATH and --control PATH' qemu-scripts/run.sh --power-cut lose=all "$0" "$0"
refuses 'no such image: none.qcow2' qemu-scripts/run.sh --image none.qcow2 "$0"
refuses '--socket and --image exclude each other' qemu-scripts/run.sh --image "$temp/image" --socket x "$0"
refuses '--volatile-cache is of the daemon that serves --image' qemu-scripts/run.sh --volatile-cache "$0"
refuses '--volatile-cache is of the daemon that serves --image' qemu-scripts/boot.sh --volatile-cache --socket x
refuses '--faults is of the daemon that serves --image' qemu-scripts/run.sh --faults "$0"
refuses '--control is of the daemon that is behind --socket' qemu-scripts/run.sh --control x "$0"
refuses 'no power is cut' qemu-scripts/run.sh --cut x --image "$temp/image" "$0"
refuses "--rounds is 'many'" tests/guest/power.sh --rounds many
ok what-makes-no-sense-of-a-power-cut-is-refused-in-a-line

# keep NAME REFRESH LINE: in a cache of its own has NAME be kept, as a folder with the file "whole" that LINE makes; "made" counts.
cat >"$temp/keep" <<'EOF'
. qemu-scripts/lib.sh
usable() { [[ -s $1/whole ]]; }
make() {
    echo >>"$VUZ_CACHE/made"
    eval "$line"
}
line=$3
: >"$VUZ_CACHE.comers/$$"
cache_keep "$1" "$2" usable make
EOF
keep() { VUZ_CACHE=$temp/cache bash "$temp/keep" "$@" 2>>"$temp/errors"; }
mkdir "$temp/cache.comers"

# kept NAMES COUNT: these are in the cache, after so many were made; and nothing half made.
kept() {
    local names
    names=$(cd "$temp/cache" && find . -mindepth 1 -maxdepth 1 -type d -printf '%f ')
    [[ $(xargs -n 1 <<<"$names" | sort | xargs) == "$1" ]] || fail "the cache has $names, expected $1; $(cat "$temp/errors")"
    [[ $(wc -l <"$temp/cache/made") -eq $2 ]] || fail "$(wc -l <"$temp/cache/made") were made, expected $2"
}

# shellcheck disable=SC2016 # for those shells
{
    pids=()
    for ((number = 0; number < 4; number++)); do
        # Each begins before the first is done, as none goes on before all are there.
        keep thing-1 '' 'until [[ $(find "$VUZ_CACHE.comers" -type f | wc -l) -eq 4 ]]; do sleep 0.01; done; echo 1 >"$1/whole"' &
        pids+=($!)
    done
    wait "${pids[@]}"
    kept thing-1 1
    keep thing-1 '' false || fail "what is kept is made again"
    kept thing-1 1
    ok what-is-kept-is-made-once-by-whoever-comes-first
    ! keep thing-1 refresh 'echo 2 >"$1/whole"; false' || fail "a failure is none"
    ! keep thing-1 refresh true || fail "what is not whole is none the worse"
    keep thing-1 '' false
    [[ $(cat "$temp/cache/thing-1/whole") -eq 1 ]] || fail "what was kept went with the failure"
    keep other-1 '' 'echo 3 >"$1/whole"'
    kept 'other-1 thing-1' 4
    keep thing-1 refresh 'echo 4 >"$1/whole"'
    [[ $(cat "$temp/cache/thing-1/whole") -eq 4 ]] || fail "what was kept is not made anew"
    keep thing-2 '' 'echo 5 >"$1/whole"'
    kept 'other-1 thing-2' 6
}
ok what-is-kept-is-whole-and-of-the-last-recipe

# shellcheck source=/dev/null
. qemu-scripts/lib.sh
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/daemon.sh"
daemon_build
export VUZ_BIN
# Kept or made now, that boot.sh is quick.
qemu-scripts/uml.sh >/dev/null
qemu-scripts/guest.sh >/dev/null
/usr/bin/python3 -B tests/rig.py "$temp" || fail "boot.sh, see above"
passed=$((passed + $(cat "$temp/passed")))
printf '%d passed, 0 failed\n' "$passed"
