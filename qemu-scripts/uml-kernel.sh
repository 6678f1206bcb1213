#!/usr/bin/env bash
# Builds the kernel of a user-mode Linux guest from Debian's source. Nothing is installed, nothing needs root.
#
# Usage: uml-kernel.sh FOLDER [VERSION]
#
#   FOLDER      an empty folder; it gets linux (the kernel, an ordinary program), modules (what modprobe has to know), version, config
#   VERSION     which linux-source package: 7.2, 6.12; the newest of Debian's sid when it is not given
#
# What is mended in the source, and why, is in uml-kernel-edit.py; what the kernel has, in uml-kernel.config. Building takes about ten
# minutes on two idle processors, at low priority.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

[[ ($# -eq 1 || $# -eq 2) && -d $1 ]] || die "usage: uml-kernel.sh FOLDER [VERSION]"
out=$(cd "$1" && pwd)
package=linux-source${2:+-$2}
mkdir -p "$VUZ_CACHE"
log=$VUZ_CACHE/uml-kernel.log
# How many files the compiler made of Linux 7.2 with this configuration; for the progress only.
FILES=940
# Left out when the source is unpacked: two thirds of it. (What the configuration reads stays.)
UNUSED=(
    --exclude='*/Documentation/*.rst' --exclude='*/Documentation/*.yaml' --exclude='*/Documentation/*.txt' --exclude='*.dts' --exclude='*.dtsi'
    --exclude='*/tools/testing/*' --exclude='*/tools/perf/*'
    --exclude='*/drivers/gpu/*.[ch]' --exclude='*/drivers/net/*.[ch]' --exclude='*/drivers/media/*.[ch]'
    --exclude='*/drivers/staging/*.[ch]' --exclude='*/drivers/infiniband/*.[ch]' --exclude='*/sound/*.[ch]'
)

"$VUZ_SCRIPTS/deps.sh" --uml
# The newest comes from sid alone; an older one from whichever release has it.
suites=(sid)
[[ $package == linux-source ]] || suites+=(trixie bookworm)
say "fetching the source of Linux (about 160 MB) ..."
apt_begin "$out/apt" "${suites[@]}"
if [[ $package == linux-source ]]; then
    package=$(apt_dependencies linux-source | grep '^linux-source-' || true)
    [[ -n $package ]] || die "apt's sources have no linux-source"
fi
package_version=$(apt_version "$package")
[[ -n $package_version ]] || die "apt's sources have no $package"
apt_unpack_only "$out/package" "$package"
mkdir "$out/source"
say "unpacking $package $package_version ..."
tar -xf "$out/package/usr/src/$package.tar.xz" -C "$out/source" --strip-components=1 "${UNUSED[@]}"
rm -rf "$out/apt" "$out/package"

/usr/bin/python3 "$VUZ_SCRIPTS/uml-kernel-edit.py" "$out/source"

# What the makefiles take from the environment is not to come from the caller's.
make_linux() { env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME="$out" LC_ALL=C nice -n 19 make -C "$out/source" ARCH=um "$@"; }

configure() {
    make_linux defconfig && cat "$VUZ_SCRIPTS/uml-kernel.config" >>"$out/source/.config" && make_linux olddefconfig
}

# missing_options: prints what uml-kernel.config asks for and the kernel will not have. (An option that an older Linux does not know and that is to be off is off.)
missing_options() {
    local line name
    while read -r line; do
        case $line in
            CONFIG_*) grep -qxF "$line" "$out/source/.config" || printf '%s\n' "$line" ;;
            '# CONFIG_'*' is not set')
                name=${line#\# }
                ! grep -q "^${name%% *}=" "$out/source/.config" || printf '%s\n' "$line"
                ;;
        esac
    done <"$VUZ_SCRIPTS/uml-kernel.config"
}

# progress PID: says how far the build has come, every half minute, until the process has ended.
progress() {
    local done_files started=$SECONDS next=30
    while kill -0 "$1" 2>/dev/null; do
        sleep 1
        if ((SECONDS - started >= next)); then
            next=$((next + 30))
            done_files=$(grep -c '^  CC ' "$log" || true)
            say "Linux: $done_files of about $FILES files after $((SECONDS - started)) seconds"
        fi
    done
}

failed() {
    tail -n 20 "$log" >&2
    die "$1 failed; the whole log: $log"
}

configure >"$log" 2>&1 </dev/null || failed "configuring Linux"
missing=$(missing_options)
# zloop came with Linux 6.16.
[[ -e $out/source/drivers/block/zloop.c ]] || missing=$(grep -v '^CONFIG_BLK_DEV_ZONED_LOOP=' <<<"$missing" || true)
[[ -z $missing ]] || die "$package $package_version does not take these options of uml-kernel.config: ${missing//$'\n'/, }"

say "building Linux of $package $package_version for user mode (about ten minutes on two idle processors; log: $log) ..."
make_linux -j"$(nproc)" linux >>"$log" 2>&1 </dev/null &
build=$!
trap 'kill "$build" 2>/dev/null || true' EXIT
progress "$build"
wait "$build" || failed "building Linux"
trap - EXIT

strip -o "$out/linux" "$out/source/linux"
release=$(cat "$out/source/include/config/kernel.release")
mkdir -p "$out/modules/$release"
cp "$out/source"/modules.builtin{,.modinfo} "$out/modules/$release/"
: >"$out/modules/$release/modules.order"
cp "$out/source/.config" "$out/config"
rm -rf "$out/source"
mkdir "$out/depmod"
mkdir "$out/depmod/lib"
ln -s ../../modules "$out/depmod/lib/modules"
/usr/sbin/depmod -b "$out/depmod" "$release"
rm -rf "$out/depmod"
printf 'Linux %s for user mode, of %s %s\n' "$release" "$package" "$package_version" >"$out/version"
