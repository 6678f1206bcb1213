//! What the guest sees of a cut, and how it gets the power back.

use std::time::Duration;

use serde_json::{Value, json};

use super::rig::{GEO, Rig, Way, assert_holds, rows};
use crate::common::KIB;
use crate::common::cli::Geo;
use crate::common::disk::Setup;
use crate::common::frontend::Token;
use crate::common::model::assert_ok;
use crate::common::proto::{Talk, msg, pf};
use crate::common::request::{Req, State, Status};

const SEQ: usize = 2;

/// How long nothing comes where nothing may come: the rest of the waiting is up to the daemon's bugs.
const SILENCE: Duration = Duration::from_millis(150);

/// Four blocks of which two are stable in the first sequential zone, and two that are not in the next.
fn start(setup: Setup) -> Rig {
    let mut rig = Rig::start(setup);
    rig.put(SEQ, 0..2, 1);
    assert_ok(rig.disk.flush());
    rig.put(SEQ, 2..4, 2);
    rig.put(SEQ + 1, 0..2, 3);
    rig
}

/// That work after all of it that may be lost was lost.
#[track_caller]
fn assert_lost(rig: &mut Rig) {
    let sights = rig.look_at_all();
    assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 2)]));
    assert_holds(&sights, SEQ + 1, State::Empty, &[]);
}

/// A request of each kind.
fn requests(rig: &Rig) -> Vec<Req> {
    let at = |zone: usize, block: u32| rig.shape.sector(zone, block);
    let (sector, data) = rig.blocks(SEQ, 4..5, 90);
    vec![
        Req::write(sector, data.clone()),
        Req::write(at(0, 0), data.clone()),
        Req::append(at(SEQ + 2, 0), data),
        Req::read(at(SEQ, 0), 4096),
        Req::report(0, 4096),
        Req::flush(),
        Req::open(at(SEQ + 3, 0)),
        Req::close(at(SEQ, 0)),
        Req::finish(at(SEQ, 0)),
        Req::reset(at(SEQ, 0)),
        Req::reset_all(),
        Req::get_id(),
    ]
}

fn submit_all(rig: &mut Rig) -> Vec<(u32, Token)> {
    let queues = rig.disk.front().queues.len();
    let requests = requests(rig);
    let submit = |(at, req): (usize, &Req)| (req.kind, rig.disk.submit(at % queues, req));
    requests.iter().enumerate().map(submit).collect()
}

/// Nothing is answered for a while.
#[track_caller]
fn assert_dead(rig: &mut Rig) {
    let (kind, first) = submit_all(rig)[0];
    let answer = rig.disk.front().wait_for(first, SILENCE);
    assert_eq!(answer, None, "type {kind} was answered without power");
    rig.assert_silent();
}

/// Everything is answered with an error.
#[track_caller]
fn assert_failing(rig: &mut Rig) {
    for (kind, token) in submit_all(rig) {
        assert_eq!(rig.disk.wait(token).status, Status::IoErr, "type {kind} without power");
    }
}

#[track_caller]
fn assert_as_told(rig: &mut Rig, then: &str) {
    assert_eq!(rig.state_of_power(), "off");
    if then == "fail" { assert_failing(rig) } else { assert_dead(rig) }
}

#[test]
fn a_dead_disk_answers_nothing_until_the_device_is_reset() {
    let mut rig = start(Setup::new(GEO).queues(2));
    rig.cut(&json!({}));
    assert_dead(&mut rig);
    rig.power_on(Way::ResetDevice);
    assert_lost(&mut rig);
    rig.disk.assert_works();
    rig.finish();
}

#[test]
fn a_failing_disk_answers_everything_with_an_error_until_the_device_is_reset() {
    let mut rig = start(Setup::new(GEO).queues(2));
    rig.cut(&json!({"then": "fail"}));
    assert_failing(&mut rig);
    rig.power_on(Way::ResetDevice);
    assert_lost(&mut rig);
    rig.disk.assert_works();
    rig.finish();
}

/// Writes to all zones that are in flight together.
fn burst(rig: &mut Rig) -> Vec<Token> {
    let queues = rig.disk.front().queues.len();
    let mut tokens = Vec::new();
    rig.disk.front().plug();
    for block in 0..6 {
        for zone in rig.shape.sequential() {
            let (sector, data) = rig.blocks(zone, 8 * block..8 * block + 8, block);
            tokens.push(rig.disk.submit(zone % queues, &Req::write(sector, data)));
        }
    }
    rig.disk.front().unplug();
    tokens
}

#[test]
fn what_was_in_flight_fails_where_the_disk_fails_and_has_no_answer_where_it_is_dead() {
    for then in ["fail", "dead"] {
        let mut rig = Rig::start(Setup::new(GEO).queues(2).queue_size(256));
        let mut unanswered = 0;
        // Where the answers are faster than the cut there is nothing to see.
        for _ in 0..200 {
            let tokens = burst(&mut rig);
            rig.cut(&json!({"then": then, "lose": "nothing"}));
            if then == "fail" {
                for token in tokens {
                    let status = rig.disk.wait(token).status;
                    assert!(matches!(status, Status::Ok | Status::IoErr), "{status:?}");
                    unanswered += usize::from(status == Status::IoErr);
                }
            } else {
                rig.disk.front().collect();
                let left = rig.disk.front().in_flight_count();
                if left > 0 && unanswered == 0 {
                    rig.disk.front().wait_for(Token::NONE, SILENCE);
                    assert_eq!(rig.disk.front().in_flight_count(), left, "answers without power");
                }
                unanswered += left;
            }
            rig.power_on(Way::ResetDevice);
            assert_ok(rig.disk.reset_all());
            if unanswered > 20 {
                break;
            }
        }
        assert!(unanswered > 0, "then {then}: no request was in flight at any of the cuts");
        rig.disk.assert_works();
        rig.finish();
    }
}

#[test]
fn a_daemon_that_is_told_to_exit_ends_well_and_leaves_what_the_cut_left() {
    let mut rig = start(Setup::new(GEO));
    let told = rig.cut_and_exit(&json!({"then": "exit"}));
    assert_eq!(logged(&rig), told, "what the log has of the cut");
    rig.disk.image.assert_qemu_finds_at_most_leaks();
    rig.start_again();
    assert_lost(&mut rig);
    rig.disk.assert_works();
    rig.finish();
}

/// What the log has of a cut that has ended the daemon, in one line.
fn logged(rig: &Rig) -> Value {
    let log = rig.disk.daemon.log();
    let mut found = log.lines().filter_map(|line| line.split_once("what the power cut has left: "));
    let (_, json) = found.next().unwrap_or_else(|| panic!("nothing of the cut in the log:\n{log}"));
    assert!(found.next().is_none(), "one line:\n{log}");
    serde_json::from_str(json).unwrap_or_else(|error| panic!("no JSON: {error}: {json}"))
}

#[test]
fn a_cut_that_comes_later_and_ends_the_daemon_is_told_in_the_log() {
    let mut rig = start(Setup::new(GEO));
    rig.cut(&json!({"then": "exit", "at": "mark:now", "seed": 3}));
    let told = rig.cut_at_mark_and_exit("now");
    assert_eq!((&told["seed"], &told["then"]), (&json!(3), &json!("exit")), "who has set the mark is told: {told}");
    assert_eq!(logged(&rig), told);
    let mut rig = start(Setup::new(GEO));
    rig.cut(&json!({"then": "exit", "at": "request:1"}));
    rig.disk.submit(0, &Req::get_id());
    rig.disk.submit(0, &Req::flush());
    assert!(rig.disk.daemon.wait().success());
    assert_eq!(logged(&rig)["then"], "exit");
}

/// More zones are touched than a socket has room for the story of.
#[test]
fn however_long_the_story_of_a_cut_is_the_one_who_asks_gets_it_whole_before_the_daemon_ends() {
    const ZONES: u64 = 2500;
    let geo = Geo { size: ZONES * 64 * KIB, zone: 64 * KIB, cap: 64 * KIB, conv: 0, append: 4 * KIB, ..GEO };
    let mut rig = Rig::start(Setup::new(geo).queue_size(256));
    let tokens: Vec<Token> = rig
        .shape
        .sequential()
        .map(|zone| {
            let (sector, data) = rig.blocks(zone, 0..1, 1);
            rig.disk.submit(0, &Req::write(sector, data))
        })
        .collect();
    for token in tokens {
        assert_eq!(rig.disk.wait(token).status, Status::Ok);
    }
    let told = rig.cut_and_exit_read_late(&json!({"then": "exit"}), SILENCE);
    assert_eq!(told["zones"].as_array().map(Vec::len), Some(ZONES as usize));
    assert!(told.to_string().len() > 300_000, "the answer has {} bytes", told.to_string().len());
}

#[test]
fn each_reset_of_the_device_brings_the_power_back() {
    for tracked in [true, false] {
        for then in ["dead", "fail"] {
            for way in Way::all(tracked) {
                if *way == (Way::StopRings { fresh: false }) {
                    continue;
                }
                println!("{way:?}, tracked: {tracked}, then {then}");
                let without = if tracked { 0 } else { pf::INFLIGHT_SHMFD };
                let mut rig = start(Setup::new(GEO).queues(2).without_protocol(without));
                let token = rig.disk.submit(0, &Req::flush());
                rig.disk.wait(token);
                rig.put(SEQ + 2, 0..3, 4);
                rig.cut(&json!({"then": then}));
                assert_as_told(&mut rig, then);
                rig.power_on(*way);
                assert_eq!(rig.state_of_power(), "on", "{way:?}");
                let sights = rig.look_at_all();
                assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 2), (2, 2)]));
                assert_holds(&sights, SEQ + 1, State::Closed, &rows(SEQ + 1, &[(3, 2)]));
                assert_holds(&sights, SEQ + 2, State::Empty, &[]);
                rig.disk.assert_works();
                rig.finish();
            }
        }
    }
}

#[test]
fn rings_set_up_again_with_base_0_bring_the_power_back_also_where_the_in_flight_region_stays() {
    for then in ["dead", "fail"] {
        let mut rig = start(Setup::new(GEO).queues(2));
        rig.cut(&json!({"then": then}));
        assert_as_told(&mut rig, then);
        rig.power_on(Way::StopRings { fresh: false });
        assert_eq!(rig.state_of_power(), "on");
        assert_lost(&mut rig);
        rig.disk.assert_works();
        rig.finish();
    }
}

#[test]
fn stop_and_cont_is_no_reset_of_the_device() {
    for then in ["dead", "fail"] {
        let mut rig = start(Setup::new(GEO).queues(2));
        rig.cut(&json!({"then": then}));
        for _ in 0..3 {
            assert_as_told(&mut rig, then);
            rig.stop_and_continue().unwrap_or_else(|error| panic!("stop and cont: {error}"));
        }
        assert_as_told(&mut rig, then);
        rig.power_on(Way::ResetDevice);
        assert_lost(&mut rig);
        rig.disk.assert_works();
        rig.finish();
    }
}

#[test]
fn stop_and_cont_before_the_cut_loses_nothing_and_makes_nothing_stable() {
    let mut rig = start(Setup::new(GEO).queues(2));
    rig.stop_and_continue().unwrap_or_else(|error| panic!("stop and cont: {error}"));
    assert_eq!(rig.zone(SEQ), (State::ImplicitOpen, 4));
    rig.cut(&json!({}));
    rig.power_on(Way::ResetDevice);
    assert_lost(&mut rig);
    rig.finish();
}

/// What QEMU's vhost-user-blk does when its machine is reset, message by message: all rings disabled, those that `ran` stopped, the
/// in-flight region given up; then `rings` of them set up with base 0, those that whoever boots has use for.
fn reset_machine(rig: &mut Rig, ran: usize, rings: usize) -> Talk<()> {
    let front = rig.disk.front();
    for queue in 0..front.queues.len() {
        front.conn.tell_queue(msg::SET_VRING_ENABLE, queue as u32, 0)?;
    }
    for queue in 0..ran {
        front.stop_queue(queue)?;
    }
    front.inflight = None;
    front.forget();
    front.conn.tell_u64(msg::SET_FEATURES, front.features)?;
    front.share_inflight()?;
    front.conn.tell_u64(msg::SET_FEATURES, front.features)?;
    front.set_mem_table()?;
    (0..rings).try_for_each(|queue| front.start_queue(queue, 0))
}

#[test]
fn a_guest_that_is_reset_in_place_in_qemu_has_the_power_back_already_in_its_firmware() {
    // The memory is told as a whole, as it is where no slots were agreed on.
    let setup = || Setup::new(GEO).queues(4).without_protocol(pf::CONFIGURE_MEM_SLOTS | pf::RESET_DEVICE);
    for then in ["dead", "fail"] {
        let mut rig = start(setup());
        rig.cut(&json!({"then": then}));
        assert_as_told(&mut rig, then);
        // The firmware has one queue, by which it reads and writes.
        reset_machine(&mut rig, 4, 1).unwrap_or_else(|error| panic!("then {then}: the machine's reset: {error}"));
        assert_eq!(rig.state_of_power(), "on", "then {then}");
        let (sector, data) = rig.blocks(SEQ + 2, 0..1, 5);
        let token = rig.disk.submit(0, &Req::write(sector, data));
        assert_eq!(rig.disk.wait(token).status, Status::Ok);
        let token = rig.disk.submit(0, &Req::flush());
        assert_eq!(rig.disk.wait(token).status, Status::Ok);
        // The driver of its system begins anew, with all of them.
        reset_machine(&mut rig, 1, 4).unwrap_or_else(|error| panic!("then {then}: the driver's reset: {error}"));
        assert_eq!(rig.state_of_power(), "on", "then {then}");
        let sights = rig.look_at_all();
        assert_holds(&sights, SEQ, State::Closed, &rows(SEQ, &[(1, 2)]));
        assert_holds(&sights, SEQ + 1, State::Empty, &[]);
        assert_eq!(sights[SEQ + 2].written, 8, "what the firmware wrote");
        rig.disk.assert_works();
        rig.finish();
    }
}

/// How a frontend comes to be on another connection.
#[derive(Clone, Copy, Debug)]
enum Again {
    HangUp,
    Term,
    Kill,
}

#[test]
fn a_frontend_that_goes_on_with_its_in_flight_region_has_no_power_whichever_daemon_it_finds() {
    for then in ["dead", "fail"] {
        for again in [Again::HangUp, Again::Term, Again::Kill] {
            println!("then {then}, {again:?}");
            let mut rig = start(Setup::new(GEO).queues(2));
            rig.cut(&json!({"then": then}));
            assert_as_told(&mut rig, then);
            for _ in 0..2 {
                match again {
                    Again::HangUp => {}
                    Again::Term => assert!(rig.disk.daemon.terminate().success()),
                    Again::Kill => rig.disk.daemon.kill9(),
                }
                if matches!(again, Again::HangUp) {
                    rig.disk.rejoin().unwrap_or_else(|error| panic!("going on: {error}"));
                } else {
                    rig.disk.resume();
                    rig.reach_control();
                }
                assert_as_told(&mut rig, then);
            }
            rig.power_on(Way::ResetDevice);
            assert_eq!(rig.state_of_power(), "on");
            assert_lost(&mut rig);
            rig.disk.assert_works();
            rig.finish();
        }
    }
}

#[test]
fn info_says_how_the_power_is_and_what_the_last_cut_left() {
    let mut rig = Rig::start(Setup::new(GEO));
    let power = |rig: &mut Rig| rig.power().expect("the daemon runs");
    let before = power(&mut rig);
    assert_eq!((&before["state"], &before["last_cut"]), (&json!("on"), &Value::Null), "{before}");
    assert_eq!(before["volatile_bytes"], 0, "{before}");
    rig.put(SEQ, 0..4, 1);
    rig.put(0, 0..4, 2);
    let volatile = power(&mut rig);
    assert!(volatile["volatile_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{volatile}");
    assert_ok(rig.disk.flush());
    assert_eq!(power(&mut rig)["volatile_bytes"], 0, "after a flush");
    rig.cut(&json!({"at": "mark:never"}));
    assert_eq!(rig.state_of_power(), "armed");
    rig.put(SEQ, 4..6, 3);
    let said = rig.cut(&json!({}));
    let after = power(&mut rig);
    assert_eq!((&after["state"], &after["last_cut"]), (&json!("off"), &said), "{after}");
    rig.power_on(Way::ResetDevice);
    let on = power(&mut rig);
    assert_eq!((&on["state"], &on["last_cut"], &on["volatile_bytes"]), (&json!("on"), &said, &json!(0)), "{on}");
    assert_eq!(rig.zone(SEQ), (State::Closed, 4));
    rig.finish();
}

#[test]
fn a_cut_without_a_frontend_is_a_cut() {
    let mut rig = start(Setup::new(GEO));
    rig.disk.disconnect();
    crate::common::eventually("the frontend to be gone", || {
        (rig.ask(&json!({"cmd": "info"}))["frontend"] == false).then_some(())
    });
    rig.ask(&super::rig::command(&json!({})));
    rig.disk.reconnect();
    assert_lost(&mut rig);
    rig.disk.assert_works();
    rig.finish();
}
