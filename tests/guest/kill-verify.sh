# shellcheck shell=bash
# In the guest that comes after the daemon was killed: every operation that kill-writer.sh saw acknowledged (file "operations", its output)
# is there, and of the one operation that each writer had under way, nothing or all, or of a write any beginning.
. ./in-guest-lib.sh
. ./kill-lib.sh

# expect ZONE GENERATION BLOCKS FINISHED: prints nothing when the zone is exactly that, else what is wrong.
# A write under way may have left a part of its block: BLOCKS may be "N+", N blocks and any part of the next one.
expect() {
    local blocks=${3%+} pointer state written block
    read -r _ _ _ pointer state _ <<<"$(zone "$1")"
    if [[ $4 == finished ]]; then
        [[ $state == fu ]] || {
            echo "zone $1 is $state, not full"
            return
        }
        written=$((blocks * KILL_BLOCK))
    else
        if [[ $3 == *+ ]]; then
            ((pointer >= blocks * KILL_BLOCK && pointer <= (blocks + 1) * KILL_BLOCK)) || {
                echo "zone $1 has its write pointer at $pointer, not from $((blocks * KILL_BLOCK)) to $(((blocks + 1) * KILL_BLOCK))"
                return
            }
        else
            ((pointer == blocks * KILL_BLOCK)) || {
                echo "zone $1 has its write pointer at $pointer, not at $((blocks * KILL_BLOCK))"
                return
            }
        fi
        [[ $state == em || $state == cl || $state == oi ]] || {
            echo "zone $1 is $state"
            return
        }
        written=$pointer
    fi
    get "$(zone_start "$1")" $(((blocks + 1) * KILL_BLOCK)) >/tmp/zone
    head -c "$written" < <(for ((block = 0; block <= blocks; block++)); do kill_block "$1" "$2" "$block"; done) >/tmp/written
    truncate -s $(((blocks + 1) * KILL_BLOCK)) /tmp/written
    cmp /tmp/written /tmp/zone 2>&1 || echo "zone $1 generation $2: its bytes are not what was written"
}

# verify ZONE: replays the zone's operations, then allows for the last one being under way.
verify() {
    local word operation generation number current=0 blocks=0 finished=no pending='' problem other
    while read -r word operation _ generation number; do
        if [[ $word == begin ]]; then
            pending="$operation $generation $number"
            continue
        fi
        pending=''
        case $operation in
            reset) current=$generation blocks=0 finished=no ;;
            write) blocks=$((number + 1)) ;;
            finish) finished=finished ;;
        esac
    done < <(grep -E "^(begin|done) [a-z]+ $1 " ./operations)
    echo "zone $1: generation $current, $blocks blocks, $finished; under way: ${pending:-nothing}"
    other=none
    case $pending in
        write*)
            problem=$(expect "$1" "$current" "$blocks+" "$finished")
            ;;
        reset*)
            problem=$(expect "$1" "$current" "$blocks" "$finished")
            other=$(expect "$1" "$((current + 1))" 0 no)
            ;;
        finish*)
            problem=$(expect "$1" "$current" "$blocks" "$finished")
            other=$(expect "$1" "$current" "$blocks" finished)
            ;;
        *) problem=$(expect "$1" "$current" "$blocks" "$finished") ;;
    esac
    if [[ -n $problem && -n $other ]]; then
        echo "$problem"
        return 1
    fi
}

acknowledged_is_there() {
    local zone
    equal "zones with acknowledged writes" "$(grep -E '^done write' ./operations | cut -d' ' -f3 | sort -u | wc -l)" "$KILL_ZONES"
    for ((zone = KILL_FIRST; zone < KILL_FIRST + KILL_ZONES; zone++)); do
        verify "$zone"
    done
}

# The zones can be used on.
zones_go_on() {
    local zone pointer state
    for ((zone = KILL_FIRST; zone < KILL_FIRST + KILL_ZONES; zone++)); do
        read -r _ _ _ pointer state _ <<<"$(zone "$zone")"
        [[ $state != fu ]] || continue
        pattern "goes on" 65536 | put $(($(zone_start "$zone") + pointer))
        pattern "goes on" 65536 | cmp - <(get $(($(zone_start "$zone") + pointer)) 65536)
    done
}

check acknowledged-is-there
check zones-go-on
