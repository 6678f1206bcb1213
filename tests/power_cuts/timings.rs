//! The same work and the same seed leave the same, whatever the threads of the daemon did: all queues are at work at once, each on
//! zones and blocks of its own, so that what is accepted for a zone has one order, and nothing else has.
//!
//! How requests of different zones follow one another, what is let be seen at once, and how long the frontend does nothing in between
//! is drawn anew each time; the order in which the answers come tells one timing from another.
//!
//! `POWER_TIMINGS=1000 cargo test --test power_cuts timings -- --nocapture` is the long form, `POWER_SEED` another work.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use serde_json::{Value, json};

use super::block::Label;
use super::campaign::{Says, number};
use super::rig::{GEO, Rig, Way, differing};
use super::rules::{Shape, Sight};
use crate::common::cli::Geo;
use crate::common::disk::Setup;
use crate::common::frontend::Token;
use crate::common::request::{Req, Status};
use crate::common::{KIB, PATIENCE, Rng};

/// Times of an ordinary test run, on each engine.
const TIMES: u64 = 20;

const QUEUES: usize = 4;

/// Sequential zones of each queue.
const ZONES: usize = 3;

/// Two conventional zones, of which the first is written by all queues, and twelve sequential ones.
const SHAPED: Geo = Geo { size: (2 + (QUEUES * ZONES) as u64) * 256 * KIB, ..GEO };

/// Blocks of the first conventional zone that each queue has.
const BLOCKS: u32 = 16;

const ENGINES: [&[&str]; 2] = [&[], &["--aio", "sync"]];

/// Requests that follow one another in one zone, on one queue.
type Lane = (usize, VecDeque<Req>);

/// Requests that are in flight together, and whether a flush comes behind them.
struct Phase {
    lanes: Vec<Lane>,
    flushed: bool,
}

/// A sequential zone after what is planned for it.
#[derive(Clone, Debug, Default)]
struct Planned {
    written: u32,
    full: bool,
    life: u32,
}

/// The work, which depends on its seed alone.
struct Plan {
    rng: Rng,
    shape: Shape,
    zones: Vec<Planned>,
    serial: u32,
}

impl Plan {
    fn phases(seed: u64) -> Vec<Phase> {
        let shape = Shape::new(&SHAPED);
        let zones = vec![Planned::default(); shape.zones];
        let mut plan = Self { rng: Rng::new(seed), shape, zones, serial: 0 };
        // What is stable, and two phases of what is not.
        [true, false, true, false, false].map(|flushed| Phase { lanes: plan.lanes(), flushed }).into()
    }

    fn lanes(&mut self) -> Vec<Lane> {
        let of_queue = |queue: usize| self.shape.conv + queue * ZONES..self.shape.conv + (queue + 1) * ZONES;
        let zones: Vec<(usize, usize)> =
            (0..QUEUES).flat_map(|queue| of_queue(queue).map(move |zone| (queue, zone))).collect();
        let mut lanes: Vec<Lane> = zones.into_iter().map(|(queue, zone)| (queue, self.sequential(zone))).collect();
        lanes.extend((0..QUEUES).map(|queue| (queue, self.conventional(queue))).collect::<Vec<_>>());
        lanes
    }

    fn label(&mut self, zone: usize) -> Label {
        self.serial += 1;
        Label { zone: zone as u32, life: self.zones[zone].life, serial: self.serial, at: 0 }
    }

    /// Blocks that no other request of the phase writes.
    fn conventional(&mut self, queue: usize) -> VecDeque<Req> {
        let count = self.rng.below(4) as u32;
        let write = |run: u32| {
            let at = queue as u32 * BLOCKS + 5 * run + self.rng.below(2) as u32;
            let len = 1 + self.rng.below(4) as u32;
            Req::write(self.shape.sector(0, at), self.label(0).data(len))
        };
        (0..count.min(3)).map(write).collect()
    }

    /// Writes or appends, and perhaps what ends the zone's life or fills it behind them.
    fn sequential(&mut self, zone: usize) -> VecDeque<Req> {
        let mut lane = VecDeque::new();
        let appends = self.rng.below(2) == 0;
        for _ in 0..self.rng.below(7) {
            let room = self.shape.cap - self.zones[zone].written;
            if room == 0 || self.zones[zone].full {
                break;
            }
            let len = (*self.rng.pick(&[1, 1, 2, 3, 5, 8, 13])).min(room);
            let (start, at) = (self.shape.sector(zone, 0), self.shape.sector(zone, self.zones[zone].written));
            let data = self.label(zone).data(len);
            lane.push_back(if appends { Req::append(start, data) } else { Req::write(at, data) });
            self.zones[zone].written += len;
            self.zones[zone].full = self.zones[zone].written == self.shape.cap;
        }
        let start = self.shape.sector(zone, 0);
        // Nothing is written behind a reset before that is answered, as a device may look at the write first.
        match self.rng.below(8) {
            0 => {
                lane.push_back(Req::finish(start));
                self.zones[zone].full = true;
            }
            1 | 2 => {
                lane.push_back(Req::reset(start));
                self.zones[zone] = Planned { life: self.zones[zone].life + 1, ..Planned::default() };
            }
            _ => {}
        }
        lane
    }
}

/// What a time has shown: what the cut said, what it left, and of which queues the answers came, in their order.
struct Shown {
    report: Value,
    sights: Vec<Sight>,
    order: Vec<usize>,
}

/// Does the work once, cuts the power, and looks.
fn once(engine: &[&str], seed: u64, timing: u64) -> Shown {
    let rng = &mut Rng::new(timing);
    let poll = ["0", "50", "1000"][rng.below(3) as usize];
    let setup = Setup::new(SHAPED).queues(QUEUES as u32).queue_size(256).args(engine).args(&["--poll-us", poll]);
    let mut rig = Rig::start(setup);
    let mut order = Vec::new();
    for Phase { lanes, flushed } in Plan::phases(seed) {
        order.extend(work(&mut rig, lanes, rng));
        if flushed {
            let token = rig.disk.submit(rng.below(QUEUES as u64) as usize, &Req::flush());
            assert_eq!(rig.disk.wait(token).status, Status::Ok, "a flush");
        }
    }
    let report = rig.cut(&json!({"seed": seed}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert!(rig.disk.stop().success(), "the daemon's end");
    Shown { report, sights, order }
}

/// Submits what the lanes have, each in its order, and waits for all of it. Gives the queues of the answers as they came.
fn work(rig: &mut Rig, mut lanes: Vec<Lane>, rng: &mut Rng) -> Vec<usize> {
    let (mut flying, mut order) = (Vec::new(), Vec::new());
    let mut plugged = false;
    lanes.retain(|(_, lane)| !lane.is_empty());
    while !lanes.is_empty() {
        match rng.below(12) {
            0 if !plugged => {
                rig.disk.front().plug();
                plugged = true;
            }
            1 | 2 if plugged => {
                rig.disk.front().unplug();
                plugged = false;
            }
            3 => (0..rng.below(20_000)).for_each(|_| std::hint::spin_loop()),
            4 => take(rig, &mut flying, &mut order),
            _ => {
                let at = rng.below(lanes.len() as u64) as usize;
                let (queue, lane) = &mut lanes[at];
                let req = lane.pop_front().expect("lanes that have nothing left are gone");
                flying.push((*queue, rig.disk.submit(*queue, &req)));
                if lane.is_empty() {
                    lanes.swap_remove(at);
                }
            }
        }
    }
    rig.disk.front().unplug();
    let deadline = Instant::now() + PATIENCE;
    while !flying.is_empty() {
        take(rig, &mut flying, &mut order);
        let came = flying.is_empty() || rig.disk.front().collect_until(deadline);
        assert!(came, "waited {PATIENCE:?} for {flying:?}");
    }
    order
}

/// Takes the answers that are there.
fn take(rig: &mut Rig, flying: &mut Vec<(usize, Token)>, order: &mut Vec<usize>) {
    rig.disk.front().collect();
    flying.retain(|(queue, token)| {
        let Some(done) = rig.disk.front().taken(*token) else { return true };
        assert_eq!(done.status, Status::Ok, "a request of queue {queue}");
        order.push(*queue);
        false
    });
}

/// The cut has had something to choose: else it could only leave one thing.
fn assert_chosen(report: &Value) {
    let rows = |field: &str| report[field].as_array().unwrap_or_else(|| panic!("no {field}: {report}")).clone();
    let between =
        rows("zones").iter().filter(|row| row["stable"] != row["kept"] && row["kept"] != row["accepted"]).count();
    assert!(between > 0 && rows("zones").len() > 6, "few zones had a choice: {report}");
    let mixed = |row: &Value| row["kept"] != 0 && row["kept"] != row["volatile"];
    assert!(rows("conventional").iter().any(mixed), "no conventional zone had a choice: {report}");
}

#[test]
fn the_same_work_and_the_same_seed_leave_the_same_over_thread_timings() {
    let times = number("POWER_TIMINGS").unwrap_or(TIMES);
    let seed = number("POWER_SEED").unwrap_or(1);
    let first = once(ENGINES[0], seed, 0);
    assert_chosen(&first.report);
    let of_engine = |engine: &[&str]| {
        let mut orders = BTreeSet::new();
        for timing in 0..times {
            let says = Says(format!("POWER_SEED={seed}, {engine:?}, timing {timing}"));
            let shown = once(engine, seed, timing);
            assert_eq!(shown.report, first.report, "what the cut says");
            assert_eq!(differing(&shown.sights, &first.sights), [0; 0], "zones that differ");
            orders.insert(shown.order);
            drop(says);
        }
        orders.len()
    };
    std::thread::scope(|scope| {
        let engines = ENGINES.map(|engine| (engine, scope.spawn(move || of_engine(engine))));
        for (engine, thread) in engines {
            let orders = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            println!(
                "{engine:?}: {times} of {times} times the same, digest {}, {orders} orders of the answers",
                first.report["digest"]
            );
            assert!(
                times < TIMES || orders as u64 > times / 2,
                "{engine:?}: one timing over and over, {orders} orders of the answers in {times} times"
            );
        }
    });
}
