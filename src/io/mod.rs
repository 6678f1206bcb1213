//! Data paths: who carries the guest's bytes between its memory and the file.
//!
//! | module | subject |
//! | --- | --- |
//! | [`pieces`] | the data of one request as file operations |
//! | `files` | the image file twice: direct and through the page cache |
//! | `uring` | io_uring |
//! | `plain` | system calls, where io_uring is not allowed |
//! | `over_medium` | any medium, on the calling thread |
//! | `at_once` | a layer: does on the calling thread what ends in memory |
//! | `joined` | a layer: does as one what goes on from each other in the file |
//!
//! The bottom of a path is `uring`, `plain` or `over_medium`. Over `uring` lie the two layers ([`open`]); another layer is another
//! [`DataPath`] that has one below it.

mod at_once;
mod files;
mod joined;
mod over_medium;
pub mod pieces;
mod plain;
mod uring;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use at_once::AtOnce;
pub use files::{DataFiles, Files};
use joined::Joined;
pub use over_medium::OverMedium;
#[cfg(test)]
pub(crate) use over_medium::carry;
use plain::Plain;
use uring::Uring;

use crate::units::Depth;

/// One file operation: a vectored read or write.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Comes back with the completion. Its upper half is the slot of the request that the transfer is part of; the highest bit is
    /// not set: layers have tokens of their own.
    pub token: u64,
    /// From guest memory to the file.
    pub write: bool,
    /// Goes through the page cache even where the file is open for more.
    pub buffered: bool,
    /// Is begun right away beside what the calling thread does next, where the path can do that.
    pub beside: bool,
    /// Which file of the chain; writes are to the image itself.
    pub depth: Depth,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Bytes in all buffers.
    pub len: u64,
    /// The first of the buffers.
    pub buffers: *const libc::iovec,
    /// How many buffers there are; at most 1024.
    pub count: usize,
}

impl Transfer {
    /// The slot of the request that the transfer is part of.
    pub fn slot(&self) -> u16 {
        (self.token >> 32) as u16
    }

    /// The buffers.
    ///
    /// # Safety
    ///
    /// The iovecs are valid for as long as the slice is used.
    pub(crate) unsafe fn iovecs<'a>(&self) -> &'a [libc::iovec] {
        // SAFETY: the caller promises that there are `count` valid iovecs.
        unsafe { std::slice::from_raw_parts(self.buffers, self.count) }
    }
}

/// A transfer or sync that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub token: u64,
    /// Bytes transferred, or a negated error number.
    pub result: i32,
}

/// Carries the guest's data. One thread uses it: that which has made it.
pub trait DataPath {
    /// Takes a transfer.
    ///
    /// # Safety
    ///
    /// The iovecs of the transfer and the memory they name stay valid and where they are until the completion with its
    /// token was handed out, or the path is dropped.
    unsafe fn submit(&mut self, transfer: Transfer);

    /// Takes an fdatasync of the file. What was completed before is durable once the sync is.
    fn sync(&mut self, token: u64);

    /// Starts what was taken and appends what is done to `done`, without waiting for anything. Fails where nothing will
    /// ever be completed any more.
    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()>;

    /// What becomes readable when [`poll`](Self::poll) has something to hand out; `None` while nothing is in flight.
    fn descriptor(&self) -> Option<RawFd>;
}

impl<P: DataPath + ?Sized> DataPath for Box<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises the same.
        unsafe { (**self).submit(transfer) };
    }

    fn sync(&mut self, token: u64) {
        (**self).sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        (**self).poll(done)
    }

    fn descriptor(&self) -> Option<RawFd> {
        (**self).descriptor()
    }
}

/// How the data's I/O is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AioMode {
    /// io_uring where the kernel allows it.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// Plain system calls.
    Sync,
}

/// What is put over a data path before its type is forgotten, so that both are one piece of code.
pub trait Cover {
    /// Covers a path.
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath>;
}

/// Nothing is put over a path.
#[derive(Clone, Copy, Debug)]
pub struct Bare;

impl Cover for Bare {
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath> {
        Box::new(below)
    }
}

/// Makes the data path of a queue of `depth` requests. To be called on the thread that will use it.
pub fn open(mode: AioMode, files: Arc<Files>, depth: u16, cover: impl Cover) -> io::Result<Box<dyn DataPath>> {
    if mode != AioMode::Sync {
        match Uring::new(Arc::clone(&files), depth) {
            Ok(uring) => return Ok(cover.over(Joined::new(AtOnce::new(uring, files)))),
            Err(error) if mode == AioMode::IoUring => return Err(error),
            Err(error) => note_fallback(&error),
        }
    }
    Ok(cover.over(Plain::new(files)))
}

/// As a completion of io_uring has it. One call transfers at most 2 GiB less a page.
fn result_of(returned: isize) -> i32 {
    if returned < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    i32::try_from(returned).unwrap_or(i32::MAX)
}

/// What a result says that is no success: a negated error number, or that nothing was written where something was to be.
pub fn error_of(result: i32) -> io::Error {
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
mod tests;
