//! A medium whose flush fails for ever once it has failed.
//!
//! After a failed fsync the kernel may have dropped the pages it could not write and a second fsync would succeed
//! without them, so a later success means nothing (P6).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::{FileRange, Layer, Layered, Medium};

/// A medium behind a fuse.
pub(super) type Fused<S> = Layered<Fuse<S>>;

/// The medium below, with a memory for a failed flush.
pub(super) struct Fuse<S> {
    below: Arc<S>,
    blown: AtomicBool,
}

impl<S> Fuse<S> {
    pub(super) fn new(below: Arc<S>) -> Self {
        Self { below, blown: AtomicBool::new(false) }
    }

    /// Whether a flush has failed.
    pub(super) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::Acquire)
    }

    fn guarded(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.is_blown() {
            return Err(io::Error::other("an earlier flush of the image has failed"));
        }
        flush().inspect_err(|_| self.blow())?;
        // Another thread's flush may have failed while this one was under way.
        if self.is_blown() {
            return Err(io::Error::other("a concurrent flush of the image has failed"));
        }
        Ok(())
    }

    /// A flush has failed, here or in a data path that flushed the same file.
    pub(super) fn blow(&self) {
        if !self.blown.swap(true, Ordering::AcqRel) {
            log::error!("a flush of the image failed: every further flush fails until the image is opened again");
        }
    }
}

impl<S: Medium> Layer for Fuse<S> {
    type Below = Arc<S>;

    fn below(&self) -> &Arc<S> {
        &self.below
    }

    fn flush(&self) -> io::Result<()> {
        self.guarded(|| self.below.flush())
    }

    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        self.guarded(|| self.below.sync_ranges(ranges))
    }
}
