# shellcheck shell=bash
# In the guest: xfstests' check.
. ./guest-lib.sh
export TEST_DEV=/dev/vda TEST_DIR=/mnt/test SCRATCH_MNT=/mnt/scratch RESULT_BASE=/run/results
# The user's own local.config is for the user's own disks.
export HOST_OPTIONS=$JOB_FOLDER/local.config
: >"$HOST_OPTIONS"
mkdir -p "$TEST_DIR" "$SCRATCH_MNT"
suite_begin
# check wants to find a file system there, and says what it misses.
# shellcheck disable=SC2086 # options
"mkfs.$FSTYP" ${MKFS_OPTIONS:-} -f "$TEST_DEV" >"$JOB_FOLDER/mkfs.log" 2>&1 || cat "$JOB_FOLDER/mkfs.log"
suite_check -E "$JOB_FOLDER/seen" "${CHECK[@]}"
