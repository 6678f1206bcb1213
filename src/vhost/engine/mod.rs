//! Engines: who carries data between guest memory and the file, and who a worker waits on.
//!
//! Both engines do the same: take transfers, wait for their completions, for a kick of the driver and for the wake-up
//! by another thread. [`Uring`] has all of it in one ring, so that one system call submits and waits; [`Sync`] does
//! each transfer at once with a plain system call and waits with poll(2).

mod sync;
mod uring;

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::device::AioMode;
use super::files::Files;
use sync::SyncEngine;
use uring::Uring;

/// What a worker waits on besides its I/O. Neither may block when it is read.
#[derive(Clone, Debug)]
pub(super) struct Wakers {
    /// Written by the driver when it has filled its ring.
    pub(super) kick: Arc<File>,
    /// Written by other threads of this process.
    pub(super) wake: Arc<EventFd>,
}

/// One file operation: a vectored read or write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Comes back with the completion; none of the values the engine keeps for itself, see [`TOKEN_LIMIT`].
    pub(super) token: u64,
    /// From guest memory to the file.
    pub(super) write: bool,
    pub(super) fd: RawFd,
    pub(super) offset: u64,
    pub(super) buffers: *const libc::iovec,
    pub(super) count: usize,
}

/// Tokens are below this.
pub(super) const TOKEN_LIMIT: u64 = u64::MAX - 15;

/// Something that a worker waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completion {
    /// The driver has kicked.
    Kick,
    /// Another thread has something for the worker.
    Wake,
    /// A transfer or sync is done.
    Io {
        /// Which one.
        token: u64,
        /// Bytes transferred, or a negated error number.
        result: i32,
    },
}

/// One of the two engines.
pub(super) enum Engine {
    Uring(Box<Uring>),
    Sync(SyncEngine),
}

impl Engine {
    /// Makes an engine for a queue of `depth` requests. To be called on the thread that will use it.
    pub(super) fn new(mode: AioMode, files: Arc<Files>, wakers: Wakers, depth: u16) -> io::Result<Self> {
        if mode != AioMode::Sync {
            match Uring::new(Arc::clone(&files), wakers.clone(), depth) {
                Ok(engine) => return Ok(Self::Uring(Box::new(engine))),
                Err(error) if mode == AioMode::IoUring => return Err(error),
                Err(error) => note_fallback(&error),
            }
        }
        Ok(Self::Sync(SyncEngine::new(files, wakers)))
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
        }
    }

    /// Takes an fdatasync of the file.
    pub(super) fn sync(&mut self, token: u64) {
        match self {
            Self::Uring(engine) => engine.sync(token),
            Self::Sync(engine) => engine.sync(token),
        }
    }

    /// Starts what was taken and appends what is done to `done`. With `block` it returns only when there is
    /// something, or when a signal came.
    pub(super) fn wait(&mut self, block: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        match self {
            Self::Uring(engine) => engine.wait(block, done),
            Self::Sync(engine) => engine.wait(block, done),
        }
    }
}

/// Says once a process that io_uring cannot be used.
fn note_fallback(error: &io::Error) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("io_uring cannot be used ({error}): using plain system calls, which are slower");
    }
}

/// Empties an eventfd, so that it is readable again only after the next write. False when it has come to its end,
/// as only something that is no eventfd does.
fn drain(fd: &File) -> bool {
    use std::io::Read;
    !matches!((&mut &*fd).read(&mut [0; 8]), Ok(0))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
