#!/usr/bin/env bash
# Packs the kernel of user-mode Linux for others to run, and beside it the source that it was built from, which its licence asks for.
#
# Usage: packaging/uml.sh
#
# target/uml gets vhost-user-zbd-uml-x86_64.tar.xz (what VUZ_UML takes, unpacked; with what was mended in the source and how it was
# configured) and Debian's source of that Linux.
# shellcheck source=/dev/null
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"
# shellcheck source=/dev/null
. "$VUZ_SCRIPTS/apt.sh"

kernel=$("$VUZ_SCRIPTS/uml.sh")
out=$VUZ_TOP/target/uml
rm -rf "$out"
mkdir -p "$out"
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

mkdir "$temp/uml"
cp -r "$kernel"/{linux,modules,version,config} "$VUZ_SCRIPTS"/uml-kernel{.sh,-edit.py,.config} "$temp/uml/"
tar -C "$temp" --owner=0 --group=0 --sort=name -cJf "$out/vhost-user-zbd-uml-x86_64.tar.xz" uml

# "Linux RELEASE for user mode, of PACKAGE VERSION"
read -r package version <<<"$(sed 's/.*, of //' "$kernel/version")"
apt_begin "$temp/apt" sid trixie bookworm
has=$(apt_version "$package")
[[ $has == "$version" ]] || die "the kernel was built from $package $version, and apt has ${has:-none}: build it again (qemu-scripts/uml.sh --refresh)"
apt_unpack_only "$temp/source" "$package"
cp "$temp/source/usr/src/$package.tar.xz" "$out/$package-$version.tar.xz"
ls -l "$out"
