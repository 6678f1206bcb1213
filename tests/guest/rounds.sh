# shellcheck shell=bash
# In the guest: the same work again and again, while the daemon is started anew under it. Whoever does that counts the lines "# round N".
. ./in-guest-lib.sh

ROUNDS=${ROUNDS:-12}

# A round: new data in some zones, several requests in flight, all read back; the zones and the limits are as the guest left them.
rounds_verified() {
    local round
    for ((round = 1; round <= ROUNDS; round++)); do
        reset_all
        fio --name=job --filename="$DISK" --zonemode=zbd --direct=1 --ioengine=libaio --offset="${CONVENTIONAL}z" --size=12z --io_size=4M \
            --randseed="$round" --rw=randwrite --bs=16K --iodepth=8 --max_open_zones="$MAX_OPEN" \
            --verify=crc32c --verify_fatal=1 --do_verify=1
        manage finish $((CONVENTIONAL + 20))
        equal "state of a finished zone" "$(zone_state $((CONVENTIONAL + 20)))" fu
        echo "# round $round" >&3
    done 3>&"$STANDARD_OUTPUT"
}

rounds_without_complaints() {
    local complaints
    complaints=$(dmesg | grep -i -E 'I/O error|blk_update_request|critical|timed out' || true)
    equal "the kernel's complaints" "$complaints" ""
}

exec {STANDARD_OUTPUT}>&1
check rounds-verified
check rounds-without-complaints
