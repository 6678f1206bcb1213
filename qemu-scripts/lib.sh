# shellcheck shell=bash
# What every script of the guest rig shares: where things are, how messages look, how a thing comes into the cache.
#
# Sourced, never run. Sets:
#   VUZ_TOP    the checkout
#   VUZ_CACHE  where fetched and built things are kept (default: target/guest of the checkout)
#   VUZ_BIN    the daemon's program (default: target/release/vhost-user-zbd of the checkout)
# A script that is called with -h or --help prints its head and ends here.

set -euo pipefail

VUZ_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VUZ_TOP=$(dirname "$VUZ_SCRIPTS")
VUZ_CACHE=${VUZ_CACHE:-$VUZ_TOP/target/guest}
export VUZ_CACHE

say() { printf '%s\n' "guest rig: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# What a script is for and how it is called stands at its head, once: the lines above the first that is no comment.
for argument in "$@"; do
    if [[ $argument == -h || $argument == --help ]]; then
        sed -n '1d; /^#/!q; /^# shellcheck/d; s/^# \{0,1\}//p' "$0"
        exit 0
    fi
done

# need_value OPTION COUNT: refuses an option that has no value behind it. COUNT is $# of the caller.
need_value() { [[ $2 -ge 2 ]] || die "option $1 needs a value"; }

# One build at a time in a cache; the lock goes when the calling script ends.
cache_lock() {
    mkdir -p "$VUZ_CACHE"
    exec {VUZ_LOCK_FD}>"$VUZ_CACHE/lock"
    flock -n "$VUZ_LOCK_FD" || {
        say "waiting for another script that is filling $VUZ_CACHE"
        flock "$VUZ_LOCK_FD"
    }
}

# cache_temp: prints a new empty folder in the cache. What an interrupted run left behind is removed; call with the lock held.
cache_temp() {
    rm -rf "$VUZ_CACHE"/.building.*
    mktemp -d "$VUZ_CACHE/.building.XXXXXX"
}

# cache_publish TEMP NAME: makes TEMP the cache's NAME by rename, so that NAME is either whole or not there.
cache_publish() {
    local temp=$1 final=$VUZ_CACHE/$2
    chmod 755 "$temp"
    if [[ -e $final ]]; then
        mv -T "$final" "$VUZ_CACHE/.building.old.$$"
    fi
    mv -T "$temp" "$final"
    rm -rf "$VUZ_CACHE/.building.old.$$"
}

# cache_keep NAME REFRESH USABLE MAKE: has the cache's NAME be there, made once and by one script at a time; a REFRESH that is not empty makes
# it anew. MAKE FOLDER is the function that makes it, in an empty folder, USABLE FOLDER the one that says whether it will do. NAME ends with
# the hash of its recipe; those of older recipes are of no use any more and go.
cache_keep() {
    local name=$1 refresh=$2 usable=$3 make=$4 temp
    [[ -n $refresh ]] || ! "$usable" "$VUZ_CACHE/$name" || return 0
    cache_lock
    # Another script may have made it while this one waited for the lock.
    [[ -n $refresh ]] || ! "$usable" "$VUZ_CACHE/$name" || return 0
    temp=$(cache_temp)
    "$make" "$temp"
    "$usable" "$temp" || die "$name was made, and is not whole"
    cache_publish "$temp" "$name"
    find "$VUZ_CACHE" -maxdepth 1 -name "${name%-*}-*" ! -name "$name" -exec rm -rf {} +
}

# recipe_hash FILE...: a short hash of the files that say how a thing is made; part of its name in the cache, so that a change makes a new one.
recipe_hash() { cat "$@" | sha256sum | cut -c1-12; }

# prefer_kept_uml: has the machine be user-mode Linux where nobody has said which one, and its kernel is there: it is up at once.
prefer_kept_uml() {
    if [[ -z ${VUZ_MACHINE:-} ]] && "$VUZ_SCRIPTS/uml.sh" --kept >/dev/null 2>&1; then
        export VUZ_MACHINE=uml
    fi
}
