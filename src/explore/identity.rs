//! Which states of a disk are the same: those with the same bytes below the same write pointers, as far as the recording tells.
//!
//! A zone is (life, pointer): a life is what was written since a reset, and begins anew where a write takes the place of one that has
//! failed, as other bytes stand there from then on. A block of a conventional zone is what it holds.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::observe::Kind;
use crate::record::{Accepted, Entry};
use crate::units::{Bytes, ZoneIndex};

/// Stands for a state, or for a part of one; parts are joined by [`Identity::with`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(u128);

impl Identity {
    /// Of a sequential zone; nothing where the zone is empty.
    pub fn of_zone(zone: ZoneIndex, start: Bytes, life: u64, pointer: u64) -> Self {
        if pointer <= start.0 { Self::default() } else { Self::of(b'z', &[zone.0.into(), life, pointer], &[]) }
    }

    /// Of a block of a conventional zone.
    pub fn of_block(number: u64, content: &[u8]) -> Self {
        Self::of(b'b', &[number], content)
    }

    fn of(kind: u8, numbers: &[u64], bytes: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update([kind]);
        numbers.iter().for_each(|number| digest.update(number.to_le_bytes()));
        digest.update(bytes);
        let digest: [u8; 32] = digest.finalize().into();
        let (half, _) = digest.split_at(16);
        Self(half.iter().fold(0, |all, byte| all << 8 | u128::from(*byte)))
    }

    /// With another part, or without one that it has.
    #[must_use]
    pub fn with(self, part: Self) -> Self {
        Self(self.0 ^ part.0)
    }

    /// The first 16 hexadecimal digits.
    pub fn text(self) -> String {
        format!("{:016x}", (self.0 >> 64) as u64)
    }
}

/// Where a zone is in its lives.
#[derive(Clone, Copy, Debug, Default)]
struct Lives {
    now: u64,
    /// That which the last reset has ended.
    ended: u64,
    /// How far the life has come.
    furthest: u64,
    /// Whether its reset may be lost.
    reset: bool,
}

/// The lives of all zones, as the records tell them.
#[derive(Debug, Default)]
pub struct AllLives {
    zones: HashMap<ZoneIndex, Lives>,
    /// That of all others.
    first: u64,
    count: u64,
}

impl AllLives {
    /// The life of a zone, or that before its last reset where this is lost.
    pub fn of(&self, zone: ZoneIndex, reset_lost: bool) -> u64 {
        match self.zones.get(&zone) {
            Some(lives) if reset_lost => lives.ended,
            Some(lives) => lives.now,
            None => self.first,
        }
    }

    /// The life of the zones that nothing has happened to since a daemon has begun.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Whether a request makes a reset stable that may be lost by now.
    pub fn keeps_reset(&self, accepted: &Accepted) -> bool {
        let changes = matches!(accepted.kind, Kind::Write | Kind::Append | Kind::Finish);
        changes && accepted.zone.and_then(|zone| self.zones.get(&zone)).is_some_and(|lives| lives.reset)
    }

    /// Takes in what a record says. `is_done` is whether the disk has done what was accepted.
    pub fn take(&mut self, entry: &Entry, is_done: bool) {
        match entry {
            Entry::Accept(accepted) => {
                if let Some(zone) = accepted.zone.filter(|_| is_done) {
                    self.accept(zone, accepted);
                }
            }
            Entry::Cut { .. } | Entry::Session { .. } => {
                self.zones.clear();
                self.first = self.next();
            }
            _ => {}
        }
    }

    fn accept(&mut self, zone: ZoneIndex, accepted: &Accepted) {
        let next = self.next();
        let first = self.first;
        let lives = self.zones.entry(zone).or_insert(Lives { now: first, ended: first, ..Lives::default() });
        match accepted.kind {
            Kind::Write | Kind::Append => {
                if accepted.place.0 < lives.furthest {
                    lives.now = next;
                }
                lives.furthest = accepted.place.0.saturating_add(accepted.len.into());
                lives.reset = false;
            }
            Kind::Reset | Kind::ResetAll
                // One of an empty zone changes nothing.
                if !lives.reset => {
                    *lives = Lives { now: next, ended: lives.now, furthest: 0, reset: true };
                }
            Kind::Finish => lives.reset = false,
            _ => {}
        }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(kind: Kind, place: u64) -> Entry {
        let zone = Some(ZoneIndex(1));
        Entry::Accept(Accepted { tag: None, kind, zone, place: Bytes(place), len: 10 })
    }

    #[test]
    fn a_life_ends_with_a_reset_and_where_a_failed_write_is_written_over() {
        let mut lives = AllLives::default();
        let mut after = |entry| {
            lives.take(&entry, true);
            (lives.of(ZoneIndex(1), false), lives.of(ZoneIndex(1), true))
        };
        let (first, _) = after(accept(Kind::Write, 100));
        assert_eq!(after(accept(Kind::Append, 110)).0, first);
        let (second, _) = after(accept(Kind::Write, 110));
        assert_ne!(second, first);
        let (third, ended) = after(accept(Kind::Reset, 100));
        assert!(third != second && ended == second);
        assert_eq!(after(accept(Kind::Reset, 100)), (third, ended), "a reset of an empty zone");
        assert_eq!(after(accept(Kind::Write, 100)).0, third);
        assert_ne!(after(Entry::Cut { fails: false, pointers: Vec::new() }).0, third);
    }

    #[test]
    fn states_are_the_same_with_the_same_parts_in_any_order() {
        let zone = |zone, pointer| Identity::of_zone(ZoneIndex(zone), Bytes(0), 1, pointer);
        let block = Identity::of_block(3, b"abc");
        assert_eq!(zone(1, 10).with(zone(2, 20)).with(block), block.with(zone(2, 20)).with(zone(1, 10)));
        assert_eq!(zone(1, 10).with(zone(1, 10)).with(zone(1, 20)), zone(1, 20));
        assert_eq!(zone(1, 0), Identity::default(), "an empty zone is what it was at the beginning");
        assert!(zone(1, 10) != zone(2, 10) && block != Identity::of_block(3, b"abd"));
    }
}
