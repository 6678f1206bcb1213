#!/usr/bin/env bash
# Checks README.md, CONTRIBUTING.md and docs: each command is run, parsed or known to run elsewhere; links, messages and the index are
# right. tests/docs.py says how. The pages of docs/guests are run by tests/guest/pages.sh.
# Usage: tests/docs.sh
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --quiet --release
qemu=$(qemu-scripts/qemu.sh)/run
exec /usr/bin/python3 -B tests/docs.py "$PWD/target/release/vhost-user-zbd" "$qemu"
