#!/usr/bin/env bash
# Tests the pytest plugin in python: its wheel is made, installed in an environment of its own, and its tests are run.
# Usage: tests/python.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. qemu-scripts/lib.sh
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/daemon.sh"

daemon_build
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
# Debian's pytest and setuptools, nothing from elsewhere.
/usr/bin/python3 -m venv --system-site-packages "$temp/venv"
cp -r python "$temp/source"
"$temp/venv/bin/python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir "$temp" "$temp/source"
"$temp/venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-index "$temp"/*.whl
cd "$temp/source/tests"
"$temp/venv/bin/python" -m pytest -q -p no:cacheprovider --vuz-bin "$(realpath "$VUZ_BIN")" --vuz-rig "$VUZ_SCRIPTS" .
