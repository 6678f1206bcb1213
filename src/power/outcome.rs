//! What a cut has left, and how the cache stands, as both are told in JSON. Positions are in bytes of the disk.

use serde::{Deserialize, Serialize};

use super::rules::chance;
use super::switch::Then;

/// What a cut has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOutcome {
    /// The same for the same state of all zones: 16 hexadecimal digits.
    pub digest: String,
    /// By which it was chosen, where it was.
    pub seed: Option<u64>,
    /// What follows until the device is reset.
    pub then: Then,
    /// prefix or virtio.
    pub model: String,
    /// volatile or stable.
    pub mgmt: String,
    /// Requests that the cache has seen in all.
    pub requests: u64,
    /// Sequential zones that had anything to lose, in order.
    pub zones: Vec<CutZone>,
    /// Conventional ones, in order.
    pub conventional: Vec<CutConventional>,
}

/// A sequential zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutZone {
    /// Its number.
    pub zone: u32,
    /// The pointer that had to be kept.
    pub stable: u64,
    /// The furthest that was accepted.
    pub accepted: u64,
    /// The pointer now.
    pub kept: u64,
    /// Operations since the stable state.
    pub operations: u64,
    /// A write was kept in part.
    pub torn: bool,
    /// Resets that did not happen.
    pub resets_lost: u32,
    /// Finishes that did not happen.
    pub finishes_lost: u32,
    /// More was kept than chosen, so that the active zones fit.
    pub mended: bool,
}

/// A conventional zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutConventional {
    /// Its number.
    pub zone: u32,
    /// Blocks that had an old version.
    pub volatile: u64,
    /// Those of them that are what was written last.
    pub kept: u64,
    /// These, as first block of the disk and how many.
    pub new: Vec<(u64, u64)>,
}

impl CutConventional {
    /// Whether a block is what was written last.
    pub fn is_new(&self, block: u64) -> bool {
        self.new.iter().any(|(first, count)| (*first..first.saturating_add(*count)).contains(&block))
    }

    /// Takes a block in; they come in order.
    pub fn add(&mut self, block: u64, new: bool) {
        self.volatile += 1;
        if !new {
            return;
        }
        self.kept += 1;
        match self.new.last_mut() {
            Some((first, count)) if *first + *count == block => *count += 1,
            _ => self.new.push((block, 1)),
        }
    }
}

/// How the cache stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerStatus {
    /// on, armed or off.
    pub state: String,
    /// When it goes, where that is armed.
    pub at: Option<String>,
    /// Bytes that a cut may take.
    pub volatile_bytes: u64,
}

impl PowerStatus {
    /// Whether it is on, in words, and when it goes.
    pub fn in_words(&self) -> String {
        let power = if self.state == "off" { "off" } else { "on" };
        self.at.as_ref().map_or_else(|| power.to_owned(), |at| format!("{power}, to be cut at {at}"))
    }
}

/// A digest of numbers in order.
#[derive(Debug, Default)]
pub(super) struct Digest {
    sum: u64,
    count: u64,
}

impl Digest {
    pub(super) fn add(&mut self, word: u64) {
        self.count += 1;
        self.sum = chance(self.sum, [self.count, word, 0]);
    }

    pub(super) fn text(&self) -> String {
        format!("{:016x}", self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_one_another_are_one_run() {
        let mut zone = CutConventional { zone: 0, volatile: 0, kept: 0, new: Vec::new() };
        [(3, true), (4, true), (5, false), (6, true)].into_iter().for_each(|(block, new)| zone.add(block, new));
        assert_eq!((zone.volatile, zone.kept, zone.new.as_slice()), (4, 3, &[(3, 2), (6, 1)][..]));
        assert_eq!([2, 3, 4, 5, 6, 7].map(|block| zone.is_new(block)), [false, true, true, false, true, false]);
    }
}
