#!/bin/sh
# shellcheck shell=dash
# The guest's first process. In QEMU it is /init of the initramfs (copied there by guest.sh). In user-mode Linux the root is a folder of
# the host, seen read-only; the kernel's command line says where on the host the kernel's modules (MODULES) and the job (JOB) are.
#
# With a job (run.sh): runs its script as root in the job's folder, the script's output going to the line "output" and its exit status to
# the line "status", which also gets a sign of life every ten seconds; then powers off. Without one (boot.sh): a shell on the console,
# power off when it ends.

export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LC_ALL=C TERM=linux

power_off() {
    sync
    # A root that has no such program: by the kernel's own key for it.
    poweroff -f || echo o >/proc/sysrq-trigger
    sleep 60
}

shell() {
    echo
    echo "A shell in the guest. The zoned disk is /dev/vda (try: lsblk -z; blkzone report /dev/vda). 'exit' powers the guest off."
    if [ -x /bin/busybox ]; then
        setsid cttyhack bash -i
    else
        setsid -c bash -i </dev/tty0 >/dev/tty0 2>&1
    fi
    power_off
}

qemu_begin() {
    exec </dev/console >/dev/console 2>&1
    # The scheduler that keeps a zone's writes in order is a module in this kernel; so is the disk's driver.
    modprobe mq-deadline
    modprobe virtio_blk
    # The driver is probed when modprobe is back, unless the disk was refused: then the kernel says why on the console.
    mdev -s
    [ -e /job/script ] || shell
    cd /job || exit
    for port in /sys/class/virtio-ports/*; do
        case $(cat "$port/name") in
            output) output=/dev/${port##*/} ;;
            status) status=/dev/${port##*/} ;;
        esac
    done
    exec 5>"$output" 6>"$status"
}

# host_folder FOLDER WHERE: shows a folder of the host there. Newer programs name the option, older ones hand over all there is.
host_folder() { mount -t hostfs -o "hostfs=$1" host "$2" 2>/dev/null || mount -t hostfs -o "$1" host "$2"; }

uml_begin() {
    # What is said here is among the kernel's messages.
    exec </dev/null >/dev/kmsg 2>&1
    # In the rig's own guest everything may be written to; of a host that is the root little is hidden.
    places='/run /mnt'
    [ ! -d /job ] || places='/run /mnt /job /root /var/tmp'
    for place in $places; do
        mount -t tmpfs memory "$place"
    done
    [ ! -d /lib/modules ] || host_folder "$MODULES" /lib/modules
    if [ -z "$JOB" ]; then
        exec </dev/console >/dev/console 2>&1
        shell
    fi
    mkdir -p /run/host /run/job
    [ -d /job ] || cd /run/job || exit
    [ ! -d /job ] || cd /job || exit
    host_folder "$JOB" /run/host
    cp -a /run/host/. .
    umount /run/host
    exec 5>/dev/tty1 6>/dev/ttyS0
    # Byte by byte, as it comes. The lines are held open, so that they stay so.
    stty -F /dev/tty1 raw
    stty -F /dev/ttyS0 raw
}

if [ -x /bin/busybox ]; then
    # The one mount that needs nothing mounted.
    mount() { /bin/busybox mount "$@"; }
fi
# A kernel that has mounted this one itself is let be.
[ -e /dev/null ] || mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t debugfs debug /sys/kernel/debug
[ ! -d /sys/kernel/tracing ] || mount -t tracefs trace /sys/kernel/tracing
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t tmpfs shm /dev/shm
if [ -n "$MODULES" ]; then
    uml_begin
else
    qemu_begin
fi
hostname guest

echo up >&6
while sleep 10; do
    echo alive
done >&6 &
bash ./script </dev/null >&5 2>&1 5>&- 6>&-
code=$?
kill $!
sync
echo "exit $code" >&6
if [ -n "$MODULES" ]; then
    # Waits until the host has all of the two lines.
    stty -F /dev/tty1 sane
    stty -F /dev/ttyS0 sane
fi
power_off
