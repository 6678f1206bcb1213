# shellcheck shell=bash
# In the guest: a disk that comes, is written, goes, and comes again with what was written. Whoever plugs it waits for the lines "ok ...".
. ./in-guest-lib.sh

# wait_disk TEST: until "test TEST DISK" holds; a guest takes some seconds to let a device go.
wait_disk() {
    local tenth
    for ((tenth = 0; tenth < 300; tenth++)); do
        if test "$@" "$DISK"; then
            return
        fi
        sleep 0.1
    done
    echo "not within 30 seconds: test $* $DISK"
    return 1
}

plug_no_disk_yet() { test ! -e "$DISK"; }

plug_disk_comes() {
    wait_disk -b
    equal model "$(cat "$QUEUE/zoned")" host-managed
    echo mq-deadline >"$QUEUE/scheduler"
    reset_all
    put_zone "$CONVENTIONAL" 0 $((256 << 10))
}

plug_disk_goes() { wait_disk ! -e; }

plug_disk_comes_again() {
    wait_disk -b
    equal model "$(cat "$QUEUE/zoned")" host-managed
    echo mq-deadline >"$QUEUE/scheduler"
    equal pointer "$(zone_pointer "$CONVENTIONAL")" $((256 << 10))
    pattern "zone $CONVENTIONAL from 0" $((256 << 10)) | cmp - <(get "$(zone_start "$CONVENTIONAL")" $((256 << 10)))
    put_zone "$CONVENTIONAL" $((256 << 10)) $((64 << 10))
}

check plug-no-disk-yet
check plug-disk-comes
check plug-disk-goes
check plug-disk-comes-again
