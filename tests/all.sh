#!/usr/bin/env bash
# Passes all tests: format, lints, unit and integration tests, half a minute of each fuzz target, the service files under a real
# systemd, the tests in a Linux guest, libvirt's domains, and the pages of the documentation as they are shown.
# Installs what it needs (apt, as root; otherwise it says what to install). Steps that leave a processor idle run beside one another; what
# such a step prints is shown when it has ended, and how long each took stands at the end. Usage: tests/all.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. tests/steps-lib.sh

# What is tested is the same code; made one piece of it takes minutes that only those who measure have a use for.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
# What is built once only has no use for what the next build would take up.
export CARGO_INCREMENTAL=0

lints() {
    cargo fmt --all --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo check --locked --quiet --no-default-features --bins
    (cd qemu-scripts && shellcheck ./*.sh)
    (cd tests/guest && shellcheck ./*.sh)
    (cd harness && shellcheck ./*.sh)
    shellcheck tests/harness/*/check
    shellcheck packaging/*.sh packaging/debian/p* tests/*.sh examples/ci/*.sh examples/{power,faults}/*.sh benches/*.sh .ci/run
}

other_targets() {
    local target library
    for target in {x86_64,aarch64}-unknown-linux-musl; do
        library=("$(rustc --print target-libdir --target "$target")"/libstd-*.rlib)
        if [[ -e ${library[0]} ]]; then
            cargo check --locked --no-default-features --bins --target "$target"
        else
            echo "skipped: no library for $target"
        fi
    done
}

manual_pages() {
    local page said
    cargo run --locked --quiet --example pages -- target/pages
    for page in target/pages/*.[15]; do
        said=$(groff -man -Tutf8 -ww -z "$page" 2>&1)
        [[ -z $said ]] || { echo "FAIL $page: $said"; exit 1; }
    done
    bash -n target/pages/vhost-user-zbd.bash
}

# What the guests are made of. One after another, as one of them is made at a time; the kernel last, which takes some minutes where it is not
# kept, and which QEMU's guests would take for the same tests without KVM.
parts_of_guests() {
    qemu-scripts/qemu.sh
    qemu-scripts/guest.sh
    qemu-scripts/uml.sh
}

service_files() {
    tests/systemd.sh
    tests/service.sh
}

# btrfs is left to QEMU's guest, as that of user-mode Linux's kernel runs out of space by itself now and then (docs/uml.md).
uml_guest() { VUZ_MACHINE=uml tests/guest/all.sh zones software peers; }

# By hand: all of it, and in QEMU's guests.
uml_faults() { VUZ_MACHINE=uml tests/guest/faults.sh script digest zonefs btrfs; }

uml_power() { VUZ_MACHINE=uml tests/guest/power.sh; }

# What only this shows: two processors and queues, PCI, requests counted by the kernel; and btrfs under kills, which needs a Linux older
# than the other guest's.
qemu_guest() { tests/guest/all.sh zones btrfs machine; }

step "packages" qemu-scripts/deps.sh --tests
early "what the guests are made of" parts_of_guests
step "format and lints" lints
step "what is released for other C libraries and processors compiles, where this Rust has their library" other_targets
step "unit and integration tests, built" cargo test --locked --no-run
beside "release build" cargo build --locked --release
step "unit and integration tests" cargo test --locked
step "manual pages and completions" manual_pages
await "release build"

# The longest first, so that none is left alone at the end.
beside "in QEMU's guest" qemu_guest
beside "the power goes, in a guest of user-mode Linux" uml_power
beside "in a guest of user-mode Linux" uml_guest
beside "fuzzing" env FUZZ_AT_ONCE=1 tests/fuzz.sh 30
beside "the disk fails as told, in a guest of user-mode Linux" uml_faults
beside "crash states of small workloads, in guests of user-mode Linux" tests/guest/explore.sh
beside "libvirt" tests/guest/libvirt.sh
beside "the pages of docs/guests, followed" tests/guest/pages.sh
beside "the power goes, in QEMU's guest" tests/guest/power.sh cycle
beside "the CI job of examples/ci" tests/ci.sh
beside "documentation" tests/docs.sh
beside "the scripts of the guest rig" tests/rig.sh
beside "service files" service_files
beside "the harnesses, on stand-ins" tests/harness.sh
beside "the pytest plugin" tests/python.sh
join
