//! Requests from a seed, many of them in flight, and the log of them for the rules.
//!
//! What is asked next depends on the seed and on what was *waited for*, never on what happens to be answered already:
//! the same seed asks the same until the power goes. A zone takes one kind of requests at a time, so that their order
//! is known: writes one behind the other on one queue, and a reset or a finish behind them; appends on any queue;
//! resets of which all but the first find nothing to do, and finishes. A write behind a reset waits for it, as a device
//! may look at the write first.

mod requests;

use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::block::{Label, SECTORS, Seen, look_at_all};
use super::rig::Rig;
use super::rules::{Held, Left, Number, Rules, What};
use crate::common::frontend::Token;
use crate::common::request::{Done, Req, Status, sectors};
use crate::common::{PATIENCE, Rng};

/// Blocks in the longest append.
const APPEND: u32 = 16;

/// How long an armed cut is not looked for.
const GLANCE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Writes, one behind the other on one queue.
    Ordered {
        queue: usize,
    },
    Appends,
    /// Resets, of which all but the first change nothing: behind such writes, on their queue, or alone.
    Resets {
        queue: Option<usize>,
    },
    /// Finishes, in the same way.
    Finishes {
        queue: Option<usize>,
    },
}

/// What a sequential zone will be once everything in flight is done.
#[derive(Clone, Debug)]
struct Planned {
    written: u32,
    full: bool,
    life: u32,
    /// The last life that there was; a cut may bring an older one back.
    lives: u32,
    explicit: bool,
    mode: Mode,
    /// Changes in flight.
    out: usize,
    /// Reads in flight.
    reads: usize,
    /// It is active by what was waited for, and nothing in flight ends that.
    steady: bool,
}

impl Planned {
    fn is_active(&self) -> bool {
        self.explicit || self.written > 0 && !self.full
    }

    fn begin_life(&mut self) {
        self.lives += 1;
        self.life = self.lives;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Change,
    Flush,
    Read(Vec<Option<Label>>),
    Open,
    Close,
}

#[derive(Clone, Debug)]
struct Flying {
    number: Number,
    token: Token,
    what: What,
    kind: Kind,
    /// The one zone that it is for; of a reset of all zones none.
    zone: Option<usize>,
    /// Blocks of a conventional zone.
    blocks: Range<u32>,
    /// It was answered.
    done: bool,
    /// With OK.
    ok: bool,
}

/// How much of a round is what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// Requests.
    pub(crate) steps: usize,
    /// Of a hundred requests so many are flushes.
    pub(crate) flushes: u64,
    /// Of a hundred so many are for conventional zones.
    pub(crate) conventional: u64,
    /// Of a hundred steps so many wait for something.
    pub(crate) waits: u64,
    /// At most so many requests are in flight.
    pub(crate) depth: usize,
    /// Everything is waited for in the end.
    pub(crate) drained: bool,
}

impl Habits {
    /// Others with each seed.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        Self {
            steps: 8 + rng.below(40) as usize,
            flushes: *rng.pick(&[0, 1, 3, 8, 15]),
            conventional: *rng.pick(&[5, 20, 40]),
            waits: *rng.pick(&[2, 10, 30]),
            depth: *rng.pick(&[1, 4, 12, 32]),
            drained: rng.below(4) == 0,
        }
    }
}

/// A disk that is worked on, with the log.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The disk.
    pub(crate) rig: Rig,
    /// The log.
    pub(crate) rules: Rules,
    /// Requests that were refused for want of resources, or for what followed from that.
    pub(crate) refused: usize,
    /// Requests that were submitted.
    pub(crate) submitted: usize,
    /// Requests that a cut has answered.
    pub(crate) failed: usize,
    /// The power goes by itself some time.
    pub(crate) armed: Option<Value>,
    /// The power has gone.
    pub(crate) is_off: bool,
    /// The sequential zones that requests are made for.
    pub(crate) worked_on: Range<usize>,
    serial: u32,
    planned: Vec<Planned>,
    flying: Vec<Flying>,
}

impl Worker {
    /// A worker on an empty disk.
    pub(crate) fn new(rig: Rig, rules: Rules) -> Self {
        let idle = Planned {
            written: 0,
            full: false,
            life: 0,
            lives: 0,
            explicit: false,
            mode: Mode::Appends,
            out: 0,
            reads: 0,
            steady: false,
        };
        let planned = vec![idle; rules.shape.zones];
        let worked_on = rules.shape.sequential();
        Self {
            rig,
            rules,
            refused: 0,
            submitted: 0,
            failed: 0,
            armed: None,
            is_off: false,
            worked_on,
            serial: 0,
            planned,
            flying: Vec::new(),
        }
    }

    fn queues(&mut self) -> u64 {
        self.rig.disk.front().queues.len() as u64
    }

    fn label(&mut self, zone: usize) -> Label {
        self.serial += 1;
        Label { zone: zone as u32, life: self.planned[zone].life, serial: self.serial, at: 0 }
    }

    fn submit(&mut self, queue: usize, what: What, kind: Kind, req: &Req) {
        let number = self.rules.submit(&what);
        let token = self.rig.disk.submit(queue, req);
        self.submitted += 1;
        let (zone, blocks) = match what {
            What::Write { zone, at, len, .. } => (Some(zone), at..at + len),
            What::Append { zone, .. } | What::Reset { zone } | What::Finish { zone } => (Some(zone), 0..0),
            What::ResetAll | What::Flush | What::Other => (None, 0..0),
        };
        self.flying.push(Flying { number, token, what, kind, zone, blocks, done: false, ok: false });
    }

    /// Makes the requests of a round. Some are in flight at the end, unless the round's habit is another; none is
    /// made once the power is seen to be off.
    pub(crate) fn round(&mut self, rng: &mut Rng, habits: &Habits) {
        let mut plugged = false;
        for _ in 0..habits.steps {
            if self.is_off {
                break;
            }
            if !plugged && rng.below(6) == 0 {
                self.rig.disk.front().plug();
                plugged = true;
            }
            let waits = self.flying.len() >= habits.depth || rng.below(100) < habits.waits;
            if waits && !self.flying.is_empty() {
                self.unplug(&mut plugged);
                match rng.below(4) {
                    0 => self.wait_for_all(),
                    1 => self.wait_for(1 + rng.below(self.flying.len() as u64) as usize),
                    _ => self.wait_for(1),
                }
                continue;
            }
            self.step(rng, habits, &mut plugged);
        }
        self.unplug(&mut plugged);
        if habits.drained {
            self.wait_for_all();
        }
    }

    fn unplug(&mut self, plugged: &mut bool) {
        if std::mem::take(plugged) {
            self.rig.disk.front().unplug();
        }
    }

    /// Waits for the first `count` of what is in flight.
    fn wait_for(&mut self, count: usize) {
        self.wait_until(&(0..count).collect::<Vec<_>>());
    }

    /// Waits for everything.
    pub(crate) fn wait_for_all(&mut self) {
        self.wait_for(self.flying.len());
    }

    /// Waits for these, or for the power to be off where a cut is armed.
    fn wait_until(&mut self, which: &[usize]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_off {
            self.sweep();
            if which.iter().all(|at| self.flying[*at].done) {
                break;
            }
            let soon = if self.armed.is_some() { Instant::now() + GLANCE } else { deadline };
            if !self.rig.disk.front().collect_until(soon) {
                assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {:?}", self.flying);
                self.notice();
            }
        }
        if self.is_off {
            return;
        }
        let mut which = which.to_vec();
        which.sort_unstable();
        for at in which.into_iter().rev() {
            let flying = self.flying.remove(at);
            self.settle(&flying);
        }
    }

    /// Looks whether an armed cut has happened.
    pub(crate) fn notice(&mut self) {
        let Some(fields) = self.armed.clone() else { return };
        if !self.is_off && self.rig.is_off() {
            self.is_off = true;
            self.rig.note_cut(&fields);
            self.sweep();
        }
    }

    /// Looks at the answers that are there.
    pub(crate) fn sweep(&mut self) {
        self.rules.begin_sweep();
        self.rig.disk.front().collect();
        for at in 0..self.flying.len() {
            if self.flying[at].done {
                continue;
            }
            let token = self.flying[at].token;
            if let Some(done) = self.rig.disk.front().taken(token) {
                (self.flying[at].done, self.flying[at].ok) = (true, done.status == Status::Ok);
                let flying = self.flying[at].clone();
                self.note(&flying, &done);
            }
        }
    }

    fn note(&mut self, flying: &Flying, done: &Done) {
        match done.status {
            Status::Ok => {}
            // Answered by a cut: in flight when it happened.
            Status::IoErr if self.is_off || self.armed.is_some() => {
                self.failed += 1;
                return self.notice_failing();
            }
            Status::ActiveResource | Status::OpenResource | Status::UnalignedWp | Status::InvalidCmd
                if self.rules.shape.active != 0 || self.rules.shape.open != 0 =>
            {
                self.refused += 1;
                return self.rules.refused(flying.number);
            }
            status => {
                let story = flying.zone.map_or_else(String::new, |zone| self.rules.story(zone));
                panic!("{flying:?} was answered with {status:?}{story}")
            }
        }
        let landed = match flying.what {
            What::Append { zone, .. } => {
                let offset = done.number() - self.rules.shape.sector(zone, 0);
                assert_eq!(offset % SECTORS, 0, "{flying:?} landed in the midst of a block");
                Some((offset / SECTORS) as u32)
            }
            _ => None,
        };
        if let Kind::Read(expected) = &flying.kind {
            for (at, (seen, expected)) in look_at_all(&done.data).iter().zip(expected).enumerate() {
                let expected = expected.map_or(Seen::Zeros, Seen::Whole);
                assert_eq!(*seen, expected, "block {at} of {:?} in zone {:?}", flying.blocks, flying.zone);
            }
        }
        self.rules.answered(flying.number, landed);
    }

    /// An armed cut has begun: what it leaves.
    pub(crate) fn await_cut(&mut self, error: &str) -> Result<Value, String> {
        assert!(self.armed.is_some() && error.contains("under way"), "{error}");
        self.await_off();
        Ok(self.rig.power().expect("the daemon runs")["last_cut"].clone())
    }

    fn await_off(&mut self) {
        crate::common::eventually("an armed cut", || {
            self.notice();
            self.is_off.then_some(())
        });
    }

    /// A request has failed that an armed cut may have failed: then the power is off, or soon seen to be.
    fn notice_failing(&mut self) {
        if let Some(fields) = self.armed.clone()
            && !self.is_off
        {
            // Not by notice(), which looks at the answers.
            crate::common::eventually("the power to be off, as a request has failed", || {
                self.rig.is_off().then_some(())
            });
            self.is_off = true;
            self.rig.note_cut(&fields);
        }
    }

    /// Takes what was waited for out of what is in flight.
    fn settle(&mut self, flying: &Flying) {
        let zones = match (&flying.kind, flying.zone) {
            (Kind::Flush, _) => return,
            (_, Some(zone)) if zone < self.rules.shape.conv => return,
            (_, Some(zone)) => zone..zone + 1,
            (_, None) => self.rules.shape.sequential(),
        };
        for zone in zones {
            let planned = &mut self.planned[zone];
            match flying.kind {
                Kind::Change => planned.out -= 1,
                Kind::Read(_) => planned.reads -= 1,
                Kind::Open => planned.explicit |= flying.ok,
                Kind::Close => planned.explicit = false,
                Kind::Flush => {}
            }
            if planned.out == 0 {
                let held = self.rules.held(zone);
                self.plan(zone, &held);
            }
        }
    }

    fn plan(&mut self, zone: usize, held: &Held) {
        let planned = &mut self.planned[zone];
        (planned.written, planned.full) = (held.written(), held.full);
        planned.steady = planned.written > 0 && !planned.full;
    }

    /// After the cut: whatever was in flight is answered with an error, or was answered before.
    #[track_caller]
    pub(crate) fn assert_all_fail(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        self.is_off = true;
        self.sweep();
        while !self.flying.iter().all(|flying| flying.done) {
            assert!(self.rig.disk.front().collect_until(deadline), "no answer after the cut to {:?}", self.flying);
            self.sweep();
        }
    }

    /// After the cut: requests that come too late. Nothing of them may ever be seen on the disk.
    #[track_caller]
    pub(crate) fn ask_too_late(&mut self, rng: &mut Rng, fails: bool) {
        let shape = self.rules.shape;
        let zone = shape.conv + rng.below(shape.sequential().len() as u64) as usize;
        let queue = rng.below(self.queues()) as usize;
        let at = self.planned[zone].written.min(shape.cap - 1);
        let label = self.label(zone);
        let (start, sector) = (shape.sector(zone, 0), shape.sector(zone, at));
        let requests = [
            Req::write(sector, label.data(1)),
            Req::append(start, label.data(1)),
            Req::reset(start),
            Req::finish(start),
            Req::flush(),
            Req::reset_all(),
            Req::read(start, 4096),
            Req::report(0, 4096),
        ];
        let req = rng.pick(&requests);
        let token = self.rig.disk.submit(queue, req);
        if fails {
            assert_eq!(self.rig.disk.wait(token).status, Status::IoErr, "type {} after the cut", req.kind);
        }
    }

    /// The power is on again, with this on the disk.
    pub(crate) fn go_on_from(&mut self, left: &Left) {
        self.rules.go_on_from(left);
        self.flying.clear();
        (self.is_off, self.armed) = (false, None);
        for zone in self.rules.shape.sequential() {
            let held = self.rules.held(zone);
            let planned = &mut self.planned[zone];
            (planned.out, planned.reads, planned.explicit) = (0, 0, false);
            match held.blocks.first() {
                Some(first) => planned.life = first.life,
                None => planned.begin_life(),
            }
            self.plan(zone, &held);
        }
    }

    /// The daemon was killed, maybe in a cut that lets requests fail: these were in flight.
    pub(crate) fn killed(&mut self) {
        self.is_off = true;
        self.sweep();
    }

    /// Another daemon goes on with what is in flight.
    pub(crate) fn go_on(&mut self) {
        self.is_off = false;
        self.wait_for_all();
    }

    /// Makes all that was answered stable.
    pub(crate) fn flush_and_wait(&mut self) {
        self.submit(0, What::Flush, Kind::Flush, &Req::flush());
        self.wait_for_all();
    }

    /// Lets an armed cut happen, if it has not yet: by its mark, or by flushes.
    pub(crate) fn provoke(&mut self, at: &str) {
        self.notice();
        if self.is_off {
            return;
        }
        if let Some(name) = at.strip_prefix("mark:") {
            self.rig.ask(&json!({"cmd": "mark", "name": name}));
            self.await_off();
            return;
        }
        for _ in 0..200 {
            self.submit(0, What::Flush, Kind::Flush, &Req::flush());
            let last = self.flying.len() - 1;
            self.wait_until(&[last]);
            self.notice();
            if self.is_off {
                return;
            }
        }
    }
}

/// Sectors of a block, as the kit counts them.
const _: () = assert!(SECTORS == 8);

/// The kit's own count agrees.
#[test]
fn a_block_is_eight_sectors() {
    assert_eq!(sectors(super::block::BLOCK as u64), SECTORS);
}
