#!/usr/bin/env bash
# The whole thing once, from nothing: builds the daemon, makes an image, serves it, boots a Linux guest on it, shows the zoned disk
# there before and after writes, and reports the image's zones from the host.
#
# Usage: demo.sh
#
# Needs no KVM. The guest is user-mode Linux where its kernel is kept (uml.sh builds it), QEMU's otherwise; VUZ_MACHINE says which. The
# first run fetches and builds for some minutes, a later one takes some seconds, or half a minute with QEMU.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/daemon.sh"
prefer_kept_uml
. "$VUZ_SCRIPTS/machine.sh"

"$VUZ_SCRIPTS/deps.sh"
daemon_build
machine_get

temp=$(mktemp -d)
run_pid=
daemon_take_traps

say "making an image: 1 GiB, zones of 64 MiB with 48 MiB capacity, 2 of them conventional"
"$VUZ_BIN" create "$temp/disk.qcow2" 1G --zone-size 64M --zone-capacity 48M --conventional-zones 2 --max-open-zones 6 --max-active-zones 8
say "serving it"
daemon_start "$temp/disk.qcow2" "$temp/socket" --num-queues 1
say "booting the guest ..."
"$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" "$VUZ_SCRIPTS/demo-guest.sh" &
run_pid=$!
wait "$run_pid"
run_pid=
say "the guest is off; ending the daemon"
daemon_stop
printf '\n--- the same zones, reported on the host from the image file\n'
"$VUZ_BIN" report "$temp/disk.qcow2"
say "done"
