//! Kill -9 around a cut: the next daemon finds all that was there before, or all that the cut leaves, and never some of
//! both.
//!
//! What the cut leaves is known from a twin disk, which does the same work, one request at a time, and has a cut with
//! the same seed. Zones that have requests in flight at the kill are judged by the rules alone. `POWER_KILLS`
//! (environment) is how many, `POWER_SEED` another seed, `POWER_KILL` the one kill of a failure.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::campaign::{Says, number};
use super::rig::{GEO, Rig, Way, command, differing};
use super::rules::{Fate, Rules, Shape, Sight};
use super::work::{Habits, Worker};
use crate::common::cli::{Geo, Image};
use crate::common::control::Control;
use crate::common::disk::Setup;
use crate::common::model::assert_ok;
use crate::common::request::State;
use crate::common::{KIB, Rng};

/// Kills of an ordinary test run.
const KILLS: u64 = 20;

/// Kills with the same work before there is another twin.
const KILLS_A_TWIN: u64 = 5;

/// Zones at the end of the disk that have requests in flight at the kill, or nothing.
const BUSY: usize = 3;

const WIDE: Geo = Geo { size: 26 * 256 * KIB, ..GEO };

/// One request at a time.
const WORK: Habits = Habits { steps: 250, flushes: 0, conventional: 30, waits: 0, depth: 1, drained: true };

/// A disk with much that is volatile, the same for each seed.
fn prepare(seed: u64) -> Worker {
    let mut setup = Setup::new(WIDE).queues(2).queue_size(256).memory(32 << 20);
    if seed % 2 == 1 {
        setup = setup.args(&["--aio", "sync"]);
    }
    let mut worker = Worker::new(Rig::start(setup), Rules::new(Shape::new(&WIDE)));
    let quiet = worker.rules.shape.conv..WIDE.zones() - BUSY;
    worker.worked_on = quiet;
    let rng = &mut Rng::new(seed);
    worker.round(rng, &WORK);
    worker.flush_and_wait();
    worker.round(rng, &WORK);
    worker
}

fn cut(seed: u64, then: &str) -> Value {
    json!({"seed": seed, "then": then})
}

/// What a cut with this seed leaves of that work, what it says, and how long it takes.
struct Twin {
    after: Vec<Sight>,
    said: Value,
    takes: Duration,
}

impl Twin {
    fn new(work: u64, seed: u64) -> Self {
        let mut worker = prepare(work);
        let start = Instant::now();
        let said = worker.rig.cut(&cut(seed, "dead"));
        let takes = start.elapsed();
        worker.rig.power_on(Way::ResetDevice);
        let after = worker.rig.look_at_all();
        let fates = vec![Fate::Any; WIDE.zones()];
        worker.rules.judge(&after, &fates).unwrap_or_else(|broken| panic!("the twin's cut: {said}{broken}"));
        worker.rig.finish();
        Self { after, said, takes }
    }
}

/// How a kill has turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Before,
    After,
}

fn kill(work: u64, seed: u64, twin: &Twin, rng: &mut Rng) -> Outcome {
    let mut worker = prepare(work);
    let before = worker.rig.look_at_all();
    let then = *rng.pick(&["dead", "fail"]);
    let (in_flight, same_region) = (rng.below(2) == 0, rng.below(2) == 0);
    let mut control = Control::connect(&worker.rig.disk.image.beside("control"));
    if in_flight {
        worker.worked_on = WIDE.zones() - BUSY..WIDE.zones();
        worker.round(rng, &Habits { steps: 40, flushes: 0, conventional: 0, waits: 0, depth: 64, drained: false });
    }
    // Mostly about the time that a cut takes, on this machine, now.
    let delay = Duration::from_nanos(rng.below(1 + twin.takes.as_nanos() as u64 * 3 / 2));
    let order = command(&cut(seed, then));
    let asking = std::thread::spawn(move || {
        control.send(&order);
        control.receive()
    });
    let start = Instant::now();
    while start.elapsed() < delay {
        std::hint::spin_loop();
    }
    worker.rig.disk.daemon.kill9();
    let said = asking.join().unwrap();
    let said = said.map(|answer| answer.unwrap_or_else(|error| panic!("the cut: {error}")));
    // What stands in the used rings was answered before the end, or failed by the cut.
    worker.killed();

    let mut off = None;
    if same_region {
        worker.rig.disk.resume();
        worker.rig.reach_control();
        let is_off = worker.rig.is_off();
        off = Some(is_off);
        if is_off {
            worker.rig.power_on(Way::ResetDevice);
        } else {
            worker.go_on();
        }
    } else {
        worker.rig.start_again();
    }
    let sights = worker.rig.look_at_all();
    let quiet = |zones: Vec<usize>| zones.into_iter().filter(|zone| *zone < WIDE.zones() - BUSY).collect::<Vec<_>>();
    let (not_before, not_after) = (quiet(differing(&before, &sights)), quiet(differing(&twin.after, &sights)));
    let what = format!(
        "then {then}, {delay:?} of {:?}, in flight: {in_flight}, same region: {same_region}, \
         power off: {off:?}, said: {said:?}\nzones unlike before: {not_before:?}, unlike after: {not_after:?}",
        twin.takes
    );
    assert!(not_before.is_empty() || not_after.is_empty(), "half a cut: {what}");
    if let Some(said) = &said {
        assert!(not_after.is_empty(), "a cut that was said to be done was not: {what}");
        if !in_flight {
            assert_eq!(said["digest"], twin.said["digest"], "{what}");
        }
    }
    assert!(worker.failed == 0 || not_after.is_empty(), "{} requests failed by no cut: {what}", worker.failed);
    let outcome = if not_after.is_empty() { Outcome::After } else { Outcome::Before };
    // A guest that goes on with its requests as if nothing had been must have lost nothing. (One without power that has
    // lost nothing has had a cut that was kind.)
    if off == Some(false) {
        assert_eq!(outcome, Outcome::Before, "the power is on after a cut: {what}");
    }
    // Before the cut nothing that was answered is lost, in the busy zones either.
    let fate = if outcome == Outcome::Before { Fate::Keep } else { Fate::Any };
    let mut judged = sights;
    if outcome == Outcome::Before {
        // A daemon that goes on keeps zones open; nobody has cut them.
        judged.iter_mut().for_each(close);
    }
    let result = worker.rules.judge(&judged, &vec![fate; WIDE.zones()]);
    result.unwrap_or_else(|broken| panic!("{outcome:?}: {what}{broken}"));
    worker.rig.disk.assert_works();
    worker.rig.finish();
    outcome
}

fn close(sight: &mut Sight) {
    sight.state = match sight.state {
        State::ImplicitOpen | State::ExplicitOpen if sight.written == 0 => State::Empty,
        State::ImplicitOpen | State::ExplicitOpen => State::Closed,
        state => state,
    };
}

#[test]
fn a_kill_around_a_cut_leaves_the_state_before_it_or_the_state_after_it() {
    let base = number("POWER_SEED").unwrap_or(1);
    let kills = number("POWER_KILLS").unwrap_or(KILLS);
    let (first, last) = number("POWER_KILL").map_or((0, kills), |one| (one, one + 1));
    let mut twin = None;
    let mut outcomes = [0, 0];
    for at in first..last {
        let work = base * 100_000 + at / KILLS_A_TWIN;
        let seed = work + 7;
        let _says = Says(format!("POWER_SEED={base} POWER_KILL={at}"));
        if at % KILLS_A_TWIN == 0 {
            twin = None;
        }
        let twin = twin.get_or_insert_with(|| Twin::new(work, seed));
        let outcome = kill(work, seed, twin, &mut Rng::new(base.wrapping_mul(1_000_003) + at));
        outcomes[usize::from(outcome == Outcome::After)] += 1;
        if at % 100 == 99 {
            println!("{} kills: {} before, {} after the cut", at + 1, outcomes[0], outcomes[1]);
        }
    }
    println!("{} kills: {} before, {} after the cut", last - first, outcomes[0], outcomes[1]);
    if last - first >= 100 {
        assert!(outcomes.iter().all(|count| *count >= 10), "kills on one side of the cut only: {outcomes:?}");
    }
}

/// The daemon dies in the midst of the campaign's work, without a cut.
fn kills_without_cuts(args: &[&str], seed: u64) {
    let geo = Geo { open: 2 * (seed % 2) as u32, active: 3 * (seed % 2) as u32, ..GEO };
    let setup = Setup::new(geo).queues(1 + 3 * (seed % 2) as u32).queue_size(256).args(args);
    let rig = Rig::start_on(setup, Image::create(&geo));
    let mut worker = Worker::new(rig, Rules::new(Shape::new(&geo)));
    for round in 0..12 {
        let _says = Says(format!("seed {seed}, round {round}, {args:?}"));
        let rng = &mut Rng::new(seed * 1000 + round);
        let habits = Habits::random(rng);
        worker.round(rng, &habits);
        worker.rig.disk.daemon.kill9();
        worker.killed();
        worker.rig.start_again();
        let sights = worker.rig.look_at_all();
        let result = worker.rules.judge(&sights, &vec![Fate::Keep; geo.zones()]);
        let left = result.unwrap_or_else(|broken| panic!("a rule is broken:{broken}"));
        worker.go_on_from(&left);
    }
    worker.rig.finish();
}

#[test]
fn a_kill_without_a_cut_loses_nothing_that_was_answered_whether_the_cache_is_volatile_or_not() {
    for seed in 0..4 {
        kills_without_cuts(&[], seed);
        kills_without_cuts(&["--volatile-cache"], seed);
    }
}

#[test]
fn a_cut_that_was_told_of_survives_a_kill_right_behind_it() {
    let mut rig = Rig::start(Setup::new(GEO));
    for round in 0..5 {
        let zone = 2 + round;
        rig.put(zone, 0..2, 1);
        assert_ok(rig.disk.flush());
        rig.put(zone, 2..40, 2);
        rig.put(0, 0..4, 10 + round as u32);
        rig.cut(&json!({}));
        rig.disk.daemon.kill9();
        rig.start_again();
        assert_eq!(rig.zone(zone), (State::Closed, 2), "round {round}");
        let sights = rig.look_at_all();
        assert!(sights[0].blocks.iter().flatten().all(|seen| *seen == super::block::Seen::Zeros), "round {round}");
    }
    rig.finish();
}
