//! A set of zones: a bit a zone, so that what waits to be cleared takes little however much that is, is in order, and
//! can be taken out from the middle.

use crate::units::ZoneIndex;

/// Bits in a word.
const BITS: u32 = u64::BITS;

/// Some zones of a device.
#[derive(Debug, Default)]
pub(super) struct ZoneSet {
    /// As long as the highest zone so far needs.
    words: Vec<u64>,
    len: usize,
}

impl ZoneSet {
    /// How many zones it has.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn contains(&self, zone: ZoneIndex) -> bool {
        self.words.get(word_of(zone)).is_some_and(|word| word & bit_of(zone) != 0)
    }

    pub(super) fn insert(&mut self, zone: ZoneIndex) {
        let at = word_of(zone);
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        if let Some(word) = self.words.get_mut(at) {
            self.len += usize::from(*word & bit_of(zone) == 0);
            *word |= bit_of(zone);
        }
    }

    pub(super) fn remove(&mut self, zone: ZoneIndex) -> bool {
        let Some(word) = self.words.get_mut(word_of(zone)).filter(|word| **word & bit_of(zone) != 0) else {
            return false;
        };
        *word &= !bit_of(zone);
        self.len -= 1;
        true
    }

    /// Takes out up to `most` zones: in order those from `from` on, then those before it.
    pub(super) fn take(&mut self, from: ZoneIndex, most: usize) -> Vec<ZoneIndex> {
        let mut taken = Vec::with_capacity(most.min(self.len));
        let (first, end) = (word_of(from).min(self.words.len()), self.words.len());
        // The word of `from` comes twice: its upper bits first, the lower ones at the end.
        let upper = !0 << (from.0 % BITS);
        let order = (first..end).map(|at| (at, if at == word_of(from) { upper } else { !0 }));
        for (at, mask) in order.chain((0..end.min(first + 1)).map(|at| (at, !0))) {
            if taken.len() >= most || self.len == 0 {
                break;
            }
            let Some(word) = self.words.get_mut(at) else { break };
            while *word & mask != 0 && taken.len() < most {
                let bit = (*word & mask).trailing_zeros();
                *word &= !(1 << bit);
                self.len -= 1;
                taken.push(ZoneIndex(at as u32 * BITS + bit));
            }
        }
        taken
    }

    /// Takes out all, in order.
    pub(super) fn take_all(&mut self) -> Vec<ZoneIndex> {
        self.take(ZoneIndex(0), usize::MAX)
    }
}

fn word_of(zone: ZoneIndex) -> usize {
    (zone.0 / BITS) as usize
}

fn bit_of(zone: ZoneIndex) -> u64 {
    1 << (zone.0 % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_tree() {
        let (mut set, mut tree) = (ZoneSet::default(), BTreeSet::new());
        let mut seed = 3u64;
        let mut next = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % bound) as u32
        };
        for _ in 0..20_000 {
            let zone = ZoneIndex(next(300));
            match next(8) {
                0..4 => {
                    set.insert(zone);
                    tree.insert(zone.0);
                }
                4..6 => assert_eq!(set.remove(zone), tree.remove(&zone.0)),
                6 => assert_eq!(set.contains(zone), tree.contains(&zone.0)),
                _ => {
                    let most = next(70) as usize;
                    let wanted: Vec<u32> =
                        tree.range(zone.0..).chain(tree.range(..zone.0)).copied().take(most).collect();
                    let taken: Vec<u32> = set.take(zone, most).iter().map(|zone| zone.0).collect();
                    assert_eq!(taken, wanted);
                    wanted.iter().for_each(|zone| assert!(tree.remove(zone)));
                }
            }
            assert_eq!((set.len(), set.is_empty()), (tree.len(), tree.is_empty()));
        }
        let all: Vec<u32> = set.take_all().iter().map(|zone| zone.0).collect();
        assert!(all.into_iter().eq(tree) && set.is_empty());
    }
}
