# shellcheck shell=bash
# A real systemd in namespaces of its own: what tests/service.sh and tests/package.sh share.
#
# Sourced, never run. Needs root and a kernel that lets root mount and make namespaces; says so and ends with success where it cannot have
# that. Takes the trap. Makes $work, a tmpfs that goes with the script. The sourcing script first
#   - sets what it tests (SERVICE), for messages,
#   - writes $work/prepare: bash that mounts or makes the root at $work/root, run in the new namespaces with $work as its argument.
#
#   inside_boot UNIT    boots that root to UNIT
#   inside_end          ends it, and all that runs in it
#   inside COMMAND...   runs a command in it
#   until_true WHAT COMMAND...   waits for what does not take long on any machine
#   expect WHAT COMMAND...       a test

work=$(mktemp -d)
supervisor=
group=

inside_end() {
    # Without their first process the namespaces are gone, and all mounts with them.
    [[ -z $supervisor ]] || kill -KILL "$supervisor" 2>/dev/null || true
    { wait || true; } 2>/dev/null
    supervisor=
    # Empty once the last process inside is buried.
    for _ in $(seq 50); do
        [[ -n $group && -d $group ]] || break
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
}

# shellcheck disable=SC2317,SC2329 # called by the trap
inside_cleanup() {
    inside_end
    umount "$work" 2>/dev/null || true
    rm -rf "$work"
}
trap inside_cleanup EXIT

skip() {
    echo "skipped: $*"
    exit 0
}
[[ $EUID -eq 0 ]] || skip "the service is tested with root's rights only"
mount -t tmpfs none "$work" 2>/dev/null || skip "nothing can be mounted here"

# What the systemd inside sees as the host. Its own kernel settings and devices are not its to change.
cat >"$work/init" <<'INIT'
set -euo pipefail
work=$1
root=$work/root
mkdir -p "$root"
. "$work/prepare"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs none "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/dev/pts" "$root/dev/mqueue" "$root/dev/hugepages"
mount -t devpts devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
for folder in run tmp; do mount -t tmpfs none "$root/$folder"; done
printf '%s\n' 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
cd "$root"
mkdir -p oldroot
pivot_root . oldroot
umount -l /oldroot
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit="$2" </dev/null >/dev/null 2>&1
INIT

inside() { nsenter --target "$first" --mount --pid --ipc --uts --cgroup -- "$@"; }

inside_tell() {
    inside systemctl status --no-pager --full "$SERVICE" || true
    inside journalctl --no-pager -u "$SERVICE" || true
}

until_true() {
    local what=$1
    shift
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "FAIL: waited for: $what"
    inside_tell
    exit 1
}

expect() {
    local what=$1
    shift
    if ! "$@"; then
        echo "FAIL: $what"
        inside_tell
        exit 1
    fi
    echo "ok $what"
}

# shellcheck disable=SC2317,SC2329 # called by until_true
inside_is_up() {
    first=$(pgrep --parent "$supervisor" --exact systemd) && inside systemctl is-active --quiet "$1"
}

inside_boot() {
    local hierarchy
    # A group for systemd's own groups, where there is cgroup version 2 at all.
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified; do
        [[ -e $hierarchy/cgroup.controllers ]] && group=$(mktemp -d "$hierarchy/service-test.XXXXXX") && break
    done
    [[ -n $group ]] || skip "there is no cgroup of version 2"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec unshare --mount --pid --fork --ipc --uts --cgroup --kill-child --propagation private bash "$work/init" "$work" "$1"
    ) >"$work/log" 2>&1 &
    supervisor=$!
    for _ in $(seq 100); do
        inside_is_up "$1" 2>/dev/null && break
        if ! kill -0 "$supervisor" 2>/dev/null; then
            cat "$work/log"
            supervisor=
            skip "no namespaces with a root of their own can be made here, see above"
        fi
        sleep 0.2
    done
    until_true "systemd inside" inside_is_up "$1"
}
