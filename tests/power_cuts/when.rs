//! Cuts that come later: at a request, a flush, a number of bytes, a pointer, a mark. One request at a time, each
//! answered before the next; after the cut each fails.

use serde_json::{Value, json};

use super::rig::{GEO, Rig, Way, command};
use crate::common::disk::Setup;
use crate::common::model::assert_ok;
use crate::common::request::{Req, State, Status};

const SEQ: usize = 2;

/// Arms a cut.
#[track_caller]
fn arm(rig: &mut Rig, at: &str, lose: &str) {
    let answer = rig.cut(&json!({"at": at, "then": "fail", "lose": lose}));
    assert_eq!(answer["armed"], true, "{at}: {answer}");
    assert_eq!(rig.state_of_power(), "armed", "{at}");
}

/// Makes requests, each when the one before is answered; how many were answered well before the first that failed.
#[track_caller]
fn good_before_the_cut(rig: &mut Rig, requests: &[Req]) -> usize {
    let mut good = None;
    for (at, req) in requests.iter().enumerate() {
        match rig.disk.call(req).status {
            Status::Ok => assert_eq!(good, None, "request {at} was answered well after one that failed"),
            Status::IoErr => good = good.or(Some(at)),
            status => panic!("request {at}: {status:?}"),
        }
    }
    assert!(good.is_none() || rig.is_off(), "requests fail and the power is on");
    good.unwrap_or(requests.len())
}

/// Writes of one block, one behind the other.
fn writes(rig: &Rig, zone: usize, count: u32) -> Vec<Req> {
    let write = |at| {
        let (sector, data) = rig.blocks(zone, at..at + 1, at + 1);
        Req::write(sector, data)
    };
    (0..count).map(write).collect()
}

/// The request that a trigger names may be the last good one or the first that fails, as long as it is always the same.
#[track_caller]
fn assert_at(good: usize, named: usize, what: &str) {
    assert!(good == named || good + 1 == named, "{what}: {good} requests were answered well");
}

/// After the power is back, the zone has what was answered, and no more than the one request that the cut has met.
#[track_caller]
fn assert_kept(rig: &mut Rig, zone: usize, good: usize) {
    rig.power_on(Way::ResetDevice);
    let (_, written) = rig.zone(zone);
    assert!(written == good as u64 || written == good as u64 + 1, "{good} answered, {written} kept");
}

#[test]
fn a_cut_at_a_request_comes_with_that_request() {
    for named in [1, 2, 7] {
        let mut rig = Rig::start(Setup::new(GEO));
        rig.put(SEQ + 1, 0..4, 100);
        arm(&mut rig, &format!("request:{named}"), "nothing");
        let requests = writes(&rig, SEQ, 10);
        let good = good_before_the_cut(&mut rig, &requests);
        assert_at(good, named, "request");
        assert_kept(&mut rig, SEQ, good);
        rig.finish();
    }
}

/// Writes with a flush behind each second one.
fn writes_and_flushes(rig: &Rig, count: u32) -> Vec<Req> {
    writes(rig, SEQ, count).chunks(2).flat_map(|two| [two, &[Req::flush()]].concat()).collect()
}

#[test]
fn a_cut_at_a_flush_comes_with_that_flush() {
    for named in [1, 3] {
        let mut rig = Rig::start(Setup::new(GEO));
        arm(&mut rig, &format!("flush:{named}"), "all");
        let requests = writes_and_flushes(&rig, 10);
        let good = good_before_the_cut(&mut rig, &requests);
        assert_at(good, 3 * named, "flush");
        rig.power_on(Way::ResetDevice);
        // What was stable: all before the flush if it was answered well, all before the last one otherwise.
        let stable = if good == 3 * named { 2 * named } else { 2 * (named - 1) };
        assert_eq!(rig.zone(SEQ).1, stable as u64, "{good} requests were answered well");
        rig.finish();
    }
}

#[test]
fn a_cut_some_requests_after_a_flush_comes_so_many_later() {
    for (flush, more) in [(1, 1), (2, 2), (1, 4)] {
        let mut rig = Rig::start(Setup::new(GEO));
        arm(&mut rig, &format!("flush:{flush}+{more}"), "nothing");
        let requests = writes_and_flushes(&rig, 12);
        let good = good_before_the_cut(&mut rig, &requests);
        assert_at(good, 3 * flush + more, &format!("flush:{flush}+{more}"));
        rig.finish();
    }
}

#[test]
fn a_cut_at_a_number_of_bytes_comes_when_so_many_were_written() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ + 1, 0..4, 100);
    arm(&mut rig, "bytes:20480", "nothing");
    let requests = writes(&rig, SEQ, 10);
    let good = good_before_the_cut(&mut rig, &requests);
    assert_at(good, 5, "20480 bytes are 5 writes");
    assert_kept(&mut rig, SEQ, good);
    rig.finish();
}

#[test]
fn a_cut_at_a_pointer_comes_when_it_is_there() {
    let mut rig = Rig::start(Setup::new(GEO));
    // Bytes from the zone's start.
    arm(&mut rig, &format!("zone:{SEQ},wp>={}", 3 * 4096), "nothing");
    // Other zones do not matter.
    let others = writes(&rig, SEQ + 1, 8);
    assert_eq!(good_before_the_cut(&mut rig, &others), 8);
    let requests = writes(&rig, SEQ, 10);
    let good = good_before_the_cut(&mut rig, &requests);
    assert_at(good, 3, "three blocks");
    assert_kept(&mut rig, SEQ, good);
    rig.finish();
}

#[test]
fn a_cut_at_a_mark_comes_with_that_mark_and_no_other() {
    let mut rig = Rig::start(Setup::new(GEO));
    arm(&mut rig, "mark:mounted", "all");
    rig.put(SEQ, 0..2, 1);
    rig.ask(&json!({"cmd": "mark", "name": "other"}));
    rig.put(SEQ, 2..3, 2);
    assert_ok(rig.disk.flush());
    rig.put(SEQ, 3..4, 3);
    rig.ask(&json!({"cmd": "mark", "name": "mounted"}));
    let (sector, data) = rig.blocks(SEQ, 4..5, 4);
    assert_eq!(rig.disk.write(sector, &data), Status::IoErr);
    assert!(rig.is_off());
    rig.power_on(Way::ResetDevice);
    assert_eq!(rig.zone(SEQ), (State::Closed, 3));
    rig.finish();
}

#[test]
fn a_cut_that_waits_can_be_called_off() {
    let mut rig = Rig::start(Setup::new(GEO));
    let off = json!({"at": "never"});
    assert_eq!(rig.ask(&command(&off))["called_off"], Value::Null, "nothing was waiting");
    for at in ["request:2", "mark:later"] {
        arm(&mut rig, at, "all");
        let answer = rig.ask(&command(&off));
        assert_eq!((&answer["armed"], &answer["called_off"]), (&json!(false), &json!(at)), "{answer}");
        assert_eq!(rig.state_of_power(), "on");
    }
    let requests = writes(&rig, SEQ, 4);
    assert_eq!(good_before_the_cut(&mut rig, &requests), 4);
    rig.ask(&json!({"cmd": "mark", "name": "later"}));
    assert_eq!(rig.state_of_power(), "on");
    // What comes after the cut is too late.
    rig.cut(&json!({"lose": "nothing"}));
    assert!(rig.refuses(&off).contains("off already"));
    rig.power_on(Way::ResetDevice);
    assert_eq!(rig.zone(SEQ), (State::Closed, 4));
    rig.finish();
}

#[test]
fn a_mark_that_nothing_waits_for_is_no_cut() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ, 0..2, 1);
    rig.ask(&json!({"cmd": "mark", "name": "boot"}));
    assert_eq!(rig.state_of_power(), "on");
    rig.put(SEQ, 2..4, 2);
    rig.finish();
}

#[test]
fn an_armed_cut_comes_once() {
    let mut rig = Rig::start(Setup::new(GEO));
    arm(&mut rig, "request:2", "nothing");
    let requests = writes(&rig, SEQ, 4);
    good_before_the_cut(&mut rig, &requests);
    rig.power_on(Way::ResetDevice);
    assert_eq!(rig.state_of_power(), "on");
    for zone in rig.shape.sequential() {
        assert_ok(rig.disk.reset(zone));
    }
    assert_ok(rig.disk.flush());
    assert_eq!(rig.state_of_power(), "on");
    rig.finish();
}
