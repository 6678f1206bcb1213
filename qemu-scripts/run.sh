#!/usr/bin/env bash
# Boots the guest, runs a script in it as root, powers off. The script's exit status is this program's.
#
# Usage: run.sh [--uml] [--socket PATH... | --image FILE] [--queues N] [--smp N] [--mem SIZE] [--timeout SECONDS] [--console FILE]
#               [--control PATH | [--volatile-cache] [--faults]] [--cut FILE] SCRIPT [FILES...]
#        run.sh --power-cut WORDS --image FILE ... BEFORE AFTER [FILES...]
#
#   --uml       the guest is user-mode Linux and not QEMU's: up in a third of a second, as any user, without KVM; one processor, one queue
#   --socket    the vhost-user socket of a running daemon; its disk is /dev/vda, that of a second one /dev/vdb. Without it: no disk.
#   --image     or an image, which is served as long as this runs
#   --queues    queues of a disk (1); has to equal the daemon's --num-queues (QEMU's generic device: or the guest refuses the disk)
#   --smp       processors (1)
#   --mem       memory (512M)
#   --timeout   the guest is stopped after this long (300); exit status 124
#   --console   keeps the kernel's console output in FILE; of two guests that of the last one
#
#   --power-cut       two scripts, and the power goes when the first has ended, or at the moment that WORDS say (one word of the shell:
#                     "lose=all at=request:100"; docs/power.md has them). Then the guest is killed, and AFTER runs in a new one. With
#                     then=fail both run in one guest, whose driver lets go of the disk and takes it again between them
#   --volatile-cache  the image is served with a volatile cache, whose power SCRIPT may cut: beside it is ./power (see guest-power.sh)
#   --faults          the image's requests fail as SCRIPT says: beside it is ./fault (see guest-fault.sh)
#   --control         both for /dev/vda of a daemon that is running, which has this control socket; ./power wants a volatile cache
#   --cut             keeps what the cuts have left in FILE, a line of JSON for each, as "ctl --json power-cut" has it; without it that
#                     goes to standard error
#
# SCRIPT is run by bash with FILES (files or folders) beside it as its current folder. Its output comes to standard output as it is
# written, byte by byte. Exit status 125: the guest did not boot, or died or hung before the script was done; which of these is said, and
# the end of its console is shown. 123: there was no cut, as its moment did not come or the daemon refused it. When one of two scripts
# fails, its status is this program's, and which it was is said.
#
# VUZ_MACHINE=uml in the environment is --uml; MACHINE_PIDFILE is where the number of the machine's process goes. VUZ_GUEST says which
# programs are in the guest (see guest.sh); VUZ_UML_ROOT=/ shows a guest of user-mode Linux this machine's own, read-only.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"
. "$VUZ_SCRIPTS/power.sh"

# A guest gives a sign of life every ten seconds; one that has given none for this long hangs.
SILENT_SECONDS=40

sockets=() image='' queues=1 cpus=1 memory=512M seconds=300 console='' volatile='' faults='' control='' cuts='' words=()
while [[ ${1:-} == --* ]]; do
    case $1 in
        --uml) VUZ_MACHINE=uml ;;
        --volatile-cache) volatile=1 ;;
        --faults) faults=1 ;;
        *) need_value "$1" $# ;;
    esac
    case $1 in
        --uml | --volatile-cache | --faults)
            shift
            continue
            ;;
        --socket) sockets+=("$2") ;;
        --image) image=$2 ;;
        --control) control=$2 ;;
        --cut) cuts=$2 ;;
        --power-cut) words=("$2") ;;
        --queues) queues=$2 ;;
        --smp) cpus=$2 ;;
        --mem) memory=$2 ;;
        --timeout) seconds=$2 ;;
        --console) console=$2 ;;
        *) die "unknown option $1 (see the head of run.sh)" ;;
    esac
    shift 2
done
scripts=1
[[ ${#words[@]} -eq 0 ]] || scripts=2
if [[ $# -lt $scripts ]]; then
    [[ $scripts -eq 1 ]] || die "usage: run.sh --power-cut WORDS [options] BEFORE AFTER [FILES...] (see the head of run.sh)"
    die "usage: run.sh [options] SCRIPT [FILES...] (see the head of run.sh)"
fi
for file in "$@"; do
    [[ -e $file ]] || die "no such file: $file"
done
[[ ${#sockets[@]} -eq 0 || -z $image ]] || die "--socket and --image exclude each other"
[[ -z $volatile || -n $image ]] || die "--volatile-cache is of the daemon that serves --image"
[[ -z $faults || -n $image ]] || die "--faults is of the daemon that serves --image; expected --control with --socket"
[[ -z $control || ${#sockets[@]} -gt 0 ]] || die "--control is of the daemon that is behind --socket"
[[ $scripts -eq 1 || -n $image$control ]] || die "--power-cut: say which disk: --image FILE, or --socket PATH and --control PATH"
[[ -z $cuts || -n $volatile$control || $scripts -eq 2 ]] || die "--cut without --power-cut, --volatile-cache or --control: no power is cut"
[[ -z $image || -f $image ]] || die "no such image: $image"
for socket in "${sockets[@]}" ${control:+"$control"}; do
    [[ -S $socket ]] || die "$socket is not a socket"
done
[[ $scripts -eq 1 || -z $image ]] || volatile=1

. "$VUZ_SCRIPTS/machine.sh"
machine_get

temp=$(mktemp -d)
# What is of the guest that runs is in a folder of its own.
here=$temp/guest
MACHINE_PID='' cat_pid=

# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    if [[ -n $MACHINE_PID ]]; then
        { machine_end && machine_wait; } 2>/dev/null
    fi
    if [[ -n $cat_pid ]]; then
        kill "$cat_pid" 2>/dev/null || true
        wait "$cat_pid" 2>/dev/null || true
    fi
    power_silence
    [[ -z $DAEMON_PID ]] || daemon_stop || true
    if [[ -n $console ]]; then
        cp "$here/console" "$console" 2>/dev/null || true
    fi
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

if [[ -n $image || -n $control ]]; then
    daemon_build
fi
# serve: starts the daemon of --image.
serve() {
    local options=(--num-queues "$queues")
    [[ -z $control ]] || options+=(--control-path "$control")
    [[ -z $volatile ]] || options+=(--volatile-cache)
    daemon_start "$image" "$temp/socket" "${options[@]}" || exit 1
}
if [[ -n $image ]]; then
    [[ -z $volatile$faults ]] || control=$temp/control
    serve
    sockets=("$temp/socket")
fi
[[ -z $control ]] || power_begin "$control" "$cuts" "${words[@]}"
[[ $scripts -eq 1 || -z $image ]] || power_check "$temp"
[[ $POWER_THEN != exit || -n $image ]] || die "--power-cut: with then=exit the daemon of --socket would be gone: expected --image"

# machine SCRIPT FILE...: puts a guest together.
machine() {
    mkdir "$here"
    mkfifo "$here/output"
    machine_begin "$cpus" "$memory"
    for socket in "${sockets[@]}"; do
        machine_disk "$socket" "$queues"
    done
    if [[ -n $control ]]; then
        cp "$VUZ_SCRIPTS/guest-line.sh" "$temp/.line"
        cp "$VUZ_SCRIPTS/guest-power.sh" "$temp/power"
        cp "$VUZ_SCRIPTS/guest-fault.sh" "$temp/fault"
        set -- "$@" "$temp"/{.line,power,fault}
    fi
    machine_job "$here" "$@"
    [[ -z $control ]] || machine_line "$here"
}

show_end() {
    say "$1; the end of the guest's console and of its machine's messages:"
    tail -n 40 "$here/console" "$here/machine.log" >&2 2>/dev/null || true
}

# silent_seconds: prints how long ago the guest last said something on its status line.
silent_seconds() { printf '%s\n' $(($(date +%s) - $(stat -c %Y "$here/status"))); }

# complaint PATTERN: prints the first line of the console that matches, without its time.
complaint() { sed -n "s/^\[[ 0-9.]*\] //; /$1/{p;q}" "$here/console" 2>/dev/null || true; }

exec {errors}>&2
# boot: one try. Returns 0 when the job was begun, having waited for its end; 1 when the guest never came up.
boot() {
    local begun=$SECONDS up=
    : >"$here/status"
    cat "$here/output" &
    cat_pid=$!
    [[ -z $control ]] || power_listen "$here"
    machine_start "$here"
    [[ -z ${MACHINE_PIDFILE:-} ]] || printf '%s\n' "$MACHINE_PID" >"$MACHINE_PIDFILE"
    timed_out='' silent=0
    # What bash itself says of a machine that a signal has ended is nobody's business.
    while kill -0 "$MACHINE_PID"; do
        if [[ -z $up ]]; then
            if [[ -s $here/status ]]; then
                up=1
            elif ((SECONDS - begun >= MACHINE_BOOT_SECONDS)); then
                break
            fi
        elif ((SECONDS - begun >= seconds)); then
            timed_out=1
            silent=$(silent_seconds)
            break
        elif [[ -n $is_before ]] && power_over 2>&"$errors"; then
            machine_kill
        fi
        # A guest may be done in half a second.
        if ((SECONDS - begun < 3)); then sleep 0.02; else sleep 0.1; fi
    done 2>/dev/null
    { machine_end && machine_wait; } 2>/dev/null
    MACHINE_PID=
    power_silence
    # When the machine ended before it opened the FIFO, cat is still waiting for a writer.
    if [[ -z $up && ! -s $here/status ]]; then
        kill "$cat_pid" 2>/dev/null || true
    fi
    wait "$cat_pid" || true
    cat_pid=
    [[ -s $here/status ]]
}

# until_up: boots, once more where that is worth a try.
until_up() {
    local tries=1
    until boot; do
        if ((tries == MACHINE_TRIES)); then
            show_end "the guest did not come up"
            exit 125
        fi
        show_end "the guest did not come up; booting it once more"
        tries=$((tries + 1))
    done
}

# end WHOSE: ends as the guest has, whose script is "the script", or one of two.
end() {
    local whose=$1 code stuck oops
    code=$(sed -n 's/^exit //p' "$here/status")
    if [[ -n $code && -z $timed_out ]]; then
        [[ $scripts -eq 1 || $code -eq 0 ]] || say "$whose ended with status $code"
        [[ -z $DAEMON_PID ]] || daemon_stop || exit 1
        exit "$code"
    fi
    if [[ -n $timed_out ]]; then
        stuck=$(complaint 'blocked for more than')
        if ((silent >= SILENT_SECONDS)); then
            show_end "stopped the guest, which hung: its last sign of life was $silent seconds before the end of its time of $seconds seconds"
            exit 125
        elif [[ -n $stuck ]]; then
            show_end "stopped the guest after $seconds seconds, in which something hung (\"$stuck\")"
            exit 125
        fi
        show_end "stopped the guest: $whose was not done after $seconds seconds"
        exit 124
    fi
    oops=$(complaint 'Oops\|BUG: \|Kernel panic')
    show_end "the guest died before $whose was done${oops:+, of a fault in its kernel (\"$oops\")}"
    exit 125
}

is_before=
if [[ $scripts -eq 1 ]]; then
    machine "$@"
    until_up
    end "the script"
fi

# The first of two scripts, and the cut.
before="the script before the cut (${1##*/})" after="the script after the cut (${2##*/})"
cp -L "$1" "$temp/.before"
cp -L "$2" "$temp/.after"
shift 2
printf 'exec ./power both\n' >"$temp/both"
is_before=1
machine "$temp/both" "$temp/.before" "$temp/.after" "$@"
until_up
if [[ -e $here/wrong ]]; then
    say "the power was not cut: $(<"$here/wrong")"
    exit 123
elif [[ ! -e $here/cut && -s $here/ended ]]; then
    say "$before ended with status $(<"$here/ended"); the power was not cut"
    exit "$(<"$here/ended")"
elif [[ ! -e $here/cut ]]; then
    end "$before"
elif [[ $POWER_THEN == fail ]]; then
    [[ -e $here/after ]] || after="what brings the power back"
    end "$after"
fi

# The second one, in a guest of its own; of the first nothing is left.
is_before=
rm -rf "$here"
if [[ $POWER_THEN == exit ]]; then
    wait "$DAEMON_PID" || die "the daemon did not end well after the cut"
    DAEMON_PID=
    serve
fi
cp "$temp/.after" "$temp/after"
machine "$temp/after" "$@"
until_up
end "$after"
