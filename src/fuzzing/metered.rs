//! A file that says when an image makes the code work without end, or by a size that nothing bounds.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::storage::memory::MemoryMedium;
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// A file in memory that counts, and panics where it is too much.
#[derive(Debug)]
pub(crate) struct Metered {
    pub(crate) inner: MemoryMedium,
    most_at_once: u64,
    longest: u64,
    operations: AtomicU64,
    changes: AtomicU64,
}

impl Metered {
    /// Far more than anything does with a small image.
    const MOST_OPERATIONS: u64 = 200_000;
    /// No buffer needs to be longer than the file, or than this.
    const BUFFER: u64 = 4 << 20;
    /// How much longer the file may become: a full device and its reservations.
    const GROWTH: u64 = 128 << 20;

    pub(crate) fn new(file: &MemoryMedium) -> Self {
        let len = file.len().map_or(0, |len| len.0);
        Self {
            inner: file.clone(),
            most_at_once: len.max(Self::BUFFER),
            longest: len.saturating_add(Self::GROWTH),
            operations: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// How often something was written, punched or cut.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn count(&self, len: usize) {
        assert!(len as u64 <= self.most_at_once, "{len} bytes at once");
        let operations = self.operations.fetch_add(1, Ordering::Relaxed);
        assert!(operations < Self::MOST_OPERATIONS, "this never ends");
    }

    fn change(&self, len: usize, end: u64) {
        self.count(len);
        assert!(end <= self.longest, "the file is to reach to {end:#x}");
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Medium for Metered {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.count(buf.len());
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        self.change(buf.len(), offset.0 + buf.len() as u64);
        self.inner.write_at(offset, buf)
    }
    fn flush(&self) -> io::Result<()> {
        self.count(0);
        self.inner.flush()
    }
    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        self.count(0);
        self.inner.sync_ranges(ranges)
    }
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        self.change(0, 0);
        self.inner.punch(offset, len)
    }
    fn set_len(&self, len: Bytes) -> io::Result<()> {
        self.change(0, len.0);
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<Bytes> {
        self.inner.len()
    }
}
