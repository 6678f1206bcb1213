//! Bytes that are changed in what reads bring: told by the layer over the device, which knows where in the file a request reads, and
//! done by the layer over the data path, which sees the bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::Tag;
use crate::units::Depth;

/// Bytes that a read brings otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Patch {
    /// Where they begin: on the disk, and then in the file.
    pub(super) at: u64,
    pub(super) change: Change,
}

/// What they are instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Of one byte these bits are flipped.
    Flip(u8),
    /// These.
    Replace(Vec<u8>),
}

impl Patch {
    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        match &self.change {
            Change::Flip(_) => 1,
            Change::Replace(bytes) => bytes.len() as u64,
        }
    }

    /// The part of it between `from` and `to`.
    pub(super) fn within(&self, from: u64, to: u64) -> Option<Self> {
        let (start, end) = (self.at.max(from), self.at.saturating_add(self.len()).min(to));
        if start >= end {
            return None;
        }
        let change = match &self.change {
            Change::Flip(mask) => Change::Flip(*mask),
            Change::Replace(bytes) => {
                Change::Replace(bytes.get((start - self.at) as usize..(end - self.at) as usize)?.to_vec())
            }
        };
        Some(Self { at: start, change })
    }
}

/// The patches of requests in flight.
#[derive(Debug, Default)]
pub(super) struct Patches {
    some: AtomicUsize,
    of: Mutex<HashMap<Tag, Vec<(Depth, Patch)>>>,
}

impl Patches {
    fn of(&self) -> MutexGuard<'_, HashMap<Tag, Vec<(Depth, Patch)>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong about the read that begins now, in which file of the chain.
    pub(super) fn set(&self, tag: Tag, patches: Vec<(Depth, Patch)>) {
        let mut of = self.of();
        of.insert(tag, patches);
        self.some.store(of.len(), Ordering::Release);
    }

    /// Whether there are any.
    #[inline]
    pub(super) fn is_any(&self) -> bool {
        self.some.load(Ordering::Acquire) != 0
    }

    /// Those of a read in a range of a file of the chain.
    pub(super) fn within(&self, tag: Tag, depth: Depth, from: u64, to: u64) -> Vec<Patch> {
        let of = self.of();
        let all = of.get(&tag).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|(of, _)| *of == depth).filter_map(|(_, patch)| patch.within(from, to)).collect()
    }

    pub(super) fn clear(&self, tag: Tag) {
        if self.is_any() {
            let mut of = self.of();
            of.remove(&tag);
            self.some.store(of.len(), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_of_a_patch_within_a_range_is_at_its_place() {
        let replace = |at, bytes: &[u8]| Patch { at, change: Change::Replace(bytes.to_vec()) };
        let patch = replace(10, &[1, 2, 3, 4]);
        assert_eq!(patch.within(0, 100), Some(patch.clone()));
        assert_eq!(patch.within(11, 13), Some(replace(11, &[2, 3])));
        assert_eq!((patch.within(0, 10), patch.within(14, 20)), (None, None));
        let flip = Patch { at: 7, change: Change::Flip(4) };
        assert_eq!((flip.within(7, 8), flip.within(8, 9)), (Some(flip.clone()), None));
    }
}
