//! Bytes that are changed in what reads bring: told by the layer over the device, which knows where in the file a request reads, and
//! done by the layer over the data path, which sees the bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    pub(super) fn within(&self, tag: Tag, from: u64, to: u64) -> Vec<Patch> {
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
