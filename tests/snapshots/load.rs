//! Writes and resets on all queues, each noted when it is asked for and when it is answered, and what of that is in a copy.

use std::ops::Range;

use crate::common::Rng;
use crate::common::cli::Geo;
use crate::common::frontend::Token;
use crate::common::request::{Req, Status};

use super::rig::{BLOCK, Rig};

/// Requests in flight in a zone.
const DEPTH: usize = 3;

/// One request of a zone.
#[derive(Debug)]
struct Op {
    /// Blocks that it writes; none for a reset.
    blocks: u64,
    asked: u64,
    answered: Option<u64>,
}

/// What was asked of a zone, in its order.
#[derive(Debug, Default)]
struct Log {
    ops: Vec<Op>,
    /// Where the next write goes, in blocks.
    next: u64,
    in_flight: Vec<(Token, usize)>,
}

/// The load.
#[derive(Debug)]
pub(crate) struct Load {
    geo: Geo,
    rng: Rng,
    logs: Vec<Log>,
    /// Counts what happens, in the order in which it is seen.
    clock: u64,
}

/// The content of a block: zone, request, place in it.
fn block(zone: usize, op: usize, at: u64) -> Vec<u8> {
    let label = [zone as u64, op as u64, at, !(zone as u64)].map(u64::to_le_bytes).concat();
    label.repeat(BLOCK as usize / label.len())
}

impl Load {
    pub(crate) fn new(geo: Geo, seed: u64) -> Self {
        let logs = (0..geo.zones()).map(|_| Log::default()).collect();
        Self { geo, rng: Rng::new(seed), logs, clock: 0 }
    }

    /// The moment.
    pub(crate) fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Asks for something, and takes what was answered.
    pub(crate) fn step(&mut self, rig: &mut Rig) {
        self.step_in(rig, self.geo.first_seq()..self.geo.zones());
    }

    /// The same in some zones alone.
    pub(crate) fn step_in(&mut self, rig: &mut Rig, zones: Range<usize>) {
        let queues = rig.disk.front().queues.len();
        let zone = zones.start + self.rng.below(zones.len() as u64) as usize;
        let room = self.geo.cap(zone) * 512 / BLOCK - self.logs[zone].next;
        let wants_reset = room == 0 || self.rng.below(40) == 0 && self.logs[zone].next > 0;
        let (idle, at) = (self.logs[zone].in_flight.is_empty(), self.logs[zone].ops.len());
        let req = if wants_reset && idle {
            self.logs[zone].next = 0;
            Some((0, Req::reset(self.geo.start(zone))))
        } else if room > 0 && self.logs[zone].in_flight.len() < DEPTH {
            let blocks = (1 + self.rng.below(4)).min(room);
            let sector = self.geo.start(zone) + self.logs[zone].next * BLOCK / 512;
            self.logs[zone].next += blocks;
            let data: Vec<u8> = (0..blocks).flat_map(|n| block(zone, at, n)).collect();
            Some((blocks, Req::write(sector, data)))
        } else {
            None
        };
        if let Some((blocks, req)) = req {
            let asked = self.now();
            self.logs[zone].ops.push(Op { blocks, asked, answered: None });
            // One queue a zone, and what comes behind a reset waits for it, so that the order is known.
            let token = rig.disk.front().submit(zone % queues, &req);
            self.logs[zone].in_flight.push((token, at));
            if blocks == 0 {
                self.await_zone(rig, zone);
            }
        }
        self.collect(rig);
    }

    fn await_zone(&mut self, rig: &mut Rig, zone: usize) {
        let (token, at) = self.logs[zone].in_flight.pop().unwrap();
        let done = rig.disk.front().wait(token);
        assert_eq!(done.status, Status::Ok, "request {at} of zone {zone}");
        self.logs[zone].ops[at].answered = Some(self.now());
    }

    /// Takes what was answered.
    pub(crate) fn collect(&mut self, rig: &mut Rig) {
        let front = rig.disk.front();
        front.collect();
        for (zone, log) in self.logs.iter_mut().enumerate() {
            let Log { ops, in_flight, .. } = log;
            in_flight.retain(|(token, at)| {
                let Some(done) = front.taken(*token) else { return true };
                assert_eq!(done.status, Status::Ok, "request {at} of zone {zone}");
                self.clock += 1;
                ops[*at].answered = Some(self.clock);
                false
            });
        }
    }

    /// Waits for all that is in flight.
    pub(crate) fn drain(&mut self, rig: &mut Rig) {
        while self.logs.iter().any(|log| !log.in_flight.is_empty()) {
            rig.disk.front().collect_until(std::time::Instant::now() + std::time::Duration::from_secs(1));
            self.collect(rig);
        }
    }

    /// A copy that was made between two moments is the state of one of them: each zone is what a prefix of its requests makes
    /// it, and no request that is missing was answered before one was asked for that is there.
    #[track_caller]
    pub(crate) fn judge(&self, zones: &[Vec<Vec<u8>>], from: u64, to: u64) {
        let mut possible: Vec<Vec<usize>> = Vec::new();
        for (zone, blocks) in zones.iter().enumerate().skip(self.geo.first_seq()) {
            let found = self.prefixes(zone, blocks);
            assert!(
                !found.is_empty(),
                "zone {zone} holds {} blocks that no prefix of its requests makes",
                blocks.len()
            );
            possible.push(found);
        }
        // Of an empty zone there may be several; the moment that all have in common is looked for from the ends.
        let span = |zone: usize, prefix: usize| {
            let ops = &self.logs[zone].ops;
            let last_there = ops[..prefix].iter().map(|op| op.asked).max().unwrap_or(0);
            let first_missing = ops[prefix..].iter().filter_map(|op| op.answered).min().unwrap_or(u64::MAX);
            (last_there, first_missing)
        };
        let moments = (from..=to).find(|moment| {
            possible.iter().zip(self.geo.first_seq()..).all(|(prefixes, zone)| {
                prefixes.iter().any(|prefix| {
                    let (there, missing) = span(zone, *prefix);
                    there <= *moment && *moment <= missing
                })
            })
        });
        if moments.is_none() {
            let spans: Vec<_> = possible
                .iter()
                .zip(self.geo.first_seq()..)
                .map(|(prefixes, zone)| (zone, prefixes.iter().map(|p| span(zone, *p)).collect::<Vec<_>>()))
                .collect();
            panic!("no moment from {from} to {to} has this state: {spans:?}");
        }
    }

    /// After how many of its requests a zone is this.
    fn prefixes(&self, zone: usize, blocks: &[Vec<u8>]) -> Vec<usize> {
        let ops = &self.logs[zone].ops;
        let mut content: Vec<(usize, u64)> = Vec::new();
        let mut found = Vec::new();
        for prefix in 0..=ops.len() {
            if let Some(op) = prefix.checked_sub(1).map(|at| &ops[at]) {
                match op.blocks {
                    0 => content.clear(),
                    blocks => content.extend((0..blocks).map(|n| (prefix - 1, n))),
                }
            }
            let same = content.len() == blocks.len()
                && content.iter().zip(blocks).all(|((op, at), seen)| *seen == block(zone, *op, *at));
            if same {
                found.push(prefix);
            }
        }
        found
    }
}
