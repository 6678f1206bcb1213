# shellcheck shell=bash
# shellcheck disable=SC2034 # ERRNO is for those who source this
# In the guest: what the scripts with real software share (compare.sh and those that software.sh runs).

# Where "note" goes; the output of a test itself is only shown when the test fails.
exec 3>&1

# note TEXT: a figure or a finding for the reader of a run; software.sh shows it.
note() { printf 'NOTE %s\n' "$*" >&3; }

# errno COMMAND...: ERRNO becomes OK, or the name of the error that the command's last message tells.
errno() {
    local errors=/tmp/errno-$BASHPID text
    if "$@" 2>"$errors"; then
        ERRNO=OK
        return
    fi
    text=$(<"$errors")
    case $text in
        # The latter is how mount tells it.
        *'Input/output error'* | *"can't read superblock"*) ERRNO=EIO ;;
        *'Remote I/O error'*) ERRNO=EREMOTEIO ;;
        *'Too many references'*) ERRNO=ETOOMANYREFS ;;
        *'Value too large'*) ERRNO=EOVERFLOW ;;
        *'Invalid argument'*) ERRNO=EINVAL ;;
        *'No space left on device'*) ERRNO=ENOSPC ;;
        *'Operation not supported'*) ERRNO=EOPNOTSUPP ;;
        *'Operation not permitted'*) ERRNO=EPERM ;;
        *'Permission denied'*) ERRNO=EACCES ;;
        *'Device or resource busy'*) ERRNO=EBUSY ;;
        *'Read-only file system'*) ERRNO=EROFS ;;
        *'File too large'*) ERRNO=EFBIG ;;
        *'Structure needs cleaning'*) ERRNO=EUCLEAN ;;
        *) ERRNO="failed: ${text##*: }" ;;
    esac
}
