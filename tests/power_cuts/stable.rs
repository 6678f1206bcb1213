//! What no cut may lose.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::json;

use super::rig::{GEO, Rig, Way, assert_holds, label, rows};
use crate::common::cli::{Image, program};
use crate::common::daemon::Daemon;
use crate::common::disk::Setup;
use crate::common::frontend::{Frontend, Options, feature};
use crate::common::model::assert_ok;
use crate::common::request::{Req, State, Status};
use crate::common::syncs::refuse_syncs_but_of;

const SEQ: usize = 2;

#[test]
fn a_flush_makes_stable_what_was_answered_before_it_and_nothing_behind_it() {
    let mut rig = Rig::start(Setup::new(GEO));
    for round in 0..6 {
        rig.put(SEQ, 2 * round..2 * round + 1, 10 + round);
        rig.put(0, 0..1, 20 + round);
        assert_ok(rig.disk.flush());
        rig.put(SEQ, 2 * round + 1..2 * round + 2, 30 + round);
        rig.put(0, 0..1, 40 + round);
        if round % 2 == 1 {
            rig.cut(&json!({}));
            rig.power_on(Way::ResetDevice);
            let sights = rig.look_at_all();
            assert_eq!(sights[SEQ].written, u64::from(2 * round + 1) * 8, "round {round}");
            assert_holds(&sights, 0, State::NotWp, &[label(0, 20 + round)]);
            // The block that was lost is written again.
            rig.put(SEQ, 2 * round + 1..2 * round + 2, 50 + round);
        }
    }
    rig.finish();
}

#[test]
fn a_reset_and_a_finish_that_were_flushed_stay() {
    let mut rig = Rig::start(Setup::new(GEO));
    for zone in [SEQ, SEQ + 1, SEQ + 2] {
        rig.put(zone, 0..4, 1);
    }
    assert_ok(rig.disk.flush());
    assert_ok(rig.disk.reset(SEQ));
    assert_ok(rig.disk.finish(SEQ + 1));
    assert_ok(rig.disk.reset(SEQ + 2));
    rig.put(SEQ + 2, 0..2, 2);
    assert_ok(rig.disk.flush());
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, SEQ, State::Empty, &[]);
    assert_holds(&sights, SEQ + 1, State::Full, &rows(SEQ + 1, &[(1, 4)]));
    assert_holds(&sights, SEQ + 2, State::Closed, &rows(SEQ + 2, &[(2, 2)]));
    rig.finish();
}

/// The flush is done when the reset, which came behind it, is done already.
#[test]
fn a_flush_makes_stable_what_was_answered_before_it_also_where_a_reset_comes_while_it_is_under_way() {
    let mut rig = Rig::start(Setup::new(GEO).queues(2));
    for zone in rig.shape.sequential() {
        let queue = zone % 2;
        rig.put(zone, 0..2, 1);
        rig.disk.front().plug();
        let flush = rig.disk.submit(0, &Req::flush());
        let reset = rig.disk.submit(queue, &Req::reset(rig.shape.sector(zone, 0)));
        rig.disk.front().unplug();
        assert_ok(rig.disk.wait(flush).status);
        assert_ok(rig.disk.wait(reset).status);
        rig.cut(&json!({"lose": "all"}));
        rig.power_on(Way::ResetDevice);
        let sights = rig.look_at_all();
        // On another queue the reset may have come before the flush.
        if queue == 0 || sights[zone].state != State::Empty {
            assert_holds(&sights, zone, State::Closed, &rows(zone, &[(1, 2)]));
        }
    }
    rig.finish();
}

#[test]
fn a_reset_of_all_zones_that_was_flushed_stays_and_one_that_was_not_is_lost() {
    let mut rig = Rig::start(Setup::new(GEO));
    for zone in rig.shape.sequential() {
        rig.put(zone, 0..4, 1);
    }
    assert_ok(rig.disk.flush());
    assert_ok(rig.disk.reset_all());
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    for zone in rig.shape.sequential() {
        assert_holds(&sights, zone, State::Closed, &rows(zone, &[(1, 4)]));
    }
    assert_ok(rig.disk.reset_all());
    assert_ok(rig.disk.flush());
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    rig.shape.sequential().for_each(|zone| assert_holds(&sights, zone, State::Empty, &[]));
    rig.finish();
}

#[test]
fn what_an_orderly_end_has_left_is_stable() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ, 0..4, 1);
    rig.put(0, 0..2, 2);
    assert!(rig.disk.stop().success());
    rig.start_again();
    rig.put(SEQ, 4..6, 3);
    rig.put(0, 0..1, 4);
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 4)]));
    assert_holds(&sights, 0, State::NotWp, &rows(0, &[(2, 2)]));
    rig.finish();
}

#[test]
fn a_kill_of_the_daemon_is_no_cut() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ, 0..4, 1);
    rig.put(SEQ + 1, 0..4, 1);
    rig.put(0, 0..2, 2);
    assert_ok(rig.disk.flush());
    rig.put(SEQ, 4..6, 3);
    assert_ok(rig.disk.reset(SEQ + 1));
    rig.put(0, 0..1, 4);
    rig.disk.daemon.kill9();
    rig.start_again();
    let sights = rig.look_at_all();
    assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 4), (3, 2)]));
    assert_holds(&sights, SEQ + 1, State::Empty, &[]);
    assert_holds(&sights, 0, State::NotWp, &[label(0, 4), label(0, 2).plus(1)]);
    rig.finish();
}

#[test]
fn without_a_volatile_cache_as_the_driver_sees_it_each_answer_is_stable() {
    use feature::{CONFIG_WCE, FLUSH};
    // Arguments of `serve`, features that are not accepted, what the driver sets `writeback` to.
    let cases: [(&[&str], u64, Option<u8>); 4] = [
        (&[], FLUSH | CONFIG_WCE, None),
        (&[], FLUSH, None),
        (&["--cache", "writethrough"], 0, None),
        (&[], 0, Some(0)),
    ];
    for (args, without, writeback) in cases {
        println!("{args:?}, without {without:#x}, writeback {writeback:?}");
        let mut rig = Rig::start(Setup::new(GEO).args(args).without(without));
        if let Some(value) = writeback {
            rig.disk.front().conn.set_config(32, &[value]).unwrap_or_else(|error| panic!("{error}"));
        }
        rig.put(SEQ, 0..4, 1);
        let (sector, data) = rig.blocks(SEQ + 1, 0..3, 2);
        rig.disk.append(sector, &data).unwrap();
        rig.put(SEQ + 2, 0..4, 3);
        assert_ok(rig.disk.reset(SEQ + 2));
        rig.put(SEQ + 3, 0..4, 4);
        assert_ok(rig.disk.finish(SEQ + 3));
        rig.put(0, 0..4, 5);
        rig.put(0, 1..2, 6);
        rig.cut(&json!({"lose": "all"}));
        rig.power_on(Way::ResetDevice);
        let sights = rig.look_at_all();
        assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 4)]));
        assert_holds(&sights, SEQ + 1, State::Closed, &rows(SEQ + 1, &[(2, 3)]));
        assert_holds(&sights, SEQ + 2, State::Empty, &[]);
        assert_holds(&sights, SEQ + 3, State::Full, &rows(SEQ + 3, &[(4, 4)]));
        let mut first = rows(0, &[(5, 4)]);
        first[1] = label(0, 6);
        assert_holds(&sights, 0, State::NotWp, &first);
        rig.finish();
    }
}

/// The first descriptor of the image that a daemon has: by it the metadata is made stable, and not what a guest
/// flushes.
fn own_descriptor(pid: i32, image: &Image) -> u32 {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u32>().unwrap());
    let leads_there = |number: &u32| {
        std::fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok_and(|target| target == image.path())
    };
    numbers.filter(leads_there).min().unwrap()
}

#[test]
fn a_flush_that_failed_makes_nothing_stable() {
    let mut rig = Rig::start(Setup::new(GEO).args(&["--aio", "sync"]));
    rig.put(SEQ, 0..2, 1);
    rig.put(0, 0..2, 1);
    let own = own_descriptor(rig.disk.daemon.pid(), &rig.disk.image);
    assert!(rig.disk.stop().success());
    let socket = rig.disk.image.beside("socket");
    let mut command = Command::new(program());
    command.arg("serve").arg(rig.disk.image.path()).arg("--socket-path").arg(&socket).args(&rig.disk.setup.args);
    // SAFETY: the function makes only async-signal-safe calls and owns nothing.
    unsafe { command.pre_exec(move || refuse_syncs_but_of(own)) };
    rig.disk.daemon = Daemon::spawn_program(&mut command, &socket);
    rig.disk.daemon.await_socket();
    rig.disk.reconnect();
    rig.reach_control();

    rig.put(SEQ, 2..5, 2);
    rig.put(SEQ + 1, 0..3, 3);
    rig.put(0, 0..1, 4);
    assert_ok(rig.disk.reset(SEQ + 2));
    assert_eq!(rig.disk.flush(), Status::IoErr, "a flush on a host that cannot sync");
    assert!(rig.power().unwrap()["volatile_bytes"].as_u64().unwrap() > 0, "nothing is volatile any more");
    // What cannot be written down cannot be cut either. Then nothing has changed; else all of it is lost.
    match rig.try_cut(&json!({"lose": "all"})) {
        Err(error) => {
            assert_eq!(error.lines().count(), 1, "{error}");
            assert_eq!(rig.state_of_power(), "on");
            let sights = rig.look_at_all();
            assert_eq!(rig.zone(SEQ), (State::ImplicitOpen, 5));
            assert_holds(&sights, 0, State::NotWp, &[label(0, 4), label(0, 1).plus(1)]);
        }
        Ok(_) => {
            rig.power_on(Way::ResetDevice);
            let sights = rig.look_at_all();
            assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 2)]));
            assert_holds(&sights, SEQ + 1, State::Empty, &[]);
            assert_holds(&sights, 0, State::NotWp, &rows(0, &[(1, 2)]));
        }
    }
    // The next daemon can flush.
    rig.disk.stop();
    rig.start_again();
    let next = rig.zone(SEQ).1 as u32;
    rig.put(SEQ, next..next + 1, 5);
    assert_ok(rig.disk.flush());
    rig.finish();
}

#[test]
fn more_than_the_cache_has_room_for_becomes_stable_and_loses_no_block_s_last_stable_version() {
    let image = Image::create(&GEO);
    // Room for 16 blocks.
    let mut rig = Rig::start_on(Setup::new(GEO).args(&["--volatile-cache", "64K"]), image);
    rig.put(0, 0..48, 1);
    assert_ok(rig.disk.flush());
    rig.put(0, 0..48, 2);
    rig.put(SEQ, 0..48, 3);
    rig.cut(&json!({"lose": "all"}));
    rig.power_on(Way::ResetDevice);
    let sights = rig.look_at_all();
    assert_holds(&sights, SEQ, State::Empty, &[]);
    let blocks = sights[0].blocks.as_ref().unwrap();
    let mut old = 0;
    for (at, seen) in (0..48).zip(blocks) {
        let versions = [1, 2].map(|serial| super::block::Seen::Whole(label(0, serial).plus(at)));
        assert!(versions.contains(seen), "block {at}: {seen:?}");
        old += usize::from(*seen == versions[0]);
    }
    assert!(old <= 16, "{old} old versions in a cache of 16 blocks");
    rig.finish();
}

#[test]
fn a_frontend_that_does_not_flush_follows_one_that_does() {
    let mut rig = Rig::start(Setup::new(GEO));
    rig.put(SEQ, 0..2, 1);
    let options = Options { without: feature::FLUSH | feature::CONFIG_WCE, ..Options::default() };
    rig.disk.reconnect_with(&options);
    rig.put(SEQ, 2..4, 2);
    rig.put(SEQ + 1, 0..2, 3);
    rig.cut(&json!({}));
    rig.disk.disconnect();
    let stream = rig.disk.daemon.connect();
    let mut front = Frontend::connect(stream, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let zones = front.call(0, &Req::report(0, 4096)).zones();
    assert_eq!([SEQ, SEQ + 1].map(|zone| zones[zone].written() / 8), [4, 2], "answered with write-through");
}
