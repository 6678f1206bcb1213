//! Bytes that are changed in what reads bring: told by the layer over the device, which knows where in the file a request reads, and
//! done by the layer over the data path, which sees the bytes.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layer::{Faults, Shared};
use crate::io::{Completion, DataPath, Transfer};
use crate::store::Tag;

/// A byte that a read brings otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    /// Where in the file.
    pub(super) offset: u64,
    /// Which of its bits stay.
    pub(super) keep: u8,
    /// Which are flipped after that.
    pub(super) flip: u8,
}

/// The patches of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Patches {
    some: AtomicUsize,
    of: Mutex<HashMap<Tag, Vec<Patch>>>,
}

impl Patches {
    fn of(&self) -> MutexGuard<'_, HashMap<Tag, Vec<Patch>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong about the read that begins now.
    pub(super) fn set(&self, tag: Tag, patches: Vec<Patch>) {
        let mut of = self.of();
        of.insert(tag, patches);
        self.some.store(of.len(), Ordering::Release);
    }

    /// Those of a read in a range of the file.
    fn within(&self, tag: Tag, from: u64, to: u64) -> Vec<Patch> {
        if self.some.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let of = self.of();
        let all = of.get(&tag).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|patch| (from..to).contains(&patch.offset)).copied().collect()
    }

    pub(super) fn clear(&self, tag: Tag) {
        if self.some.load(Ordering::Acquire) != 0 {
            let mut of = self.of();
            of.remove(&tag);
            self.some.store(of.len(), Ordering::Release);
        }
    }
}

/// A read whose bytes are to be changed.
struct Wrong {
    token: u64,
    transfer: Transfer,
    patches: Vec<Patch>,
}

/// The layer over a data path.
struct FaultyPath {
    below: Box<dyn DataPath>,
    queue: u16,
    shared: Arc<Shared>,
    wrong: Vec<Wrong>,
}

impl Faults {
    /// A data path of a queue whose reads are wrong where rules say so.
    pub fn path(&self, queue: u16, below: Box<dyn DataPath>) -> Box<dyn DataPath> {
        Box::new(FaultyPath { below, queue, shared: Arc::clone(&self.shared), wrong: Vec::new() })
    }
}

impl DataPath for FaultyPath {
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
