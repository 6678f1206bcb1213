# shellcheck shell=bash
# In the guest: what the scripts of faults.sh share. ./fault is beside them (run.sh --control).

# fault_zone ZONES STATE: zones go read-only or offline now.
fault_zone() { ./fault add "$2" --zone "$1" --do "zone-state=$2"; }

# heal ZONES: no rule any more; the disk is reset, upon which the zones are back. What is mounted of it is unmounted.
heal() {
    ./fault clear --all
    ./fault add back --zone "$1" --do zone-state=restore
    ./fault reset
}

# digest FIRST LAST: of what can be read of these zones: bytes, pointers, and whether they are empty or full
digest() {
    local start capacity pointer state
    zones -o $(($1 * ZONE_SIZE / 512)) -c $(($2 - $1 + 1)) | while read -r start _ capacity pointer state _; do
        case $state in
            em | fu | nw) ;;
            # Open zones that were away come back closed.
            *) state=active ;;
        esac
        printf '%s %s %s\n' "$start" "$pointer" "$state"
        get "$start" "$capacity" || printf 'unreadable\n'
    done | sha256sum | cut -d' ' -f1
}

drop_caches() { echo 3 >/proc/sys/vm/drop_caches; }

# kernel_says PATTERN: the last line of the kernel that matches, which is a note
kernel_says() {
    local line
    line=$(dmesg | sed 's/^\[[^]]*\] //' | grep -E "$1" | tail -n 1)
    [[ -n $line ]] || {
        printf 'the kernel did not say: %s\n' "$1"
        dmesg | tail -n 20
        return 1
    }
    note "the kernel: $line"
}
