#!/usr/bin/env bash
# QEMU's first road (see qemu.sh): Debian sid's package, unpacked beside its libraries and run with its own dynamic loader.
#
# Usage: qemu-sid.sh FOLDER      (an empty folder; it gets run, device, version)
#
# Needs no root and no chroot, so sockets and files have the same names inside and outside. The device is QEMU's generic vhost-user
# device, which hands the daemon's features and configuration to the guest as they are. The guest reads the number of queues from the
# daemon's configuration, so num_vqs has to equal it, or the guest's driver refuses the disk (-22).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

[[ $# -eq 1 && -d $1 ]] || die "usage: qemu-sid.sh FOLDER"
out=$1

say "fetching QEMU from Debian sid (about 60 MB, half a minute) ..."
apt_begin "$out/apt" sid
version=$(apt_version qemu-system-x86)
dpkg --compare-versions "${version#*:}" ge 10.2 ||
    die "the mirror's sid has QEMU $version; users can create the generic vhost-user device from 10.2 on"
apt_unpack "$out/root" qemu-system-x86
rm -rf "$out/apt" "$out/root/usr/share/doc" "$out/root/usr/share/man" "$out/root/usr/share/locale"

cat >"$out/run" <<'EOF'
#!/bin/sh
# Written by qemu-sid.sh.
root=$(cd "$(dirname "$0")" && pwd)/root
libraries=$root/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" --argv0 qemu-system-x86_64 \
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
EOF
chmod 755 "$out/run"
printf '%s\n' 'vhost-user-test-device-pci,chardev=@CHARDEV@,virtio-id=2,num_vqs=@QUEUES@,vq_size=256,config_size=96' >"$out/device"
# Its reconnecting fails at start.
: >"$out/chardev"
printf '%s, stock package of Debian sid, generic vhost-user device\n' "$("$out/run" --version | head -n 1)" >"$out/version"
