//! The engine for where io_uring is not allowed: preadv, pwritev and fdatasync on the worker's own thread.

use std::sync::Arc;

use super::{Completion, Files, Transfer, result_of};

pub(in crate::vhost) struct SyncEngine {
    files: Arc<Files>,
    done: Vec<Completion>,
}

impl SyncEngine {
    pub(super) fn new(files: Arc<Files>) -> Self {
        Self { files, done: Vec::new() }
    }

    /// # Safety
    ///
    /// The iovecs and the memory they name are valid.
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        let Transfer { token, write, fd, direct: _, offset, buffers, count, len: _ } = transfer;
        let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
        let result = match libc::off_t::try_from(offset) {
            Err(_) => -libc::EFBIG,
            // SAFETY: the caller promises that the buffers are valid; the descriptor is one of `files`.
            Ok(offset) if write => result_of(unsafe { libc::pwritev(fd, buffers, count, offset) }),
            // SAFETY: as above; guest memory has no Rust references that a write could invalidate.
            Ok(offset) => result_of(unsafe { libc::preadv(fd, buffers, count, offset) }),
        };
        self.done.push(Completion { token, result });
    }

    pub(super) fn sync(&mut self, token: u64) {
        // SAFETY: takes no memory; the descriptor is open as long as `files`.
        let result = result_of(unsafe { libc::fdatasync(self.files.buffered()) } as isize);
        self.done.push(Completion { token, result });
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }
}
