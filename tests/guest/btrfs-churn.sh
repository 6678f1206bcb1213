# shellcheck shell=bash
# In the guest: btrfs in zoned mode, filled, emptied, balanced, scrubbed, then written and deleted for CHURN_SECONDS; the guest dies at the
# end, in the middle of writes. Prints which files had been made stable as lines "MANIFEST CHECKSUM  NAME" for btrfs-crashed.sh.
. ./in-guest-lib.sh
. ./btrfs-lib.sh
. ./software-lib.sh
. ./churn-lib.sh

mib() { printf '%s MiB' $(($1 >> 20)); }

fill_make() {
    churn_base
    modprobe btrfs
    reset_all
    mkfs.btrfs -q -f -O zoned -d single -m single "$DISK"
    mount_btrfs
}

fill_nearly_full() {
    churn_fill fill $((SIZE / 20))
    ((FILLED * BASE_SIZE > SIZE / 2))
    note "btrfs filled with $FILLED files, $(mib $((FILLED * BASE_SIZE))), $(mib "$AVAILABLE") left"
    echo "$FILLED" >/tmp/filled
    churn_same "fill$((FILLED - 1))" 0
}

fill_scrub() { btrfs scrub start -B -R "$MOUNT"; }

fill_delete() {
    local index
    for ((index = 0; index < $(cat /tmp/filled); index++)); do
        ((index % 3 == 0)) || rm "$MOUNT/fill$index"
    done
    sync -f "$MOUNT"
}

# The kernel cleans zones by itself meanwhile, which excludes a balance for that time.
fill_balance() {
    btrfs balance start --enqueue -dusage=90 "$MOUNT"
    note "btrfs balance: $(btrfs filesystem df "$MOUNT" | head -n 1)"
}

fill_remount() {
    local index
    umount "$MOUNT"
    mount_btrfs
    for ((index = 0; index < $(cat /tmp/filled); index += 3)); do
        churn_same "fill$index" 0
        rm "$MOUNT/fill$index"
    done
    sync -f "$MOUNT"
}

# churn_again FILE GENERATION: writes a file. btrfs cleans zones in its own time and may be out of them meanwhile; a commit makes it
# catch up.
churn_again() {
    churn_write "$1" "$2" && return
    sync -f "$MOUNT"
    sleep 5
    churn_write "$1" "$2"
}

# Files are replaced, overwritten in part and deleted, over and over; a third of the disk is in use.
churn_cycles() {
    local end=$((SECONDS + ${CHURN_SECONDS:-420})) files=$((SIZE / 3 / BASE_SIZE)) generation=0 index written=0 before no_space=0
    before=$(device_written)
    while ((SECONDS < end)); do
        generation=$((generation + 1))
        for ((index = 0; index < files && SECONDS < end; index++)); do
            case $(((index + generation) % 4)) in
                0)
                    rm -f "$MOUNT/churn$index"
                    churn_again "churn$index" "$generation" || no_space=$((no_space + 1))
                    ;;
                *) churn_again "churn$index" "$generation" || no_space=$((no_space + 1)) ;;
            esac
            written=$((written + BASE_SIZE))
            echo "$generation" >"/tmp/generation-$index"
            ((index % 8 > 0)) || sync -f "$MOUNT"
        done
    done
    sync -f "$MOUNT"
    before=$(($(device_written) - before))
    note "btrfs churn: $(mib "$written") of files, $(mib "$before") to the disk, $((before * 10 / SIZE)) tenths of its size, in" \
        "$((SECONDS - end + ${CHURN_SECONDS:-420})) s; $generation generations of $files files; $no_space times no space"
    equal "times that there was no space" "$no_space" 0
    ((before > 2 * SIZE))
}

churn_same_files() {
    local file index
    for file in /tmp/generation-*; do
        index=${file#/tmp/generation-}
        churn_same "churn$index" "$(cat "$file")"
    done
}

churn_scrub() { btrfs scrub start -B -R "$MOUNT"; }

churn_check() {
    umount "$MOUNT"
    btrfs check --readonly "$DISK"
    mount_btrfs
}

check fill-make
check fill-nearly-full
check fill-scrub
check fill-delete
check fill-balance
check fill-remount
check churn-cycles
check churn-same-files
check churn-scrub
check churn-check

# The end: files made stable are told, files written meanwhile are not, and the kernel is reset without a last word.
rm -f "$MOUNT"/churn*
sync -f "$MOUNT"
for ((index = 0; index < 12; index++)); do
    churn_write "stable$index" 1
    sum=$({ churn_header "stable$index" 1 && tail -c +4097 "$BASE"; } | sha256sum)
    sync "$MOUNT/stable$index"
    echo "MANIFEST ${sum%-}stable$index"
done
(for ((index = 0; ; index++)); do churn_write "volatile$((index % 40))" "$index"; done) &
sleep 3
echo 1 >/proc/sys/kernel/sysrq
echo b >/proc/sysrq-trigger
