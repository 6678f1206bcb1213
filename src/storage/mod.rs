//! What the image lives in: one file, reached through a trait so that a simulated disk can take the file's place.
//!
//! Everything here is blocking and is used for metadata; the guest's data goes through the asynchronous engines of
//! the `vhost` layer, straight between guest memory and the same file.
//!
//! Ordering: an operation that returned is visible to every later read and survives the death of the process (it is
//! in the kernel's page cache). Only [`Storage::flush`] makes it survive a loss of power (and [`Storage::sync_ranges`]
//! parts of it); operations between two flushes may become durable in any order, in part, torn at 512 bytes.

pub mod file;
pub mod lock;
pub mod memory;

use std::io;

use crate::units::{Bytes, FileOffset};

/// A part of the file: where it begins, how long it is.
pub type FileRange = (FileOffset, Bytes);

/// A byte-addressed file with holes.
pub trait Storage: Send + Sync {
    /// Fills `buf` from `offset`. Bytes past the end of the file read as zeros.
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`, growing the file where needed.
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()>;

    /// Makes all operations that returned before this call durable. After an error nothing is known of them.
    fn flush(&self) -> io::Result<()>;

    /// Makes durable what was written and punched in these ranges before this call, and the length of the file. What the
    /// rest of the file holds need not become durable: the guest's data is not waited for. Does nothing for no ranges. After an error nothing is
    /// known of anything that returned before this call.
    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()>;

    /// Makes the range read as zeros and gives its whole blocks back to the file system. Never changes the length.
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()>;

    /// Cuts the file, or grows it by a hole that reads as zeros.
    fn set_len(&self, len: Bytes) -> io::Result<()>;

    /// The present length of the file.
    fn len(&self) -> io::Result<Bytes>;

    /// Writes eight bytes at a multiple of eight, which nothing ever tears.
    fn write_word(&self, offset: FileOffset, word: [u8; 8]) -> io::Result<()> {
        self.write_at(offset, &word)
    }

    /// Says that words of this range will be written often. The range is inside the file and stays there.
    fn expect_words(&self, offset: FileOffset, len: Bytes) {
        let _ = (offset, len);
    }

    /// Whether [`allocate`](Self::allocate) is wanted.
    fn allocates(&self) -> bool {
        false
    }

    /// Has the file system find blocks for a range inside the file that will be written soon: an advice. What the range
    /// reads as stays as it is.
    fn allocate(&self, offset: FileOffset, len: Bytes) {
        let _ = (offset, len);
    }

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == Bytes(0))
    }
}

impl<S: Storage + ?Sized> Storage for std::sync::Arc<S> {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, buf)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        (**self).punch(offset, len)
    }
    fn set_len(&self, len: Bytes) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn len(&self) -> io::Result<Bytes> {
        (**self).len()
    }
    fn write_word(&self, offset: FileOffset, word: [u8; 8]) -> io::Result<()> {
        (**self).write_word(offset, word)
    }
    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        (**self).sync_ranges(ranges)
    }
    fn expect_words(&self, offset: FileOffset, len: Bytes) {
        (**self).expect_words(offset, len);
    }
    fn allocates(&self) -> bool {
        (**self).allocates()
    }
    fn allocate(&self, offset: FileOffset, len: Bytes) {
        (**self).allocate(offset, len);
    }
}
