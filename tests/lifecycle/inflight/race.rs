//! Requests to one zone that meet in any order: each outcome that some order explains is right, no other.

use crate::common::SECTOR;
use crate::common::cli::Geo;
use crate::common::frontend::Token;
use crate::common::model::{Model, pattern};
use crate::common::request::{Done, Req, Status};

use super::traffic::{Traffic, What, place_append};

/// A request of a race before it is made.
pub(super) struct Entry {
    pub(super) queue: usize,
    pub(super) what: What,
    pub(super) req: Req,
}

/// What the writes or appends of a race meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barrier {
    None,
    Reset,
    Finish,
}

/// Requests in flight to one zone, and the answers so far.
#[derive(Clone, Debug)]
pub(super) struct Race {
    barrier: Barrier,
    entries: Vec<(Token, What, Option<Done>)>,
}

impl Race {
    fn new(barrier: Barrier) -> Self {
        Self { barrier, entries: Vec::new() }
    }

    /// A race in an idle zone, if there is one that can be judged.
    pub(super) fn choose(traffic: &mut Traffic, queue: usize, zone: usize) -> Option<(Self, Vec<Entry>)> {
        let wp = traffic.model.wp(zone);
        let start = wp - traffic.model.zones[zone].written;
        let room = traffic.model.room(zone);
        let appends = traffic.rng.below(2) == 0;
        let barrier = *traffic.rng.pick(&[Barrier::None, Barrier::Reset, Barrier::Reset, Barrier::Finish]);
        let spread = barrier == Barrier::None || appends || traffic.rng.below(3) == 0;
        let first = if barrier == Barrier::Reset { start } else { wp };
        let mut entries = if appends {
            Self::appends(traffic, start)
        } else {
            Self::writes(traffic, if spread { None } else { Some(queue) }, first)
        };
        let total = total(&entries);
        // After a reset the positions must be others than before it, or nobody could tell which happened.
        let judgeable = barrier != Barrier::Reset || total < wp - start;
        let fits = total <= room || (barrier == Barrier::Reset && !appends);
        if !judgeable || !fits {
            return None;
        }
        let entry = match barrier {
            Barrier::None => return Some((Self::new(barrier), entries)),
            Barrier::Reset => Entry { queue, what: What::Reset, req: Req::reset(start) },
            Barrier::Finish => Entry { queue, what: What::Finish, req: Req::finish(start) },
        };
        let place = match (barrier, appends) {
            (Barrier::Reset, false) => 0,
            _ => traffic.rng.below(entries.len() as u64 + 1) as usize,
        };
        entries.insert(place, entry);
        Some((Self::new(barrier), entries))
    }

    /// Writes from the start of a zone behind a reset of all zones, if the zone has something to reset.
    pub(super) fn behind_reset_all(traffic: &mut Traffic, queue: usize, zone: usize) -> Option<(Self, Vec<Entry>)> {
        let written = traffic.model.zones[zone].written;
        let start = traffic.model.wp(zone) - written;
        let entries = Self::writes(traffic, Some(queue), start);
        let mut race = Self::new(Barrier::Reset);
        race.entries.push((Token::NONE, What::ResetAll, None));
        (total(&entries) < written).then_some((race, entries))
    }

    fn writes(traffic: &mut Traffic, queue: Option<usize>, first: u64) -> Vec<Entry> {
        let mut sector = first;
        let number = 2 + traffic.rng.below(3);
        let mut entries = Vec::new();
        for _ in 0..number {
            let (count, tag) = (traffic.count().min(32), traffic.next_tag());
            let queue = queue.unwrap_or_else(|| traffic.queue());
            let req = Req::write(sector, pattern(tag, 0, (count * SECTOR) as usize));
            entries.push(Entry { queue, what: What::Write { sector, count, tag }, req });
            sector += count;
        }
        entries
    }

    fn appends(traffic: &mut Traffic, start: u64) -> Vec<Entry> {
        let number = 2 + traffic.rng.below(3);
        let mut entries = Vec::new();
        for _ in 0..number {
            let (count, tag, queue) = (traffic.count().min(32), traffic.next_tag(), traffic.queue());
            let req = Req::append(start, pattern(tag, 0, (count * SECTOR) as usize));
            entries.push(Entry { queue, what: What::Append { count, tag }, req });
        }
        entries
    }

    /// Takes part of the race.
    pub(super) fn add(&mut self, token: Token, what: What) {
        self.entries.push((token, what, None));
    }

    pub(super) fn answer(&mut self, token: Token, done: &Done) {
        let entry = self.entries.iter_mut().find(|(of, _, _)| *of == token).expect("an answer of the race");
        entry.2 = Some(done.clone());
    }

    pub(super) fn answer_reset_all(&mut self, done: &Done) {
        self.answer(Token::NONE, done);
    }

    /// Judges the answers, which are all there, and takes what they say to the model. Returns whether the zone was
    /// reset.
    pub(super) fn settle(self, model: &mut Model, zone: usize, geo: &Geo) -> bool {
        let story = format!("zone {zone} at {:#x}: {:?}", model.wp(zone), self.summary());
        // Shown when the test fails, with the daemon's log.
        println!("race: {story}");
        let old_wp = model.wp(zone);
        let reset = self.barrier == Barrier::Reset;
        // Writes and appends may have met a full zone.
        let may_be_full = self.barrier == Barrier::Finish || model.is_full(zone);
        if reset {
            model.reset(zone);
        }
        let mut refused = false;
        for (_, what, done) in &self.entries {
            let done = done.as_ref().expect("all answers are there");
            match what {
                What::Write { sector, count, tag } if done.status == Status::Ok => {
                    assert!(!refused, "a write is done and not the one before it: {story}");
                    model.wrote(*sector, *count, *tag);
                }
                What::Write { .. } => {
                    let may = done.status == Status::UnalignedWp || may_be_full && done.status == Status::InvalidCmd;
                    assert!(may, "{:?} is no outcome of {what:?}: {story}", done.status);
                    refused = true;
                }
                What::Append { count, tag } if done.status == Status::Ok => {
                    // What lies behind the old pointer was appended before the reset and is gone.
                    if !reset || done.number() < old_wp {
                        place_append(model, zone, done.number(), *count, *tag);
                    }
                }
                What::Append { .. } => {
                    let may = may_be_full && done.status == Status::InvalidCmd;
                    assert!(may, "{:?} is no outcome of {what:?}: {story}", done.status);
                }
                _ => assert_eq!(done.status, Status::Ok, "{what:?}: {story}"),
            }
        }
        if self.barrier == Barrier::Finish {
            model.finish(zone);
        }
        let known = model.zones[zone].sectors_known();
        assert_eq!(known, model.zones[zone].written, "what is written has a gap: {story}");
        assert!(known <= geo.cap(zone), "{story}");
        reset
    }

    fn summary(&self) -> Vec<String> {
        let line = |(_, what, done): &(Token, What, Option<Done>)| {
            let number = done.as_ref().filter(|done| done.data.len() == 8).map(Done::number);
            format!("{what:x?}: {:?} {number:x?}", done.as_ref().map(|done| done.status))
        };
        self.entries.iter().map(line).collect()
    }
}

fn total(entries: &[Entry]) -> u64 {
    let count = |entry: &Entry| match entry.what {
        What::Write { count, .. } | What::Append { count, .. } => count,
        _ => 0,
    };
    entries.iter().map(count).sum()
}
