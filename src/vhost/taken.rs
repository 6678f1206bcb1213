//! What is said when memory that others share with this process is taken away from under it.
//!
//! The owner of the guest's memory can cut its file at any time, and the next access to it ends this process by SIGBUS,
//! as the kernel has nothing to give. Nothing can be gone on with then: what the access was for is unknown, and the
//! image is what a kill leaves. The standard library has a handler of its own for stack overflows, which puts the
//! default action back by a system call that queues' threads may not make; so this one is in its place, and is there
//! for one signal only.

use std::io;
use std::mem::MaybeUninit;

/// Written as it is, in the handler.
const LINE: &[u8] =
    b"vhost-user-zbd: memory that is shared with this process was taken away, by whoever has cut its file: \
the guest's, or the image. The process ends by SIGBUS\n";

/// Has the process say so before it ends.
pub(super) fn say_when_memory_is_taken() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zeros is a valid value, and `action` has it.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = tell as *const () as libc::sighandler_t;
    // The instruction is tried again after it and ends the process by the default action.
    action.sa_flags = libc::SA_RESETHAND;
    // SAFETY: the handler makes only calls that are safe in one, and the old action is not asked for.
    match unsafe { libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn tell(_signal: libc::c_int) {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd, and as many bytes as are said. Nothing is waited for where nobody reads.
    unsafe {
        if libc::poll(&raw mut stderr, 1, 0) > 0 {
            libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
        }
    }
}
