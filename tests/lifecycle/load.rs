//! Random requests on several queues, and what they leave on the disk whether they were acknowledged or not.

use std::collections::HashMap;

use crate::common::cli::Geo;
use crate::common::disk::Disk;
use crate::common::frontend::Token;
use crate::common::model::{Model, Stamp, pattern, stamp};
use crate::common::request::{Done, Req, State, Status};
use crate::common::{Rng, SECTOR};

/// What a request in flight does to its zone once it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Write { sector: u64, count: u64, tag: u64 },
    Append { count: u64, tag: u64 },
    Overwrite { sector: u64, count: u64, tag: u64 },
    Reset,
    Finish,
    ResetAll,
    Flush,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    zone: usize,
    what: What,
    token: Token,
}

/// A disk under random load, with the model of what it must hold.
pub(crate) struct Load {
    /// The disk.
    pub(crate) disk: Disk,
    /// What was acknowledged.
    pub(crate) model: Model,
    rng: Rng,
    tag: u64,
    flying: Vec<InFlight>,
    depth: usize,
    /// How many requests were acknowledged.
    pub(crate) acknowledged: usize,
}

impl Load {
    /// An idle one.
    pub(crate) fn new(disk: Disk, seed: u64, depth: usize) -> Self {
        let model = Model::new(disk.geo());
        Self { disk, model, rng: Rng::new(seed), tag: seed << 32, flying: Vec::new(), depth, acknowledged: 0 }
    }

    fn geo(&self) -> Geo {
        self.disk.geo()
    }

    /// Goes on until `more` further requests were acknowledged; others are in flight then.
    pub(crate) fn run(&mut self, more: usize) {
        let goal = self.acknowledged + more;
        while self.acknowledged < goal {
            while self.flying.len() < self.depth {
                let Some((zone, queue, what, req)) = self.choose() else { break };
                let token = self.disk.submit(queue, &req);
                self.flying.push(InFlight { zone, what, token });
            }
            let first = self.flying[0].token;
            if self.settle() == 0 {
                let done = self.disk.wait(first);
                let at = self.flying.iter().position(|op| op.token == first).unwrap();
                let op = self.flying.remove(at);
                self.acknowledge(op, &done);
            }
        }
    }

    /// Waits for all that is in flight.
    pub(crate) fn drain(&mut self) {
        for op in std::mem::take(&mut self.flying) {
            let done = self.disk.wait(op.token);
            self.acknowledge(op, &done);
        }
    }

    /// Takes what was acknowledged, without waiting.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        for op in std::mem::take(&mut self.flying) {
            if let Some(done) = self.disk.front().poll(op.token) {
                self.acknowledge(op, &done);
                count += 1;
            } else {
                self.flying.push(op);
            }
        }
        count
    }

    fn acknowledge(&mut self, op: InFlight, done: &Done) {
        assert_eq!(done.status, Status::Ok, "{op:?}");
        self.acknowledged += 1;
        match op.what {
            What::Write { sector, count, tag } | What::Overwrite { sector, count, tag } => {
                self.model.wrote(sector, count, tag);
            }
            What::Append { count, tag } => self.model.wrote(done.number(), count, tag),
            What::Reset => self.model.reset(op.zone),
            What::Finish => self.model.finish(op.zone),
            What::ResetAll => self.model.reset_all(),
            What::Flush => {}
        }
    }

    /// A request that must succeed whatever becomes of those in flight: in one zone either writes of one queue, or
    /// appends of all, or one other request; no two that overlap.
    fn choose(&mut self) -> Option<(usize, usize, What, Req)> {
        let geo = self.geo();
        if self.flying.iter().any(|op| op.what == What::ResetAll) {
            return None;
        }
        let queues = self.disk.front().queues.len() as u64;
        let any_queue = self.rng.below(queues) as usize;
        match self.rng.below(1000) {
            0..20 => return Some((0, any_queue, What::Flush, Req::flush())),
            20..22 if self.flying.is_empty() => return Some((0, any_queue, What::ResetAll, Req::reset_all())),
            _ => {}
        }
        self.tag += 1;
        let tag = self.tag;
        let most = *self.rng.pick(&[1, 4, 16]);
        let count = 8 * (1 + self.rng.below(most));
        let data = || pattern(tag, 0, (count * SECTOR) as usize);
        for _ in 0..20 {
            let zone = self.rng.below(geo.zones() as u64) as usize;
            let start = geo.start(zone);
            let here: Vec<What> = self.flying.iter().filter(|op| op.zone == zone).map(|op| op.what).collect();
            let here: Vec<What> = here.into_iter().filter(|what| *what != What::Flush).collect();
            if geo.is_conventional(zone) {
                let sector = start + 8 * self.rng.below((geo.len(zone) - count) / 8);
                let overlaps = here.iter().any(|what| match what {
                    What::Overwrite { sector: at, count: len, .. } => sector < at + len && *at < sector + count,
                    _ => true,
                });
                if overlaps {
                    continue;
                }
                return Some((zone, any_queue, What::Overwrite { sector, count, tag }, Req::write(sector, data())));
            }
            let pending: u64 = here
                .iter()
                .map(|what| match what {
                    What::Write { count, .. } | What::Append { count, .. } => *count,
                    _ => 0,
                })
                .sum();
            if here.is_empty() {
                let chance = if self.model.is_full(zone) { 100 } else { self.rng.below(100) };
                match chance {
                    100 | 0..4 => return Some((zone, any_queue, What::Reset, Req::reset(start))),
                    4..6 => return Some((zone, any_queue, What::Finish, Req::finish(start))),
                    _ => {}
                }
            }
            if count > self.model.room(zone).saturating_sub(pending) {
                continue;
            }
            let appends = match here.first() {
                None => self.rng.below(2) == 0,
                Some(What::Append { .. }) => true,
                Some(What::Write { .. }) => false,
                Some(_) => continue,
            };
            if appends && count * SECTOR <= geo.append {
                return Some((zone, any_queue, What::Append { count, tag }, Req::append(start, data())));
            }
            if !appends {
                // The queue of a zone never changes, so its writes are seen in order.
                let queue = zone % queues as usize;
                let sector = self.projected(zone);
                return Some((zone, queue, What::Write { sector, count, tag }, Req::write(sector, data())));
            }
        }
        None
    }

    /// Where the pointer of a zone stands when all writes in flight are done.
    fn projected(&self, zone: usize) -> u64 {
        let flying = self.flying.iter().filter(|op| op.zone == zone);
        let ends = flying.filter_map(|op| match op.what {
            What::Write { sector, count, .. } => Some(sector + count),
            _ => None,
        });
        ends.chain([self.model.wp(zone)]).max().unwrap()
    }

    /// Kills the daemon and compares as [`Load::compare_after_end`] does.
    pub(crate) fn kill_and_compare(&mut self) {
        self.disk.daemon.kill9();
        self.compare_after_end();
    }

    /// After the daemon's end, starts it again and compares: all that was acknowledged is there; of the rest of each
    /// zone a prefix, in whole requests. Goes on from what was found.
    pub(crate) fn compare_after_end(&mut self) {
        // What stands in the used rings was acknowledged, noticed or not.
        self.settle();
        let lost = std::mem::take(&mut self.flying);
        self.disk.start_again();
        let reset_all = lost.iter().any(|op| op.what == What::ResetAll);
        for zone in 0..self.geo().zones() {
            let lost: Vec<What> = lost.iter().filter(|op| op.zone == zone).map(|op| op.what).collect();
            if self.geo().is_conventional(zone) {
                self.compare_conventional(zone, &lost);
            } else {
                self.compare_sequential(zone, &lost, reset_all);
            }
        }
    }

    fn stamps(&mut self, zone: usize) -> Vec<Option<Stamp>> {
        let (start, len) = (self.geo().start(zone), self.geo().len(zone));
        let mut out = Vec::new();
        for at in (0..len).step_by(512) {
            let bytes = self.disk.read(start + at, (512.min(len - at) * SECTOR) as usize).unwrap();
            for (sector, bytes) in bytes.chunks(SECTOR as usize).enumerate() {
                let found = stamp(bytes);
                out.push(found.unwrap_or_else(|e| panic!("zone {zone}, sector {} of it: {e}", at + sector as u64)));
            }
        }
        out
    }

    fn compare_conventional(&mut self, zone: usize, lost: &[What]) {
        let start = self.geo().start(zone);
        let found = self.stamps(zone);
        for (at, found) in found.iter().enumerate() {
            let old = self.model.zones[zone].sectors[at];
            let may_be_new = lost.iter().any(|what| match what {
                What::Overwrite { sector, count, tag } => {
                    let inside = (start + at as u64).checked_sub(*sector).filter(|offset| offset < count);
                    inside.is_some_and(|offset| *found == Some(Stamp { tag: *tag, at: offset as u32 }))
                }
                _ => false,
            });
            assert!(*found == old || may_be_new, "zone {zone}, sector {at} of it: found {found:?}, expected {old:?}");
        }
        self.model.zones[zone].sectors = found;
    }

    fn compare_sequential(&mut self, zone: usize, lost: &[What], reset_all: bool) {
        let (geo, found, report) = (self.geo(), self.stamps(zone), self.disk.zone(zone));
        assert!(matches!(report.state, State::Empty | State::Closed | State::Full), "zone {zone}: {:?}", report.state);
        let model = &mut self.model.zones[zone];
        if (reset_all || lost.contains(&What::Reset)) && report.state == State::Empty {
            assert!(found.iter().all(Option::is_none), "zone {zone} was reset and has data");
            self.model.reset(zone);
            return;
        }
        if lost.contains(&What::Finish) && report.state == State::Full {
            model.finished = true;
        }
        // Appended data tells by itself which request it is of; the position of a write is known.
        let mut open: HashMap<u64, u64> = HashMap::new();
        for what in lost {
            match what {
                What::Append { count, tag } => drop(open.insert(*tag, *count)),
                What::Write { sector, count, tag } => {
                    let at = (sector - geo.start(zone)) as usize;
                    if found[at] == Some(Stamp { tag: *tag, at: 0 }) {
                        open.insert(*tag, *count);
                    }
                }
                _ => {}
            }
        }
        let mut at = 0;
        while at < found.len() {
            if let Some(kept) = model.sectors[at] {
                assert_eq!(found[at], Some(kept), "zone {zone}, sector {at} of it: acknowledged and lost");
                at += 1;
                continue;
            }
            let Some(Stamp { tag, .. }) = found[at] else {
                at += 1;
                continue;
            };
            let count =
                open.remove(&tag).unwrap_or_else(|| panic!("zone {zone}, sector {at}: of no request in flight"));
            for offset in 0..count {
                let expected = Some(Stamp { tag, at: offset as u32 });
                assert_eq!(found[at], expected, "zone {zone}, sector {at} of it: a request that is there in part");
                model.sectors[at] = expected;
                at += 1;
            }
        }
        let written = model.sectors.iter().take_while(|stamp| stamp.is_some()).count();
        assert!(model.sectors[written..].iter().all(Option::is_none), "zone {zone} has a gap at {written}");
        assert!(model.written <= written as u64, "zone {zone}: acknowledged data is gone");
        model.written = written as u64;
        self.model.verify_pointer(&mut self.disk, zone, false);
    }
}
