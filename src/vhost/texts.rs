//! What writes to the mark disk begin with: a layer over its data paths keeps that, until the write has landed.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::io::{Completion, Cover, DataPath, Transfer};
use crate::store::Tag;

/// The block of the mark disk; of each write as much is looked at.
pub(super) const BLOCK: usize = 512;

/// The beginnings of writes in flight.
#[derive(Default)]
pub(super) struct Texts(Mutex<HashMap<Tag, Vec<u8>>>);

impl Texts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Tag, Vec<u8>>> {
        // Nothing that could panic is done while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Texts {
    /// What a write says that is over.
    pub(super) fn take(&self, tag: Tag) -> Option<String> {
        self.lock().remove(&tag).as_deref().and_then(text_of)
    }
}

/// What a block says, up to its first NUL or the end of its first line.
fn text_of(block: &[u8]) -> Option<String> {
    let line = block.split(|byte| matches!(byte, 0 | b'\n')).next()?;
    let text = String::from_utf8_lossy(line).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The writes of a queue, whose beginnings are kept.
pub(super) struct Beginnings<C> {
    pub(super) queue: u16,
    pub(super) texts: Arc<Texts>,
    pub(super) above: C,
}

impl<C: Cover> Cover for Beginnings<C> {
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath> {
        self.above.over(ReadPath { queue: self.queue, texts: self.texts, below })
    }
}

/// The layer over a data path.
struct ReadPath<P> {
    queue: u16,
    texts: Arc<Texts>,
    below: P,
}

impl<P> ReadPath<P> {
    /// Keeps the first bytes of a write.
    ///
    /// # Safety
    ///
    /// The iovecs of the transfer and the memory that they name are valid.
    unsafe fn keep(&self, transfer: &Transfer) {
        let mut block = Vec::with_capacity(BLOCK);
        // SAFETY: the caller promises that the iovecs are valid.
        for buffer in unsafe { transfer.iovecs() } {
            let (from, part) = (block.len(), buffer.iov_len.min(BLOCK - block.len()));
            block.resize(from + part, 0);
            if let Some(into) = block.get_mut(from..) {
                // SAFETY: the caller promises that the memory is valid; the part is no longer than the buffer, and none of it.
                unsafe { std::ptr::copy_nonoverlapping(buffer.iov_base.cast::<u8>(), into.as_mut_ptr(), part) };
            }
        }
        let tag = Tag { queue: self.queue, slot: transfer.slot() };
        self.texts.lock().entry(tag).or_insert(block);
    }
}

impl<P: DataPath> DataPath for ReadPath<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        // The pieces of a request are numbered from 0.
        if transfer.write && transfer.token as u32 == 0 {
            // SAFETY: the caller promises that the iovecs and their memory are valid until the completion is handed out.
            unsafe { self.keep(&transfer) };
        }
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(transfer) }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.below.poll(done)
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_the_first_line_of_a_block_up_to_its_first_nul() {
        for (block, text) in [
            (&b"fsync A\nrest"[..], Some("fsync A")),
            (b"fsync A\0\0\0", Some("fsync A")),
            (b"no end", Some("no end")),
            (b"blanks \t\r\n", Some("blanks")),
            (b"\nfsync A", None),
            (b"\0fsync A", None),
            (b"", None),
            (b"\xff\n", Some("\u{fffd}")),
        ] {
            assert_eq!(text_of(block).as_deref(), text, "{block:?}");
        }
    }
}
