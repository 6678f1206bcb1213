# shellcheck shell=bash
# In the guest: the same steps on the zoned disk and on a null_blk disk of the same geometry, the kernel's own emulation of a zoned disk.
# Each step's errno, zone state and write pointer have to be equal but for the differences that are listed here with what the virtio
# specification says of them. A listed difference that is not seen any more fails as well.
. ./in-guest-lib.sh
. ./software-lib.sh
. ./compare-lib.sh

# GROUP/STEP (a pattern)|this disk|null_blk (patterns)|why this disk may do so
UNWRITTEN='unwritten data is read as "a device-specific byte pattern": zeros here, 0xff there; a finished zone counts as written there'
DIFFERENCES=(
    "reads/*|zeros, zeros|ones, ones|$UNWRITTEN"
    "reads/*|data, zeros|data, ones|$UNWRITTEN"
    "reads/across the end|zeros, other|ones, other|$UNWRITTEN"
    "reads/fu*, into the next zone|zeros, zeros|zeros, ones|$UNWRITTEN"
    "limits/another closed zone at both limits|OK, oi *|ETOOMANYREFS, cl *|a closed zone is active already and one implicitly open zone \
\"MAY\" be closed for it \"to avoid resource-related errors\"; null_blk closes none while as many as may be are active"
    "implicit_close/*|oi *|cl *|which implicitly open zone is closed for another is the device's choice: here the one written longest ago, \
there the next one by its number"
    "implicit_close/*|cl *|oi *|the other half of the same"
)
if ((ZONE_CAPACITY < ZONE_SIZE)); then
    FULL="the write pointer of a full zone \"is undefined\": Linux's driver says the zone's end, null_blk the capacity's end"
    DIFFERENCES+=(
        "matrix/*|*, fu $ZONE_SIZE|*, fu $ZONE_CAPACITY|$FULL"
        "places/*|*, fu $ZONE_SIZE|*, fu $ZONE_CAPACITY|$FULL"
    )
else
    # The last 64 KiB of a zone that is written to its end, and the first of the next.
    DIFFERENCES+=("reads/fu, into the next zone|other, zeros|other, ones|$UNWRITTEN")
fi

# compare_group GROUP [ARGUMENT...]
compare_group() {
    local group=$1 index=0 different=0 unexpected=0 ours theirs name entry pattern our_pattern their_pattern why known
    local -a seen=()
    shift
    reset_all
    null_blk_make
    [[ -s /tmp/data ]] || compare_data
    # Both at once, each on its disk: with two processors it takes half the time.
    (compare_begin && "$group" "$@") >/tmp/ours &
    ours=$!
    (DISK=$NULL_DISK && compare_begin && "$group" "$@") >/tmp/theirs
    wait "$ours"
    null_blk_end
    equal "number of steps" "$(wc -l </tmp/theirs)" "$(wc -l </tmp/ours)"
    [[ -s /tmp/ours ]]
    while read -r ours && read -r theirs <&4; do
        index=$((index + 1))
        [[ $ours != "$theirs" ]] || continue
        different=$((different + 1))
        name="$group/${ours%%: *}" ours=${ours#*: } theirs=${theirs#*: } known=
        for entry in "${DIFFERENCES[@]}"; do
            IFS='|' read -r pattern our_pattern their_pattern why <<<"$entry"
            # shellcheck disable=SC2053 # they are patterns
            if [[ $name == $pattern && $ours == $our_pattern && $theirs == $their_pattern ]]; then
                known=$why
                seen+=("$entry")
                break
            fi
        done
        if [[ -n $known ]]; then
            note "difference: $name: here \"$ours\", null_blk \"$theirs\": $known"
        else
            unexpected=$((unexpected + 1))
            printf '%s: here "%s", null_blk "%s": not in the list\n' "$name" "$ours" "$theirs"
        fi
    done </tmp/ours 4</tmp/theirs
    for entry in "${DIFFERENCES[@]}"; do
        if [[ $entry == "$group"/* && " ${seen[*]} " != *"$entry"* ]]; then
            unexpected=$((unexpected + 1))
            printf 'listed and not seen: %s\n' "$entry"
        fi
    done
    note "$group: $index steps, $different different, $unexpected of them unexpected"
    ((unexpected == 0))
}

compare_attributes() { compare_group attributes; }
compare_fresh() { compare_group fresh; }
compare_matrix() { compare_group matrix; }
compare_reads() { compare_group reads; }
compare_places() { compare_group places; }
compare_limits() { compare_group limits; }
compare_implicit_close() { compare_group implicit_close; }
compare_dice() { compare_group dice "${COMPARE_STEPS:-120}"; }

check compare-attributes
check compare-fresh
check compare-matrix
check compare-reads
check compare-places
check compare-limits
check compare-implicit-close
check compare-dice
