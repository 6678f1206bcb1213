#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first process (copied into the initramfs as /init by guest.sh).
#
# With a job (run.sh adds /job to the initramfs): runs /job/script as root in /job, its output going to the virtio port "output", its
# exit status to the port "status", then powers off. Without one (boot.sh): a shell on the serial console, power off when it ends.

export PATH=/usr/bin:/bin HOME=/root LC_ALL=C TERM=linux
/bin/busybox mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t tmpfs shm /dev/shm
exec </dev/console >/dev/console 2>&1
hostname guest
# The scheduler that keeps a zone's writes in order is a module in this kernel; so is the disk's driver.
modprobe mq-deadline
modprobe virtio_blk
# The driver is probed when modprobe is back, unless the disk was refused: then the kernel says why on the console.
mdev -s

if [ ! -e /job/script ]; then
    echo
    echo "A shell in the guest. The zoned disk is /dev/vda (try: lsblk -z; blkzone report /dev/vda). 'exit' powers the guest off."
    setsid cttyhack bash -i
    sync
    poweroff -f
    exit
fi

output=''
status=''
for port in /sys/class/virtio-ports/*; do
    case $(cat "$port/name") in
        output) output=/dev/${port##*/} ;;
        status) status=/dev/${port##*/} ;;
    esac
done
echo up >"$status"
cd /job || exit
bash ./script </dev/null >"$output" 2>&1
code=$?
sync
echo "exit $code" >"$status"
poweroff -f
