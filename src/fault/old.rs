//! What blocks of conventional zones held before they were last written, for reads that are to bring that.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::patches::{Change, Patch};

/// Bytes that are kept; of what is written beyond that reads bring what is there.
const MOST: usize = 16 << 20;

/// Old blocks, by where they begin on the disk.
#[derive(Debug, Default)]
pub(super) struct OldBlocks {
    of: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl OldBlocks {
    fn of(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<u8>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block that begins there held this.
    pub(super) fn keep(&self, at: u64, content: Vec<u8>) {
        let mut of = self.of();
        if of.contains_key(&at) || (of.len() + 1).saturating_mul(content.len()) <= MOST {
            of.insert(at, content);
        }
    }

    /// What a range of the disk held, where that is known.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Patch> {
        let known = |(at, content): (&u64, &Vec<u8>)| {
            Patch { at: *at, change: Change::Replace(content.clone()) }.within(range.start, range.end)
        };
        self.of().range(..range.end).filter_map(known).collect()
    }

    pub(super) fn clear(&self) {
        self.of().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_range_is_the_last_that_was_kept() {
        let old = OldBlocks::default();
        old.keep(512, vec![1; 512]);
        old.keep(1024, vec![2; 512]);
        old.keep(1024, vec![3; 512]);
        let patch = |at, bytes: [u8; 2]| Patch { at, change: Change::Replace(bytes.to_vec()) };
        assert_eq!(old.within(&(1022..1026)), [patch(1022, [1, 1]), patch(1024, [3, 3])]);
        assert_eq!(old.within(&(0..512)), []);
        old.clear();
        assert_eq!(old.within(&(0..4096)), []);
    }
}
