# shellcheck shell=bash
# The steps of a long run: one after another, or beside one another where the machine has more processors than a step uses.
#
# Sourced by all.sh, never run; takes the trap of the script's end, and prints then how long each step took. The sourcing script has
# set -euo pipefail.
#
#   step NAME COMMAND...      does it; the run is over where it fails
#   beside NAME COMMAND...    begins it, once fewer than STEPS_AT_ONCE (2) are under way, and goes on; what it prints is shown as a whole when
#                             it has ended
#   early NAME COMMAND...     the same at once and at low priority: what a later step would have to wait for
#   await NAME                waits for one that was begun so; the run is over where it has failed
#   join                      waits for all that was begun so; the run is over where one of them has failed
#
# COMMAND may be a function. A step that fails is not waited for longer than the others take.

STEPS_AT_ONCE=${STEPS_AT_ONCE:-2}
steps_folder=$(mktemp -d)
steps_started=$SECONDS
# By process: the step's name, when it began, what it counts among those that are under way, and the file of what it prints.
declare -A steps_name steps_began steps_weight steps_file
steps_count=0
steps_under_way=0
steps_failed=()
trap steps_end EXIT

# steps_note SECONDS PROCESSOR_SECONDS NAME [NOTE]: says how long a step took, now and at the end.
steps_note() {
    printf '%d\t%d\t%s\n' "$1" "$2" "$3${4:-}" >>"$steps_folder.times"
    printf -- '-- %s: %d s, %d s of a processor\n' "$3" "$1" "$2"
}

# steps_used FILE: seconds of a processor that those have used for whom FILE has what "times" prints, which is of this shell and of others.
steps_used() { awk 'NR == 2 { gsub("[ms]", " "); print int($1 * 60 + $2 + $3 * 60 + $4) }' "$1"; }

step() {
    local name=$1 began=$SECONDS before
    shift
    printf '\n== %s\n' "$name"
    steps_now=$name
    times >"$steps_folder/used"
    before=$(steps_used "$steps_folder/used")
    "$@"
    steps_now=
    times >"$steps_folder/used"
    steps_note "$((SECONDS - began))" "$(($(steps_used "$steps_folder/used") - before))" "$name"
}

# steps_begin WEIGHT NAME COMMAND...
steps_begin() {
    local weight=$1 name=$2 pid file
    shift 2
    # A name may have what no file's name has.
    steps_count=$((steps_count + 1))
    file=$steps_folder/$steps_count
    # A group of its own, so that all of it can be ended.
    set -m
    (
        set +m
        trap 'times >"$file.used"' EXIT
        "$@"
    ) </dev/null >"$file" 2>&1 &
    pid=$!
    set +m
    steps_name[$pid]=$name steps_began[$pid]=$SECONDS steps_weight[$pid]=$weight steps_file[$pid]=$file
    steps_under_way=$((steps_under_way + weight))
}

beside() {
    while ((steps_under_way >= STEPS_AT_ONCE)); do steps_reap; done
    steps_begin 1 "$@"
}

early() {
    local name=$1
    shift
    steps_begin 0 "$name" nice_of "$@"
}

# nice_of COMMAND...: the command, which may be a function, and whatever it starts.
nice_of() {
    renice -n 19 -p "$BASHPID" >/dev/null
    "$@"
}

# steps_reap: waits until one of those that were begun has ended, and shows what it has printed.
steps_reap() {
    local pid status=0 name took file
    wait -n -p pid "${!steps_name[@]}" || status=$?
    name=${steps_name[$pid]} file=${steps_file[$pid]} took=$((SECONDS - steps_began[$pid]))
    steps_under_way=$((steps_under_way - steps_weight[$pid]))
    unset "steps_name[$pid]" "steps_began[$pid]" "steps_weight[$pid]" "steps_file[$pid]"
    printf '\n== %s (beside others)\n' "$name"
    cat "$file"
    if ((status != 0)); then
        steps_failed+=("$name")
        printf 'FAIL %s: exit status %d\n' "$name" "$status"
    fi
    steps_note "$took" "$(steps_used "$file.used" 2>/dev/null || echo 0)" "$name" " (beside others)"
}

await() {
    while steps_has "$1" "${steps_name[@]}"; do steps_reap; done
    ! steps_has "$1" "${steps_failed[@]}" || exit 1
}

# steps_has NAME NAME...: the first is among the others
steps_has() {
    local wanted=$1 name
    shift
    for name in "$@"; do
        [[ $name != "$wanted" ]] || return 0
    done
    return 1
}

join() {
    while ((${#steps_name[@]} > 0)); do steps_reap; done
    ((${#steps_failed[@]} == 0)) || exit 1
}

steps_end() {
    local status=$? pid
    for pid in "${!steps_name[@]}"; do
        kill -- "-$pid" 2>/dev/null || true
    done
    ((status == 0)) || printf '\nFAIL, exit status %d: %s\n' "$status" "${steps_now:-${steps_failed[*]-}}"
    if [[ -s $steps_folder.times ]]; then
        printf '\nseconds  of a processor  step\n'
        sort -rn "$steps_folder.times" | awk -F '\t' '{ printf "%7d  %14d  %s\n", $1, $2, $3; used += $2 } END { printf "%7s  %14d  together\n", "", used }'
        printf '%7d  %14s  from the beginning to the end\n' "$((SECONDS - steps_started))" ''
    fi
    rm -rf "$steps_folder" "$steps_folder.times"
}
