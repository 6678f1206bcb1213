#!/usr/bin/env bash
# The pages of docs/guests as a reader follows them: their commands are run, on the host and in a guest, and what they print has to be
# what the page shows.
#
# Usage: tests/guest/pages.sh [--show] [PAGE...]       all pages when none is named; PAGE is "zonefs" for docs/guests/zonefs.md
#
# With --show the sessions are printed as they went, for the page to be brought up to date, and nothing is compared.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

PAGE_SECONDS=400
PAGES=$VUZ_TOP/docs/guests

show=
if [[ ${1:-} == --show ]]; then
    show=1
    shift
fi
[[ $# -gt 0 ]] || mapfile -t pages < <(cd "$PAGES" && printf '%s\n' *.md | sed 's/\.md$//')
[[ $# -eq 0 ]] || pages=("$@")
for page in "${pages[@]}"; do
    [[ -e $PAGES/$page.md ]] || die "no page $PAGES/$page.md"
done

# host_step STEP: commands that print nothing that is shown just have to succeed.
host_step() {
    local command
    mapfile -t commands <"$1.host"
    for command in "${commands[@]}"; do
        printf '# %s\n' "$command"
        # shellcheck disable=SC2016 # the inner shell's
        if ! (cd "$temp/page" && PATH=$(dirname "$VUZ_BIN"):$PATH bash -c "$command") 2>&1 && [[ ! -s $1.shown ]]; then
            echo "the command failed"
            return 1
        fi
    done >"$1.printed"
}

# guest_step STEP: boot.sh's options are run.sh's, but for the image, which is served here.
guest_step() {
    local boot options=() image='' queues=1 code=0
    mapfile -t boot <"$1.boot"
    set -- "$1" "${boot[@]}"
    local base=$1 flavour=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        case $1 in
            --image) image=$2 ;;
            --queues) queues=$2 && options+=("$1" "$2") ;;
            *) options+=("$1" "$2") ;;
        esac
        shift 2
    done
    mkdir -p "$base.job"
    cp "$base.guest" "$base.job/commands"
    daemon_start "$temp/page/$image" "$temp/socket" --num-queues "$queues" || return 1
    (
        unset MACHINE_GUEST
        export VUZ_GUEST=$flavour
        exec "$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" --timeout "$PAGE_SECONDS" "${options[@]}" "$HERE/session.sh" "$base.job/commands"
    ) >"$base.printed" || code=$?
    daemon_stop || code=$?
    return "$code"
}

# judge NAME STEP CODE
judge() {
    if [[ -n $show ]]; then
        printf -- '--- %s\n' "$1"
        cat "$2.printed"
    elif [[ $3 -ne 0 ]]; then
        fail "$1"
        tail -n 20 "$2.printed" | sed 's/^/# /'
    elif [[ -s $2.shown ]] && ! /usr/bin/python3 -B "$HERE/pages.py" compare "$2.shown" "$2.printed" >"$temp/difference" 2>&1; then
        fail "$1"
        sed 's/^/# /' "$temp/difference"
        diff "$2.shown" "$2.printed" | sed 's/^/# /'
    else
        pass "$1"
    fi
}

"$VUZ_SCRIPTS/deps.sh" --tests
daemon_build
[[ -n ${MACHINE_QEMU:-} ]] || MACHINE_QEMU=$("$VUZ_SCRIPTS/qemu.sh")
export MACHINE_QEMU
started=$SECONDS
for page in "${pages[@]}"; do
    rm -rf "$temp/page" "$temp/steps"
    mkdir "$temp/page" "$temp/steps"
    /usr/bin/python3 -B "$HERE/pages.py" steps "$PAGES/$page.md" "$temp/steps"
    for shown in "$temp"/steps/*.shown; do
        step=${shown%.shown}
        code=0
        if [[ -e $step.host ]]; then
            host_step "$step" || code=$?
        else
            say "page $page: booting a guest"
            guest_step "$step" || code=$?
        fi
        judge "$page/${step##*/}" "$step" "$code"
    done
done
finish
