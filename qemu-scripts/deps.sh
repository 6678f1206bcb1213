#!/usr/bin/env bash
# Makes sure that the host has what the guest rig and the build of the daemon need.
#
# Usage: deps.sh [--tests | --bench | --qemu-source | --uml]
#
# As root, missing packages are installed with apt. As another user, the command to run is printed and the exit status is 1.
# When nothing is missing, apt is not touched. --tests also asks for what the tests use, --bench for the comparison's peers,
# --qemu-source for what qemu-source.sh builds QEMU with, --uml for what uml-kernel.sh builds Linux with.
# QEMU itself, the guest's kernel and its programs are not installed on the host: guest.sh and qemu.sh unpack them into the cache.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(apt coreutils dpkg util-linux debian-archive-keyring gcc libc6-dev)
case ${1:-} in
    '') ;;
    --tests) packages+=(g++ qemu-utils shellcheck systemd procps dpkg-dev groff-base python3 python3-venv python3-pip python3-wheel python3-setuptools python3-pytest python3-yaml zsh fish) ;;
    --bench) packages+=(fio python3 qemu-utils) ;;
    --qemu-source)
        packages+=(g++ make ninja-build pkg-config python3 python3-venv flex bison dpkg-dev patch xz-utils libglib2.0-dev libpixman-1-dev libfdt-dev zlib1g-dev)
        ;;
    --uml) packages+=(make flex bison bc m4 perl xz-utils python3 kmod) ;;
    *) die "usage: deps.sh [--tests | --bench | --qemu-source | --uml]" ;;
esac

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=missing
    [[ $state == installed ]] || missing+=("$package")
done

if [[ ${#missing[@]} -gt 0 ]]; then
    if [[ $EUID -ne 0 ]]; then
        die "packages are missing; run: sudo apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! { apt-get -qq update && apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=false install "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        die "apt could not install them, see above"
    fi
fi

# Rust comes from wherever the user has it, not from apt: Debian 12's is too old for this project. Whoever has the program needs none.
[[ -n ${VUZ_BIN:-} ]] || command -v cargo >/dev/null || die "cargo is missing; install Rust (the version is in Cargo.toml) and run this again"
