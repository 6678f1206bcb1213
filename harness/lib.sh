# shellcheck shell=bash
# What the harnesses share: options, disks, guests one after another until every test has been run, the verdict.
#
# Sourced, never run; takes the traps. The sourcing script sets before harness_options:
#   SUITE           the suite's name
# and before harness_run:
#   DISKS           how many zoned disks the guest gets
#   DISK            what is served, as "serve --create" takes it; DISK_OPTIONS: further options of serve
#   KNOWN           the lists of known failures
#   CHECK           arguments of the suite's check; VARIABLES: lines of shell for the guest's script
#
# A guest that dies or hangs in a test ends that test: it has failed, and a new guest runs those that are left.
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"
# shellcheck source=../qemu-scripts/daemon.sh
. "$VUZ_SCRIPTS/daemon.sh"

HARNESS=$VUZ_TOP/harness
# A guest in which no test begins or ends for this long hangs; see --test-seconds.
TEST_SECONDS=900
MEMORY=1G
DIR='' JUNIT='' RESULTS='' ROOT=host DISK='' FS=''
GROUPS_TAKEN=() GROUPS_LEFT=() TESTS=() KNOWN=() KNOWN_TOO=() DISK_OPTIONS=() VARIABLES=()
# The daemons, as daemon.sh knows one.
PIDS=() LOGS=()
guest_pid=

# harness_die MESSAGE: the harness itself could not do what it should: exit status 2.
harness_die() {
    say "$*"
    exit 2
}

# What a script of the rig ends with when it cannot go on is not to be taken for failed tests.
die() { harness_die "$@"; }

# harness_options ARGUMENT...: sets the variables above from the command line.
harness_options() {
    while [[ $# -gt 0 ]]; do
        case $1 in
            -*) need_value "$1" $# ;;&
            --fs) FS=$2 ;;
            -g | --group) GROUPS_TAKEN+=("$2") ;;
            -x | --exclude-group) GROUPS_LEFT+=("$2") ;;
            --disk) DISK=$2 ;;
            --known) KNOWN_TOO+=("$2") ;;
            --junit) JUNIT=$2 ;;
            --results) RESULTS=$2 ;;
            --root) ROOT=$2 ;;
            --mem) MEMORY=$2 ;;
            --test-seconds) TEST_SECONDS=$2 ;;
            -*) die "unknown option $1 (see the head of $SUITE.sh)" ;;
            *)
                if [[ -z $DIR ]]; then DIR=$1; else TESTS+=("$1"); fi
                shift
                continue
                ;;
        esac
        shift 2
    done
    [[ -n $DIR ]] || die "say where your built $SUITE is: $SUITE.sh DIR (see its head)"
    [[ -x $DIR/check ]] || die "$DIR has no program \"check\": give the folder of a built $SUITE"
    DIR=$(realpath "$DIR")
    [[ $TEST_SECONDS =~ ^[0-9]+$ ]] || die "--test-seconds is \"$TEST_SECONDS\"; it can be a number of seconds"
    for file in "${KNOWN_TOO[@]}"; do
        [[ -f $file ]] || die "--known: no such file: $file"
    done
}

# results_folder: makes the folder for the results; one that this harness has made is made anew, another's is let be.
results_folder() {
    RESULTS=${RESULTS:-$SUITE-results}
    if [[ -e $RESULTS/transcript ]]; then
        rm -rf "$RESULTS"
    elif [[ -e $RESULTS && -n $(ls -A "$RESULTS") ]]; then
        die "--results: $RESULTS has other things in it: give a new folder"
    fi
    mkdir -p "$RESULTS/check"
    RESULTS=$(realpath "$RESULTS")
    : >"$RESULTS/transcript"
    for folder in "$DIR" "$RESULTS"; do
        [[ $folder != *[[:space:],]* ]] || die "user-mode Linux cannot be told of \"$folder\": a blank or a comma is in its name"
    done
}

# guest_root: sets which root and which kernel the guest has.
guest_root() {
    case $ROOT in
        host) VUZ_UML_ROOT=/ ;;
        newest) VUZ_UML_ROOT=$("$HARNESS/root.sh") ;;
        *)
            [[ -d $ROOT ]] || die "--root is \"$ROOT\"; it can be host, newest or a folder"
            VUZ_UML_ROOT=$(realpath "$ROOT")
            ;;
    esac
    MACHINE_UML=$("$VUZ_SCRIPTS/uml.sh")
    export VUZ_UML_ROOT MACHINE_UML
}

# foreign_libraries: copies into $temp/lib the libraries that the suite's programs load here and that the guest's root does not have.
foreign_libraries() {
    local library
    mkdir "$temp/lib"
    [[ $VUZ_UML_ROOT != / ]] || return 0
    # Programs, not scripts; some need no library at all.
    { find "$DIR" -type f -perm -u+x -exec grep -laZ $'^\x7fELF' {} + | xargs -r0 ldd 2>/dev/null || true; } |
        awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        while read -r library; do
            [[ -n $(find "$VUZ_UML_ROOT"/usr/lib "$VUZ_UML_ROOT"/lib/ -name "${library##*/}" -print -quit 2>/dev/null) ]] || cp -L "$library" "$temp/lib/"
        done
}

# shellcheck disable=SC2317,SC2329 # called by the trap
harness_cleanup() {
    [[ -z $guest_pid ]] || kill "$guest_pid" 2>/dev/null || true
    for DAEMON_PID in "${PIDS[@]}"; do
        daemon_cleanup
    done
    rm -rf "$temp"
}

disks_start() {
    local number
    # shellcheck disable=SC2153 # the sourcing script sets it
    for ((number = 0; number < DISKS; number++)); do
        daemon_start "$temp/disk$number.qcow2" "$temp/disk$number" --create "$DISK" "${DISK_OPTIONS[@]}" || die "disk $number could not be served, see above"
        PIDS+=("$DAEMON_PID")
        LOGS+=("$DAEMON_LOG")
        DAEMON_PID=
    done
}

# disks_stop: ends the daemons and checks their images; each disk becomes a line of the transcript, like a test of check's.
disks_stop() {
    local number code
    for number in "${!PIDS[@]}"; do
        DAEMON_PID=${PIDS[number]} DAEMON_LOG=${LOGS[number]} code=0
        daemon_stop || code=$?
        cp "$DAEMON_LOG" "$RESULTS/daemon$number.log"
        if [[ $code -ne 0 ]]; then
            printf 'harness: disk %s failed its daemon ended with status %s, see daemon%s.log\n' "$number" "$code" "$number"
        elif ! "$VUZ_BIN" check "$temp/disk$number.qcow2" >"$temp/check.log" 2>&1; then
            printf 'harness: disk %s failed its image has faults\n' "$number"
            sed 's/^/    /' "$temp/check.log"
        else
            printf 'harness: disk %s passed\n' "$number"
        fi
    done >>"$RESULTS/transcript"
    PIDS=()
}

# guest_settings: what the guest's script has to know.
guest_settings() {
    local sockets=("$@")
    printf 'SUITE_FOLDER=%q\nRESULTS_FOLDER=%q\nDISKS=%q\n' "$DIR" "$RESULTS/check" "${#sockets[@]}"
    printf 'CHECK=('
    printf '%q ' "${CHECK[@]}"
    printf ')\n'
    printf '%s\n' "${VARIABLES[@]}"
}

# guest_run NUMBER: boots a guest that runs the tests that have not been run. Returns what run.sh does, 124 too for one that hangs.
guest_run() {
    local number option=() sockets=() code=0
    for ((number = 0; number < DISKS; number++)); do
        sockets+=("$temp/disk$number")
        option+=(--socket "$temp/disk$number")
    done
    guest_settings "${sockets[@]}" >"$temp/harness.env"
    "$HARNESS/results.py" seen "$RESULTS/transcript" >"$temp/seen"
    MACHINE_PIDFILE=$temp/machine.pid "$VUZ_SCRIPTS/run.sh" --uml --mem "$MEMORY" --timeout 1000000 --console "$RESULTS/console$1" "${option[@]}" \
        "$HARNESS/$SUITE-guest.sh" "$HARNESS/guest-lib.sh" "$temp/harness.env" "$temp/seen" "$temp/lib" "$MACHINE_UML/config" >>"$RESULTS/transcript" 2>"$temp/run.log" &
    guest_pid=$!
    # A guest that is started has the time of a test too.
    touch "$RESULTS/transcript"
    while kill -0 "$guest_pid" 2>/dev/null; do
        if (($(date +%s) - $(stat -c %Y "$RESULTS/transcript") > TEST_SECONDS)); then
            # Linux, which hangs, might take a milder signal for one more thing to wait for.
            kill -KILL "$(cat "$temp/machine.pid")" 2>/dev/null || true
            code=124
            break
        fi
        sleep 0.2
    done
    if [[ $code -eq 124 ]]; then wait "$guest_pid" || true; else wait "$guest_pid" || code=$?; fi
    guest_pid=
    return "$code"
}

# harness_run: all of it; the script's end.
harness_run() {
    local boot=1 code before
    temp=$(mktemp -d)
    trap harness_cleanup EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    "$HARNESS/results.py" known "${KNOWN[@]}" "${KNOWN_TOO[@]}" || die "a list of known failures cannot be read, see above"
    results_folder
    daemon_build
    guest_root
    foreign_libraries
    disks_start
    say "$SUITE in a guest, its results in $RESULTS"
    while :; do
        before=$(grep -c . "$temp/seen" 2>/dev/null || true)
        code=0
        guest_run "$boot" || code=$?
        # The suite's check has come to its end.
        ! tail -n 1 "$RESULTS/transcript" | grep -q '^harness: check ended' || break
        "$HARNESS/results.py" seen "$RESULTS/transcript" >"$temp/seen"
        if [[ $(grep -c . "$temp/seen") -le ${before:-0} ]]; then
            cat "$temp/run.log" >&2
            die "the guest ended (status $code of run.sh) before it began a test, see above, $RESULTS/transcript and console$boot"
        fi
        if [[ $code -eq 124 ]]; then
            printf '\nharness: guest hung for %s seconds, see console%s\n' "$TEST_SECONDS" "$boot"
        else
            printf '\nharness: guest died, see console%s\n' "$boot"
        fi >>"$RESULTS/transcript"
        say "the guest ended in $(tail -n 1 "$temp/seen"); the tests that are left run in a new one"
        boot=$((boot + 1))
    done
    disks_stop
    code=0
    "$HARNESS/results.py" verdict --suite "$SUITE${FS:+-$FS}" --junit "${JUNIT:-$RESULTS/junit.xml}" "${KNOWN[@]/#/--known=}" "${KNOWN_TOO[@]/#/--known=}" \
        "$RESULTS/transcript" || code=$?
    [[ $code -ne 2 ]] || tail -n 20 "$RESULTS/transcript" >&2
    exit "$code"
}
