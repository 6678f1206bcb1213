#!/usr/bin/env bash
# Builds a guest root that has what xfstests and blktests call: the newest programs that Debian has (sid), as whole packages.
#
# Usage: root.sh [--refresh]
#
# Prints the folder. Nothing is installed on the host, nothing needs root. It is made once and kept in the rig's cache until this script
# changes; --refresh makes it again from what the mirror has now. The packages and their versions are in its file "versions".
. "$(dirname "${BASH_SOURCE[0]}")/../qemu-scripts/lib.sh"
# shellcheck source=../qemu-scripts/apt.sh
. "$VUZ_SCRIPTS/apt.sh"

PACKAGES=(
    base-files bash bsdutils libc-bin lsof coreutils diffutils findutils gawk grep sed perl util-linux util-linux-extra mount kmod procps psmisc file tar gzip xz-utils
    acl attr bc dbus-bin fio hostname indent keyutils libcap2-bin ncurses-bin bsdextrautils openssl python3-minimal quota udev uuid-runtime libaio1t64 libgdbm6t64 liburing2 debianutils
    btrfs-progs xfsprogs xfsdump f2fs-tools e2fsprogs dmsetup cryptsetup-bin zbd-utils sg3-utils dm-zoned-tools dmz-tools
)

usable() { [[ -s $1/versions ]]; }

make_root() {
    local out=$1 name known=()
    say "building the guest root for the harnesses (programs of Debian's sid, about 100 MB to fetch) ..."
    mkdir -p "$out"/usr/{bin,sbin,lib/modules,lib64} "$out"/{dev,proc,sys,tmp,root,etc,run,var/tmp,mnt,job,boot,home}
    for name in bin sbin lib lib64; do
        ln -s "usr/$name" "$out/$name"
    done
    apt_begin "$out/apt" sid
    for name in "${PACKAGES[@]}"; do
        [[ -z $(apt_version "$name") ]] || known+=("$name")
    done
    apt_unpack "$out" "${known[@]}"
    # What the packages' own scripts would do.
    ln -sf gawk "$out/usr/bin/awk"
    [[ -e $out/usr/bin/sh ]] || ln -s bash "$out/usr/bin/sh"
    printf 'root:x:0:0:root:/root:/bin/bash\n' >"$out/etc/passwd"
    printf 'root:x:0:\n' >"$out/etc/group"
    : >"$out/etc/fstab"
    ln -sfn ../proc/self/mounts "$out/etc/mtab"
    cp "$VUZ_SCRIPTS/guest-init.sh" "$out/init"
    chmod 755 "$out/init"
    for name in "${known[@]}"; do
        printf '%s %s\n' "$name" "$(apt_version "$name")"
    done >"$out/versions"
    rm -rf "$out"/apt "$out"/usr/share/{doc,man,locale,info}
}

case ${1:-} in
    '' | --refresh) ;;
    *) die "usage: root.sh [--refresh]" ;;
esac
name=harness-root-$(recipe_hash "${BASH_SOURCE[0]}" "$VUZ_SCRIPTS"/{guest-init.sh,apt.sh})
cache_keep "$name" "${1:-}" usable make_root
printf '%s\n' "$VUZ_CACHE/$name"
