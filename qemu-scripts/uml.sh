#!/usr/bin/env bash
# Provides a kernel of user-mode Linux that can use a zoned vhost-user disk, and says which one it is.
#
# Usage: uml.sh [--refresh | --kept] [--kernel VERSION]
#
# Prints the folder that has it:
#   linux     the kernel: an ordinary program, for any user, without QEMU and KVM
#   modules   what the guest has in /lib/modules (all of them built in)
#   version   one line: which Linux, from where
#   config    how it was configured
#
# It is built once (uml-kernel.sh, ten minutes and more) and kept in the cache until the scripts that make it change; --refresh builds it
# again from what the mirror has now; --kept builds nothing, and exits with 1 where there is none. --kernel is another linux-source than
# Debian's newest: 6.12, for example. VUZ_UML=FOLDER takes what is in FOLDER, for a kernel that was built elsewhere.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

refresh='' kept='' version=${VUZ_UML_KERNEL:-}
while [[ $# -gt 0 ]]; do
    case $1 in
        --refresh)
            refresh=1
            shift
            ;;
        --kept)
            kept=1
            shift
            ;;
        --kernel)
            need_value "$1" $#
            version=$2
            shift 2
            ;;
        *) die "usage: uml.sh [--refresh | --kept] [--kernel VERSION]" ;;
    esac
done
[[ $version =~ ^[0-9.]*$ ]] || die "--kernel is \"$version\"; it can be a version that linux-source has in its name, like 6.12"

usable() { [[ -x $1/linux && -d $1/modules && -s $1/version ]]; }

# shellcheck disable=SC2317,SC2329 # called by cache_keep
make_kernel() { "$VUZ_SCRIPTS/uml-kernel.sh" "$1" ${version:+"$version"}; }

found() {
    say "using $(cat "$1/version")"
    printf '%s\n' "$1"
    exit 0
}

if [[ -n ${VUZ_UML:-} ]]; then
    usable "$VUZ_UML" || die "VUZ_UML: there is no kernel of user-mode Linux in $VUZ_UML"
    found "$VUZ_UML"
fi

name=uml-${version:-newest}-$(recipe_hash "$VUZ_SCRIPTS"/{uml-kernel.sh,uml-kernel-edit.py,uml-kernel.config,apt.sh})
[[ -z $kept ]] || usable "$VUZ_CACHE/$name" || exit 1
cache_keep "$name" "$refresh" usable make_kernel
found "$VUZ_CACHE/$name"
