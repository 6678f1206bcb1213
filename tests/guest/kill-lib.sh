# shellcheck shell=bash
# shellcheck disable=SC2034 # the variables are for those who source this
# In the guest: what kill-writer.sh writes where. Sourced by it, by kill-verify.sh and by those who leave these zones alone.

KILL_FIRST=$((CONVENTIONAL + 20))
KILL_ZONES=6
KILL_BLOCK=65536

# kill_block ZONE GENERATION BLOCK: the block's bytes
kill_block() { pattern "zone $1 generation $2 block $3" "$KILL_BLOCK"; }
