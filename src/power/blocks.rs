//! The old versions of blocks of conventional zones: what each was before its first write after a flush began (R7).
//!
//! Writes here happen in place, so a block is read before it is written, once an *epoch*; each flush begins one, and when it is done
//! the versions of the epochs before it are forgotten. The oldest version of a block is the stable one. A block that is being
//! written is not read: a write waits for one that overlaps it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use crate::store::Tag;

/// How a write goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// At once; [`Blocks::done`] is called when it is over.
    Goes,
    /// When the blocks that lack an old version have one.
    NeedsOld,
    /// When one that overlaps it is over.
    Waits,
}

/// The old versions.
#[derive(Debug)]
pub(super) struct Blocks {
    limit: u64,
    epoch: u64,
    bytes: u64,
    old: BTreeMap<u64, VecDeque<Version>>,
    /// The versions in the order in which they came.
    order: VecDeque<(u64, u64)>,
    writes: HashMap<Tag, Range<u64>>,
    waiting: Vec<Tag>,
}

#[derive(Debug)]
struct Version {
    epoch: u64,
    content: Vec<u8>,
}

impl Blocks {
    /// At most so many bytes of old versions are kept; beyond that the oldest are forgotten, and what replaced them is stable.
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            epoch: 0,
            bytes: 0,
            old: BTreeMap::new(),
            order: VecDeque::new(),
            writes: HashMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Bytes of old versions.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A write of some blocks is to begin.
    pub(super) fn admit(&mut self, tag: Tag, blocks: Range<u64>) -> Admission {
        let overlaps = |other: &Range<u64>| other.start < blocks.end && blocks.start < other.end;
        if self.writes.values().any(overlaps) {
            self.waiting.push(tag);
            return Admission::Waits;
        }
        if self.missing(blocks.clone()).next().is_some() {
            return Admission::NeedsOld;
        }
        self.writes.insert(tag, blocks);
        self.bound();
        Admission::Goes
    }

    /// Those of some blocks that have no version of this epoch.
    pub(super) fn missing(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> {
        blocks.filter(|block| {
            let newest = self.old.get(block).and_then(VecDeque::back);
            newest.is_none_or(|version| version.epoch != self.epoch)
        })
    }

    /// Keeps what a block is now.
    pub(super) fn keep(&mut self, block: u64, content: Vec<u8>) {
        self.bytes += content.len() as u64;
        self.old.entry(block).or_default().push_back(Version { epoch: self.epoch, content });
        self.order.push_back((block, self.epoch));
    }

    /// Forgets the oldest versions where there are too many.
    fn bound(&mut self) {
        while self.bytes > self.limit
            && let Some((block, epoch)) = self.order.pop_front()
        {
            self.forget(block, epoch);
        }
    }

    /// A request is over. Where that was a write of these: those that waited for one are to be tried again.
    pub(super) fn done(&mut self, tag: Tag) -> Option<Vec<Tag>> {
        self.writes.remove(&tag)?;
        Some(std::mem::take(&mut self.waiting))
    }

    /// A flush begins: returns which epoch ends with it.
    pub(super) fn flush_begins(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch - 1
    }

    /// The flush is done that ended an epoch.
    pub(super) fn flush_done(&mut self, epoch: u64) {
        while let Some((block, of)) = self.order.front().copied().filter(|(_, of)| *of <= epoch) {
            self.order.pop_front();
            self.forget(block, of);
        }
    }

    fn forget(&mut self, block: u64, epoch: u64) {
        let Some(versions) = self.old.get_mut(&block) else { return };
        if versions.front().is_some_and(|version| version.epoch == epoch)
            && let Some(version) = versions.pop_front()
        {
            self.bytes -= version.content.len() as u64;
        }
        if versions.is_empty() {
            self.old.remove(&block);
        }
    }

    /// Each block that has an old version, in order, with the oldest.
    pub(super) fn volatile(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.old.iter().filter_map(|(block, versions)| Some((*block, versions.front()?.content.as_slice())))
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { epoch: self.epoch, ..Self::new(self.limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(slot: u16) -> Tag {
        Tag { queue: 0, slot }
    }

    fn oldest(blocks: &Blocks) -> Vec<(u64, u8)> {
        blocks.volatile().map(|(block, content)| (block, content[0])).collect()
    }

    /// Writes some blocks, which were `byte` before.
    fn write(blocks: &mut Blocks, range: Range<u64>, byte: u8) {
        while blocks.admit(tag(0), range.clone()) == Admission::NeedsOld {
            let missing: Vec<_> = blocks.missing(range.clone()).collect();
            missing.into_iter().for_each(|block| blocks.keep(block, vec![byte; 10]));
        }
        blocks.done(tag(0));
    }

    #[test]
    fn a_block_is_read_once_an_epoch_and_its_oldest_version_is_the_stable_one() {
        let mut blocks = Blocks::new(1000);
        write(&mut blocks, 3..5, 1);
        write(&mut blocks, 4..6, 2);
        assert_eq!(oldest(&blocks), [(3, 1), (4, 1), (5, 2)]);
        let epoch = blocks.flush_begins();
        write(&mut blocks, 4..5, 3);
        assert_eq!(oldest(&blocks), [(3, 1), (4, 1), (5, 2)], "the flush may fail");
        blocks.flush_done(epoch);
        assert_eq!((oldest(&blocks), blocks.bytes()), (vec![(4, 3)], 10));
    }

    #[test]
    fn a_flush_that_fails_makes_nothing_stable() {
        let mut blocks = Blocks::new(1000);
        write(&mut blocks, 0..1, 1);
        blocks.flush_begins();
        write(&mut blocks, 0..1, 2);
        assert_eq!(oldest(&blocks), [(0, 1)]);
        let epoch = blocks.flush_begins();
        blocks.flush_done(epoch);
        assert_eq!(oldest(&blocks), []);
    }

    #[test]
    fn beyond_the_limit_the_oldest_are_stable() {
        let mut blocks = Blocks::new(25);
        (0..4).for_each(|block| write(&mut blocks, block..block + 1, 1));
        assert_eq!((oldest(&blocks), blocks.bytes()), (vec![(2, 1), (3, 1)], 20));
    }

    #[test]
    fn a_write_waits_for_one_that_overlaps_it() {
        let mut blocks = Blocks::new(1000);
        (0..4).for_each(|block| blocks.keep(block, vec![0; 10]));
        assert_eq!(blocks.admit(tag(1), 0..2), Admission::Goes);
        assert_eq!(blocks.admit(tag(2), 1..3), Admission::Waits);
        assert_eq!(blocks.admit(tag(3), 2..3), Admission::Goes);
        assert_eq!(blocks.done(tag(9)), None);
        assert_eq!(blocks.done(tag(1)), Some(vec![tag(2)]));
    }
}
