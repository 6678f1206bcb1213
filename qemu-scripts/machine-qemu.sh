# shellcheck shell=bash
# shellcheck disable=SC2034,SC2054 # the scripts use what is set here; the commas are QEMU's
# The guest's machine is QEMU; machine.sh says what the functions are.
#
# Sourced by machine.sh and accel.sh, never run. The zoned disk needs memory that the daemon can map, hence the shared memory backend. The
# job lies in /job of a second archive behind the guest's initramfs.
#
#   MACHINE_QEMU, MACHINE_GUEST   set by machine_get

# Under TCG a boot takes some ten seconds; a guest that is not up by then is hung.
MACHINE_BOOT_SECONDS=120
# TCG with two processors has been seen to hit "Oops: int3" about once in 70 boots while the kernel patches itself, before init runs.
# Nothing of the job has run then: the guest is booted once more.
MACHINE_TRIES=2
MACHINE_SHELL_HINT='its shell comes in some ten seconds'

machine_get() {
    [[ -n ${MACHINE_QEMU:-} ]] || MACHINE_QEMU=$("$VUZ_SCRIPTS/qemu.sh")
    [[ -n ${MACHINE_GUEST:-} ]] || MACHINE_GUEST=$("$VUZ_SCRIPTS/guest.sh")
    export MACHINE_QEMU MACHINE_GUEST
}

# machine_begin CPUS MEMORY [ACCEL]
machine_begin() {
    local accel=${3:-} extra
    [[ -n $accel ]] || accel=$("$VUZ_SCRIPTS/accel.sh")
    # A reboot or a panic ends QEMU; an oops is a panic, so that a sick guest ends at once and with its message on the console.
    MACHINE_KERNEL_OPTIONS="quiet panic=-1 oops=panic"
    MACHINE_DISKS=0
    MACHINE_COMMAND=(
        "$MACHINE_QEMU/run"
        -accel "$accel" -machine q35,memory-backend=memory -smp "$1" -m "$2"
        -object "memory-backend-memfd,id=memory,size=$2,share=on"
        -nodefaults -display none -no-reboot -no-user-config
        -kernel "$MACHINE_GUEST/vmlinuz"
    )
    if [[ $accel == kvm ]]; then
        MACHINE_COMMAND+=(-cpu host)
    else
        MACHINE_COMMAND+=(-cpu max)
    fi
    read -ra extra <<<"${MACHINE_EXTRA:-}"
    MACHINE_COMMAND+=("${extra[@]}")
}

machine_disk() {
    local id=zoned$MACHINE_DISKS device chardev
    # The first one keeps the name that tests know.
    [[ $id != zoned0 ]] || id=zoned
    MACHINE_DISKS=$((MACHINE_DISKS + 1))
    chardev=$(cat "$MACHINE_QEMU/chardev")
    device=$(sed -e "s/@CHARDEV@/$id/" -e "s/@QUEUES@/$2/" "$MACHINE_QEMU/device")
    MACHINE_COMMAND+=(-chardev "socket,id=$id,path=${1//,/,,}$chardev" -device "$device")
}

# machine_initramfs FOLDER SCRIPT FILE...: puts FOLDER/initramfs, the guest's with the job behind it; also for a QEMU that libvirt starts.
machine_initramfs() {
    local folder=$1 script=$2 stage=$1/job-stage
    shift 2
    mkdir -p "$stage/job"
    cp -L "$script" "$stage/job/script"
    [[ $# -eq 0 ]] || cp -rL "$@" "$stage/job/"
    (cd "$stage" && find . | "$MACHINE_GUEST/busybox" cpio -o -H newc -R 0:0) >"$folder/job.cpio" 2>"$folder/cpio.log"
    cat "$MACHINE_GUEST/initramfs" "$folder/job.cpio" >"$folder/initramfs"
}

machine_job() {
    local folder=$1 quoted=${1//,/,,}
    machine_initramfs "$@"
    MACHINE_COMMAND+=(
        -initrd "$folder/initramfs" -append "console=ttyS0 $MACHINE_KERNEL_OPTIONS"
        -serial "file:$folder/console"
        -device virtio-serial-pci
        -chardev "file,id=output,path=$quoted/output" -device virtserialport,chardev=output,name=output
        -chardev "file,id=status,path=$quoted/status" -device virtserialport,chardev=status,name=status
    )
}

machine_line() {
    mkfifo "$1/line.in" "$1/line.out"
    MACHINE_COMMAND+=(-chardev "pipe,id=power,path=${1//,/,,}/line" -device virtserialport,chardev=power,name=power)
}

machine_shell() {
    MACHINE_COMMAND+=(
        -initrd "$MACHINE_GUEST/initramfs" -append "console=ttyS0 $MACHINE_KERNEL_OPTIONS"
        -serial mon:stdio
    )
}

machine_start() {
    # QEMU goes with the calling script, however that ends.
    setpriv --pdeathsig TERM "${MACHINE_COMMAND[@]}" </dev/null >"$1/machine.log" 2>&1 &
    MACHINE_PID=$!
}

machine_wait() { wait "$MACHINE_PID" || true; }
