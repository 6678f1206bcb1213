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
