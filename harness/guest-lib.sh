# shellcheck shell=bash
# In the guest: what each suite's script begins and ends with. The root is read-only, so is the suite's folder; the results are written
# straight to the host, so that a guest that dies leaves them.
#
# Sourced by xfstests-guest.sh and blktests-guest.sh. Beside it: harness.env (lib.sh writes it), seen (the tests that have been run, one a
# line), lib (libraries that the suite's programs want and the root does not have), config (how the kernel was configured).
JOB_FOLDER=$PWD
# shellcheck source=/dev/null
. ./harness.env

# host_folder FOLDER WHERE FLAG...: shows a folder of the host there. Newer programs name the option, older ones hand over all there is.
host_folder() {
    local folder=$1 where=$2
    shift 2
    mkdir -p "$where"
    mount -t hostfs "$@" -o "hostfs=$folder" host "$where" 2>/dev/null || mount -t hostfs "$@" -o "$folder" host "$where"
}

# own_file FILE LINE...: the guest sees FILE with these lines more, where a program's package or a machine's owner did not put them.
own_file() {
    local file=$1 copy=$JOB_FOLDER/${1//\//_} line
    shift
    cat "$file" >"$copy"
    for line in "$@"; do
        grep -q "^${line%%:*}:" "$copy" || printf '%s\n' "$line" >>"$copy"
    done
    mount --bind "$copy" "$file"
}

# without_udev: udev wants a network. The suites wait for it, and look for the disks of device mapper by the links that it makes. Here the
# programs that make such disks see to the links before they end, and there is nothing to wait for.
without_udev() {
    local name program
    # libdevmapper of Debian's sid takes udev to be there when it cannot ask, and makes no names.
    export DM_DISABLE_UDEV=1
    mkdir "$JOB_FOLDER/bin"
    # shellcheck disable=SC2016 # as it is written
    printf '#!/bin/bash\n[[ $1 == settle ]] || exec %s "$@"\n' "$(type -P udevadm || echo false)" >"$JOB_FOLDER/bin/udevadm"
    for name in dmsetup cryptsetup dmzadm; do
        program=$(type -P "$name") || continue
        cat >"$JOB_FOLDER/bin/$name" <<END
#!/bin/bash
$program "\$@"
code=\$?
for disk in /sys/block/dm-*; do
    name=
    read -r name 2>/dev/null <"\$disk/dm/name"
    [[ -L /dev/mapper/\$name || ! -b /dev/mapper/\$name ]] || ln -sf "../\${disk##*/}" "/dev/mapper/\$name"
done
exit "\$code"
END
    done
    chmod 755 "$JOB_FOLDER"/bin/*
    PATH=$JOB_FOLDER/bin:$PATH
}

suite_begin() {
    local scheduler disk
    host_folder "$SUITE_FOLDER" /run/suite --read-only
    host_folder "$RESULTS_FOLDER" /run/results
    own_file /etc/passwd fsgqa:x:1001:1001::/tmp:/bin/bash fsgqa2:x:1002:1002::/tmp:/bin/bash 123456-fsgqa:x:1003:1003::/tmp:/bin/bash
    own_file /etc/group fsgqa:x:1001: fsgqa2:x:1002: 123456-fsgqa:x:1003: daemon:x:1: bin:x:2: sys:x:3:
    export LD_LIBRARY_PATH=$JOB_FOLDER/lib
    without_udev
    # Where the suites look for what the kernel has.
    if [[ -e config && -d /boot ]]; then
        mount -t tmpfs memory /boot
        cp config "/boot/config-$(uname -r)"
    fi
    for scheduler in /sys/block/vd*/queue/scheduler; do
        echo mq-deadline >"$scheduler"
    done
    # What a guest that died has left on them.
    for disk in /dev/vd?; do
        blkzone reset "$disk"
        wipefs --all --quiet "$disk"
    done
    mountpoint -q /sys/kernel/config || mount -t configfs config /sys/kernel/config
    cd /run/suite || exit
}

# suite_check ARGUMENT...: the suite's check; says that it came to its end.
suite_check() {
    local code=0
    # Through a pipe: on a terminal they move the cursor.
    { ./check "$@" 2>&1 || code=$?; } > >(exec cat)
    wait $!
    printf '\nharness: check ended with status %s\n' "$code"
}
