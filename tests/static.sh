#!/usr/bin/env bash
# Runs the integration tests on the static program of packaging/static.sh, under its own list of system calls, and serves a disk with it
# from a folder that has nothing else, as in a container made from scratch. Not in tests/all.sh: it needs Rust's library for musl.
# Usage: tests/static.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-}
if [[ -z $program ]]; then
    packaging/static.sh "$(uname -m)"
    program=$(echo target/static/vhost-user-zbd-*-linux)
fi

root=$(mktemp -d)
daemon=
trap '[[ -z $daemon ]] || kill "$daemon" 2>/dev/null; rm -rf "$root"' EXIT
# By its own name: that is in its messages.
cp "$program" "$root/vhost-user-zbd"
program=$root/vhost-user-zbd
chmod 755 "$root" "$program"
VUZ_BIN=$program cargo test --locked --test '*'

# As a container has it: /proc, and no other file of the system's.
mkdir "$root/zoned" "$root/proc"
as=()
[[ $EUID -eq 0 ]] || as=(--user --map-root-user)
# shellcheck disable=SC2016 # for that shell
unshare "${as[@]}" --mount bash -c 'mount --rbind /proc "$0/proc" && exec chroot "$0" /vhost-user-zbd "$@"' "$root" \
    serve /zoned/disk.qcow2 --create preset=zonefs --socket-path /zoned/disk.sock 2>"$root/log" &
daemon=$!
for ((tries = 0; tries < 600; tries++)); do
    [[ ! -S $root/zoned/disk.sock ]] || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
[[ -S $root/zoned/disk.sock ]] || { echo "FAIL: from an empty root nothing is served"; cat "$root/log"; exit 1; }
kill "$daemon"
wait "$daemon" || { echo "FAIL: from an empty root the daemon ends with status $?"; cat "$root/log"; exit 1; }
daemon=
"$program" check "$root/zoned/disk.qcow2" >/dev/null
echo "ok the static program serves where there is nothing but it"
