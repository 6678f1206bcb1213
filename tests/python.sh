#!/usr/bin/env bash
# Tests the Python packages. The pytest plugin in python: its wheel is made, installed in an environment of its own, and its tests are
# run. The disk in python/disk: its wheel is made once, with maturin from PyPI, and its tests are run by this machine's CPython, and by
# the newest and the oldest that its apt gives (Debian sid's, Debian 11's), unpacked and not installed. Which ones those were is said at
# the end, and which could not be had.
# Usage: tests/python.sh [plugin|disk]
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/daemon.sh"
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/apt.sh"

cd "$VUZ_TOP"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
site=$temp/site
tested=()
missing=()

pip_of() {
    "$1/bin/python" -m pip --disable-pip-version-check "${@:2}"
}

plugin() {
    daemon_build
    # Debian's pytest and setuptools, nothing from elsewhere.
    /usr/bin/python3 -m venv --system-site-packages "$temp/venv"
    mkdir "$temp/source"
    cp -r python/pyproject.toml python/src python/tests "$temp/source"
    pip_of "$temp/venv" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$temp" "$temp/source"
    pip_of "$temp/venv" install --quiet --no-deps --no-index "$temp"/*.whl
    (cd "$temp/source/tests" &&
        "$temp/venv/bin/python" -m pytest -q -p no:cacheprovider --vuz-bin "$(realpath "$VUZ_BIN")" --vuz-rig "$VUZ_SCRIPTS" .)
}

# Makes the wheel of the disk and unpacks it in $site; a type checker looks at what it says of itself.
wheel() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$VUZ_TOP/target}/python
    cargo fmt --check --manifest-path python/disk/Cargo.toml
    cargo clippy --quiet --locked --manifest-path python/disk/Cargo.toml -- -D warnings
    /usr/bin/python3 -m venv "$temp/tools"
    pip_of "$temp/tools" install --quiet 'maturin>=1.8,<2' 'mypy>=1'
    "$temp/tools/bin/maturin" build --quiet --release --locked --manifest-path python/disk/Cargo.toml \
        --interpreter /usr/bin/python3 --out "$temp/wheels"
    pip_of "$temp/tools" install --quiet --no-deps --no-index --target "$site" "$temp"/wheels/*.whl
    basename "$temp"/wheels/*.whl
    MYPYPATH=$site "$temp/tools/bin/mypy" --strict --cache-dir "$temp/mypy" python/disk/typed.py
}

# test_with PACKAGES COMMAND...: runs the tests of the disk by a CPython whose pytest is in PACKAGES.
test_with() {
    local packages=$1 version
    shift
    version=$("$@" -c 'import platform; print(platform.python_implementation(), platform.python_version())')
    printf '\n%s\n' "$version"
    PYTHONPATH=$site:$packages PYTHONDONTWRITEBYTECODE=1 "$@" -m pytest -q -p no:cacheprovider python/disk/tests
    tested+=("$version")
}

# unpack SUITE: unpacks the CPython of a Debian release, and its pytest, into $temp/SUITE. Runs in a shell of its own, which ends where
# there is none.
unpack() (
    apt_begin "$temp/$1/apt" "$1"
    apt_unpack "$temp/$1/root" python3 python3-pytest
)

# What is newer than this machine's needs its own C library, and so its loader.
newest() {
    local root=$temp/sid/root libraries=$temp/sid/root/usr/lib/x86_64-linux-gnu
    PYTHONHOME=$root/usr test_with "$root/usr/lib/python3/dist-packages" \
        "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$root/usr/bin/python3"
}

# What is older takes this machine's.
oldest() {
    local root=$temp/bullseye/root
    PYTHONHOME=$root/usr test_with "$root/usr/lib/python3/dist-packages" "$root/usr/bin/python3"
}

disk() {
    local one suite
    wheel
    test_with /usr/lib/python3/dist-packages /usr/bin/python3
    for one in "newest sid" "oldest bullseye"; do
        suite=${one#* }
        # In an "if" it would go on behind its first failure.
        set +e
        (set -e && unpack "$suite")
        local had=$?
        set -e
        if ((had == 0)); then
            "${one% *}"
        else
            missing+=("the CPython of Debian $suite")
        fi
    done
    printf '\nthe disk was tested with:'
    printf ' %s;' "${tested[@]}"
    printf '\n'
    if ((${#missing[@]})); then
        printf 'NOT tested, as it is not to be had here: %s\n' "${missing[@]}"
    fi
}

case ${1:-} in
    '')
        plugin
        disk
        ;;
    plugin | disk) "$1" ;;
    *) die "usage: python.sh [plugin|disk]" ;;
esac
