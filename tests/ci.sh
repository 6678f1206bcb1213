#!/usr/bin/env bash
# Runs the script steps of action.yml one after another with what examples/ci/github-actions.yml gives it, as a runner does: in a scratch
# folder with this repository as the action's, by bash -eo pipefail, and by an unprivileged user where this is run as root. Once where
# /dev/kvm cannot be opened, once where it can, once with a program that is there and without Rust, and once with a script that fails, to
# see what the job keeps of it. Before that the scripts of all workflows and of the action are looked at without being run.
# Usage: tests/ci.sh
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
user=65534

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

mkdir "$scratch/scripts"
for file in action.yml .github/workflows/*.yml examples/ci/*.yml; do
    /usr/bin/python3 -B tests/ci.py scripts "$file" "$scratch/scripts" || { echo "FAIL: $file"; exit 1; }
done
shellcheck "$scratch"/scripts/*.sh
echo "ok the action and the workflows are as they should be, their scripts pass shellcheck"

# A toolchain in root's home is nobody else's: for the time of the test it is seen in the scratch folder too. And /dev is one of the test's.
if [[ $EUID -eq 0 && -z ${CI_TOOLCHAIN:-} ]]; then
    rm -rf "$scratch"
    CI_TOOLCHAIN=$(rustc --print sysroot) exec unshare --mount "$top/tests/ci.sh"
fi
if [[ $EUID -eq 0 ]]; then
    mkdir "$scratch/toolchain" "$scratch/dev"
    mount --bind "$CI_TOOLCHAIN" "$scratch/toolchain"
    # Lazily: what a guest left behind may still hold it.
    trap 'umount --lazy /dev "$scratch/dev" "$scratch/toolchain" 2>/dev/null; rm -rf "$scratch"' EXIT
    mount -t tmpfs -o mode=755 dev "$scratch/dev"
    for device in null zero full random urandom tty; do
        : >"$scratch/dev/$device"
        mount --bind "/dev/$device" "$scratch/dev/$device"
    done
    mkdir "$scratch/dev/pts" "$scratch/dev/shm"
    mount --bind /dev/pts "$scratch/dev/pts"
    mount -t tmpfs -o mode=1777 shm "$scratch/dev/shm"
    ln -s /proc/self/fd "$scratch/dev/fd"
    mount --rbind "$scratch/dev" /dev
fi

# kvm YES: gives the user a /dev/kvm that can be opened, or takes it. Where the machine has none it is one that no guest can be run with.
kvm() {
    umount /dev/kvm 2>/dev/null || true
    rm -f /dev/kvm
    [[ -n $1 ]] || return 0
    mknod -m 666 /dev/kvm c 10 232 2>/dev/null && { true <>/dev/kvm; } 2>/dev/null && return
    rm -f /dev/kvm
    : >/dev/kvm
    mount --bind /dev/null /dev/kvm
}

work=$scratch/work
mkdir -p "$work" "$scratch"/{home,tmp,temp} "$scratch/outputs"
git clone --quiet . "$scratch/action"
cp examples/ci/zoned-test.sh "$work/"
# What the action's cache brings; a fetch anew is what qemu-scripts/demo.sh shows.
cache=$scratch/home/.cache/vhost-user-zbd
mkdir -p "$cache"
cp -r "$(qemu-scripts/qemu.sh)" "$(qemu-scripts/guest.sh)" "$(qemu-scripts/uml.sh)" "$cache/"
chmod 755 "$scratch"
[[ $EUID -ne 0 ]] || chown -R "$user:$user" "$work" "$scratch"/{action,home,tmp,temp,outputs}

# Root's rights come as on a hosted runner: from sudo, which takes the environment away.
mkdir "$scratch/sudo" "$scratch/programs"
cat >"$scratch/sudo/sudo" <<'EOF'
#!/bin/sh
exec setpriv --reuid=0 --regid=0 --clear-groups --inh-caps=-all env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
EOF
chmod 755 "$scratch/sudo/sudo"
# All that this machine has but Rust.
ln -sf /usr/sbin/* /usr/bin/* /usr/local/bin/* "$scratch/programs/"
rm -f "$scratch"/programs/{cargo,rustc,rustup}*
without_rust=

declare -a names ids conditions environments scripts
steps=0

# output ID NAME: what a step has put out.
output() { sed -n "s/^$2=//p" "$scratch/outputs/$1" | tail -n 1; }

# script N: runs a step's script as the runner does.
script() {
    local as=() path=$PATH file=$scratch/outputs/${ids[$1]:-none}
    if [[ $EUID -eq 0 ]]; then
        as=(setpriv --reuid="$user" --regid="$user" --clear-groups)
        path=$scratch/toolchain/bin:/usr/local/bin:/usr/bin:/bin
    fi
    [[ -z $without_rust ]] || path=$scratch/programs
    if [[ $EUID -eq 0 && ${names[$1]} == Packages ]]; then
        # What the stand-in for sudo becomes root with.
        as+=("--inh-caps=+setuid,+setgid" "--ambient-caps=+setuid,+setgid")
        path=$scratch/sudo:$path
    fi
    printf '%s\n' "${scripts[$1]}" >"$scratch/script"
    (
        cd "$work"
        eval "${environments[$1]}"
        export HOME=$scratch/home CARGO_HOME=$scratch/home/cargo TMPDIR=$scratch/tmp RUNNER_TEMP=$scratch/temp
        export GITHUB_ACTION_PATH=$scratch/action GITHUB_OUTPUT=$file PATH=$path
        exec "${as[@]}" bash --noprofile --norc -eo pipefail "$scratch/script"
    )
}

# job INPUT=VALUE...: the action's steps; after one has failed only those that are for that. Its status is the first failure's.
job() {
    local number status=0 code
    rm -f "$scratch"/outputs/*
    # shellcheck disable=SC1090 # made here
    . <(/usr/bin/python3 -B tests/ci.py job action.yml examples/ci/github-actions.yml "$@")
    ((steps >= 4)) || { echo "FAIL: $steps steps were found"; exit 1; }
    for ((number = 1; number <= steps; number++)); do
        case ${conditions[$number]} in
            'always()') ;;
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

# passes MACHINE INPUT=VALUE...: the job passes in a guest of that kind, and shows what it did.
passes() {
    local machine=$1 report file
    shift
    job "$@" || { echo "FAIL: the job ends with status $?"; exit 1; }
    [[ $(output machine kernel) == "$machine" ]] || { echo "FAIL: the guest is $(output machine kernel), expected $machine"; exit 1; }
    report=$(output machine report)
    for file in daemon.log console.log zones.txt zones.svg check.txt; do
        [[ -s $report/$file ]] || { echo "FAIL: the job's report has no $file"; exit 1; }
    done
    [[ ! -e $report/disk.tar.gz ]] || { echo "FAIL: the job keeps the image, and has passed"; exit 1; }
}

if [[ $EUID -eq 0 ]]; then
    kvm ''
    passes uml
    echo "ok without KVM the job passes in user-mode Linux"
    built=program=$(output daemon program)
    kvm yes
    passes qemu "$built"
    echo "ok where /dev/kvm can be opened the job passes in QEMU"
    kvm ''
else
    passes uml kernel=uml
    built=program=$(output daemon program)
    passes qemu kernel=qemu "$built"
    echo "ok the job passes in user-mode Linux and in QEMU"
fi

mkdir "$work/bin" "$work/beside"
cp "${built#program=}" "$work/bin/"
without_rust=yes
passes uml program=bin/vhost-user-zbd kernel=uml
code=0
job kernel=uml >"$scratch/said" 2>&1 || code=$?
[[ $code -eq 1 ]] || { echo "FAIL: the job without a program and without Rust ends with status $code, expected 1"; cat "$scratch/said"; exit 1; }
grep -q 'cargo is missing' "$scratch/said" || { echo "FAIL: that cargo is missing is not said"; cat "$scratch/said"; exit 1; }
without_rust=
echo "ok with a program of its own the job needs no Rust"

echo 7 >"$work/beside/status"
echo "dd if=/dev/zero of=/dev/vda bs=64K count=1 oflag=direct seek=128; exit \$(cat beside/status)" >"$work/zoned-test.sh"
code=0
job "$built" kernel=uml files=beside || code=$?
[[ $code -eq 7 ]] || { echo "FAIL: the job with a script that fails ends with status $code, expected the script's 7"; exit 1; }
report=$(output machine report)
for file in daemon.log console.log zones.txt zones.svg check.txt disk.tar.gz; do
    [[ -s $report/$file ]] || { echo "FAIL: the failed job keeps no $file"; exit 1; }
done
grep -q 'zcond: 4(cl)' "$report/zones.txt" || { echo "FAIL: the written zone is not among those kept"; cat "$report/zones.txt"; exit 1; }
echo "ok a failed job keeps the log, the console, the zones and the image"

code=0
job "$built" kernel=xen || code=$?
[[ $code -eq 1 ]] || { echo "FAIL: the job with a kernel that is none ends with status $code, expected 1"; exit 1; }
echo "ok a kernel that is none is refused"
