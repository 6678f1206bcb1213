#!/usr/bin/env bash
# Prints which accelerator boots the guest here: kvm or tcg (software).
#
# Usage: accel.sh
#
# That /dev/kvm exists does not say that it can run a stock kernel (inside some virtual machines it cannot), so the guest is booted once
# under KVM to see; the answer is kept in the cache until the host boots again. VUZ_ACCEL=kvm or =tcg skips all that.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/machine-qemu.sh"

if [[ -n ${VUZ_ACCEL:-} ]]; then
    printf '%s\n' "$VUZ_ACCEL"
    exit 0
fi
if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
    printf 'tcg\n'
    exit 0
fi

answer=$VUZ_CACHE/accel-$(cat /proc/sys/kernel/random/boot_id)
if [[ ! -s $answer ]]; then
    say "trying whether KVM can boot the guest (at most half a minute) ..."
    machine_get
    temp=$(mktemp -d)
    MACHINE_PID=
    # shellcheck disable=SC2317,SC2329 # called by the trap
    cleanup() {
        [[ -z $MACHINE_PID ]] || kill "$MACHINE_PID" 2>/dev/null || true
        rm -rf "$temp"
    }
    trap cleanup EXIT
    printf 'true\n' >"$temp/script"
    mkfifo "$temp/output"
    machine_begin 1 256M kvm
    machine_job "$temp" "$temp/script"
    cat "$temp/output" >/dev/null &
    machine_start "$temp"
    deadline=$((SECONDS + 30))
    # A guest that KVM cannot run is stopped by QEMU with this message, and would stand there until the time is up.
    while kill -0 "$MACHINE_PID" 2>/dev/null && ((SECONDS < deadline)) && ! grep -qs 'KVM internal error' "$temp/machine.log"; do
        sleep 0.2
    done
    kill -KILL "$MACHINE_PID" 2>/dev/null || true
    machine_wait 2>/dev/null
    MACHINE_PID=
    result=tcg
    if grep -q '^exit 0' "$temp/status" 2>/dev/null; then
        result=kvm
    fi
    rm -f "$VUZ_CACHE"/accel-*
    printf '%s\n' "$result" >"$temp/answer"
    cp "$temp/answer" "$answer.new.$$"
    mv "$answer.new.$$" "$answer"
    [[ $result == kvm ]] || say "KVM does not run the guest here; using software emulation (TCG)"
fi
cat "$answer"
