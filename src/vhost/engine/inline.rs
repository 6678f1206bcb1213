//! Transfers done at once, on the worker's own thread, because they end in memory: a system call without a round trip
//! through the ring is half the price, and the answer goes out with the batch.
//!
//! *Memory* (tmpfs): nothing it does waits for a device. *Page cache*: RWF_NOWAIT reads what is there and says so where
//! it is not. It takes writes on few file systems; elsewhere a write goes into the page cache without waiting, too, but
//! when the kernel has too much to write back. So writes are tried and timed, and one that took long sends those that
//! follow through the ring for a while. Past the page cache everything goes through the ring.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::{Transfer, result_of};

/// A write into the page cache that took longer than this has waited for something.
const SLOW: Duration = Duration::from_millis(1);

/// How long writes go through the ring after that.
const RESPITE: Duration = Duration::from_millis(100);

/// What is known of the file, and of how it fares.
pub(super) struct Inline {
    memory: bool,
    reads: bool,
    /// Writes go through the ring until then.
    writes_from: Option<Instant>,
}

impl Inline {
    /// `file` is the image, through the page cache.
    pub(super) fn new(file: &File) -> Self {
        let memory = fstatfs(file.as_fd()).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
        Self { memory, reads: true, writes_from: None }
    }

    /// Does a transfer if that needs no waiting: bytes, or a negated error number.
    ///
    /// # Safety
    ///
    /// The iovecs and the memory they name are valid.
    pub(super) unsafe fn try_now(&mut self, transfer: &Transfer) -> Option<i32> {
        if transfer.direct {
            return None;
        }
        // SAFETY: the caller promises the same.
        unsafe {
            match (transfer.write, self.memory) {
                (true, true) => Some(write(transfer)),
                (true, false) => self.write_timed(transfer),
                (false, true) => Some(read(transfer, 0)),
                (false, false) => self.read_cached(transfer),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`try_now`](Self::try_now).
    unsafe fn read_cached(&mut self, transfer: &Transfer) -> Option<i32> {
        if !self.reads {
            return None;
        }
        // SAFETY: the caller promises the same.
        let result = unsafe { read(transfer, libc::RWF_NOWAIT) };
        self.reads = result != -libc::EOPNOTSUPP;
        (result != -libc::EAGAIN && self.reads).then_some(result)
    }

    /// # Safety
    ///
    /// As for [`try_now`](Self::try_now).
    unsafe fn write_timed(&mut self, transfer: &Transfer) -> Option<i32> {
        let begun = Instant::now();
        if self.writes_from.is_some_and(|from| begun < from) {
            return None;
        }
        // SAFETY: the caller promises the same.
        let result = unsafe { write(transfer) };
        let ended = Instant::now();
        self.writes_from = (ended.duration_since(begun) > SLOW).then(|| ended + RESPITE);
        Some(result)
    }
}

/// # Safety
///
/// The iovecs and the memory they name are valid.
unsafe fn read(transfer: &Transfer, flags: libc::c_int) -> i32 {
    let Some((offset, count)) = arguments(transfer) else { return -libc::EFBIG };
    // SAFETY: the caller promises that the buffers are valid; guest memory has no Rust references that a write could
    // invalidate.
    result_of(unsafe { libc::preadv2(transfer.fd, transfer.buffers, count, offset, flags) })
}

/// # Safety
///
/// The iovecs and the memory they name are valid.
unsafe fn write(transfer: &Transfer) -> i32 {
    let Some((offset, count)) = arguments(transfer) else { return -libc::EFBIG };
    // SAFETY: the caller promises that the buffers are valid.
    result_of(unsafe { libc::pwritev(transfer.fd, transfer.buffers, count, offset) })
}

fn arguments(transfer: &Transfer) -> Option<(libc::off_t, libc::c_int)> {
    Some((libc::off_t::try_from(transfer.offset).ok()?, libc::c_int::try_from(transfer.count).ok()?))
}
