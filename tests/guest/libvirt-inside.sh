#!/usr/bin/env bash
# For libvirt.sh: a libvirt daemon in namespaces of its own, with a root of its own; ends with them. Run by unshare.
#
# Usage: libvirt-inside.sh ROOT QEMU GUEST SHARED
#
# Its root is ROOT, where a Debian's libvirt was unpacked; what it writes is gone afterwards. In there are /srv/qemu, /srv/guest, and SHARED
# as /run/vhost-user-zbd.
set -euo pipefail
root=$1 qemu=$2 guest=$3 shared=$4

for folder in run tmp var; do mount -t tmpfs none "$root/$folder"; done
mkdir -p "$root"/run/vhost-user-zbd "$root"/var/{lib,cache,log}/libvirt/qemu
ln -s /run "$root/var/run"
mount -t tmpfs none "$root/srv"
mkdir "$root/srv/qemu" "$root/srv/guest"
mount --bind "$qemu" "$root/srv/qemu"
mount --bind "$guest" "$root/srv/guest"
mount --bind "$shared" "$root/run/vhost-user-zbd"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
# What a container may not have is not asked for; QEMU's own files are written by QEMU.
mount -t tmpfs none "$root/etc/libvirt"
cat >"$root/etc/libvirt/qemu.conf" <<'CONF'
cgroup_controllers = []
namespaces = []
security_driver = "none"
stdio_handler = "file"
remember_owner = 0
CONF
# There is no polkit to ask.
printf 'auth_unix_%s = "none"\n' ro rw >"$root/etc/libvirt/libvirtd.conf"
# This shell stays as the first process here: it buries QEMU's processes, which libvirt waits for and does not itself.
chroot "$root" /usr/sbin/libvirtd &
wait
