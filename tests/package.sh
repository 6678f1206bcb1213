#!/usr/bin/env bash
# The Debian package as a user has it: installed by apt in a clean Debian 12, its files, user and folders looked at; under a real systemd
# an image is made and served as docs/service.md says, over a reboot too; and what is left when it is removed.
# Needs root, a kernel that lets root make namespaces, and apt's sources of Debian; says so and tests nothing where it cannot have them.
# Takes some minutes. Usage: tests/package.sh
set -euo pipefail
cd "$(dirname "$0")/.."

SERVICE='vhost-user-zbd@*'
. tests/inside-lib.sh

if ! command -v mmdebstrap >/dev/null; then
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install mmdebstrap >/dev/null
fi
packaging/deb.sh
package=$(echo target/debian/*.deb)
load=$(cargo bench --locked --quiet --bench load --no-run --message-format=json | sed -n 's|.*"executable":"\([^"]*/load-[^"]*\)".*|\1|p')

# Space for a system: the memory that $work is in may be little.
system=$(mktemp -d)
package_cleanup() {
    inside_cleanup
    rm -rf "$system"
}
trap package_cleanup EXIT
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv --aptopt='Acquire::Check-Valid-Until "false"' bookworm "$system/root"
cp "$package" "$system/root/package.deb"
install -m 755 "$load" "$system/root/usr/local/bin/load"
echo "mount --rbind '$system/root' \"\$root\"" >"$work/prepare"

# in_root COMMAND...: in the system as long as it is not booted; with the names that the host's resolver knows.
in_root() {
    cp -L /etc/resolv.conf "$system/root/etc/resolv.conf"
    # shellcheck disable=SC2016 # the inner shell's
    unshare --mount --propagation private bash -c 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"' \
        "$system/root" env DEBIAN_FRONTEND=noninteractive "$@"
}
quietly() {
    "$@" >"$work/said" 2>&1 || { cat "$work/said"; return 1; }
}
present() {
    local path
    for path; do
        [[ -e $system/root$path ]] || { echo "there is no $path"; return 1; }
    done
}

# Not booted, so without the expect of those that are, which shows the service.
installed() {
    local what=$1
    shift
    "$@" || { echo "FAIL: $what"; exit 1; }
    echo "ok $what"
}
in_root apt-get -qq update
installed "apt installs it in a clean Debian 12" quietly in_root apt-get -q -y --no-install-recommends install ./package.deb
mapfile -t files < <(dpkg-deb --contents "$package" | sed -n 's|^-.* \./|/|p')
installed "all ${#files[@]} files are there" present "${files[@]}"
installed "the documentation is, guests' pages among it" present /usr/share/doc/vhost-user-zbd/{README.md,docs/qemu.md,docs/guests/btrfs.md}
installed "pages and completions are" present /usr/share/man/man1/vhost-user-zbd-serve.1.gz /usr/share/man/man5/vhost-user-zbd.conf.5.gz /usr/share/bash-completion/completions/vhost-user-zbd
installed "the program finds its libraries" quietly in_root vhost-user-zbd --version
installed "the user is made" quietly in_root getent passwd vhost-user-zbd
installed "the folder of images is its own" \
    test "$(in_root stat -c '%U:%G %a' /var/lib/vhost-user-zbd)" = "vhost-user-zbd:vhost-user-zbd 750"

service=vhost-user-zbd@disk.service
show() { inside systemctl show --value --property "$1" "$service"; }
has() { [[ $(show "$1") == "$2" ]]; }
image=/var/lib/vhost-user-zbd/disk.qcow2
as_service() { inside setpriv --reuid=vhost-user-zbd --regid=vhost-user-zbd --clear-groups "$@"; }
serves() { inside load run "$@" --socket /run/vhost-user-zbd/disk.sock >"$work/load" 2>&1 || { cat "$work/load"; return 1; }; }
closed_zones() { as_service vhost-user-zbd report "$image" | grep -c -e '(cl)' -e '(fu)' -e '(oi)'; }

inside_boot multi-user.target
expect "an image is made as docs/service.md says" as_service vhost-user-zbd create "$image" 16G --zone-size 256M
expect "the socket is enabled and started" quietly inside systemctl enable --now vhost-user-zbd@disk.socket
expect "nothing runs before a frontend comes" has ActiveState inactive
expect "a frontend writes and reads what it wrote" serves append --zones 4 --qd 8 --verify
expect "the first connection has started the service" has ActiveState active
until_true "the waiting in the status line" has StatusText "waiting for a frontend on /run/vhost-user-zbd/disk.sock"
expect "it is the service's user that serves" test "$(inside stat -c %U "/proc/$(show MainPID)")" = vhost-user-zbd
expect "the zones are in the image" test "$(closed_zones)" -ge 4
expect "it stops well" quietly inside systemctl stop "$service"
expect "it has ended with success" has Result success
expect "it is started again by the next frontend" serves append --zones 4 --qd 8 --verify
inside_end

inside_boot multi-user.target
expect "after a reboot the socket listens, as it is enabled" quietly inside systemctl is-active vhost-user-zbd@disk.socket
expect "and the disk is served" serves append --zones 4 --qd 8 --verify
inside systemctl stop "$service"
expect "check finds nothing worse than leaks" as_service bash -c "vhost-user-zbd check $image || [[ \$? == 3 ]]"
expect "the disk is served once more" serves append --zones 4 --qd 8 --verify
inside sh -c "echo OPTIONS=--num-queues 2 >/etc/vhost-user-zbd/disk.conf"
expect "apt purges it while it serves" quietly inside env DEBIAN_FRONTEND=noninteractive apt-get -q -y purge vhost-user-zbd
expect "the service has ended" test "$(inside systemctl is-active "$service" || true)" != active
expect "the program is gone" test ! -e "$system/root/usr/bin/vhost-user-zbd"
expect "image, conf and user stay" present "$image" /etc/vhost-user-zbd/disk.conf
expect "the user that owns them does" quietly inside getent passwd vhost-user-zbd
expect "apt installs it again" quietly inside env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install /package.deb
expect "the image of before is whole" as_service bash -c "vhost-user-zbd check $image || [[ \$? == 3 ]]"
