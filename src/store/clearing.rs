//! Where a zone stands on its way to hold nothing beyond its write pointer.
//!
//! The file may hold bytes beyond a zone's pointer: of an earlier generation, of a write whose pointer was lost or never
//! stored, of a write that failed. Nobody can read them, but a pointer that becomes durable before the data below it would
//! show them. So no write to such a zone is placed: its space from the pointer on has to be punched, and the hole durable,
//! before the pointer may move again (P3).
//!
//! | state | the file, from the pointer on | the pointer | what follows |
//! | --- | --- | --- | --- |
//! | `Clean` | reads as zeros, but for writes in flight | | a reset: `Asked`; a write that failed: `InDoubt` |
//! | `AtOpen` | may hold anything | durable | a write, a finish or the end asks: `Asked` |
//! | `InDoubt` | may hold anything | may go back to what it was before a reset | the same |
//! | `Asked` | the same | the same | the housekeeper finds nothing mapped, and it was `AtOpen`: `Clean`; else `Queued` |
//! | `Queued` | the same | the same | a sync of all pointers: `Durable` |
//! | `Durable` | may hold anything | durable | its space is punched: `Punched` |
//! | `Punched` | zeros; the hole may be lost with the power | durable | a sync of all holes: `Clean` |
//!
//! A step that fails leads back to `InDoubt`, and fails whoever waits.

use super::set::ZoneSet;
use crate::storage::FileRange;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::State;

/// How many punched zones share the sync that makes their holes durable, at most.
const PUNCHED: usize = 16 * 1024;
/// How many holes share it: a zone in small pieces has many.
const HOLES: usize = 64 * 1024;

/// Where a zone stands; the table above has what each state means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearing {
    Clean,
    /// The zone was empty at open, or held data after an end that was not orderly. What was in the file then is durable
    /// before this process writes to any space it maps: the reservation that space comes from starts with a flush.
    AtOpen,
    InDoubt,
    Asked,
    Queued,
    Durable,
    Punched,
}

impl Clearing {
    /// Where a zone stands when its image is opened, whose last writer ended in order or not.
    pub(super) fn at_open(state: State, orderly: bool) -> Self {
        match state {
            State::Empty => Self::AtOpen,
            State::Closed if !orderly => Self::AtOpen,
            _ => Self::Clean,
        }
    }

    /// Whether the housekeeper has the zone, or is about to.
    pub(super) fn is_under_way(self) -> bool {
        match self {
            Self::Clean | Self::AtOpen | Self::InDoubt => false,
            Self::Asked | Self::Queued | Self::Durable | Self::Punched => true,
        }
    }
}

/// The zones that the housekeeper has, by where they stand.
#[derive(Default)]
pub(super) struct Rounds {
    queued: ZoneSet,
    durable: ZoneSet,
    punched: ZoneSet,
    /// What was punched of them, by its place in the file.
    holes: Vec<FileRange>,
    /// Zones that requests wait for, in the order of the waiting.
    wanted: Vec<ZoneIndex>,
    /// Where the punching goes on.
    next: ZoneIndex,
}

/// What is done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Make the pointers of these zones durable.
    SyncPointers(Vec<ZoneIndex>),
    /// Punch these.
    Punch(Vec<ZoneIndex>),
    /// Make these holes durable, which are those of these zones.
    SyncHoles(Vec<FileRange>, Vec<ZoneIndex>),
}

impl Rounds {
    /// Takes a zone in where it stands.
    pub(super) fn enter(&mut self, zone: ZoneIndex, at: Clearing) {
        match at {
            Clearing::Queued => self.queued.insert(zone),
            Clearing::Durable => self.durable.insert(zone),
            Clearing::Punched => self.punched.insert(zone),
            Clearing::Clean | Clearing::AtOpen | Clearing::InDoubt | Clearing::Asked => {}
        }
    }

    /// Takes a zone out, wherever it stands.
    pub(super) fn forget(&mut self, zone: ZoneIndex) {
        [&mut self.queued, &mut self.durable, &mut self.punched].into_iter().for_each(|set| {
            set.remove(zone);
        });
    }

    /// A request waits for a zone.
    pub(super) fn hurry(&mut self, zone: ZoneIndex) {
        self.wanted.push(zone);
    }

    /// Takes in what was punched.
    pub(super) fn add_holes(&mut self, holes: &[FileRange]) {
        holes.iter().for_each(|(offset, len)| push_hole(&mut self.holes, *offset, *len));
    }

    /// How many zones still hold their space.
    pub(super) fn unpunched(&self) -> usize {
        self.queued.len() + self.durable.len()
    }

    /// The next step: the one that the zone waited for longest needs. Zones that come meanwhile are taken along where they
    /// are as far, and otherwise have their turn behind it. Its zones are taken out. At most `most` are punched.
    pub(super) fn next_step(&mut self, most: usize) -> Option<NextStep> {
        let Self { queued, durable, punched, holes, wanted, next } = self;
        wanted.retain(|zone| queued.contains(*zone) || durable.contains(*zone) || punched.contains(*zone));
        match wanted.first().copied() {
            Some(first) if queued.contains(first) => Some(self.sync_pointers()),
            Some(first) if durable.contains(first) => {
                let mut round: Vec<ZoneIndex> = wanted.iter().copied().take(most).collect();
                round.retain(|zone| durable.remove(*zone));
                round.sort_unstable();
                round.extend(durable.take(first, most - round.len()));
                Some(NextStep::Punch(round))
            }
            Some(_) => Some(self.sync_holes()),
            None if punched.len() >= PUNCHED || holes.len() >= HOLES || (durable.is_empty() && !punched.is_empty()) => {
                Some(self.sync_holes())
            }
            None if !durable.is_empty() => {
                let round = durable.take(*next, most);
                *next = round.last().map_or(ZoneIndex(0), |last| ZoneIndex(last.0.saturating_add(1)));
                Some(NextStep::Punch(round))
            }
            None if !queued.is_empty() => Some(self.sync_pointers()),
            None => None,
        }
    }

    fn sync_pointers(&mut self) -> NextStep {
        NextStep::SyncPointers(self.queued.take_all())
    }

    fn sync_holes(&mut self) -> NextStep {
        NextStep::SyncHoles(std::mem::take(&mut self.holes), self.punched.take_all())
    }
}

/// Adds a range of the file, joined to the one before where it goes on from it.
pub(super) fn push_hole(holes: &mut Vec<FileRange>, start: FileOffset, more: Bytes) {
    match holes.last_mut() {
        Some((offset, len)) if offset.0 + len.0 == start.0 => len.0 += more.0,
        _ => holes.push((start, more)),
    }
}
