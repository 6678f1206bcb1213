//! What a cut keeps by `lose`, `keep`, `seed`, `state`, `mgmt` and `model`, to the byte: one request at a time, so that
//! what was answered is all that was accepted.

use serde_json::{Value, json};

use super::block::{SECTORS, Seen, look_at_all};
use super::rig::{GEO, Rig, Way, assert_holds, differing, label, rows};
use super::rules::{Rules, Shape, Sight};
use super::work::{Habits, Worker};
use crate::common::Rng;
use crate::common::cli::Geo;
use crate::common::disk::Setup;
use crate::common::model::assert_ok;
use crate::common::request::{Req, State, Status};

/// Zones, by what is done to them.
const GROWN: usize = 2;
const NEVER_FLUSHED: usize = 3;
const FILLED: usize = 4;
const FILLED_NEVER_FLUSHED: usize = 5;
const FINISHED: usize = 6;
const RESET: usize = 7;
const LEFT_ALONE: usize = 8;

const CAP: u32 = 48;

/// Work with something volatile in each zone but the one that is left alone.
fn work(rig: &mut Rig) {
    for zone in [GROWN, FILLED, FINISHED, RESET, LEFT_ALONE] {
        rig.put(zone, 0..4, 1);
    }
    rig.put(0, 0..2, 1);
    assert_ok(rig.disk.flush());
    rig.put(GROWN, 4..7, 2);
    rig.put(NEVER_FLUSHED, 0..5, 3);
    rig.put(FILLED, 4..CAP, 4);
    rig.put(FILLED_NEVER_FLUSHED, 0..CAP, 5);
    assert_ok(rig.disk.finish(FINISHED));
    assert_ok(rig.disk.reset(RESET));
    rig.put(0, 1..3, 6);
    rig.put(0, 2..3, 7);
}

/// A zone of that work without what is volatile.
#[track_caller]
fn assert_stable(sights: &[Sight], zone: usize) {
    let held = matches!(zone, GROWN | FILLED | FINISHED | RESET | LEFT_ALONE);
    match held {
        true => assert_holds(sights, zone, State::Closed, &rows(zone, &[(1, 4)])),
        false => assert_holds(sights, zone, State::Empty, &[]),
    }
}

/// A zone of that work with all of it.
#[track_caller]
fn assert_all(sights: &[Sight], zone: usize) {
    let held = |state, requests: &[(u32, u32)]| assert_holds(sights, zone, state, &rows(zone, requests));
    match zone {
        GROWN => held(State::Closed, &[(1, 4), (2, 3)]),
        NEVER_FLUSHED => held(State::Closed, &[(3, 5)]),
        FILLED => held(State::Full, &[(1, 4), (4, CAP - 4)]),
        FILLED_NEVER_FLUSHED => held(State::Full, &[(5, CAP)]),
        FINISHED => held(State::Full, &[(1, 4)]),
        LEFT_ALONE => held(State::Closed, &[(1, 4)]),
        _ => held(State::Empty, &[]),
    }
}

fn row(report: &Value, zone: usize) -> &Value {
    let zones = report["zones"].as_array().unwrap_or_else(|| panic!("no zones: {report}"));
    zones.iter().find(|row| row["zone"] == zone).unwrap_or_else(|| panic!("nothing of zone {zone}: {report}"))
}

/// The pointers that a cut says of a zone, in blocks from its start.
fn pointers(report: &Value, zone: usize) -> [u64; 3] {
    let start = zone as u64 * GEO.zone;
    ["stable", "accepted", "kept"].map(|field| {
        let at = row(report, zone)[field].as_u64().unwrap_or_else(|| panic!("no {field}: {report}"));
        (at - start) / 4096
    })
}

#[test]
fn lose_all_leaves_what_is_stable_and_nothing_else() {
    // Nothing else is what a cut does that is told nothing.
    for fields in [json!({"lose": "all"}), json!({})] {
        let mut rig = Rig::start(Setup::new(GEO));
        work(&mut rig);
        let report = rig.cut(&fields);
        rig.power_on(Way::ResetDevice);
        let sights = rig.look_at_all();
        rig.shape.sequential().for_each(|zone| assert_stable(&sights, zone));
        assert_holds(&sights, 0, State::NotWp, &rows(0, &[(1, 2)]));
        assert_eq!(pointers(&report, GROWN), [4, 7, 4]);
        assert_eq!(pointers(&report, NEVER_FLUSHED), [0, 5, 0]);
        assert_eq!(row(&report, RESET)["resets_lost"], 1);
        assert_eq!(row(&report, FINISHED)["finishes_lost"], 1);
        let conventional = &report["conventional"][0];
        assert_eq!((&conventional["zone"], &conventional["volatile"]), (&json!(0), &json!(2)), "{report}");
        assert_eq!(conventional["kept"], 0, "{report}");
        rig.finish();
    }
}

#[test]
fn lose_nothing_keeps_all_that_was_answered_and_closes_the_zones() {
    let mut rig = Rig::start(Setup::new(GEO));
    work(&mut rig);
    assert_ok(rig.disk.open(LEFT_ALONE));
    assert_ok(rig.disk.open(LEFT_ALONE + 1));
    let report = rig.cut(&json!({"lose": "nothing"}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    rig.shape.sequential().for_each(|zone| assert_all(&sights, zone));
    let first = [label(0, 1), label(0, 6), label(0, 7)];
    assert_holds(&sights, 0, State::NotWp, &first);
    assert_eq!(pointers(&report, GROWN), [4, 7, 7]);
    rig.finish();
}

#[test]
fn lose_and_keep_name_the_zones_that_lose_and_that_keep() {
    let some = [GROWN, FILLED_NEVER_FLUSHED, RESET];
    let named = "zone:2,5,7";
    for (field, some_lose) in [("lose", true), ("keep", false)] {
        let mut rig = Rig::start(Setup::new(GEO));
        work(&mut rig);
        rig.cut(&json!({ field: named }));
        rig.power_on(Way::ResetDevice);
        let sights = rig.look_at_all();
        for zone in rig.shape.sequential() {
            let loses = some.contains(&zone) == some_lose;
            if loses { assert_stable(&sights, zone) } else { assert_all(&sights, zone) }
        }
        rig.finish();
    }
}

#[test]
fn a_reset_zone_that_was_written_again_has_its_old_life_or_none() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(GROWN, 0..4, 1);
    assert_ok(rig.disk.flush());
    assert_ok(rig.disk.reset(GROWN));
    rig.put(GROWN, 0..2, 2);
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    if rig.zone(GROWN).0 == State::Empty {
        assert_holds(&sights, GROWN, State::Empty, &[]);
    } else {
        assert_holds(&sights, GROWN, State::Closed, &rows(GROWN, &[(1, 4)]));
    }
    rig.finish();
}

#[test]
fn a_second_cut_starts_from_what_the_first_left() {
    let mut rig = Rig::start(Setup::new(GEO));
    work(&mut rig);
    rig.cut(&json!({"lose": "nothing"}));
    rig.power_on(Way::ResetDevice);
    let first = rig.look_at_all();
    for way in [Way::NewConnection, Way::StopRings { fresh: true }] {
        rig.put(GROWN, 7..9, 20);
        rig.put(0, 0..3, 21);
        assert_ok(rig.disk.reset(FILLED));
        rig.cut(&json!({}));
        rig.power_on(way);
        assert_eq!(differing(&first, &rig.look_at_all()), [0; 0], "zones that lost what an earlier cut had left");
    }
    // Nothing was asked in between.
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    assert_eq!(differing(&first, &rig.look_at_all()), [0; 0]);
    rig.finish();
}

/// One request at a time, the same on every disk.
const ONE_BY_ONE: Habits = Habits { steps: 120, flushes: 3, conventional: 25, waits: 0, depth: 1, drained: true };

fn worker(args: &[&str], queues: u32) -> Worker {
    let rig = Rig::start(Setup::new(GEO).queues(queues).args(args));
    Worker::new(rig, Rules::new(Shape::new(&GEO)))
}

/// Engines and queues.
const ENGINES: [(&[&str], u32); 4] = [(&[], 1), (&["--aio", "sync"], 1), (&[], 4), (&["--aio", "sync"], 4)];

/// Rounds of work, each with a cut: what the cuts say, and what they leave.
fn rounds(worker: &mut Worker, seed: u64, cut: impl Fn(usize) -> Value) -> Vec<(Value, Vec<Sight>)> {
    let mut out = Vec::new();
    for round in 0..3 {
        worker.round(&mut Rng::new(seed + round as u64), &ONE_BY_ONE);
        let report = worker.rig.cut(&cut(round));
        worker.rig.power_on(Way::ResetDevice);
        let sights = worker.rig.look_at_all();
        let fates = vec![super::rules::Fate::Any; worker.rules.shape.zones];
        let left = worker.rules.judge(&sights, &fates).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        worker.go_on_from(&left);
        out.push((report, sights));
    }
    out
}

#[test]
fn the_same_work_and_the_same_seed_leave_the_same_whatever_the_engine_and_the_queues() {
    let mut digests = Vec::new();
    for seed in [1, 2] {
        let all = ENGINES.map(|(args, queues)| {
            let mut worker = worker(args, queues);
            let rounds = rounds(&mut worker, 100, |round| json!({"seed": seed + round as u64}));
            worker.rig.finish();
            rounds
        });
        for other in &all[1..] {
            for (round, (first, other)) in all[0].iter().zip(other).enumerate() {
                let what = format!("seed {seed}, round {round}");
                assert_eq!(first.0["digest"], other.0["digest"], "{what}: digests of\n{}\n{}", first.0, other.0);
                assert_eq!(differing(&first.1, &other.1), [0; 0], "{what}: zones that differ");
            }
        }
        digests.extend(all[0].iter().map(|(report, _)| report["digest"].to_string()));
    }
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), 6, "other states have other digests");
}

#[test]
fn a_state_that_an_earlier_cut_printed_is_left_again_on_a_twin_disk() {
    let mut first = worker(&[], 1);
    let first_rounds = rounds(&mut first, 200, |round| json!({"seed": 7 + round as u64}));
    for (args, queues) in ENGINES {
        let mut twin = worker(args, queues);
        let again = rounds(&mut twin, 200, |round| json!({"state": first_rounds[round].0}));
        for (round, (first, again)) in first_rounds.iter().zip(&again).enumerate() {
            assert_eq!(first.0["digest"], again.0["digest"], "round {round}: {}\n{}", first.0, again.0);
            assert_eq!(differing(&first.1, &again.1), [0; 0], "round {round}: zones that differ");
        }
        twin.rig.finish();
    }
    first.rig.finish();
}

/// At most two active zones, of which the first has given its slot to a third, by `free`. The first is told to lose
/// that.
fn slot_given_away(free: impl Fn(&mut Rig, usize)) -> (Value, Rig) {
    let (first, second, third) = (GROWN, GROWN + 1, GROWN + 2);
    let mut rig = Rig::start(Setup::new(Geo { open: 2, active: 2, ..GEO }));
    rig.put(first, 0..2, 1);
    rig.put(second, 0..2, 2);
    assert_ok(rig.disk.flush());
    free(&mut rig, first);
    rig.put(third, 0..1, 3);
    let report = rig.cut(&json!({"lose": format!("zone:{first}")}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, second, State::Closed, &rows(second, &[(2, 2)]));
    assert_holds(&sights, third, State::Closed, &rows(third, &[(3, 1)]));
    assert_eq!(row(&report, first)["mended"], true, "{report}");
    (report, rig)
}

#[test]
fn a_reset_is_kept_where_its_slot_has_gone_to_another_zone() {
    let (_, mut rig) = slot_given_away(|rig, zone| assert_ok(rig.disk.reset(zone)));
    let sights = rig.look_at_all();
    assert_holds(&sights, GROWN, State::Empty, &[]);
    rig.finish();
}

#[test]
fn a_finish_is_kept_where_its_slot_has_gone_to_another_zone() {
    let (_, mut rig) = slot_given_away(|rig, zone| assert_ok(rig.disk.finish(zone)));
    let sights = rig.look_at_all();
    assert_holds(&sights, GROWN, State::Full, &rows(GROWN, &[(1, 2)]));
    rig.finish();
}

#[test]
fn a_filling_write_is_kept_where_its_slot_has_gone_to_another_zone() {
    let (_, mut rig) = slot_given_away(|rig, zone| rig.put(zone, 2..CAP, 9));
    let sights = rig.look_at_all();
    assert_holds(&sights, GROWN, State::Full, &rows(GROWN, &[(1, 2), (9, CAP - 2)]));
    rig.finish();
}

#[test]
fn management_that_is_told_to_be_stable_is_stable_with_all_before_it() {
    let mut rig = Rig::start(Setup::new(GEO));
    work(&mut rig);
    rig.put(LEFT_ALONE + 1, 0..3, 30);
    assert_ok(rig.disk.finish(LEFT_ALONE + 1));
    rig.cut(&json!({"mgmt": "stable"}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, RESET, State::Empty, &[]);
    assert_holds(&sights, FINISHED, State::Full, &rows(FINISHED, &[(1, 4)]));
    assert_holds(&sights, LEFT_ALONE + 1, State::Full, &rows(LEFT_ALONE + 1, &[(30, 3)]));
    [GROWN, NEVER_FLUSHED, FILLED, FILLED_NEVER_FLUSHED].iter().for_each(|zone| assert_stable(&sights, *zone));
    rig.finish();
}

/// It changes nothing, and is an operation of the zone's order all the same.
#[test]
fn a_finish_of_a_full_zone_and_a_reset_of_an_empty_one_are_management_that_is_stable() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(FILLED, 0..CAP, 1);
    rig.put(RESET, 0..4, 2);
    assert_ok(rig.disk.flush());
    rig.put(FILLED_NEVER_FLUSHED, 0..CAP, 3);
    assert_ok(rig.disk.finish(FILLED_NEVER_FLUSHED));
    assert_ok(rig.disk.reset(RESET));
    assert_ok(rig.disk.reset(RESET));
    rig.cut(&json!({"mgmt": "stable"}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, FILLED, State::Full, &rows(FILLED, &[(1, CAP)]));
    assert_holds(&sights, FILLED_NEVER_FLUSHED, State::Full, &rows(FILLED_NEVER_FLUSHED, &[(3, CAP)]));
    assert_holds(&sights, RESET, State::Empty, &[]);
    rig.finish();
}

/// The letter of the specification: a pointer promises nothing of data that was not flushed.
#[test]
fn below_the_stable_pointer_all_is_there_and_above_it_anything_may_be_by_the_letter_of_the_specification() {
    let mut strange = 0;
    for seed in 0..12 {
        let mut rig = Rig::start(Setup::new(GEO));
        rig.put(GROWN, 0..2, 1);
        rig.put(NEVER_FLUSHED, 0..CAP, 2);
        assert_ok(rig.disk.reset(NEVER_FLUSHED));
        assert_ok(rig.disk.flush());
        rig.put(GROWN, 2..20, 3);
        rig.put(NEVER_FLUSHED, 0..20, 4);
        rig.cut(&json!({"seed": seed, "model": "virtio"}));
        rig.power_on(Way::ResetDevice);
        for (zone, stable) in [(GROWN, 2), (NEVER_FLUSHED, 0)] {
            let (state, written) = rig.zone(zone);
            let expected = if written == 0 { State::Empty } else { State::Closed };
            assert_eq!(state, expected, "seed {seed}, zone {zone}");
            assert!((stable..=20).contains(&written), "seed {seed}, zone {zone}: {written} blocks");
            for at in 0..u64::from(rig.shape.len) {
                let found = rig.disk.read(rig.shape.sector(zone, at as u32), 4096);
                let seen = found.map(|bytes| look_at_all(&bytes)[0].clone());
                if at < stable {
                    assert_eq!(seen, Ok(Seen::Whole(label(zone, 1).plus(at as u32))), "seed {seed}, block {at}");
                } else if at >= written {
                    assert_eq!(seen, Ok(Seen::Zeros), "seed {seed}, zone {zone}, block {at} beyond the pointer");
                } else {
                    let serial = if zone == GROWN { 3 } else { 4 };
                    let written = Seen::Whole(label(zone, serial).plus((at - stable) as u32));
                    strange += usize::from(seen != Ok(written));
                }
            }
            // What comes behind is as ever.
            let at = written as u32;
            rig.put(zone, at..at + 1, 50);
            let read = rig.disk.read(rig.shape.sector(zone, at), 4096).unwrap();
            assert_eq!(look_at_all(&read), [Seen::Whole(label(zone, 50))], "seed {seed}, zone {zone}");
            assert_ok(rig.disk.reset(zone));
            let (sector, data) = rig.blocks(zone, 0..20, 51);
            assert_eq!(rig.disk.call(&Req::write(sector, data.clone())).status, Status::Ok);
            assert!(rig.disk.read(sector, data.len()) == Ok(data), "seed {seed}, zone {zone}: another life");
        }
        rig.finish();
    }
    assert!(strange > 0, "twelve cuts in which every pointer told the truth");
    assert_eq!(SECTORS, 8);
}
