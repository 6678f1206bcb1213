# shellcheck shell=bash
# Runs the commands of the file "commands", one a line, in one shell, and prints each behind "# " as a session would look. In the guest,
# for pages.sh.
set -u
mapfile -t commands <./commands
for command in "${commands[@]}"; do
    printf '# %s\n' "$command"
    eval "$command" </dev/null 2>&1
done
exit 0
