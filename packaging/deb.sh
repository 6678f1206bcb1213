#!/usr/bin/env bash
# Builds the Debian package, checks it with lintian, and says where it is.
# Needs lintian (installed with apt as root; otherwise it says what to install) and cargo-deb (built under target/tools
# where there is none). Usage: packaging/deb.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v lintian >/dev/null || ! command -v dpkg-shlibdeps >/dev/null; then
    if [[ $EUID -ne 0 ]]; then
        echo "packages are missing; run: sudo apt-get install --no-install-recommends lintian dpkg-dev" >&2
        exit 1
    fi
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install lintian dpkg-dev >/dev/null
fi
PATH=$PATH:$PWD/target/tools/bin
command -v cargo-deb >/dev/null || cargo install --locked --root target/tools --version 3.8.0 cargo-deb

cargo build --locked --release
rm -rf target/pages
cargo run --locked --quiet --example pages -- target/pages
mkdir -p target/debian
rm -f target/debian/*.deb
cargo deb --locked --no-build --strip --quiet --output target/debian/
package=$(echo target/debian/*.deb)

# What an error of lintian's would not be: a path that this package promises and lacks.
contents=$(dpkg-deb --contents "$package")
for path in /usr/bin/vhost-user-zbd /lib/systemd/system/vhost-user-zbd@.{service,socket} \
    /usr/lib/{sysusers,tmpfiles}.d/vhost-user-zbd.conf /usr/share/qemu/vhost-user/50-vhost-user-zbd.json \
    /usr/share/man/man1/vhost-user-zbd{,-create,-serve,-info,-report,-map,-top,-ctl,-trace,-check}.1.gz \
    /usr/share/man/man5/vhost-user-zbd.conf.5.gz \
    /usr/share/bash-completion/completions/vhost-user-zbd /usr/share/zsh/vendor-completions/_vhost-user-zbd \
    /usr/share/fish/vendor_completions.d/vhost-user-zbd.fish; do
    grep -q " \.$path$" <<<"$contents" || { echo "FAIL: the package lacks $path" >&2; exit 1; }
done
# Not for this package: the first is for Debian's archive; no helper of maintainer scripts stops all instances of a template.
lintian --allow-root --fail-on error,warning \
    --suppress-tags initial-upload-closes-no-bugs,maintainer-script-calls-systemctl "$package"
