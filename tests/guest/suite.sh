# shellcheck shell=bash
# Runs in the guest: the scripts that the file "suite" names, one after another.
set -u
read -r scripts <suite
if [[ -b /dev/vda ]]; then
    echo mq-deadline >/sys/block/vda/queue/scheduler
else
    echo "# the guest has no /dev/vda"
    dmesg | grep -i -E 'virtio|vda' | sed 's/^/# /'
    exit 1
fi
for script in $scripts; do
    bash "./$script"
done
# What the kernel complained about goes with the results; that it saw requests refused is meant to be.
dmesg | grep -E 'WARNING|BUG|Oops|Call Trace|blocked for more than|rcu.*stall' | sed 's/^/# kernel: /'
exit 0
