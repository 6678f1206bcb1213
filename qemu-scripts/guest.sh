#!/usr/bin/env bash
# Builds the guest: a stock Debian kernel and an initramfs of stock Debian programs. Nothing is installed on the host, nothing needs root.
#
# Usage: guest.sh [--refresh]
#
# Prints the folder that has it: vmlinuz, initramfs (uncompressed cpio), versions (the packages it was made of), busybox (for the host, to
# make further cpio archives with). It is made once and kept in the cache; --refresh makes it again from what the mirror has now.
#
# Kernel: linux-image-6.12-cloud-amd64 of Debian 12, unpacked and not installed. Programs: Debian 13, for its newer fio and for mkzonefs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

KERNEL_META=linux-image-6.12-cloud-amd64
MODULES=(virtio_pci virtio_blk null_blk btrfs zonefs mq-deadline kyber-iosched dm-zoned loop)
PACKAGES=(busybox-static bash coreutils diffutils grep sed findutils util-linux fio btrfs-progs zbd-utils zonefs-tools kmod)
# What is copied out of the packages; busybox stands in for every other name. (One line for each package.)
PROGRAMS=(
    bash
    cat chmod cp cut date dd head ln ls md5sum mkdir mv rm seq sha256sum sleep sort stat sync tail timeout touch truncate uniq wc
    cmp diff
    find xargs
    grep sed
    blkdiscard blkzone flock lsblk taskset findmnt wipefs blockdev mount umount
    fio
    btrfs mkfs.btrfs
    zbd
    mkzonefs
    kmod
)

# find_program ROOT NAME: prints the program's path.
find_program() {
    local folder
    for folder in usr/bin usr/sbin bin sbin; do
        if [[ -x $1/$folder/$2 ]]; then
            printf '%s\n' "$1/$folder/$2"
            return
        fi
    done
    die "no program $2 in the packages: ${PACKAGES[*]}"
}

# copy_programs ROOT STAGE: the programs with the libraries they load, as the packages' own dynamic loader finds them.
copy_programs() {
    local root=$1 stage=$2 libraries=$1/usr/lib/x86_64-linux-gnu name program
    mkdir -p "$stage"/{usr/bin,lib64,lib/x86_64-linux-gnu}
    cp "$libraries/ld-linux-x86-64.so.2" "$stage/lib64/"
    for name in "${PROGRAMS[@]}"; do
        program=$(find_program "$root" "$name")
        cp -L "$program" "$stage/usr/bin/$name"
        "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/ceph" --list "$program"
    done | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
        xargs cp -L -t "$stage/lib/x86_64-linux-gnu"
}

# copy_modules ROOT KERNEL STAGE: the modules and what they need, by depmod's list.
copy_modules() {
    local root=$1 kernel=$2 stage=$3 libraries=$1/usr/lib/x86_64-linux-gnu busybox version tree name file
    busybox=$(find_program "$root" busybox)
    version=$(basename "$kernel"/lib/modules/*)
    tree=lib/modules/$version
    depmod() { "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" --argv0 depmod "$root/usr/bin/kmod" -b "$1" "$version"; }
    depmod "$kernel"
    mkdir -p "$stage/$tree"
    cp "$kernel/$tree"/modules.{builtin,builtin.modinfo,order} "$stage/$tree/"
    for name in "${MODULES[@]}"; do
        file=$(sed -n "s|^\([^:]*/${name//[-_]/[-_]}\.ko[^:]*\):.*|\1|p" "$kernel/$tree/modules.dep")
        if [[ -z $file ]]; then
            grep -q "/${name//[-_]/[-_]}\.ko" "$kernel/$tree/modules.builtin" || die "the kernel $version has no module $name"
            continue
        fi
        printf '%s\n' "$file"
        sed -n "s|^$file: *||p" "$kernel/$tree/modules.dep" | tr ' ' '\n'
    done | sed '/^$/d' | sort -u | while read -r file; do
        mkdir -p "$stage/$tree/$(dirname "$file")"
        # Decompressed here, once, and not in the guest at each boot.
        "$busybox" xz -dc "$kernel/$tree/$file" >"$stage/$tree/${file%.xz}"
    done
    depmod "$stage"
}

# make_guest OUT: everything, into the empty folder OUT.
make_guest() {
    local out=$1 root=$1/root kernel=$1/kernel stage=$1/stage kernel_package name
    say "building the guest (kernel and programs of Debian, about 150 MB to fetch, half a minute) ..."
    apt_begin "$out/apt" bookworm trixie
    kernel_package=$(apt_dependency "$KERNEL_META")
    [[ -n $kernel_package ]] || die "apt's sources have no $KERNEL_META: they must include Debian 12's security suite or its like"
    apt_unpack_only "$kernel" "$kernel_package"
    apt_unpack "$root" "${PACKAGES[@]}"

    mkdir -p "$stage"/{bin,dev,proc,sys,tmp,root,etc,run,var/tmp,mnt,job}
    printf 'root:x:0:0:root:/root:/bin/bash\n' >"$stage/etc/passwd"
    copy_programs "$root" "$stage"
    copy_modules "$root" "$kernel" "$stage"
    cp "$(find_program "$root" busybox)" "$stage/bin/busybox"
    for name in $("$stage/bin/busybox" --list); do
        [[ -e $stage/usr/bin/$name || $name == busybox ]] || ln -s /bin/busybox "$stage/bin/$name"
    done
    ln -sf /usr/bin/bash "$stage/bin/bash"
    # kmod is the better modprobe: it reads what the kernel package's depmod wrote.
    for name in modprobe insmod lsmod rmmod; do
        rm -f "$stage/bin/$name"
        ln -s kmod "$stage/usr/bin/$name"
    done
    cp "$VUZ_SCRIPTS/guest-init.sh" "$stage/init"
    chmod 755 "$stage/init"

    cp "$kernel"/boot/vmlinuz-* "$out/vmlinuz"
    (cd "$stage" && find . | LC_ALL=C sort | ./bin/busybox cpio -o -H newc -R 0:0) >"$out/initramfs" 2>"$out/cpio.log"
    cp "$stage/bin/busybox" "$out/busybox"
    for name in "$kernel_package" "${PACKAGES[@]}"; do
        printf '%s %s\n' "$name" "$(apt_version "$name")"
    done >"$out/versions"
    rm -rf "$out/apt" "$root" "$kernel" "$stage" "$out/cpio.log"
}

case ${1:-} in
    '' | --refresh) ;;
    *) die "usage: guest.sh [--refresh]" ;;
esac
name=guest-$(recipe_hash "$VUZ_SCRIPTS"/{guest.sh,guest-init.sh,apt.sh})
if [[ ! -e $VUZ_CACHE/$name || ${1:-} == --refresh ]]; then
    cache_lock
    # Another script may have made it while this one waited for the lock.
    if [[ ! -e $VUZ_CACHE/$name || ${1:-} == --refresh ]]; then
        temp=$(cache_temp)
        make_guest "$temp"
        cache_publish "$temp" "$name"
        # Guests of older recipes are of no use any more.
        find "$VUZ_CACHE" -maxdepth 1 -name 'guest-*' ! -name "$name" -exec rm -rf {} +
    fi
fi
printf '%s\n' "$VUZ_CACHE/$name"
