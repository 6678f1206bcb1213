#!/usr/bin/env bash
# Passes all tests: format, lints, unit and integration tests, half a minute of each fuzz target, the service files under a real
# systemd, the tests in a Linux guest, libvirt's domains, and the pages of the documentation as they are shown.
# Installs what it needs (apt, as root; otherwise it says what to install). Usage: tests/all.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "packages"
qemu-scripts/deps.sh --tests

step "format and lints"
cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings
(cd qemu-scripts && shellcheck ./*.sh)
(cd tests/guest && shellcheck ./*.sh)
(cd harness && shellcheck ./*.sh)
shellcheck tests/harness/*/check
shellcheck packaging/*.sh packaging/debian/p* tests/*.sh examples/ci/*.sh examples/power/*.sh benches/*.sh .ci/run

step "what is released for other C libraries and processors compiles, where this Rust has their library"
for target in {x86_64,aarch64}-unknown-linux-musl; do
    library=("$(rustc --print target-libdir --target "$target")"/libstd-*.rlib)
    if [[ -e ${library[0]} ]]; then
        cargo check --locked --bins --target "$target"
    else
        echo "skipped: no library for $target"
    fi
done

step "unit and integration tests"
cargo test --locked

step "manual pages and completions"
cargo run --locked --quiet --example pages -- target/pages
for page in target/pages/*.[15]; do
    said=$(groff -man -Tutf8 -ww -z "$page" 2>&1)
    [[ -z $said ]] || { echo "FAIL $page: $said"; exit 1; }
done
bash -n target/pages/vhost-user-zbd.bash

step "release build"
cargo build --locked --release

step "documentation"
tests/docs.sh

step "fuzzing"
tests/fuzz.sh 30

step "service files"
tests/systemd.sh
tests/service.sh

step "in a guest of user-mode Linux"
# Its kernel is built when it is not kept: some minutes, which QEMU's guests would take for the same parts without KVM. btrfs is left to
# QEMU's guest, as that of this kernel runs out of space by itself now and then (docs/uml.md).
VUZ_MACHINE=uml tests/guest/all.sh zones software peers

step "the power goes, in a guest of user-mode Linux"
VUZ_MACHINE=uml tests/guest/power.sh

step "in QEMU's guest"
# What only this shows: two processors and queues, PCI, requests counted by the kernel; and btrfs under kills, which needs a Linux older
# than the other guest's.
tests/guest/all.sh zones btrfs machine
tests/guest/power.sh cycle

step "libvirt"
tests/guest/libvirt.sh

step "the pages of docs/guests, followed"
tests/guest/pages.sh

step "the scripts of the guest rig"
tests/rig.sh

step "the harnesses, on stand-ins"
tests/harness.sh

step "the pytest plugin"
tests/python.sh

step "the CI job of examples/ci"
tests/ci.sh
