#!/usr/bin/env bash
# The service files are good by systemd's own judgement, with the program where it was built.
set -euo pipefail
cd "$(dirname "$0")/.."

units=$(mktemp -d)
trap 'rm -rf "$units"' EXIT
binary=$PWD/target/release/vhost-user-zbd
for unit in systemd/*@.*; do
    sed "s|/usr/bin/vhost-user-zbd|$binary|" "$unit" >"$units/$(basename "$unit")"
done
for unit in "$units"/*@.*; do
    said=$(systemd-analyze verify --man=no "${unit/@./@disk.}" 2>&1) || { echo "$said"; exit 1; }
    # Complaints about other units of this machine are not ours.
    if grep -F "vhost-user-zbd" <<<"$said"; then
        echo "FAIL $(basename "$unit")"
        exit 1
    fi
    echo "ok $(basename "$unit")"
done
