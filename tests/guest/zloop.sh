# shellcheck shell=bash
# In the guest: the kernel's zloop takes the directory that "convert" has made of this disk ("zloop.tgz"), and shows the same; what is done
# to both then is the same again. The directory goes back as the manifest.
. ./in-guest-lib.sh
. ./zloop-lib.sh

the_kernel_takes_the_directory() {
    mkdir -p /mnt/zloop
    mount -t tmpfs -o size=64M zloop /mnt/zloop
    tar -xzf zloop.tgz -C /mnt/zloop
    local mib=$((1 << 20))
    echo "add id=0,capacity_mb=$((SIZE / mib)),zone_size_mb=$((ZONE_SIZE / mib)),zone_capacity_mb=$((ZONE_CAPACITY / mib)),conv_zones=$CONVENTIONAL,base_dir=/mnt/zloop" \
        >/dev/zloop-control
    [[ -b /dev/zloop0 ]]
    echo mq-deadline >/sys/block/zloop0/queue/scheduler
}

both_show_the_same() {
    zones_and_bytes "$DISK" >/tmp/ours
    zones_and_bytes /dev/zloop0 >/tmp/zloops
    [[ $(wc -l </tmp/ours) -eq $((ZONES + 1)) ]]
    diff /tmp/ours /tmp/zloops
}

the_same_is_done_to_both() {
    later "$DISK"
    later /dev/zloop0
    both_show_the_same
}

the_directory_goes_back() {
    sync
    echo "remove id=0" >/dev/zloop-control
    tar -czf /tmp/back.tgz -C /mnt/zloop 0
}

check the-kernel-takes-the-directory
check both-show-the-same
check the-same-is-done-to-both
check the-directory-goes-back
[[ ! -s /tmp/back.tgz ]] || base64 /tmp/back.tgz | sed 's/^/MANIFEST /'
