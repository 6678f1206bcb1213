#!/usr/bin/env bash
# Boots a guest again and again, from a kept kernel: every boot has to come to its zone report. Stops at the first that does not.
#
# Usage: tests/guest/boots.sh [--boots N]          500 when not said; some minutes
#
# A boot's time is from the start of run.sh's process to the last line of the report, read here. Prints the median, the 99th percentile
# and the slowest. The guests are user-mode Linux; with VUZ_MACHINE=qemu they are QEMU's. One daemon serves them all. The console and
# the output of a boot that failed are kept with the daemon's log, in VUZ_OUTPUT (environment) or else in a temporary folder.
export VUZ_MACHINE=${VUZ_MACHINE:-uml}
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"

boots=500
while [[ $# -gt 0 ]]; do
    case $1 in
        --boots)
            need_value "$1" $#
            boots=$2
            shift 2
            ;;
        *) die "usage: boots.sh [--boots N]" ;;
    esac
done
[[ $boots =~ ^[1-9][0-9]*$ ]] || die "--boots is \"$boots\"; it is a number of boots, from 1"

# give_up N WHY: keeps what the boot has left behind and ends the tests.
give_up() {
    local folder=${VUZ_OUTPUT:-}
    if [[ -n $folder ]]; then mkdir -p "$folder"; else folder=$(mktemp -d); fi
    cp "$temp/console" "$temp/report" "$temp/messages" "$temp/socket.log" "$folder/" 2>/dev/null || true
    fail "boots/$1"
    printf '# boot %d of %d: %s; what it left is in %s\n' "$1" "$boots" "$2" "$folder"
    cat "$temp/messages"
    finish
}

# boot: one guest; its report becomes $temp/report, its time TOOK (in us).
boot() {
    local begun line code=0
    TOOK=
    rm -f "$temp/console"
    : >"$temp/report"
    begun=${EPOCHREALTIME/./}
    # It finds the kept kernel and the guest itself, as it does for everybody.
    env -u MACHINE_UML -u MACHINE_GUEST "$VUZ_SCRIPTS/run.sh" --socket "$temp/socket" --timeout 60 --console "$temp/console" \
        "$temp/job" >"$temp/lines" 2>"$temp/messages" &
    run_pid=$!
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$temp/report"
        # The report's last line.
        [[ $line != "$LAST_ZONE"* ]] || TOOK=$((${EPOCHREALTIME/./} - begun))
    done <"$temp/lines"
    wait "$run_pid" || code=$?
    run_pid=
    return "$code"
}

"$VUZ_SCRIPTS/deps.sh"
daemon_build
machine_get
geometry SIZE=$((1 << 30)) ZONE_SIZE=$((64 << 20)) ZONE_CAPACITY=$((64 << 20)) CONVENTIONAL=2 MAX_OPEN=0 MAX_ACTIVE=0 \
    MAX_APPEND=$((1 << 20)) BLOCK=4096 QUEUES=1
printf 'blkzone report /dev/vda\n' >"$temp/job"
printf -v LAST_ZONE '  start: 0x%09x, ' $(((SIZE - ZONE_SIZE) / 512))
mkfifo "$temp/lines"
expect boots/create create_image "$temp/disk.qcow2"
serve boots "$temp/disk.qcow2"
started=$SECONDS
for ((number = 1; number <= boots; number++)); do
    [[ ! -t 2 ]] || printf '\r\e[K%s' "boot $number of $boots" >&2
    code=0
    boot || code=$?
    ((code == 0)) || give_up "$number" "run.sh ended with status $code"
    [[ -n $TOOK ]] || give_up "$number" "the report has no line of the last zone"
    [[ -e $temp/first ]] || cp "$temp/report" "$temp/first"
    cmp -s "$temp/first" "$temp/report" || give_up "$number" "the report is not that of the first boot"
    printf '%s\n' "$TOOK" >>"$temp/times"
done
[[ ! -t 2 ]] || printf '\r\e[K' >&2
expect boots/every-zone-reported test "$(wc -l <"$temp/first")" -eq $((SIZE / ZONE_SIZE))
pass "boots/$boots-without-a-failure"
sort -n "$temp/times" | awk '
    { all[NR] = $1 / 1e6 }
    function rank(share) { share *= NR; return all[share > int(share) ? int(share) + 1 : share] }
    END { printf "# %d boots: median %.2f s, 99th percentile %.2f s, slowest %.2f s\n", NR, rank(0.5), rank(0.99), all[NR] }'
stop boots "$temp/disk.qcow2"
finish
