#!/usr/bin/env bash
# Provides a QEMU that can give a guest a zoned vhost-user disk, and says which one it is.
#
# Usage: qemu.sh [--refresh]
#
# Prints the folder that has it:
#   run       the program: takes qemu-system-x86_64's options
#   device    the -device value for the disk, with @CHARDEV@ and @QUEUES@ to be replaced
#   chardev   what its -chardev socket takes besides: how to connect again, where the device can do that
#   version   one line: which QEMU, from where
#
# Two roads, tried in this order; what was made once stays in the cache until --refresh:
#   sid       Debian sid's package, unpacked (qemu-sid.sh): its stock generic device, QEMU 10.2 or later. Half a minute.
#   source    the stable release's source package with zones added to vhost-user-blk (qemu-source.sh). A quarter of an hour.
# VUZ_QEMU_ROAD=sid or =source takes that one only; VUZ_QEMU=FOLDER takes what is in FOLDER, made by one of those two scripts. (Stock vhost-user-blk-pci of any QEMU hides the zones from the guest.)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
    '' | --refresh) ;;
    *) die "usage: qemu.sh [--refresh]" ;;
esac

# usable FOLDER: the QEMU in it starts and has the device that its file "device" names.
usable() {
    local device
    [[ -x $1/run && -s $1/device ]] || return 1
    device=$(cut -d, -f1 "$1/device")
    "$1/run" -device help 2>/dev/null | grep -q "^name \"$device\""
}

found() {
    say "using $(cat "$VUZ_CACHE/$1/version")"
    printf '%s\n' "$VUZ_CACHE/$1"
    exit 0
}

# take_road ROAD NAME: makes the cache's NAME with qemu-ROAD.sh.
take_road() {
    local road=$1 name=$2 temp
    temp=$(cache_temp)
    "$VUZ_SCRIPTS/qemu-$road.sh" "$temp" || return 1
    if ! usable "$temp"; then
        say "the QEMU that qemu-$road.sh made does not start or lacks the device: $(cat "$temp/device" 2>/dev/null)"
        return 1
    fi
    cache_publish "$temp" "$name"
    find "$VUZ_CACHE" -maxdepth 1 -name "qemu-$road-*" ! -name "$name" -exec rm -rf {} +
}

if [[ -n ${VUZ_QEMU:-} ]]; then
    usable "$VUZ_QEMU" || die "VUZ_QEMU: there is no usable QEMU in $VUZ_QEMU"
    say "using $(cat "$VUZ_QEMU/version")"
    printf '%s\n' "$VUZ_QEMU"
    exit 0
fi

roads=(sid source)
case ${VUZ_QEMU_ROAD:-} in
    '') ;;
    sid | source) roads=("$VUZ_QEMU_ROAD") ;;
    *) die "VUZ_QEMU_ROAD is \"$VUZ_QEMU_ROAD\"; it can be sid or source" ;;
esac

declare -A names
for road in "${roads[@]}"; do
    names[$road]=qemu-$road-$(recipe_hash "$VUZ_SCRIPTS"/apt.sh "$VUZ_SCRIPTS/qemu-$road"*)
done

# Any road's QEMU that is already there is better than a new attempt at the first road.
look_in_cache() {
    local road
    for road in "${roads[@]}"; do
        if usable "$VUZ_CACHE/${names[$road]}"; then
            found "${names[$road]}"
        fi
    done
}

if [[ ${1:-} != --refresh ]]; then
    look_in_cache
fi
cache_lock
if [[ ${1:-} != --refresh ]]; then
    # Another script may have made it while this one waited for the lock.
    look_in_cache
fi
for road in "${roads[@]}"; do
    if take_road "$road" "${names[$road]}"; then
        found "${names[$road]}"
    fi
    say "the road \"$road\" to a QEMU did not lead there"
done
die "no QEMU for the guest: every road failed, see above"
