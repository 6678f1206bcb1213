# shellcheck shell=bash
# shellcheck disable=SC2054 # the commas are QEMU's
# The guest's machine: the one QEMU command line that boot.sh, run.sh and accel.sh use.
#
# Sourced, never run. The zoned disk needs memory that the daemon can map, hence the shared memory backend.
#
#   machine_get                              gets QEMU and the guest, once: MACHINE_QEMU, MACHINE_GUEST
#   machine_initramfs FOLDER SCRIPT FILE...  puts FOLDER/initramfs: the guest's with the job in /job of a second archive behind it
#   machine_arguments ACCEL CPUS MEMORY      begins MACHINE_ARGUMENTS
#   machine_disk_arguments SOCKET QUEUES     adds the zoned disk
#   machine_job_arguments FOLDER             adds what guest-init.sh uses to run a job: FOLDER/output (a FIFO or file made by the caller),
#                                            FOLDER/status, FOLDER/console; boots FOLDER/initramfs
#   machine_shell_arguments                  adds the serial console on the terminal instead
#
# MACHINE_EXTRA (environment): further QEMU options, split at blanks; for experiments.

machine_get() {
    [[ -n ${MACHINE_QEMU:-} ]] || MACHINE_QEMU=$("$VUZ_SCRIPTS/qemu.sh")
    [[ -n ${MACHINE_GUEST:-} ]] || MACHINE_GUEST=$("$VUZ_SCRIPTS/guest.sh")
    export MACHINE_QEMU MACHINE_GUEST
}

machine_initramfs() {
    local folder=$1 script=$2 job=$1/job-stage
    shift 2
    mkdir -p "$job/job"
    cp -L "$script" "$job/job/script"
    [[ $# -eq 0 ]] || cp -rL "$@" "$job/job/"
    (cd "$job" && find . | "$MACHINE_GUEST/busybox" cpio -o -H newc -R 0:0) >"$folder/job.cpio" 2>"$folder/cpio.log"
    cat "$MACHINE_GUEST/initramfs" "$folder/job.cpio" >"$folder/initramfs"
}

machine_arguments() {
    # A reboot or a panic ends QEMU; an oops is a panic, so that a sick guest ends at once and with its message on the console.
    MACHINE_KERNEL_OPTIONS="quiet panic=-1 oops=panic"
    MACHINE_ARGUMENTS=(
        -accel "$1" -machine q35,memory-backend=memory -smp "$2" -m "$3"
        -object "memory-backend-memfd,id=memory,size=$3,share=on"
        -nodefaults -display none -no-reboot -no-user-config
        -kernel "$MACHINE_GUEST/vmlinuz"
    )
    if [[ $1 == kvm ]]; then
        MACHINE_ARGUMENTS+=(-cpu host)
    else
        MACHINE_ARGUMENTS+=(-cpu max)
    fi
    if [[ -n ${MACHINE_EXTRA:-} ]]; then
        local extra
        read -ra extra <<<"$MACHINE_EXTRA"
        MACHINE_ARGUMENTS+=("${extra[@]}")
    fi
}

machine_disk_arguments() {
    local device chardev
    chardev=$(cat "$MACHINE_QEMU/chardev")
    device=$(sed -e 's/@CHARDEV@/zoned/' -e "s/@QUEUES@/$2/" "$MACHINE_QEMU/device")
    MACHINE_ARGUMENTS+=(-chardev "socket,id=zoned,path=${1//,/,,}$chardev" -device "$device")
}

machine_job_arguments() {
    local folder=${1//,/,,}
    MACHINE_ARGUMENTS+=(
        -initrd "$1/initramfs" -append "console=ttyS0 $MACHINE_KERNEL_OPTIONS"
        -serial "file:$1/console"
        -device virtio-serial-pci
        -chardev "file,id=output,path=$folder/output" -device virtserialport,chardev=output,name=output
        -chardev "file,id=status,path=$folder/status" -device virtserialport,chardev=status,name=status
    )
}

machine_shell_arguments() {
    MACHINE_ARGUMENTS+=(
        -initrd "$MACHINE_GUEST/initramfs" -append "console=ttyS0 $MACHINE_KERNEL_OPTIONS"
        -serial mon:stdio
    )
}
