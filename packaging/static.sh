#!/usr/bin/env bash
# Builds the program as one file without any library, against musl, and says where it is.
#
# Usage: packaging/static.sh [x86_64 | aarch64]...
#
# Without arguments for both processors, on a machine of either kind: target/static gets vhost-user-zbd-VERSION-PROCESSOR-linux and
# SHA256SUMS. Needs Rust with its standard library for musl, which is added with rustup where there is one, and no C compiler for the other
# processor: the linker is Rust's own. That is why the program has no bases by network: TLS takes a C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."

processors=("$@")
[[ $# -gt 0 ]] || processors=(x86_64 aarch64)
for processor in "${processors[@]}"; do
    [[ $processor == x86_64 || $processor == aarch64 ]] || { echo "$processor is neither x86_64 nor aarch64" >&2; exit 1; }
done

# has_library TARGET: whether this Rust has the standard library of a target.
has_library() {
    local files=("$(rustc --print target-libdir --target "$1")"/libstd-*.rlib)
    [[ -e ${files[0]} ]]
}

for processor in "${processors[@]}"; do
    target=$processor-unknown-linux-musl
    has_library "$target" && continue
    if ! command -v rustup >/dev/null; then
        echo "this Rust has no standard library for $target; Rust from rustup.rs has (rustup target add $target)" >&2
        exit 1
    fi
    rustup target add "$target"
done

version=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"name":"vhost-user-zbd","version":"\([^"]*\)".*/\1/p')
out=target/static
rm -rf "$out"
mkdir -p "$out"
for processor in "${processors[@]}"; do
    target=$processor-unknown-linux-musl
    variable=CARGO_TARGET_${processor^^}_UNKNOWN_LINUX_MUSL_LINKER
    env "$variable=rust-lld" CARGO_PROFILE_RELEASE_STRIP=symbols cargo build --locked --release --no-default-features --target "$target" --bin vhost-user-zbd
    file=$out/vhost-user-zbd-$version-$processor-linux
    cp "${CARGO_TARGET_DIR:-target}/$target/release/vhost-user-zbd" "$file"
    # What a program that needs a library has, and one that stands alone has not.
    if LC_ALL=C grep -qE 'ld-linux|ld-musl' "$file"; then
        echo "FAIL: $file asks for a dynamic linker" >&2
        exit 1
    fi
done
(cd "$out" && sha256sum -- * >SHA256SUMS)
ls -l "$out"
