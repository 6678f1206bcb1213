# shellcheck shell=bash
# The power of a guest's disk: cuts it as the user has said, or as the guest's script says by ./power (guest-power.sh). By the same line
# ./fault (guest-fault.sh) has its rules.
#
# Sourced by run.sh after lib.sh and daemon.sh, never run.
#
#   power_begin CONTROL CUTS [WORDS]          CONTROL is the control socket of the disk's daemon; CUTS, a file that may be none, gets a line of
#                                             JSON for each cut, which without it is said. WORDS is the cut between two scripts
#   power_check FOLDER                        ends the script where the daemon does not understand WORDS; for a daemon without a guest
#   power_listen FOLDER                       answers the guest that is at the other end of the line of FOLDER, in the background
#   power_silence                             no longer
#   power_over                                the guest of the first of two scripts is to be killed: the power is cut, or will not be
#
# What is known is in files of FOLDER:
#   begun, after   the first script, the second has begun
#   ended          the status of the first
#   cut, wrong     there was a cut; there was none, for this reason
#   over           the guest of the first script has nothing to do any more

POWER_THEN='' POWER_AT='' POWER_PID=''

power_begin() {
    local word
    POWER_CONTROL=$1 POWER_CUTS=$2
    [[ -z $POWER_CUTS ]] || : >"$POWER_CUTS"
    read -ra POWER_WORDS <<<"${3:-}"
    [[ -n ${3+words} ]] || return 0
    POWER_THEN=dead
    for word in "${POWER_WORDS[@]}"; do
        case $word in
            then=*) POWER_THEN=${word#then=} ;;
            at=*) POWER_AT=${word#at=} ;;
        esac
    done
    [[ $POWER_AT != never ]] || die "at is 'never': expected the moment of the cut"
    [[ $POWER_THEN =~ ^(dead|fail|exit)$ ]] || die "then is '$POWER_THEN': expected dead, fail or exit"
}

# power_ctl WORD...: has the daemon do it. What it says goes to "said"; where it refuses, "why" has the line.
power_ctl() {
    "$VUZ_BIN" ctl "$POWER_CONTROL" --json "$@" >"$POWER_FOLDER/said" 2>"$POWER_FOLDER/error" && return
    # Without the names of the program and of the socket, which nobody has chosen.
    sed "s|^.*$POWER_CONTROL: ||; 1q" "$POWER_FOLDER/error" >"$POWER_FOLDER/why"
    return 1
}

# power_check: whether the daemon knows the words, before any guest is there. The cut waits for a mark then, until it is told again.
power_check() {
    POWER_FOLDER=$1
    if [[ -n $POWER_AT ]]; then
        power_ctl power-cut "${POWER_WORDS[@]}" && power_ctl power-cut at=mark:run.sh
    else
        power_ctl power-cut "${POWER_WORDS[@]}" at=mark:run.sh
    fi || die "--power-cut '${POWER_WORDS[*]}': $(<"$POWER_FOLDER/why")"
}

# daemon_is_there: of another's daemon nothing is known.
daemon_is_there() { [[ -z $DAEMON_PID ]] || kill -0 "$DAEMON_PID" 2>/dev/null; }

power_is_off() {
    "$VUZ_BIN" ctl "$POWER_CONTROL" info 2>/dev/null | grep -q '^power: *off' || ! daemon_is_there
}

# power_note: standard input is the JSON of a cut.
power_note() {
    local json
    json=$(tr -s '\n ' ' ' | sed 's/[ ,]*$//')
    : >"$POWER_FOLDER/cut"
    : >"$POWER_FOLDER/noted"
    if [[ -z $json ]]; then
        say "the power was cut; what that has left nobody has said before the daemon ended"
    elif [[ -n $POWER_CUTS ]]; then
        printf '%s\n' "$json" >>"$POWER_CUTS"
    else
        say "the power was cut: $json"
    fi
}

# power_told: takes note of the cut that has come by itself.
power_told() {
    # Its JSON is a part of what is known of the daemon, as that prints it; of one that the cut has ended it is in the log.
    if power_ctl info; then
        sed -n '/^    "last_cut": {/,/^    }/{s/^ *"last_cut": //; p}' "$POWER_FOLDER/said"
    elif [[ -n $DAEMON_PID ]]; then
        sed -n 's/.*what the power cut has left: //p' "$DAEMON_LOG" | tail -n 1
    fi | power_note
}

power_cut() {
    power_ctl power-cut "$@" || return
    # Where it is to come later, there is nothing yet.
    grep -q '"armed"' "$POWER_FOLDER/said" || power_note <"$POWER_FOLDER/said"
}

# power_ended STATUS: the first script has ended. The cut comes now, or has come; returns 1 where it does not.
power_ended() {
    printf '%s\n' "$1" >"$POWER_FOLDER/ended"
    if [[ -n $POWER_AT ]]; then
        if power_is_off; then
            power_told
            return
        fi
        [[ $1 -ne 0 ]] || printf 'the moment %s did not come while the first script ran\n' "$POWER_AT" >"$POWER_FOLDER/wrong"
        return 1
    else
        [[ $1 -eq 0 ]] || return 1
        power_cut "${POWER_WORDS[@]}" && return
        cp "$POWER_FOLDER/why" "$POWER_FOLDER/wrong"
        return 1
    fi
}

power_begun() {
    if [[ -n $POWER_AT ]] && ! power_cut "${POWER_WORDS[@]}"; then
        cp "$POWER_FOLDER/why" "$POWER_FOLDER/wrong"
        return 1
    fi
    : >"$POWER_FOLDER/begun"
}

# power_off: the guest asks whether it may bring the power back.
power_off() {
    if ! power_is_off; then
        echo "the power is on" >"$POWER_FOLDER/why"
        return 1
    fi
    # A cut that somebody has made is noted already.
    [[ -e $POWER_FOLDER/noted ]] || power_told
    rm -f "$POWER_FOLDER/noted"
}

power_answer() {
    if "$@"; then
        printf 'ok\n'
    else
        printf 'no %s\n' "$(head -n 1 "$POWER_FOLDER/why")"
    fi
}

# power_fault WORD...: "ctl fault". What it prints is said to the guest.
power_fault() {
    "$VUZ_BIN" ctl "$POWER_CONTROL" fault "$@" >"$POWER_FOLDER/said" 2>"$POWER_FOLDER/error" || {
        # A word that is missing or wrong has the usage behind it.
        sed "s|^.*$POWER_CONTROL: ||; s/^error: //; /^\$/q" "$POWER_FOLDER/error" | tr -s '\n ' ' ' >"$POWER_FOLDER/why"
        return 1
    }
    sed 's/^/says /' "$POWER_FOLDER/said"
}

power_serve() {
    local order words
    while read -r order words; do
        : >"$POWER_FOLDER/why"
        read -ra words <<<"$words"
        case $order in
            begin) power_answer power_begun ;;
            ended)
                # The one who has to be dead when the power is cut does not hear of it.
                if [[ $POWER_THEN == fail ]]; then
                    power_answer power_ended "${words[0]}"
                else
                    power_ended "${words[0]}" || true
                    : >"$POWER_FOLDER/over"
                fi
                ;;
            after)
                : >"$POWER_FOLDER/after"
                printf 'ok\n'
                ;;
            cut) power_answer power_cut "${words[@]}" ;;
            mark) power_answer power_ctl mark "${words[*]}" ;;
            off) power_answer power_off ;;
            fault) power_answer power_fault "${words[@]}" ;;
        esac
    done
}

power_listen() {
    POWER_FOLDER=$1
    # Both ends are open here all the time, so that neither side waits for the other to open it.
    power_serve <>"$1/line.out" 1<>"$1/line.in" &
    POWER_PID=$!
}

power_silence() {
    [[ -n $POWER_PID ]] || return 0
    kill "$POWER_PID" 2>/dev/null || true
    wait "$POWER_PID" 2>/dev/null || true
    POWER_PID=
}

power_over() {
    [[ $POWER_THEN != fail ]] || return 1
    [[ ! -e $POWER_FOLDER/over ]] || return 0
    [[ -n $POWER_AT && -e $POWER_FOLDER/begun ]] && power_is_off || return 1
    # It may be about to say the same.
    power_silence
    [[ -e $POWER_FOLDER/cut ]] || power_told
    : >"$POWER_FOLDER/over"
}
