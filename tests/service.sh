#!/usr/bin/env bash
# The units under a real systemd: started by a frontend's connection, ready, watched, restarted, stopped, logged.
# It runs in namespaces of its own over a copy-on-write view of this host, which it leaves as it is.
# Needs root, and a kernel that lets root mount an overlay; says so and tests nothing where it cannot have that.
# Usage: tests/service.sh, after a release build.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
supervisor=
end() {
    # Without their first process the namespaces are gone, and all mounts with them.
    [[ -z $supervisor ]] || kill -KILL "$supervisor" 2>/dev/null || true
    wait 2>/dev/null || true
    umount "$work" 2>/dev/null || true
    rm -rf "$work"
    # Empty once the last process inside is buried.
    for _ in $(seq 50); do
        [[ -n ${group:-} && -d $group ]] || break
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
}
trap end EXIT

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
mkdir "$root" "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
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
install -m 755 "$work/vhost-user-zbd" "$work/lifecycle" "$root/usr/bin/"
mkdir -p "$root/etc/vhost-user-zbd" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d"
cp "$work"/units/*@* "$root/usr/lib/systemd/system/"
cp "$work/units/vhost-user-zbd.sysusers" "$root/usr/lib/sysusers.d/vhost-user-zbd.conf"
cp "$work/units/vhost-user-zbd.tmpfiles" "$root/usr/lib/tmpfiles.d/vhost-user-zbd.conf"
printf '%s\n' 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
# Only what is to be tested, not what this host happens to have installed.
cat >"$root/etc/systemd/system/service-test.target" <<'TARGET'
[Unit]
DefaultDependencies=no
Requires=systemd-journald.service systemd-journald.socket systemd-sysusers.service systemd-tmpfiles-setup.service
After=systemd-journald.service systemd-journald.socket systemd-sysusers.service systemd-tmpfiles-setup.service
TARGET
cd "$root"
mkdir oldroot
pivot_root . oldroot
umount -l /oldroot
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=service-test.target </dev/null >/dev/null 2>&1
INIT
# The tests' own frontend, for requests in flight.
lifecycle=$(cargo test --locked --quiet --test lifecycle --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
install -m 755 "$lifecycle" "$work/lifecycle"
cp -r systemd "$work/units"
cp target/release/vhost-user-zbd "$work/"
# A group for systemd's own groups, where there is cgroup version 2 at all.
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/unified; do
    [[ -e $hierarchy/cgroup.controllers ]] && group=$(mktemp -d "$hierarchy/service-test.XXXXXX") && break
done
[[ -n ${group:-} ]] || skip "there is no cgroup of version 2"
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --pid --fork --ipc --uts --cgroup --kill-child --propagation private bash "$work/init" "$work"
) >"$work/log" 2>&1 &
supervisor=$!

inside() { nsenter --target "$first" --mount --pid --ipc --uts --cgroup -- "$@"; }
# Waits for what does not take long on any machine.
until_true() {
    local what=$1
    shift
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "FAIL: waited for: $what"
    inside systemctl status --no-pager --full 'vhost-user-zbd@*' || true
    inside journalctl --no-pager -u 'vhost-user-zbd@*' || true
    exit 1
}
is_up() {
    first=$(pgrep --parent "$supervisor" --exact systemd) && inside systemctl is-active --quiet service-test.target
}
for _ in $(seq 100); do
    is_up 2>/dev/null && break
    if ! kill -0 "$supervisor" 2>/dev/null; then
        cat "$work/log"
        supervisor=
        skip "no namespaces with an overlay of / can be made here, see above"
    fi
    sleep 0.2
done
until_true "systemd inside" is_up

service=vhost-user-zbd@disk.service
socket=vhost-user-zbd@disk.socket
show() { inside systemctl show --value --property "$1" "$service"; }
has() { [[ $(show "$1") == "$2" ]]; }
logged() { inside journalctl --no-pager -o cat -p "$1" -u "$service" | grep -q -- "$2"; }
as_service() { inside setpriv --reuid=vhost-user-zbd --regid=vhost-user-zbd --clear-groups "$@"; }
expect() {
    local what=$1
    shift
    if ! "$@"; then
        echo "FAIL: $what"
        inside systemctl status --no-pager --full "$service" || true
        inside journalctl --no-pager -u "$service"
        exit 1
    fi
    echo "ok $what"
}

as_service vhost-user-zbd create /var/lib/vhost-user-zbd/disk.qcow2 64M --zone-size 4M
as_service vhost-user-zbd create /var/lib/vhost-user-zbd/other.qcow2 64M --zone-size 4M
inside systemctl start "$socket"
expect "the socket is its group's" \
    test "$(inside stat -c '%a %G' /run/vhost-user-zbd/disk.sock)" = "660 vhost-user-zbd"
expect "nothing runs before a frontend comes" has ActiveState inactive

# shellcheck disable=SC2016 # It is Perl.
inside perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) && connect(S, sockaddr_un($ARGV[0])) && sleep 1' \
    /run/vhost-user-zbd/disk.sock &
until_true "the service, by the connection" has ActiveState active
until_true "the frontend in the status line" has StatusText "serving a frontend"
until_true "the waiting in the status line" has StatusText "waiting for a frontend on /run/vhost-user-zbd/disk.sock"
echo "ok a connection starts it, and its status says whether there is a frontend"
expect "systemd watches it" has WatchdogUSec 3min
expect "it has no warnings" test -z "$(inside journalctl --no-pager -q -o cat -p warning -u "$service")"
expect "its log has priorities and no times" logged 6..6 '^serving on /run/vhost-user-zbd/disk.sock$'

filters() { inside sed -n 's/^Seccomp_filters:\s*//p' "/proc/$(show MainPID)/status"; }
confined=$(filters)

expect "its control socket is its own" test "$(inside stat -c '%a %U' /run/vhost-user-zbd/disk/control)" = "600 vhost-user-zbd"
asks() { inside vhost-user-zbd ctl /run/vhost-user-zbd/disk/control "$@"; }
expect "it answers there" grep -qx "image: /var/lib/vhost-user-zbd/disk.qcow2" < <(asks info)
expect "it makes all stable when told" asks flush

# Under load, with requests in flight at each end. The shape is the one that the test knows; see tests/lifecycle/crash.rs.
as_service vhost-user-zbd create /var/lib/vhost-user-zbd/load.qcow2 6M --zone-size 512K \
    --zone-capacity 384K --conventional-zones 2 --max-append-bytes 64K --cluster-size 64K
inside systemctl start vhost-user-zbd@load.socket
ends="systemctl kill -s KILL vhost-user-zbd@load
systemctl restart vhost-user-zbd@load
systemctl kill -s KILL vhost-user-zbd@load"
name=inflight::service::what_is_in_flight_when_the_service_ends_is_answered_once_and_rightly_by_the_next
under_load() {
    inside env ZBD_SOCKET=/run/vhost-user-zbd/load.sock ZBD_ENDS="$ends" \
        lifecycle --exact --ignored --nocapture "$name" >"$work/load.log" 2>&1 || { cat "$work/load.log"; return 1; }
    [[ $(grep -c 'requests in flight' "$work/load.log") -eq 3 ]]
}
expect "what is in flight when it is killed or restarted under load is answered once and rightly" under_load
sed -n '/requests in flight/s/^/   /p' "$work/load.log"
inside systemctl stop vhost-user-zbd@load.socket vhost-user-zbd@load.service

restarts() { [[ $(show NRestarts) -ge $1 ]] && has StatusText "waiting for a frontend on /run/vhost-user-zbd/disk.sock"; }
inside kill -KILL "$(show MainPID)"
until_true "a restart after a kill" restarts 1
echo "ok it is started again after a kill"

inside mkdir -p "/run/systemd/system/$service.d"
inside sh -c "printf '[Service]\nWatchdogSec=1s\n' >/run/systemd/system/$service.d/test.conf"
inside sh -c "printf 'IMAGE=/var/lib/vhost-user-zbd/other.qcow2\nOPTIONS=--sandbox off --serial disk\n' >/etc/vhost-user-zbd/disk.conf"
inside systemctl daemon-reload
inside systemctl restart "$service"
is_configured() { inside tr '\0' ' ' <"/proc/self/fd/0" | grep -q "other.qcow2 --control-path .* --sandbox off --serial disk"; }
expect "its conf names the image and options" is_configured < <(inside cat "/proc/$(show MainPID)/cmdline")
expect "it has filters of its own besides systemd's" test "$confined" -eq $(($(filters) + 2))
before=$(show NRestarts)
sleep 3
expect "it gives signs of life" has NRestarts "$before"
inside kill -STOP "$(show MainPID)"
until_true "the watchdog" restarts $((before + 1))
expect "one that hangs is found by the watchdog" logged 3..5 'Watchdog timeout'

inside sh -c "echo OPTIONS=--frobnicate >>/etc/vhost-user-zbd/disk.conf"
inside systemctl restart "$service" 2>/dev/null && { echo "FAIL: a wrong option is taken"; exit 1; }
expect "a wrong option is an error in the journal, and the start fails" logged 3..3 '^unexpected argument .--frobnicate'
inside rm /etc/vhost-user-zbd/disk.conf
inside systemctl reset-failed "$service" "$socket"
inside systemctl restart "$socket"
inside systemctl restart "$service"
inside systemctl stop "$service" "$socket"
expect "it ends well" has Result success
expect "its control socket is gone" inside test ! -e /run/vhost-user-zbd/disk
expect "its image is whole" as_service vhost-user-zbd check /var/lib/vhost-user-zbd/disk.qcow2
