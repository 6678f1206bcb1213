#!/usr/bin/env bash
# QEMU's second road (see qemu.sh): built from Debian's source package with zones added to vhost-user-blk.
#
# Usage: qemu-source.sh FOLDER [RELEASE]
#
#   FOLDER      an empty folder; it gets run, device, chardev, version (see qemu.sh)
#   RELEASE     the Debian release whose QEMU it is: trixie (the default, QEMU 10.0) or bookworm (7.2)
#
# What the additions are, and that they refuse a source they do not know, is in qemu-source-edit.py. Building takes about a quarter of an
# hour on two processors, at low priority. The device is QEMU's own vhost-user-blk, which also can reconnect.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

[[ ($# -eq 1 || $# -eq 2) && -d $1 ]] || die "usage: qemu-source.sh FOLDER [RELEASE]"
out=$(cd "$1" && pwd)
release=${2:-trixie}
mkdir -p "$VUZ_CACHE"
log=$VUZ_CACHE/qemu-source.log

"$VUZ_SCRIPTS/deps.sh" --qemu-source
say "fetching QEMU's source of Debian $release (about 40 MB) ..."
apt_begin "$out/apt" trixie "source:$release"
apt_source "$out/download" qemu
# Debian's own patches are applied by dpkg-source; the signature that matters was checked by apt.
dpkg-source --no-check -x "$out"/download/*.dsc "$out/source" >"$log" 2>&1 || die "the source could not be unpacked: $log"
package_version=$(sed -n 's/^Version: //p' "$out"/download/*.dsc)
# Meson of this machine's Debian may be too old for QEMU; the newer one is Python only and runs from where it is unpacked.
apt_unpack_only "$out/tools" meson
# The firmware that QEMU loads at run time.
apt_unpack_only "$out/firmware" seabios qemu-system-data
rm -rf "$out/apt" "$out/download"

/usr/bin/python3 "$VUZ_SCRIPTS/qemu-source-edit.py" "$out/source"

say "building QEMU $package_version with zones in vhost-user-blk (about a quarter of an hour; log: $log) ..."
build() {
    cd "$out/build" || return
    export PYTHONPATH=$out/tools/usr/share/meson:$out/tools/usr/lib/python3/dist-packages PATH=/usr/bin:/bin:/usr/sbin:/sbin
    local help options
    help=$(../source/configure --help)
    options=(
        --target-list=x86_64-softmmu --without-default-features --disable-install-blobs --disable-docs
        --disable-werror --enable-system --enable-tcg --enable-kvm --enable-fdt=system --enable-vhost-user
    )
    # Nothing is to come from elsewhere; how that is said, and how meson is named, depends on QEMU's age.
    [[ $help != *--disable-download* ]] || options+=(--disable-download)
    [[ $help != *--with-git-submodules* ]] || options+=(--with-git-submodules=ignore)
    if [[ $help == *--meson=* ]]; then
        options+=(--meson="$out/tools/usr/bin/meson")
    else
        options+=(--python=/usr/bin/python3)
    fi
    nice -n 19 ../source/configure "${options[@]}" && nice -n 19 ninja qemu-system-x86_64 && strip qemu-system-x86_64
}
mkdir "$out/build"
if ! (build) >>"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    die "building QEMU failed; the whole log: $log"
fi

mkdir -p "$out/root"
mv "$out/build/qemu-system-x86_64" "$out/root/"
mkdir -p "$out/root/firmware"
cp -L "$out"/firmware/usr/share/seabios/*.bin "$out/root/firmware/"
for file in linuxboot.bin linuxboot_dma.bin pvh.bin kvmvapic.bin multiboot.bin multiboot_dma.bin; do
    [[ ! -e $out/firmware/usr/share/qemu/$file ]] || cp -L "$out/firmware/usr/share/qemu/$file" "$out/root/firmware/"
done
rm -rf "$out"/{build,source,tools,firmware}

cat >"$out/run" <<'EOF'
#!/bin/sh
# Written by qemu-source.sh.
root=$(cd "$(dirname "$0")" && pwd)/root
exec "$root/qemu-system-x86_64" -L "$root/firmware" "$@"
EOF
chmod 755 "$out/run"
printf '%s\n' 'vhost-user-blk-pci,chardev=@CHARDEV@,num-queues=@QUEUES@,zoned=on' >"$out/device"
version=$("$out/run" --version | head -n 1)
# Seconds were the unit before QEMU 9.2.
case $version in
    *'version '[78].*) printf '%s\n' ',reconnect=1' ;;
    *) printf '%s\n' ',reconnect-ms=100' ;;
esac >"$out/chardev"
printf '%s, built from source package %s of Debian %s, vhost-user-blk with zones\n' "$version" "$package_version" "$release" >"$out/version"
