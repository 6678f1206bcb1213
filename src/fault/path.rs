//! The layer over a data path: changes bytes of what reads have brought, where the layer over the device says so.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::layer::Faults;
use super::patches::Patch;
use super::shared::Shared;
use crate::io::{Completion, DataPath, Transfer};
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

/// The layer over a data path.
pub struct FaultyPath<P: ?Sized> {
    queue: u16,
    shared: Arc<Shared>,
    wrong: Vec<Wrong>,
    below: Box<P>,
}

impl Faults {
    /// A data path of a queue whose reads are wrong where rules say so.
    pub fn path<P: DataPath + ?Sized>(&self, queue: u16, below: Box<P>) -> FaultyPath<P> {
        FaultyPath { queue, shared: Arc::clone(&self.shared), wrong: Vec::new(), below }
    }
}

impl<P: DataPath + ?Sized> DataPath for FaultyPath<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        if !transfer.write {
            let tag = Tag { queue: self.queue, slot: transfer.slot() };
            let patches =
                self.shared.patches.within(tag, transfer.offset, transfer.offset.saturating_add(transfer.len));
            if !patches.is_empty() {
                self.wrong.push(Wrong { token: transfer.token, transfer, patches });
            }
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

/// Flips the bits of a read that has brought so many bytes.
///
/// # Safety
///
/// The iovecs of the transfer and the memory that they name are valid.
unsafe fn apply(wrong: &Wrong, read: u64) {
    for Patch { offset, keep, flip } in &wrong.patches {
        let mut at = offset.saturating_sub(wrong.transfer.offset);
        if at >= read {
            continue;
        }
        // SAFETY: the caller promises that the iovecs are valid.
        for buffer in unsafe { wrong.transfer.iovecs() } {
            let len = buffer.iov_len as u64;
            if at < len {
                let byte = buffer.iov_base.cast::<u8>().wrapping_add(at as usize);
                // SAFETY: the byte is one of the buffer's. The guest may change it at the same time, which is its affair:
                // the access is volatile, and nothing follows from its value.
                unsafe { byte.write_volatile(byte.read_volatile() & keep ^ flip) };
                break;
            }
            at -= len;
        }
    }
}
