//! The engine for where io_uring is not allowed: preadv, pwritev and fdatasync on the worker's own thread.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::{Completion, Files, Transfer, Wakers, drain};

pub(in crate::vhost) struct SyncEngine {
    files: Arc<Files>,
    wakers: Wakers,
    done: Vec<Completion>,
    /// The kick descriptor is no eventfd and at its end: polling it would never wait again.
    kick_ended: bool,
}

impl SyncEngine {
    pub(super) fn new(files: Arc<Files>, wakers: Wakers) -> Self {
        Self { files, wakers, done: Vec::new(), kick_ended: false }
    }

    /// # Safety
    ///
    /// The iovecs and the memory they name are valid.
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        let Transfer { token, write, fd, offset, buffers, count } = transfer;
        let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
        let result = match libc::off_t::try_from(offset) {
            Err(_) => -libc::EFBIG,
            // SAFETY: the caller promises that the buffers are valid; the descriptor is one of `files`.
            Ok(offset) if write => result_of(unsafe { libc::pwritev(fd, buffers, count, offset) }),
            // SAFETY: as above; guest memory has no Rust references that a write could invalidate.
            Ok(offset) => result_of(unsafe { libc::preadv(fd, buffers, count, offset) }),
        };
        self.done.push(Completion::Io { token, result });
    }

    pub(super) fn sync(&mut self, token: u64) {
        // SAFETY: takes no memory; the descriptor is open as long as `files`.
        let result = result_of(unsafe { libc::fdatasync(self.files.buffered()) } as isize);
        self.done.push(Completion::Io { token, result });
    }

    pub(super) fn wait(&mut self, block: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let block = block && self.done.is_empty();
        done.append(&mut self.done);
        let watch = |fd, on| libc::pollfd { fd: if on { fd } else { -1 }, events: libc::POLLIN, revents: 0 };
        let mut fds =
            [watch(self.wakers.kick.as_raw_fd(), !self.kick_ended), watch(self.wakers.wake.as_raw_fd(), true)];
        // SAFETY: an array of two valid pollfds.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, if block { -1 } else { 0 }) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let [kick, wake] = fds.map(|fd| fd.revents != 0);
        if kick {
            self.kick_ended = !drain(&self.wakers.kick);
            done.push(Completion::Kick);
        }
        if wake {
            let _ = self.wakers.wake.read();
            done.push(Completion::Wake);
        }
        Ok(())
    }
}

/// As a completion of io_uring has it. One call transfers at most 2 GiB less a page.
fn result_of(returned: isize) -> i32 {
    if returned < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    i32::try_from(returned).unwrap_or(i32::MAX)
}
