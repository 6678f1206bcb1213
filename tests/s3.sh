#!/usr/bin/env bash
# Runs the tests of bases by network against a real S3 server, s3s-fs, which is built below target/tools where it is not there yet.
# Usage: tests/s3.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.14.0
tools=$PWD/target/tools
if [[ $("$tools/bin/s3s-fs" --version 2>/dev/null) != "s3s-fs $version" ]]; then
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" --version "$version" --features binary s3s-fs
fi
S3S_FS=$tools/bin/s3s-fs cargo test --locked --test fetch -- --ignored s3
