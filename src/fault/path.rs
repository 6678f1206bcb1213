//! The layer over a data path: changes bytes of what reads have brought, where the layer over the device says so.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::layer::Faults;
use super::patches::{Change, Patch};
use super::shared::Shared;
use crate::io::{Completion, Cover, DataPath, Transfer};
use crate::store::Tag;

/// A read whose bytes are to be changed.
struct Wrong {
    token: u64,
    transfer: Transfer,
    patches: Vec<Patch>,
}

// SAFETY: what is not `Send` by itself are the addresses of iovecs. Whoever has submitted them keeps them valid until their
// completion is handed out, whichever thread polls.
unsafe impl Send for Wrong {}

/// The reads of a queue, which are wrong where rules say so.
pub struct Reads {
    queue: u16,
    shared: Arc<Shared>,
}

impl Faults {
    /// The reads of a queue.
    pub fn reads(&self, queue: u16) -> Reads {
        Reads { queue, shared: Arc::clone(&self.shared) }
    }
}

impl Reads {
    /// The layer over the data path that does these reads.
    pub fn of<P: DataPath>(self, below: P) -> FaultyPath<P> {
        FaultyPath { reads: self, wrong: Vec::new(), below }
    }

    #[cold]
    fn wrong(&self, transfer: &Transfer) -> Option<Wrong> {
        let tag = Tag { queue: self.queue, slot: transfer.slot() };
        let (depth, from) = (transfer.depth, transfer.offset);
        let patches = self.shared.patches.within(tag, depth, from, from.saturating_add(transfer.len));
        (!patches.is_empty()).then_some(Wrong { token: transfer.token, transfer: *transfer, patches })
    }
}

impl Cover for Reads {
    fn over(self, below: impl DataPath + 'static) -> Box<dyn DataPath> {
        Box::new(self.of(below))
    }
}

/// The layer over a data path.
pub struct FaultyPath<P> {
    reads: Reads,
    wrong: Vec<Wrong>,
    below: P,
}

impl<P: DataPath> DataPath for FaultyPath<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        if !transfer.write && self.reads.shared.patches.is_any() {
            self.wrong.extend(self.reads.wrong(&transfer));
        }
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(transfer) }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let from = done.len();
        let polled = self.below.poll(done);
        if !self.wrong.is_empty() {
            for Completion { token, result } in done.iter().skip(from) {
                let Some(at) = self.wrong.iter().position(|wrong| wrong.token == *token) else { continue };
                let wrong = self.wrong.swap_remove(at);
                let read = u64::try_from(*result).unwrap_or(0);
                // SAFETY: the completion is handed out only after this, and until then the caller keeps the iovecs and
                // the memory that they name.
                unsafe { apply(&wrong, read) };
            }
        }
        polled
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

/// Changes the bytes of a read that has brought so many.
///
/// # Safety
///
/// The iovecs of the transfer and the memory that they name are valid.
unsafe fn apply(wrong: &Wrong, read: u64) {
    let (from, to) = (wrong.transfer.offset, wrong.transfer.offset.saturating_add(read));
    for patch in wrong.patches.iter().filter_map(|patch| patch.within(from, to)) {
        let start = patch.at - from;
        let mut before = 0;
        // SAFETY: the caller promises that the iovecs are valid.
        for buffer in unsafe { wrong.transfer.iovecs() } {
            let len = buffer.iov_len as u64;
            let (first, end) = (start.max(before), (start + patch.len()).min(before + len));
            for at in first..end {
                let byte = buffer.iov_base.cast::<u8>().wrapping_add((at - before) as usize);
                // SAFETY: the byte is one of the buffer's. The guest may change it at the same time, which is its affair:
                // the accesses are volatile, and nothing follows from the value.
                unsafe {
                    byte.write_volatile(match &patch.change {
                        Change::Flip(mask) => byte.read_volatile() ^ mask,
                        Change::Replace(bytes) => bytes.get((at - start) as usize).copied().unwrap_or_default(),
                    });
                }
            }
            before += len;
        }
    }
}
