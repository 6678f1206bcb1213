#!/usr/bin/env bash
# The XML of docs/qemu.md, given to Debian's libvirt: each domain is defined and started, and its guest sees the zones.
#
# Usage: tests/guest/libvirt.sh [RELEASE...]     Debian's releases whose libvirt is tried: bookworm (9.0) and sid when none is named
#
# libvirt is unpacked into the cache, not installed, and runs in namespaces of its own. Needs root and a kernel that lets root make
# namespaces; says so and tests nothing where it cannot have them.
#
# The domain for a QEMU with zones added is started where there is one: VUZ_ZONED_QEMU=FOLDER, or what blk.sh has built; without one it is
# only seen that stock QEMU refuses it as the page says. Output as all.sh.
. "$(dirname "${BASH_SOURCE[0]}")/host-lib.sh"
. "$VUZ_SCRIPTS/apt.sh"

PAGE=$VUZ_TOP/docs/qemu.md
# A guest is given up after this long.
DOMAIN_SECONDS=200
# Debian's number for the user that libvirt runs QEMU as.
LIBVIRT_QEMU=64055
# The last one is for a QEMU that was built here.
PACKAGES=(base-files dash coreutils libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libfdt1)

skip() {
    echo "skipped: $*"
    exit 0
}
[[ $EUID -eq 0 ]] || skip "libvirt is tested with root's rights only"
unshare --mount --pid --fork mount -t tmpfs none /mnt 2>/dev/null || skip "no namespaces can be made here"

releases=("$@")
[[ $# -gt 0 ]] || releases=(bookworm sid)

# libvirt_get RELEASE: the folder in the cache where its libvirt is unpacked becomes $libvirt_root.
libvirt_get() {
    local name new
    name=libvirt-$1-$(recipe_hash "$VUZ_SCRIPTS/apt.sh" "${BASH_SOURCE[0]}")
    libvirt_root=$VUZ_CACHE/$name
    [[ ! -e $libvirt_root ]] || return 0
    say "fetching libvirt from Debian $1 (about 50 MB, ten seconds) ..."
    # The lock goes with the subshell.
    (
        cache_lock
        new=$(cache_temp)
        apt_begin "$new/.apt" "$1"
        apt_unpack "$new" "${PACKAGES[@]}"
        rm -rf "$new/.apt"
        mkdir -p "$new/srv"
        printf 'root:x:0:0::/root:/bin/sh\nlibvirt-qemu:x:%d:%d::/:/bin/sh\n' "$LIBVIRT_QEMU" "$LIBVIRT_QEMU" >"$new/etc/passwd"
        printf 'root:x:0:\nlibvirt-qemu:x:%d:\n' "$LIBVIRT_QEMU" >"$new/etc/group"
        find "$VUZ_CACHE" -maxdepth 1 -name "libvirt-$1-*" -exec rm -rf {} +
        cache_publish "$new" "$name"
    )
}

libvirt_pid=
libvirt_end() {
    [[ -z $libvirt_pid ]] || kill -KILL "$libvirt_pid" 2>/dev/null || true
    { wait "$libvirt_pid" || true; } 2>/dev/null
    libvirt_pid=
}
# shellcheck disable=SC2317,SC2329 # called by the trap
libvirt_cleanup() {
    libvirt_end
    daemon_tidy_up
}
trap libvirt_cleanup EXIT

# virsh_in COMMAND...: asks the libvirt that runs inside.
virsh_in() {
    nsenter --target "$libvirt_first" --mount --pid -- timeout "$DOMAIN_SECONDS" chroot "$libvirt_root" \
        /usr/bin/env LC_ALL=C /usr/bin/virsh -q -c qemu:///system "$@"
}

# libvirt_begin NAME QEMU: starts $libvirt_root's libvirt, with the QEMU of that folder; without it the tests are over.
libvirt_begin() {
    say "libvirt of Debian $1 with $(cat "$2/version")"
    unshare --mount --pid --fork --kill-child --propagation private bash "$HERE/libvirt-inside.sh" "$libvirt_root" "$2" "$MACHINE_GUEST" \
        "$temp/shared" </dev/null >"$temp/libvirt.log" 2>&1 &
    libvirt_pid=$!
    for _ in $(seq 300); do
        libvirt_first=$(pgrep --parent "$libvirt_pid") && virsh_in list >/dev/null 2>&1 && return
        kill -0 "$libvirt_pid" 2>/dev/null || break
        sleep 0.1
    done
    fail "$1/libvirt"
    sed 's/^/# /' "$temp/libvirt.log"
    finish
}

# domain KIND: the page's XML with an element KIND becomes the defined domain.
# shellcheck disable=SC2317,SC2329 # called by expect
domain() {
    local type=kvm
    [[ $accel == kvm ]] || type=qemu
    : >"$temp/shared/output"
    : >"$temp/shared/console"
    : >"$temp/shared/status"
    /usr/bin/python3 -B "$HERE/libvirt-domain.py" "$PAGE" "$1" "$type" /srv/qemu/run /srv/guest /run/vhost-user-zbd >"$temp/shared/domain.xml"
    virsh_in define /run/vhost-user-zbd/domain.xml
}

# shellcheck disable=SC2317,SC2329 # called by expect
ended() {
    local deadline=$((SECONDS + DOMAIN_SECONDS))
    until [[ $(virsh_in domstate zoned) == "shut off" ]]; do
        ((SECONDS < deadline)) || { virsh_in destroy zoned; return 1; }
        sleep 0.2
    done
    grep -qx 'exit 0' "$temp/shared/status"
}

# shellcheck disable=SC2317,SC2329 # called by expect
refused_with() {
    local said
    said=$(virsh_in start zoned 2>&1) && { echo "it starts"; return 1; }
    printf '%s\n' "$said"
    grep -qF "$1" <<<"$said"
}

# serve_domain NAME KIND: a new disk is served, and the domain for it is defined.
serve_domain() {
    rm -f "$temp/image.qcow2"
    expect "$1/create" create_image "$temp/image.qcow2"
    daemon_start "$temp/image.qcow2" "$temp/shared/disk.sock" --block-size "$BLOCK" --num-queues "$QUEUES" --socket-mode 660 \
        --socket-group "$LIBVIRT_QEMU"
    expect "$1/define" domain "$2"
}

# end_domain NAME: undoes serve_domain.
end_domain() {
    expect "$1/undefine" virsh_in undefine zoned
    stop "$1" "$temp/image.qcow2"
}

# zones_through NAME KIND: the domain's guest sees a new disk's zones.
zones_through() {
    serve_domain "$1" "$2"
    expect "$1/start" virsh_in start zoned
    expect "$1/guest-ends-well" ended
    cp "$temp/shared/output" "$temp/output"
    results "$1" sysfs.sh
    end_domain "$1"
}

daemon_build
machine_get
accel=$("$VUZ_SCRIPTS/accel.sh")
zoned_qemu=${VUZ_ZONED_QEMU:-$(find "$VUZ_CACHE" -maxdepth 1 -name 'qemu-source-*' | head -n 1)}
mkdir "$temp/shared"
# The socket's user has to come through.
chmod 711 "$temp"
geometry SIZE=$((258 << 20)) ZONE_SIZE=$((4 << 20)) ZONE_CAPACITY=$((3 << 20)) CONVENTIONAL=4 MAX_OPEN=6 MAX_ACTIVE=12 \
    MAX_APPEND=$((128 << 10)) BLOCK=4096 QUEUES=1
guest_files sysfs.sh
machine_initramfs "$temp/shared" "$HERE/suite.sh" "${GUEST_FILES[@]}"

for release in "${releases[@]}"; do
    libvirt_get "$release"
    libvirt_begin "$release" "$MACHINE_QEMU"
    zones_through "$release/generic-device" qemu:commandline
    case $release in
        # Without the option that QEMU 9.2 has put in the place of this one.
        bookworm) said="Invalid parameter 'reconnect'" ;;
        *) said="Property 'vhost-user-blk-pci.zoned' not found" ;;
    esac
    serve_domain "$release/stock-qemu" qemu:override
    expect "$release/stock-qemu/refuses-the-vhostuser-disk" refused_with "$said"
    end_domain "$release/stock-qemu"
    libvirt_end
    [[ -n $zoned_qemu ]] || continue
    libvirt_begin "$release" "$zoned_qemu"
    zones_through "$release/vhostuser-disk" qemu:override
    libvirt_end
done
[[ -n $zoned_qemu ]] || say "there is no QEMU with zones added: its domain was not started (tests/guest/blk.sh builds one)"
finish
