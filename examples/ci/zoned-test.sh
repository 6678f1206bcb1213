# shellcheck shell=bash
# What a project would test on a zoned disk, here in small: a file that is a zone takes appends, and keeps them over a mount.
# Run in the guest, as root, by bash; the exit status is the job's.
set -euxo pipefail

modprobe zonefs
mkzonefs -f /dev/vda
mount -t zonefs /dev/vda /mnt
head -c 1M /dev/urandom >/tmp/data
dd if=/tmp/data of=/mnt/seq/0 bs=64K oflag=direct,append conv=notrunc status=none
umount /mnt
mount -t zonefs /dev/vda /mnt
cmp /tmp/data /mnt/seq/0
umount /mnt
blkzone report -c 4 /dev/vda
