#!/usr/bin/env bash
# Runs your built blktests on a zoned disk in a guest of user-mode Linux. Needs no root.
#
# Usage: blktests.sh DIR [-g GROUP]... [-x GROUP]... [OPTION VALUE]... [TEST]...
#
#   DIR             your blktests, built
#   -g, --group     tests of this group (zbd when neither group nor test is given); may be given several times
#   -x, --exclude-group   not those of this group, or not this test
#   TEST            single tests, like zbd/003
#   --junit FILE    the results as JUnit's XML (junit.xml in the results' folder)
#   --results FOLDER  what check writes, what it prints (transcript), the guests' consoles, the daemon's log (blktests-results)
#   --known FILE    more known failures: lines of a test's name and the reason, besides those of harness/known-failures
#   --disk SPEC     the disk, as "serve --create" takes it: SIZE,NAME=VALUE,...
#   --root WHICH    the guest's programs: host (this machine's own), newest (Debian's, fetched once) or a folder
#   --mem SIZE      the guest's memory (3G: zbd/013 writes 1 GiB at a time, onto a disk in memory)
#   --test-seconds N  a test that takes longer has failed (900)
#
# Exit status: 0 all as expected; 1 a test failed that is not known to, or the disk has faults; 2 the harness could not do its work.
SUITE=blktests
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

MEMORY=3G
harness_options "$@"
[[ -z $FS ]] || die "--fs is for xfstests"
DISKS=1
DISK=${DISK:-2G,zone.size=16M,zone.capacity=12M,zone.max_open_zones=12,zone.max_active_zones=16}
KNOWN=("$HARNESS/known-failures/blktests.txt")
CHECK=()
[[ ${#GROUPS_TAKEN[@]} -gt 0 || ${#TESTS[@]} -gt 0 ]] || GROUPS_TAKEN=(zbd)
for group in "${GROUPS_LEFT[@]}"; do CHECK+=(-x "$group"); done
CHECK+=("${GROUPS_TAKEN[@]}" "${TESTS[@]}")
harness_run
