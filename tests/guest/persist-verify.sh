# shellcheck shell=bash
# In the guest: every zone is as the file "manifest" says (what persist-write.sh printed in an earlier guest).
. ./in-guest-lib.sh
. ./kill-lib.sh
. ./persist-lib.sh

zones_as_before() {
    [[ -s ./manifest ]]
    manifest | diff ./manifest -
}

check zones-as-before
