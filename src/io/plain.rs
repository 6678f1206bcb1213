//! The bottom of a data path where io_uring is not allowed: preadv, pwritev and fdatasync on the calling thread.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::{Completion, DataPath, Files, Transfer, result_of};

/// Does each transfer and sync when it is taken.
pub(super) struct Plain {
    files: Arc<Files>,
    done: Vec<Completion>,
}

impl Plain {
    pub(super) fn new(files: Arc<Files>) -> Self {
        Self { files, done: Vec::new() }
    }
}

impl DataPath for Plain {
    unsafe fn submit(&mut self, transfer: Transfer) {
        let Transfer { token, write, offset, buffers, count, .. } = transfer;
        // SAFETY: the caller promises that the buffers are valid.
        let (fd, _) = unsafe { self.files.choose(&transfer) };
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

    fn sync(&mut self, token: u64) {
        // SAFETY: takes no memory; the descriptor is open as long as `files`.
        let result = result_of(unsafe { libc::fdatasync(self.files.buffered()) } as isize);
        self.done.push(Completion { token, result });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
