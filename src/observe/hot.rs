//! The zones that are written most, in bounded memory: the Space-Saving sketch (Metwally, Agrawal, El Abbadi 2005).
//!
//! A zone that holds more than its share (one part in [`TRACKED`]) of all that was written is always among those
//! tracked, and what is said of it is at most that share too high.

use crate::units::{Bytes, ZoneIndex};

/// Zones that are tracked.
pub const TRACKED: usize = 32;

/// Bytes written by zone, for the zones written most.
#[derive(Clone, Debug, Default)]
pub struct HotZones {
    zones: Vec<(ZoneIndex, u64)>,
    last: usize,
}

impl HotZones {
    /// A write of `len` bytes to a zone.
    pub fn written(&mut self, zone: ZoneIndex, len: Bytes) {
        let known = match self.zones.get(self.last) {
            Some((last, _)) if *last == zone => Some(self.last),
            _ => self.zones.iter().position(|(known, _)| *known == zone),
        };
        let at = match known {
            Some(at) => at,
            None if self.zones.len() < TRACKED => {
                self.zones.push((zone, 0));
                self.zones.len() - 1
            }
            None => {
                let least = self.zones.iter().enumerate().min_by_key(|(_, (_, bytes))| *bytes);
                least.map_or(0, |(at, _)| at)
            }
        };
        self.last = at;
        if let Some(entry) = self.zones.get_mut(at) {
            // One that takes another's place takes over its bytes: it may have written as many before it was tracked.
            *entry = (zone, entry.1.saturating_add(len.0));
        }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        other.zones.iter().for_each(|(zone, bytes)| self.written(*zone, Bytes(*bytes)));
    }

    /// The zones tracked and their bytes, the most written first.
    pub fn ranking(&self) -> Vec<(ZoneIndex, Bytes)> {
        let mut ranking: Vec<_> = self.zones.iter().map(|(zone, bytes)| (*zone, Bytes(*bytes))).collect();
        ranking.sort_by_key(|(zone, bytes)| (std::cmp::Reverse(*bytes), *zone));
        ranking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_with_more_than_its_share_is_tracked_whatever_else_is_written() {
        let mut hot = HotZones::default();
        for round in 0..10_000u32 {
            hot.written(ZoneIndex(7), Bytes(4096));
            (0..4).for_each(|n| hot.written(ZoneIndex(100 + 4 * round + n), Bytes(4096)));
        }
        let ranking = hot.ranking();
        assert_eq!((ranking.len(), ranking[0].0), (TRACKED, ZoneIndex(7)));
        let (written, all) = (10_000 * 4096, 50_000 * 4096);
        assert!((written..=written + all / TRACKED as u64).contains(&ranking[0].1.0), "{ranking:?}");
    }

    #[test]
    fn few_zones_are_counted_exactly_and_the_most_written_is_first() {
        let (mut hot, mut other) = (HotZones::default(), HotZones::default());
        hot.written(ZoneIndex(1), Bytes(100));
        hot.written(ZoneIndex(2), Bytes(300));
        other.written(ZoneIndex(1), Bytes(250));
        hot.add(&other);
        assert_eq!(hot.ranking(), [(ZoneIndex(1), Bytes(350)), (ZoneIndex(2), Bytes(300))]);
    }
}
