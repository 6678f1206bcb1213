# shellcheck shell=bash
# shellcheck disable=SC2034,SC2054 # the scripts use what is set here; the commas are Linux's
# The guest's machine is user-mode Linux: its kernel is an ordinary process; machine.sh says what the functions are.
#
# Sourced by machine.sh, never run. The root is the guest's folder of programs, or the one that VUZ_UML_ROOT names ("/" shows the guest
# what this machine has), seen read-only through hostfs; the job is copied from the host into memory by guest-init.sh. What the script
# prints and its status come over two lines, each a pipe on this side; the kernel's messages are on the console, which is the process's
# standard error.
#
#   MACHINE_UML, MACHINE_ROOT   set by machine_get

MACHINE_BOOT_SECONDS=60
MACHINE_TRIES=1
MACHINE_SHELL_HINT='its shell comes at once'

machine_get() {
    [[ -n ${MACHINE_UML:-} ]] || MACHINE_UML=$("$VUZ_SCRIPTS/uml.sh")
    MACHINE_ROOT=${VUZ_UML_ROOT:-}
    if [[ -z $MACHINE_ROOT ]]; then
        [[ -n ${MACHINE_GUEST:-} ]] || MACHINE_GUEST=$("$VUZ_SCRIPTS/guest.sh")
        MACHINE_ROOT=$MACHINE_GUEST/root
    fi
    export MACHINE_UML MACHINE_GUEST
}

# memory_folder MEMORY: prints where the file goes that is the guest's memory: /dev/shm where that is writable, can be executed from and has
# as much room; else where temporary files go.
memory_folder() {
    local options bytes room
    bytes=$(numfmt --from=iec "$1") || die "the memory is \"$1\"; it can be a number of bytes, with K, M or G behind it"
    options=$(findmnt -no OPTIONS -T /dev/shm 2>/dev/null || true)
    room=$(df -B1 --output=avail /dev/shm 2>/dev/null | tail -n 1 || true)
    if [[ -w /dev/shm && ,$options, != *,noexec,* && ${room:-0} -ge $bytes ]]; then
        printf '/dev/shm\n'
    else
        printf '%s\n' "${TMPDIR:-/tmp}"
    fi
}

machine_begin() {
    local memory extra folder
    [[ $1 -eq 1 ]] || die "a guest of user-mode Linux has one processor; --smp is $1"
    memory=$(memory_folder "$2")
    for folder in "$memory" "$MACHINE_ROOT" "$MACHINE_UML"; do
        [[ $folder != *[[:space:],]* ]] || die "user-mode Linux cannot be told of \"$folder\": a blank or a comma is in its name"
    done
    MACHINE_COMMAND=(
        env "TMPDIR=$memory" "$MACHINE_UML/linux" "mem=$2"
        # An oops is a panic, and a panic or a reboot ends the process.
        panic=-1 oops=panic noreboot quiet
        root=/dev/root rootfstype=hostfs "rootflags=$MACHINE_ROOT" ro
        null_blk.nr_devices=0 "MODULES=$MACHINE_UML/modules"
    )
    read -ra extra <<<"${MACHINE_EXTRA:-}"
    MACHINE_COMMAND+=("${extra[@]}")
}

machine_disk() {
    local socket
    socket=$(realpath "$1")
    [[ $socket != *[[:space:]:]* ]] || die "user-mode Linux cannot be told of $socket: a blank or a colon is in its name"
    MACHINE_COMMAND+=("virtio_uml.device=$socket:2")
}

# init_of FOLDER: prints the guest's name for its first process, having put that where the guest sees it.
init_of() {
    if [[ -e $MACHINE_ROOT/init ]]; then
        printf '/init\n'
    else
        # The whole of this machine is the root.
        printf '%s\n' "$VUZ_SCRIPTS/guest-init.sh"
    fi
}

machine_job() {
    local folder=$1 script=$2
    shift 2
    [[ $folder != *[[:space:],]* ]] || die "user-mode Linux cannot be told of \"$folder\": a blank or a comma is in its name"
    mkdir -p "$folder/job" "$folder/uml"
    cp -L "$script" "$folder/job/script"
    [[ $# -eq 0 ]] || cp -rL "$@" "$folder/job/"
    MACHINE_COMMAND+=(
        "uml_dir=$folder/uml/" "init=$(init_of)" "JOB=$folder/job"
        con=null con0=null,fd:2 con1=null,fd:3 ssl=null ssl0=null,fd:4
    )
}

machine_line() {
    mkfifo "$1/line.in" "$1/line.out"
    MACHINE_COMMAND+=(con2=fd:5,fd:6)
}

machine_shell() {
    mkdir -p "$1/uml"
    MACHINE_COMMAND+=("uml_dir=$1/uml/" "init=$(init_of)" con=null con0=fd:0,fd:1 ssl=null)
}

machine_start() {
    local status line_in=/dev/null line_out=/dev/null
    if [[ -p $1/line.in ]]; then
        line_in=$1/line.in line_out=$1/line.out
    fi
    # The status is whole when its reader has ended.
    exec {status}> >(exec cat >>"$1/status")
    MACHINE_STATUS_PID=$!
    # Linux goes with the calling script, however that ends, and however busy it is; it leaves no core file of itself when it panics.
    (
        ulimit -c 0
        exec setpriv --pdeathsig KILL "${MACHINE_COMMAND[@]}"
    ) </dev/null >"$1/machine.log" 2>"$1/console" 3>"$1/output" 4>&"$status" 5<>"$line_in" 6<>"$line_out" {status}>&- &
    MACHINE_PID=$!
    exec {status}>&-
}

machine_wait() {
    wait "$MACHINE_PID" || true
    wait "$MACHINE_STATUS_PID" || true
}
