# shellcheck shell=bash
# The guest's machine: QEMU, or user-mode Linux when VUZ_MACHINE=uml. Each brings the same functions.
#
# Sourced, never run.
#
#   machine_get                          gets the machine and the guest's programs, once
#   machine_begin CPUS MEMORY            begins MACHINE_COMMAND
#   machine_disk SOCKET QUEUES           adds a zoned disk: the first is /dev/vda, the second /dev/vdb
#   machine_job FOLDER SCRIPT FILE...    adds a job for guest-init.sh. FOLDER/status becomes "up", "alive" every ten seconds, "exit CODE";
#                                        FOLDER/console gets the kernel's messages, FOLDER/machine.log those of the machine itself
#   machine_line FOLDER                  adds a line to a job, both ways: FOLDER/line.in and line.out, FIFOs; "power" or tty2 in the guest
#   machine_shell FOLDER                 adds a shell on this terminal instead
#   machine_start FOLDER                 starts a machine with a job: MACHINE_PID. The script's output goes to FOLDER/output, a FIFO
#   machine_wait                         waits for its end, after which FOLDER/status is whole
#   machine_kill                         ends it as a loss of power does
#   machine_end                          ends the process MACHINE_PID if it is still there, by force when it does not listen
#
#   MACHINE_BOOT_SECONDS, MACHINE_TRIES  how long a boot may take, and how often one that fails is tried
#   MACHINE_SHELL_HINT                   what to say before a shell
#   MACHINE_EXTRA (environment)          further options of the machine, split at blanks; for experiments

machine_kill() { kill -KILL "$MACHINE_PID" || true; }

# A Linux that hangs does not listen.
machine_end() {
    local tries
    kill "$MACHINE_PID" || return 0
    for ((tries = 0; tries < 30; tries++)); do
        sleep 0.1
        kill -0 "$MACHINE_PID" || return 0
    done
    kill -KILL "$MACHINE_PID" || true
}

case ${VUZ_MACHINE:-qemu} in
    qemu | uml)
        # shellcheck source=/dev/null
        . "$VUZ_SCRIPTS/machine-${VUZ_MACHINE:-qemu}.sh"
        ;;
    *) die "VUZ_MACHINE is \"$VUZ_MACHINE\"; it can be qemu or uml" ;;
esac
