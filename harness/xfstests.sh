#!/usr/bin/env bash
# Runs your built xfstests on zoned disks in a guest of user-mode Linux. Needs no root.
#
# Usage: xfstests.sh DIR --fs btrfs|xfs|f2fs [-g GROUP]... [-x GROUP]... [OPTION VALUE]... [TEST]...
#
#   DIR             your xfstests, built
#   --fs            the file system
#   -g, --group     tests of this group (quick when neither group nor test is given); may be given several times
#   -x, --exclude-group   not those of this one
#   TEST            single tests, like btrfs/237
#   --junit FILE    the results as JUnit's XML (junit.xml in the results' folder)
#   --results FOLDER  what check writes, what it prints (transcript), the guests' consoles, the daemons' logs (xfstests-results)
#   --known FILE    more known failures: lines of a test's name and the reason, besides those of harness/known-failures
#   --disk SPEC     the disks, as "serve --create" takes it: SIZE,NAME=VALUE,...
#   --root WHICH    the guest's programs: host (this machine's own), newest (Debian's, fetched once) or a folder
#   --mem SIZE      the guest's memory (1G)
#   --test-seconds N  a test that takes longer has failed (900)
#
# TEST_DEV is a disk, SCRATCH_DEV another; with btrfs SCRATCH_DEV_POOL is four. All are made anew.
#
# Exit status: 0 all as expected; 1 a test failed that is not known to, or a disk has faults; 2 the harness could not do its work.
SUITE=xfstests
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

harness_options "$@"
# Zones of which a part cannot be written, and limits, where the file system takes them.
case $FS in
    btrfs)
        DISKS=5
        DEFAULT=10G,zone.size=64M,zone.capacity=56M,zone.max_open_zones=24,zone.max_active_zones=32
        # xfstests does not find -f in the help of btrfs-progs 7, where no blank is before it any more.
        VARIABLES=('export SCRATCH_DEV_POOL="/dev/vdb /dev/vdc /dev/vdd /dev/vde" MKFS_OPTIONS=-f')
        ;;
    xfs)
        DISKS=2
        # mkfs.xfs places the zones wrongly behind conventional ones when their capacity is less than their size. xfs/638, 640 and 641 want
        # files of more than 64 MiB to be in one zone, generic/781 a disk of 16 GiB.
        DEFAULT=20G,zone.size=128M,zone.conventional_zones=8,zone.max_open_zones=32
        VARIABLES=('export SCRATCH_DEV=/dev/vdb')
        ;;
    f2fs)
        DISKS=2
        DEFAULT=20G,zone.size=64M,zone.conventional_zones=16,zone.max_open_zones=16
        VARIABLES=('export SCRATCH_DEV=/dev/vdb MKFS_OPTIONS=-m')
        ;;
    *) die "--fs is \"$FS\"; it can be btrfs, xfs or f2fs" ;;
esac
DISK=${DISK:-$DEFAULT}
VARIABLES+=("export FSTYP=$FS")
KNOWN=("$HARNESS/known-failures/xfstests-$FS.txt")
CHECK=()
[[ ${#GROUPS_TAKEN[@]} -gt 0 || ${#TESTS[@]} -gt 0 ]] || GROUPS_TAKEN=(quick)
for group in "${GROUPS_TAKEN[@]}"; do CHECK+=(-g "$group"); done
for group in "${GROUPS_LEFT[@]}"; do CHECK+=(-x "$group"); done
CHECK+=("${TESTS[@]}")
harness_run
