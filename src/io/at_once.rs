//! A layer that does transfers at once, on the calling thread, because they end in memory: a system call without a round
//! trip through the ring is half the price, and the answer goes out with the batch.
//!
//! *Memory* (tmpfs): nothing it does waits for a device. *Page cache*: RWF_NOWAIT reads what is there and says so where
//! it is not. It takes writes on few file systems; elsewhere a write goes into the page cache without waiting, too, but
//! when the kernel has too much to write back. So writes are tried and timed, and one that took long sends those that
//! follow to the path below for a while. Past the page cache everything goes below.
//!
//! Long reads of a batch are done by two: one by a thread of the kernel's, beside the next by this one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::{Completion, DataPath, Files, Transfer, result_of};

/// A write into the page cache that took longer than this has waited for something.
const SLOW: Duration = Duration::from_millis(1);

/// How long writes go below after that.
const RESPITE: Duration = Duration::from_millis(100);

/// Reads of this length and more are shared with a thread of the kernel's when there are several: copying one takes
/// longer than handing it over. (Writes to one file exclude each other.)
const SHARED_READ: u64 = 64 * 1024;

/// A data path whose transfers are done at once where that needs no waiting.
pub(super) struct AtOnce<P> {
    below: P,
    files: Arc<Files>,
    /// One for each file of the chain.
    cached: Vec<Cached>,
    /// What is over and was not handed out.
    done: Vec<Completion>,
    /// A long read that waits for another one to be done beside it, or for the end of the batch.
    held: Option<Transfer>,
    /// A read is done beside this thread's work, and was not seen back.
    shared: bool,
}

/// A path that can tell, without a system call, that something is over.
pub(super) trait Landing: DataPath {
    /// Whether the next poll is sure to hand something out.
    fn has_landed(&mut self) -> bool;
}

impl<P: Landing> AtOnce<P> {
    pub(super) fn new(below: P, files: Arc<Files>) -> Self {
        let cached = files.buffered_files().map(Cached::new).collect();
        Self { below, files, cached, done: Vec::new(), held: None, shared: false }
    }

    /// # Safety
    ///
    /// As for [`DataPath::submit`].
    unsafe fn now_or_below(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises that buffers and memory are valid.
        let now = match (unsafe { self.files.choose(&transfer) }, self.cached.get_mut(usize::from(transfer.depth.0))) {
            // SAFETY: as above.
            ((fd, false), Some(cached)) => unsafe { cached.try_now(fd, &transfer) },
            _ => None,
        };
        match now {
            Some(result) => self.done.push(Completion { token: transfer.token, result }),
            // SAFETY: as above.
            None => unsafe { self.below.submit(transfer) },
        }
    }

    /// Does a read, or has it done beside this thread's next one, if nothing else is.
    ///
    /// # Safety
    ///
    /// As for [`DataPath::submit`].
    unsafe fn share(&mut self, read: Transfer) {
        // To ask the kernel would cost more than the reads that could be shared earlier for it.
        if self.shared && !self.below.has_landed() {
            // SAFETY: the caller promises the same.
            return unsafe { self.now_or_below(read) };
        }
        self.shared = true;
        // SAFETY: as above.
        unsafe { self.below.submit(Transfer { beside: true, ..read }) };
    }
}

impl<P: Landing> DataPath for AtOnce<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises that buffers and memory are valid.
        unsafe {
            if transfer.write || transfer.len < SHARED_READ || self.files.choose(&transfer).1 {
                self.now_or_below(transfer);
            } else if let Some(before) = self.held.replace(transfer) {
                self.share(before);
            }
        }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(held) = self.held.take() {
            // SAFETY: whoever submitted it keeps buffers and memory valid until it is handed out.
            unsafe { self.now_or_below(held) };
        }
        let before = self.done.len();
        let polled = self.below.poll(&mut self.done);
        self.shared &= self.done.len() == before;
        done.append(&mut self.done);
        polled
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

/// What is known of the file through the page cache, and of how it fares.
struct Cached {
    memory: bool,
    reads: bool,
    /// Writes go below until then.
    writes_from: Option<Instant>,
}

impl Cached {
    /// `file` is one of the chain, through the page cache.
    fn new(file: &File) -> Self {
        let memory = fstatfs(file.as_fd()).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
        Self { memory, reads: true, writes_from: None }
    }

    /// Does a transfer if that needs no waiting: bytes, or a negated error number.
    ///
    /// # Safety
    ///
    /// The iovecs and the memory they name are valid.
    unsafe fn try_now(&mut self, fd: RawFd, transfer: &Transfer) -> Option<i32> {
        // SAFETY: the caller promises the same.
        unsafe {
            match (transfer.write, self.memory) {
                (true, true) => Some(write(fd, transfer)),
                (true, false) => self.write_timed(fd, transfer),
                (false, true) => Some(read(fd, transfer, 0)),
                (false, false) => self.read_cached(fd, transfer),
            }
        }
    }

    /// # Safety
    ///
    /// As for [`try_now`](Self::try_now).
    unsafe fn read_cached(&mut self, fd: RawFd, transfer: &Transfer) -> Option<i32> {
        if !self.reads {
            return None;
        }
        // SAFETY: the caller promises the same.
        let result = unsafe { read(fd, transfer, libc::RWF_NOWAIT) };
        self.reads = result != -libc::EOPNOTSUPP;
        (result != -libc::EAGAIN && self.reads).then_some(result)
    }

    /// # Safety
    ///
    /// As for [`try_now`](Self::try_now).
    unsafe fn write_timed(&mut self, fd: RawFd, transfer: &Transfer) -> Option<i32> {
        let begun = Instant::now();
        if self.writes_from.is_some_and(|from| begun < from) {
            return None;
        }
        // SAFETY: the caller promises the same.
        let result = unsafe { write(fd, transfer) };
        let ended = Instant::now();
        self.writes_from = (ended.duration_since(begun) > SLOW).then(|| ended + RESPITE);
        Some(result)
    }
}

/// # Safety
///
/// The iovecs and the memory they name are valid.
unsafe fn read(fd: RawFd, transfer: &Transfer, flags: libc::c_int) -> i32 {
    let Some((offset, count)) = arguments(transfer) else { return -libc::EFBIG };
    // SAFETY: the caller promises that the buffers are valid; guest memory has no Rust references that a write could
    // invalidate.
    result_of(unsafe { libc::preadv2(fd, transfer.buffers, count, offset, flags) })
}

/// # Safety
///
/// The iovecs and the memory they name are valid.
unsafe fn write(fd: RawFd, transfer: &Transfer) -> i32 {
    let Some((offset, count)) = arguments(transfer) else { return -libc::EFBIG };
    // SAFETY: the caller promises that the buffers are valid.
    result_of(unsafe { libc::pwritev(fd, transfer.buffers, count, offset) })
}

fn arguments(transfer: &Transfer) -> Option<(libc::off_t, libc::c_int)> {
    Some((libc::off_t::try_from(transfer.offset).ok()?, libc::c_int::try_from(transfer.count).ok()?))
}
