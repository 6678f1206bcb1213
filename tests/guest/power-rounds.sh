# shellcheck shell=bash
# In the guest: rounds of a file system, or of a log, whose power goes. "rounds.env" beside it says:
#   WHAT      btrfs, f2fs, or log
#   OPTIONS   of the mount; of the log: whether it is careful
#   ROUNDS FIRST_SEED
# Prints a line "ROUND SEED VERDICT ACKNOWLEDGED WORDS..." for each round: kept, lost or unmountable, of so many files that fsync had made stable.
. ./in-guest-lib.sh
# shellcheck source=/dev/null
. ./rounds.env

MOUNT=/mnt
STABLE=/tmp/stable
# Files to copy, of different sizes. (Made once: in a guest that shares two processors a program takes a while to start.)
PIECES=12
SUMS=()
for ((piece = 0; piece < PIECES; piece++)); do
    head -c $((piece * piece * 1500 + 1)) /dev/urandom >"/tmp/piece$piece"
    SUMS+=("$(sha256sum <"/tmp/piece$piece")")
done

# fsynced NAME: a file that is listed once fsync has come back well
fsynced() {
    local piece=$((RANDOM % PIECES))
    dd if="/tmp/piece$piece" of="$MOUNT/$1" bs=64K conv=fsync status=none 2>/dev/null || return 1
    printf '%s%s\n' "${SUMS[piece]%-}" "$1" >>"$STABLE"
}

# Written, or written over, and nothing is promised of it.
unsynced() { dd if="/tmp/piece$((RANDOM % PIECES))" of="$MOUNT/other$((RANDOM % 4))" bs=64K status=none 2>/dev/null; }

make_and_mount() {
    case $WHAT in
        btrfs) mkfs.btrfs -q -f -O zoned -d single -m single "$DISK" ;;
        f2fs) mkfs.f2fs -q -f -m "$DISK" >/dev/null ;;
    esac
    mount -t "$WHAT" -o "$OPTIONS" "$DISK" "$MOUNT"
}

# files SEED: one round. VERDICT is kept, lost or unmountable.
files() {
    local index lost
    RANDOM=$(($1 % 32768))
    make_and_mount || return 1
    : >"$STABLE"
    for ((index = 0; index < 4; index++)); do
        fsynced "first$index" || return 1
    done
    # Somewhere in what follows, wherever the file system is with it.
    ./power cut "seed=$1" "at=request:$((RANDOM % 80 + 1))" || return 1
    for ((index = 0; index < 40; index++)); do
        unsynced || break
        fsynced "file$index" || break
    done
    # A file system that writes little may not have come so far.
    ./power cut "seed=$1" 2>/dev/null || true
    ./power cycle || return 1
    VERDICT=kept
    if ! mount -t "$WHAT" -o "$OPTIONS" "$DISK" "$MOUNT" 2>/tmp/mount; then
        VERDICT=unmountable WORDS=$(head -n 1 /tmp/mount)
        return
    fi
    lost=$(cd "$MOUNT" && sha256sum --check --quiet "$STABLE" 2>/dev/null | sed 's/: FAILED.*//' | tr '\n' ' ')
    umount "$MOUNT"
    [[ -z $lost ]] || VERDICT=lost WORDS=$lost
}

# log SEED: records on a zone; careful: each is made stable before it is acknowledged.
log() {
    local zone=$CONVENTIONAL count found
    reset_all
    sync -d "$DISK"
    : >"$STABLE"
    for ((count = 0; count < 8; count++)); do
        put_zone "$zone" $((count * 4096)) 4096 4096
        [[ $OPTIONS != careful ]] || sync -d "$DISK"
        echo "record $count" >>"$STABLE"
    done
    ./power cut "seed=$1" && ./power cycle || return 1
    found=$(($(zone_pointer "$zone") / 4096))
    VERDICT=kept
    ((found >= count)) || VERDICT=lost WORDS="$((count - found)) records"
}

round=files
[[ $WHAT != log ]] || round=log
for ((number = 0; number < ROUNDS; number++)); do
    seed=$((FIRST_SEED + number)) VERDICT=failed WORDS=
    "$round" "$seed" >/tmp/round 2>&1 || VERDICT=failed WORDS=$(tail -n 1 /tmp/round)
    echo "ROUND $seed $VERDICT $(wc -l <"$STABLE") $WORDS"
    [[ $VERDICT != failed ]] || break
done
