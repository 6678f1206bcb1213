#!/usr/bin/env bash
# Builds the guest: a stock Debian kernel and an initramfs of stock Debian programs. Nothing is installed on the host, nothing needs root.
#
# Usage: guest.sh [--refresh]
#
# Prints the folder that has it: vmlinuz, initramfs (uncompressed cpio), root (what is in that, as files; the root of a guest of user-mode
# Linux), versions (the packages it was made of), busybox (for the host, to make further cpio archives with). It is made once and kept in
# the cache; --refresh makes it again from what the mirror has now.
#
# VUZ_GUEST says which guest, all with kernels that are unpacked and not installed:
#   small    (the default) Linux 6.12 in the flavour for virtual machines, of Debian 12; programs of Debian 13, for its newer fio and mkzonefs
#   full     Linux 6.12 in the ordinary flavour, with f2fs and all of device mapper's targets; what fio's own tests of zones want
#   newest   the newest kernel and programs Debian has (sid), for XFS on zones
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

MODULES=(virtio_pci virtio_blk null_blk btrfs zonefs mq-deadline kyber-iosched dm-zoned loop)
PACKAGES=(busybox-static bash coreutils diffutils grep sed findutils util-linux util-linux-extra mount fio btrfs-progs zbd-utils zonefs-tools kmod)
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
VUZ_GUEST=${VUZ_GUEST:-small}
case $VUZ_GUEST in
    small)
        SUITES=(bookworm trixie)
        KERNEL_META=linux-image-6.12-cloud-amd64
        ;;
    full | newest)
        SUITES=(bookworm trixie)
        KERNEL_META=linux-image-6.12-amd64
        if [[ $VUZ_GUEST == newest ]]; then
            SUITES=(sid)
            KERNEL_META=linux-image-amd64
        fi
        MODULES+=(f2fs xfs dm-mod dm-crypt sg)
        PACKAGES+=(gawk procps bc sg3-utils f2fs-tools xfsprogs dm-zoned-tools dmsetup cryptsetup-bin)
        PROGRAMS+=(
            cksum comm expr mktemp mkfifo nproc od paste readlink rmdir split tac tee tr
            gawk awk:gawk
            pgrep pkill
            bc
            sg_inq
            mkfs.f2fs fsck.f2fs
            mkfs.xfs xfs_repair xfs_io
            dmzadm
            dmsetup
            cryptsetup
        )
        ;;
    *) die "VUZ_GUEST is \"$VUZ_GUEST\"; it can be small, full or newest" ;;
esac

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
        # NAME:PROGRAM is the program under another name.
        program=$(find_program "$root" "${name#*:}")
        cp -L "$program" "$stage/usr/bin/${name%:*}"
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
    local out=$1 root=$1/root kernel=$1/kernel stage=$1/stage kernel_packages name
    say "building the guest \"$VUZ_GUEST\" (kernel and programs of Debian, about 150 MB to fetch, half a minute) ..."
    apt_begin "$out/apt" "${SUITES[@]}"
    # What the meta package stands for; newer Debians have the modules in a package of their own.
    mapfile -t kernel_packages < <(apt_dependencies "$KERNEL_META" | grep '^linux-image-')
    [[ ${#kernel_packages[@]} -gt 0 ]] || die "apt's sources have no $KERNEL_META: they must include Debian 12's security suite or its like"
    mapfile -t -O 1 kernel_packages < <(apt_dependencies "${kernel_packages[0]}" | grep -E '^linux-(base|binary|modules)-[0-9]')
    apt_unpack_only "$kernel" "${kernel_packages[@]}"
    [[ -d $kernel/lib/modules ]] || ln -s usr/lib "$kernel/lib"
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

    find "$kernel/" -name 'vmlinuz*' -type f -exec cp {} "$out/vmlinuz" ';'
    [[ -e $out/vmlinuz ]] || die "no kernel in the packages ${kernel_packages[*]}"
    (cd "$stage" && find . | LC_ALL=C sort | ./bin/busybox cpio -o -H newc -R 0:0) >"$out/initramfs" 2>"$out/cpio.log"
    cp "$stage/bin/busybox" "$out/busybox"
    for name in "${kernel_packages[@]}" "${PACKAGES[@]}"; do
        printf '%s %s\n' "$name" "$(apt_version "$name")"
    done >"$out/versions"
    rm -rf "$out/apt" "$root" "$kernel" "$out/cpio.log"
    mv "$stage" "$root"
}

case ${1:-} in
    '' | --refresh) ;;
    *) die "usage: guest.sh [--refresh]" ;;
esac
name=guest-$VUZ_GUEST-$(recipe_hash "$VUZ_SCRIPTS"/{guest.sh,guest-init.sh,apt.sh})
if [[ ! -e $VUZ_CACHE/$name || ${1:-} == --refresh ]]; then
    cache_lock
    # Another script may have made it while this one waited for the lock.
    if [[ ! -e $VUZ_CACHE/$name || ${1:-} == --refresh ]]; then
        temp=$(cache_temp)
        make_guest "$temp"
        cache_publish "$temp" "$name"
        # Guests of older recipes are of no use any more.
        find "$VUZ_CACHE" -maxdepth 1 -name "guest-$VUZ_GUEST-*" ! -name "$name" -exec rm -rf {} +
    fi
fi
printf '%s\n' "$VUZ_CACHE/$name"
