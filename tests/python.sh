#!/usr/bin/env bash
# Tests the Python packages. The pytest plugin in python: its wheel is made, installed in an environment of its own, and its tests are
# run. The disk in python/disk: its wheel is made once, with maturin from PyPI, and its tests are run by the newest and the oldest CPython
# that this machine's apt gives, and by its own. Which ones those were is said at the end; one that could not be had is named as such.
# Usage: tests/python.sh
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
. qemu-scripts/lib.sh
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/daemon.sh"
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/apt.sh"

temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
tested=()
missing=()

plugin() {
    daemon_build
    # Debian's pytest and setuptools, nothing from elsewhere.
    /usr/bin/python3 -m venv --system-site-packages "$temp/venv"
    cp -r python "$temp/source"
    "$temp/venv/bin/python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir "$temp" "$temp/source"
    "$temp/venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-index "$temp"/*.whl
    (cd "$temp/source/tests" &&
        "$temp/venv/bin/python" -m pytest -q -p no:cacheprovider --vuz-bin "$(realpath "$VUZ_BIN")" --vuz-rig "$VUZ_SCRIPTS" .)
}

# The wheel of the disk, unpacked in $temp/site, where any CPython finds it.
wheel() {
    /usr/bin/python3 -m venv "$temp/maturin"
    "$temp/maturin/bin/python" -m pip --disable-pip-version-check install --quiet 'maturin>=1.8,<2' mypy
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$VUZ_TOP/target}/python "$temp/maturin/bin/maturin" build --quiet --release --locked \
        --manifest-path python/disk/Cargo.toml --interpreter /usr/bin/python3 --out "$temp/wheels"
    ls "$temp/wheels"
    "$temp/maturin/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-index --target "$temp/site" "$temp"/wheels/*.whl
    cp -r python/disk/tests "$temp/tests"
    cp python/disk/typed.py "$temp/typed.py"
    (cd "$temp" && MYPYPATH=$temp/site "$temp/maturin/bin/mypy" --strict typed.py)
}

# try_with PYTHON...: runs the tests of the disk by a CPython that has pytest.
try_with() {
    local version
    version=$("$@" -c 'import platform; print(platform.python_implementation(), platform.python_version())')
    printf '\n%s\n' "$version"
    (cd "$temp/tests" && PYTHONPATH=$temp/site:${PYTHONPATH:-} PYTHONDONTWRITEBYTECODE=1 "$@" -m pytest -q -p no:cacheprovider .)
    tested+=("$version")
}

# python_of SUITE FOLDER: unpacks the CPython of a Debian release and its pytest into FOLDER.
python_of() {
    mkdir -p "$2"
    apt_begin "$2/apt" "$1" && apt_unpack "$2/root" python3 python3-pytest && rm -rf "$2/apt"
}

newest() {
    local libraries=$temp/sid/root/usr/lib/x86_64-linux-gnu
    # What Debian has newer than this machine's needs its newer C library, and so its loader.
    PYTHONHOME=$temp/sid/root/usr PYTHONPATH=$temp/sid/root/usr/lib/python3/dist-packages \
        try_with "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$temp/sid/root/usr/bin/python3"
}

oldest() {
    # What is older runs with this machine's C library.
    PYTHONHOME=$temp/bullseye/root/usr PYTHONPATH=$temp/bullseye/root/usr/lib/python3/dist-packages \
        try_with "$temp/bullseye/root/usr/bin/python3"
}

plugin
wheel
PYTHONPATH=/usr/lib/python3/dist-packages try_with /usr/bin/python3
for suite in sid:newest bullseye:oldest; do
    if python_of "${suite%:*}" "$temp/${suite%:*}"; then
        "${suite#*:}"
    else
        missing+=("the CPython of Debian ${suite%:*}")
    fi
done
printf '\nthe disk was tested with: %s\n' "$(printf '%s, ' "${tested[@]}" | sed 's/, $//')"
for one in "${missing[@]}"; do
    printf 'not to be had here, and not tested: %s\n' "$one"
done
