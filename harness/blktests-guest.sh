# shellcheck shell=bash
# In the guest: blktests' check.
. ./guest-lib.sh
printf 'TEST_DEVS=(/dev/vda)\n' >settings
arguments=()
while read -r name; do
    arguments+=(-x "$name")
done <seen
# A test that was asked for by its name is run in spite of -x.
for name in "${CHECK[@]}"; do
    grep -qx "$name" seen || arguments+=("$name")
done
suite_begin
suite_check -c "$JOB_FOLDER/settings" -o /run/results "${arguments[@]}"
