# shellcheck shell=bash
# In the guest: what has to be the same after a restart, as text.
#
# Sourced by persist-write.sh and persist-verify.sh. One line a zone: number, start, length, capacity, write pointer, state, and the
# checksum of all its bytes for the zones that persist-write.sh touches. Open states do not outlive the daemon, and a full zone has no
# write pointer, so the states open and closed are one ("active") and a full zone's pointer is not told. An explicitly open zone without
# data is empty after a restart: it is told as empty from the beginning. The zones of kill-writer.sh, which comes between, are left out.
manifest() {
    local index=-1 start length capacity pointer state rest
    while read -r start length capacity pointer state rest; do
        index=$((index + 1))
        ((index < KILL_FIRST || index >= KILL_FIRST + KILL_ZONES)) || continue
        case $state in
            oi | oe | cl)
                state=active
                [[ $pointer != 0 ]] || state=em
                ;;
            fu) pointer=full ;;
        esac
        printf '%s %s %s %s %s %s' "$index" "$start" "$length" "$capacity" "$pointer" "$state"
        if ((index < CONVENTIONAL + 10 || index == ZONES - 1)); then
            printf ' %s' "$(get "$start" "$length" | sha256sum | cut -c1-16)"
        fi
        printf '\n'
    done < <(zones)
}
