#!/usr/bin/env bash
# Passes all tests: format, lints, unit and integration tests, the service files. Usage: tests/all.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format and lints"
cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings

step "unit and integration tests"
cargo test --locked

step "release build"
cargo build --locked --release

step "service files"
tests/systemd.sh
