#!/usr/bin/env bash
# Runs the script steps of examples/ci/github-actions.yml one after another, as a runner does: in a scratch folder with a clone of this
# repository in it, by bash -eo pipefail, and by an unprivileged user where this is run as root; the step "Packages" alone as root.
# Then once more with a script that fails, to see what the job keeps of it.
# Usage: tests/ci.sh
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
user=65534

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# A toolchain in root's home is nobody else's: for the time of the test it is seen in the scratch folder too.
if [[ $EUID -eq 0 && -z ${CI_TOOLCHAIN:-} ]]; then
    CI_TOOLCHAIN=$(rustc --print sysroot) exec unshare --mount "$top/tests/ci.sh"
fi
if [[ $EUID -eq 0 ]]; then
    mkdir "$scratch/toolchain"
    mount --bind "$CI_TOOLCHAIN" "$scratch/toolchain"
    trap 'umount "$scratch/toolchain" && rm -rf "$scratch"' EXIT
fi

work=$scratch/work
mkdir -p "$work" "$scratch/home" "$scratch/tmp"
git clone --quiet . "$work/vhost-user-zbd"
cp examples/ci/zoned-test.sh "$work/"
# What the workflow's cache brings; a fetch anew is what qemu-scripts/demo.sh shows.
mkdir -p "$work/vhost-user-zbd/target/guest"
cp -r "$(qemu-scripts/qemu.sh)" "$(qemu-scripts/guest.sh)" "$work/vhost-user-zbd/target/guest/"
chmod 755 "$scratch"
[[ $EUID -ne 0 ]] || chown -R "$user:$user" "$work" "$scratch/home" "$scratch/tmp"

declare -a names conditions scripts
steps=0
# shellcheck disable=SC1090 # made here
. <(/usr/bin/python3 -B tests/ci.py examples/ci/github-actions.yml)

# script N: runs a step's script as the workflow does.
script() {
    local as=() path=$PATH
    if [[ $EUID -eq 0 && ${names[$1]} != Packages ]]; then
        as=(setpriv --reuid="$user" --regid="$user" --clear-groups)
        path=$scratch/toolchain/bin:/usr/local/bin:/usr/bin:/bin
    fi
    printf '%s\n' "${scripts[$1]}" >"$scratch/script"
    (cd "$work" && env HOME="$scratch/home" CARGO_HOME="$scratch/home/cargo" TMPDIR="$scratch/tmp" PATH="$path" "${as[@]}" \
        bash --noprofile --norc -eo pipefail "$scratch/script")
}

# job: the steps; after one has failed only those that are for that. Its status is the first failure's.
job() {
    local number status=0 code
    for ((number = 1; number <= steps; number++)); do
        case ${conditions[$number]} in
            '') ((status == 0)) || continue ;;
            'failure()') ((status != 0)) || continue ;;
            *) echo "FAIL: this test does not know the condition ${conditions[$number]}" && return 99 ;;
        esac
        echo "-- ${names[$number]}"
        code=0
        script "$number" || code=$?
        ((status != 0)) || status=$code
        ((code == 0 || status == code)) || return 98
    done
    return "$status"
}

((steps >= 4)) || { echo "FAIL: $steps steps were found"; exit 1; }
job || { echo "FAIL: the job ends with status $?"; exit 1; }
echo "ok the job passes"

rm -f "$work"/disk.qcow2 "$work"/*.log
echo 'dd if=/dev/zero of=/dev/vda bs=64K count=1 oflag=direct seek=128; exit 7' >"$work/zoned-test.sh"
code=0
job || code=$?
[[ $code -eq 7 ]] || { echo "FAIL: the job with a script that fails ends with status $code, expected the script's 7"; exit 1; }
for file in daemon.log console.log zones.txt zones.svg check.txt disk.tar.gz; do
    [[ -s $work/zoned/$file ]] || { echo "FAIL: the failed job keeps no $file"; exit 1; }
done
grep -q 'zcond: 4(cl)' "$work/zoned/zones.txt" || { echo "FAIL: the written zone is not among those kept"; cat "$work/zoned/zones.txt"; exit 1; }
echo "ok a failed job keeps the log, the console, the zones and the image"
