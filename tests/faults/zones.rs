//! Zones that are read-only or offline, and come back.

use serde_json::json;

use crate::common::cli::Geo;
use crate::common::disk::Setup;
use crate::common::request::{Req, State, Status};
use crate::rig::{BLOCK, GEO, Rig, at, blocks, status, write};

#[test]
fn a_read_only_zone_is_read_and_nothing_else_and_an_offline_one_not_even_that() {
    let mut rig = Rig::start();
    for (zone, state) in [(3, State::ReadOnly), (4, State::Offline)] {
        assert_eq!(status(&mut rig, &write(zone, 0, 1, 4)), Status::Ok);
        let name = if state == State::Offline { "offline" } else { "read-only" };
        rig.add("x", &format!("zone {zone} do zone-state={name}"));
        let now = rig.disk.zone(zone);
        assert_eq!((now.state, now.wp), (state, at(zone, 4)), "the true pointer");
        rig.assert_slots("they come back at once");
        let start = at(zone, 0);
        for req in [
            write(zone, 4, 2, 1),
            Req::append(start, blocks(2, 1)),
            Req::open(start),
            Req::close(start),
            Req::finish(start),
            Req::reset(start),
        ] {
            assert_eq!(status(&mut rig, &req), Status::InvalidCmd, "{state:?}: {req:?}");
        }
        let read = rig.disk.read(start, 4 * BLOCK as usize);
        assert_eq!(read, if state == State::Offline { Err(Status::InvalidCmd) } else { Ok(blocks(1, 4)) });
    }
    assert_eq!(status(&mut rig, &write(5, 0, 1, 4)), Status::Ok);
    assert_eq!(rig.disk.reset_all(), Status::Ok);
    let states: Vec<State> = [3, 4, 5].into_iter().map(|zone| rig.disk.state(zone)).collect();
    assert_eq!(states, [State::ReadOnly, State::Offline, State::Empty], "a reset of all skips them");
}

#[test]
fn a_read_only_zone_can_go_offline_and_nothing_leads_back_but_a_restore() {
    let mut rig = Rig::start();
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    for name in ["read-only", "offline", "read-only"] {
        rig.add("x", &format!("zone 3 do zone-state={name}"));
    }
    assert_eq!(rig.disk.state(3), State::Offline);
    let list = rig.list();
    assert_eq!(list["zones"], json!([{"zone": 3, "state": "offline", "comes_back": false}]), "{list}");
}

#[test]
fn a_zone_that_is_restored_comes_back_when_the_device_is_reset_as_it_was() {
    let mut rig = Rig::start();
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    assert_eq!(status(&mut rig, &write(4, 0, 1, 4)), Status::Ok);
    assert_eq!(rig.disk.finish(4), Status::Ok);
    assert_eq!(rig.disk.open(6), Status::Ok);
    rig.add("x", "zone 3-6 do zone-state=offline");
    rig.add("x", "zone 3-5 do zone-state=restore");
    let states = |rig: &mut Rig| [3, 4, 5, 6].map(|zone| rig.disk.state(zone));
    assert_eq!(states(&mut rig), [State::Offline; 4], "not yet");
    rig.disk.reconnect();
    assert_eq!(states(&mut rig), [State::Closed, State::Full, State::Empty, State::Offline]);
    assert_eq!(rig.disk.zone(3).wp, at(3, 4));
    assert_eq!(rig.disk.read(at(3, 0), 4 * BLOCK as usize).unwrap(), blocks(1, 4));
    assert_eq!(status(&mut rig, &write(3, 4, 2, 1)), Status::Ok);
    rig.assert_slots("after the restore");
}

#[test]
fn a_zone_is_not_restored_while_no_active_zone_is_free() {
    const LIMITED: Geo = Geo { active: 2, open: 2, ..GEO };
    let mut rig = Rig::start_with(Setup::new(LIMITED));
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    rig.add("x", "zone 3 do zone-state=offline");
    for zone in [4, 5] {
        assert_eq!(status(&mut rig, &write(zone, 0, 1, 1)), Status::Ok, "its slots are free");
    }
    let rule = json!({"name": "back", "zone": "3", "do": "zone-state=restore"});
    let error = rig.try_ask(&json!({"cmd": "fault-add", "rule": rule, "now": true})).unwrap_err();
    assert!(error.contains("zone 3 cannot be restored"), "{error}");
    rig.add("x", "zone 3 do zone-state=restore");
    rig.disk.reconnect();
    assert_eq!(rig.disk.state(3), State::Offline, "two others are active");
    assert_eq!(rig.disk.finish(4), Status::Ok);
    rig.disk.reconnect();
    assert_eq!(rig.disk.state(3), State::Closed);
    rig.assert_slots("after all");
}

#[test]
fn a_rule_can_take_a_zone_away_when_a_request_comes() {
    let mut rig = Rig::start();
    rig.add("dies", "on write zone 3-4 nth 3 do zone-state=offline");
    let answers: Vec<Status> = (0..4).map(|n| status(&mut rig, &write(3, n, n, 1))).collect();
    assert_eq!(answers, [Status::Ok, Status::Ok, Status::InvalidCmd, Status::InvalidCmd]);
    assert_eq!(rig.disk.zone(3).wp, at(3, 2));
    assert_eq!(rig.disk.state(4), State::Empty);
    rig.restore_now("3");
    assert_eq!(status(&mut rig, &write(3, 2, 7, 1)), Status::Ok);
}

#[test]
fn requests_in_flight_of_a_zone_that_is_taken_away_end_first() {
    let mut rig = Rig::start();
    rig.add("slow", "on write zone 3 nth 1 do hang");
    let first = rig.disk.submit(0, &write(3, 0, 1, 4));
    crate::common::eventually("the write to hang", || (rig.held("slow") == 1).then_some(()));
    rig.add("goes", "on write zone 3 nth 1 do zone-state=read-only");
    let second = rig.disk.submit(0, &write(3, 4, 2, 4));
    let third = rig.disk.submit(0, &Req::read(at(4, 0), 4096));
    assert_eq!(rig.disk.wait(third).status, Status::Ok, "other zones go on");
    assert_eq!(rig.disk.state(3), State::ImplicitOpen, "not while a write is in flight");
    rig.clear("slow");
    assert_eq!(rig.disk.wait(first).status, Status::Ok);
    assert_eq!(rig.disk.wait(second).status, Status::InvalidCmd);
    let now = rig.disk.zone(3);
    assert_eq!((now.state, now.wp), (State::ReadOnly, at(3, 4)));
}

#[test]
fn what_was_not_stable_is_lost_of_a_read_only_zone_too_and_the_zone_stays_read_only() {
    let mut rig = Rig::start_with(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    assert_eq!(rig.disk.flush(), Status::Ok);
    assert_eq!(status(&mut rig, &write(3, 4, 2, 4)), Status::Ok);
    rig.add("x", "zone 3 do zone-state=read-only");
    rig.ask(&json!({"cmd": "power-cut", "then": "dead"}));
    rig.disk.reconnect();
    let now = rig.disk.zone(3);
    assert_eq!((now.state, now.wp), (State::ReadOnly, at(3, 4)));
    rig.restore_now("3");
    assert_eq!(status(&mut rig, &write(3, 4, 3, 1)), Status::Ok);
    let mut expected = blocks(1, 4);
    expected.extend(blocks(3, 1));
    assert_eq!(rig.disk.read(at(3, 0), 5 * BLOCK as usize).unwrap(), expected);
}
