#!/usr/bin/env bash
# Boots a guest of user-mode Linux that stays, for explore.py: disks come and go under it, and it does what it is asked, a line at a time.
#
# Usage: explore-boot.sh FOLDER
#
# FOLDER gets line.in, a FIFO for lines of shell; output, one for what they print and "end STATUS" behind that; console, the kernel's
# messages. The guest has two disks, of which none is there at first: its driver connects to FOLDER/disk0 and FOLDER/disk1 when it is told
# to. FOLDER/tasks is /run/tasks in the guest, read-only. The guest ends with this script, which ends when its standard
# input does.
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"

[[ $# -eq 1 ]] || die "usage: explore-boot.sh FOLDER (see its head)"
folder=$(realpath "$1")
export VUZ_MACHINE=uml
# shellcheck source=../qemu-scripts/machine.sh
. "$VUZ_SCRIPTS/machine.sh"
machine_get

MACHINE_PID=
# shellcheck disable=SC2317,SC2329 # called by the trap
cleanup() {
    [[ -z $MACHINE_PID ]] || kill -KILL "$MACHINE_PID" 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

mkdir -p "$folder/tasks"
rm -rf "$folder"/{output,line.in,line.out,job,status}
mkfifo "$folder/output"
machine_begin 1 "${EXPLORE_MEMORY:-256M}"
machine_disk "$folder/disk0" 1
machine_disk "$folder/disk1" 1
printf 'TASKS=%q\n' "$folder/tasks" >"$folder/explore.env"
machine_job "$folder" "$VUZ_TOP/harness/explore-guest.sh" "$folder/explore.env"
machine_line "$folder"
# Held open at both ends, so that nobody waits for another to open it.
exec {output}<>"$folder/output"
machine_start "$folder"
exec {output}>&-
# Until whoever has started this script goes, or the guest does.
while kill -0 "$MACHINE_PID" 2>/dev/null; do
    code=0
    read -r -t 0.5 || code=$?
    [[ $code -gt 128 ]] || break
done
