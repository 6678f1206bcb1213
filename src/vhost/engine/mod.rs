//! Engines: who carries data between guest memory and the file.
//!
//! Both engines do the same: take transfers and hand out their completions. [`Uring`] does small transfers that go on from
//! each other as one (`merge`), at once what cannot block, as [`Inline`] finds, and gives the rest to the kernel in batches;
//! [`SyncEngine`] does each transfer at once.

#[cfg(test)]
mod held;
mod inline;
mod merge;
mod sync;
mod uring;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::Files;
use super::options::AioMode;
#[cfg(test)]
pub(super) use held::Held;
use inline::Inline;
use sync::SyncEngine;
use uring::Uring;

/// One file operation: a vectored read or write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Comes back with the completion.
    pub(super) token: u64,
    /// From guest memory to the file.
    pub(super) write: bool,
    pub(super) fd: RawFd,
    /// Past the page cache.
    pub(super) direct: bool,
    pub(super) offset: u64,
    /// Bytes in all buffers.
    pub(super) len: u64,
    pub(super) buffers: *const libc::iovec,
    pub(super) count: usize,
}

/// A transfer or sync that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completion {
    /// Which one.
    pub(super) token: u64,
    /// Bytes transferred, or a negated error number.
    pub(super) result: i32,
}

/// One of the two engines.
pub(super) enum Engine {
    Uring(Box<Uring>),
    Sync(SyncEngine),
    #[cfg(test)]
    Held(Held),
}

impl Engine {
    /// Makes an engine for a queue of `depth` requests. To be called on the thread that will use it.
    pub(super) fn new(mode: AioMode, files: Arc<Files>, depth: u16) -> io::Result<Self> {
        if mode != AioMode::Sync {
            match Uring::new(Arc::clone(&files), depth) {
                Ok(engine) => return Ok(Self::Uring(Box::new(engine))),
                Err(error) if mode == AioMode::IoUring => return Err(error),
                Err(error) => note_fallback(&error),
            }
        }
        Ok(Self::Sync(SyncEngine::new(files)))
    }

    /// Takes a transfer.
    ///
    /// # Safety
    ///
    /// The `count` iovecs at `buffers` and the memory they name stay valid and where they are until the completion
    /// with this token was handed out, or the engine is dropped.
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        match self {
            // SAFETY: the caller promises the same.
            Self::Uring(engine) => unsafe { engine.transfer(transfer) },
            // SAFETY: as above.
            Self::Sync(engine) => unsafe { engine.transfer(transfer) },
            #[cfg(test)]
            // SAFETY: as above.
            Self::Held(engine) => unsafe { engine.transfer(transfer) },
        }
    }

    /// Takes an fdatasync of the file.
    pub(super) fn sync(&mut self, token: u64) {
        match self {
            Self::Uring(engine) => engine.sync(token),
            Self::Sync(engine) => engine.sync(token),
            #[cfg(test)]
            Self::Held(engine) => engine.sync(token),
        }
    }

    /// Starts what was taken and appends what is done to `done`, without waiting for anything.
    pub(super) fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        match self {
            Self::Uring(engine) => engine.poll(done),
            Self::Sync(engine) => {
                engine.poll(done);
                Ok(())
            }
            #[cfg(test)]
            Self::Held(engine) => {
                engine.poll(done);
                Ok(())
            }
        }
    }

    /// What becomes readable when [`poll`](Self::poll) has something to hand out; `None` while nothing is in flight.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Self::Uring(engine) => engine.descriptor(),
            Self::Sync(_) => None,
            #[cfg(test)]
            Self::Held(_) => None,
        }
    }
}

/// As a completion of io_uring has it. One call transfers at most 2 GiB less a page.
fn result_of(returned: isize) -> i32 {
    if returned < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    i32::try_from(returned).unwrap_or(i32::MAX)
}

/// What a result says that is no success: a negated error number, or that nothing was written where something was to be.
pub(super) fn error_of(result: i32) -> io::Error {
    match result {
        0 => io::Error::new(io::ErrorKind::WriteZero, "nothing was written, and no reason given"),
        result => io::Error::from_raw_os_error(result.saturating_neg()),
    }
}

/// Says once a process that io_uring cannot be used.
fn note_fallback(error: &io::Error) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("io_uring cannot be used ({error}): using plain system calls, which are slower");
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
