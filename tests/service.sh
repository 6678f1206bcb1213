#!/usr/bin/env bash
# The units under a real systemd: started by a frontend's connection, ready, watched, restarted, stopped, logged.
# It runs in namespaces of its own over a copy-on-write view of this host, which it leaves as it is.
# Needs root, and a kernel that lets root mount an overlay; says so and tests nothing where it cannot have that.
# Usage: tests/service.sh, after a release build.
set -euo pipefail
cd "$(dirname "$0")/.."

SERVICE='vhost-user-zbd@*'
. tests/inside-lib.sh

# A copy-on-write view of this host, with the service in it and a target that wants only what is to be tested, not what this host happens
# to have installed.
cat >"$work/prepare" <<'PREPARE'
mkdir "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
install -m 755 "$work/vhost-user-zbd" "$work/lifecycle" "$root/usr/bin/"
mkdir -p "$root/etc/vhost-user-zbd" "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d"
cp "$work"/units/*@* "$root/usr/lib/systemd/system/"
cp "$work/units/vhost-user-zbd.sysusers" "$root/usr/lib/sysusers.d/vhost-user-zbd.conf"
cp "$work/units/vhost-user-zbd.tmpfiles" "$root/usr/lib/tmpfiles.d/vhost-user-zbd.conf"
cat >"$root/etc/systemd/system/service-test.target" <<'TARGET'
[Unit]
DefaultDependencies=no
Requires=systemd-journald.service systemd-journald.socket systemd-sysusers.service systemd-tmpfiles-setup.service
After=systemd-journald.service systemd-journald.socket systemd-sysusers.service systemd-tmpfiles-setup.service
TARGET
PREPARE
# The tests' own frontend, for requests in flight.
lifecycle=$(cargo test --locked --quiet --test lifecycle --no-run --message-format=json |
    sed -n 's|.*"executable":"\([^"]*/lifecycle-[^"]*\)".*|\1|p')
install -m 755 "$lifecycle" "$work/lifecycle"
cp -r systemd "$work/units"
cp target/release/vhost-user-zbd "$work/"
inside_boot service-test.target

service=vhost-user-zbd@disk.service
socket=vhost-user-zbd@disk.socket
show() { inside systemctl show --value --property "$1" "$service"; }
has() { [[ $(show "$1") == "$2" ]]; }
logged() { inside journalctl --no-pager -o cat -p "$1" -u "$service" | grep -q -- "$2"; }
as_service() { inside setpriv --reuid=vhost-user-zbd --regid=vhost-user-zbd --clear-groups "$@"; }

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
