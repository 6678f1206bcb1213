//! Requests that are late or hang: what waits for them and what does not, queues that stop, devices that are reset.

use std::time::{Duration, Instant};

use crate::common::disk::Setup;
use crate::common::frontend::Token;
use crate::common::request::{Req, State, Status};
use crate::rig::{GEO, Rig, at, blocks, status, write};

/// Longer than any answer takes that is not held back, and far shorter than a test may take.
const LONG: &str = "1s";

#[track_caller]
fn await_held(rig: &mut Rig, name: &str, count: u64) {
    let deadline = Instant::now() + crate::common::PATIENCE;
    while rig.held(name) != count {
        assert!(Instant::now() < deadline, "{count} requests are to be held back by {name}: {}", rig.list());
    }
}

#[test]
fn a_hung_write_has_its_place_and_those_behind_it_in_its_zone_wait() {
    let mut rig = Rig::start();
    rig.add("hung", "on write zone 3 nth 1 do hang");
    let first = rig.disk.submit(0, &write(3, 0, 1, 2));
    await_held(&mut rig, "hung", 1);
    let second = rig.disk.submit(0, &write(3, 2, 2, 2));
    assert_eq!(status(&mut rig, &write(4, 0, 3, 2)), Status::Ok, "another zone goes on");
    assert_eq!(rig.disk.zone(3).wp, at(3, 0));
    assert!(rig.disk.front().poll(second).is_none(), "it is behind the one that hangs");
    rig.release("hung");
    assert_eq!((rig.disk.wait(first).status, rig.disk.wait(second).status), (Status::Ok, Status::Ok));
    let mut expected = blocks(1, 2);
    expected.extend(blocks(2, 2));
    assert_eq!(rig.disk.read(at(3, 0), 4 * 4096).unwrap(), expected);
    assert_eq!(rig.disk.zone(3).wp, at(3, 4));
}

#[test]
fn a_hung_reset_has_its_place_before_what_comes_later_in_its_zone() {
    let mut rig = Rig::start();
    assert_eq!(status(&mut rig, &write(3, 0, 1, 4)), Status::Ok);
    rig.add("hung", "on reset do hang");
    let reset = rig.disk.submit(0, &Req::reset(at(3, 0)));
    await_held(&mut rig, "hung", 1);
    let later = rig.disk.submit(0, &write(3, 0, 2, 4));
    assert_eq!(rig.disk.read(at(3, 0), 4 * 4096).unwrap(), blocks(1, 4), "a read does not wait");
    assert!(rig.disk.front().poll(later).is_none());
    rig.clear("hung");
    assert_eq!((rig.disk.wait(reset).status, rig.disk.wait(later).status), (Status::Ok, Status::Ok));
    assert_eq!(rig.disk.read(at(3, 0), 4 * 4096).unwrap(), blocks(2, 4));
}

#[test]
fn each_kind_of_request_hangs_until_the_rule_is_released() {
    let start = at(5, 0);
    for (name, req) in [
        ("read", Req::read(start, 4096)),
        ("write", write(5, 1, 2, 1)),
        ("append", Req::append(start, blocks(2, 1))),
        ("flush", Req::flush()),
        ("report", Req::report(start, 128)),
        ("open", Req::open(start)),
        ("close", Req::close(start)),
        ("finish", Req::finish(start)),
        ("reset", Req::reset(start)),
        ("reset-all", Req::reset_all()),
    ] {
        let mut rig = Rig::start();
        assert_eq!(status(&mut rig, &write(5, 0, 1, 1)), Status::Ok);
        rig.add("x", &format!("on {name} do hang"));
        let hung = rig.disk.submit(0, &req);
        await_held(&mut rig, "x", 1);
        assert!(rig.disk.front().poll(hung).is_none(), "{name}");
        rig.release("x");
        assert_eq!(rig.disk.wait(hung).status, Status::Ok, "{name}");
        assert_eq!(rig.held("x"), 0, "{name}");
    }
}

#[test]
fn a_request_is_late_by_as_much_as_is_said_before_it_is_done_or_after() {
    for (when, done_meanwhile) in [("before", false), ("after", true)] {
        let mut rig = Rig::start();
        rig.add("late", &format!("on write do delay={LONG} {when}"));
        let begun = Instant::now();
        let late = rig.disk.submit(0, &write(3, 0, 1, 4));
        await_held(&mut rig, "late", 1);
        let expected = if done_meanwhile { at(3, 4) } else { at(3, 0) };
        assert_eq!(rig.disk.zone(3).wp, expected, "{when}");
        assert_eq!(rig.disk.wait(late).status, Status::Ok);
        assert!(begun.elapsed() >= Duration::from_secs(1), "{when}: {:?}", begun.elapsed());
        assert_eq!(rig.disk.zone(3).wp, at(3, 4));
    }
}

#[test]
fn a_late_request_keeps_no_other_waiting() {
    let mut rig = Rig::start();
    rig.add("late", "on read zone 3 do delay=3600s");
    let late = rig.disk.submit(0, &Req::read(at(3, 0), 4096));
    for zone in 4..12 {
        assert_eq!(status(&mut rig, &write(zone, 0, 1, 1)), Status::Ok);
        assert_eq!(rig.disk.flush(), Status::Ok);
    }
    assert!(rig.disk.front().poll(late).is_none());
    rig.clear_all();
    assert_eq!(rig.disk.wait(late).status, Status::Ok);
}

/// Ten requests of all kinds that hang, in two queues.
fn hang_all(rig: &mut Rig) -> Vec<Token> {
    rig.add("hung", "on any zone 2-9 do hang");
    rig.add("flush", "on flush do hang");
    let requests = [
        write(2, 0, 1, 4),
        Req::read(at(3, 0), 4096),
        Req::append(at(4, 0), blocks(1, 2)),
        Req::open(at(5, 0)),
        Req::finish(at(6, 0)),
        Req::reset(at(7, 0)),
        write(8, 0, 1, 4),
        Req::flush(),
    ];
    let tokens = requests.iter().enumerate().map(|(n, req)| rig.disk.submit(n % 2, req)).collect();
    await_held(rig, "hung", 7);
    await_held(rig, "flush", 1);
    // Behind one that hangs in the other queue.
    let behind = rig.disk.submit(1, &write(2, 4, 2, 4));
    let mut tokens: Vec<Token> = tokens;
    tokens.push(behind);
    tokens
}

#[test]
fn requests_that_hang_do_not_keep_a_queue_from_stopping_and_are_answered_as_it_does() {
    let mut rig = Rig::start_with(Setup::new(GEO).queues(2));
    let tokens = hang_all(&mut rig);
    let begun = Instant::now();
    let bases: Vec<u16> = (0..2).map(|queue| rig.disk.front().stop_queue(queue).unwrap()).collect();
    // The bound of the design is a second; a busy machine gets more.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    eprintln!("two queues with nine requests that hang stopped in {:?}", begun.elapsed());
    rig.disk.front().collect();
    for token in &tokens {
        assert_eq!(rig.disk.front().taken(*token).map(|done| done.status), Some(Status::Ok));
    }
    for (queue, base) in bases.into_iter().enumerate() {
        rig.disk.front().start_queue(queue, base).unwrap();
    }
    // Nothing is held back before both queues run again, which is when they answer.
    for queue in 0..2 {
        let token = rig.disk.submit(queue, &Req::get_id());
        assert_eq!(rig.disk.wait(token).status, Status::Ok);
    }
    let again = rig.disk.submit(0, &write(9, 0, 1, 1));
    await_held(&mut rig, "hung", 1);
    rig.clear_all();
    assert_eq!(rig.disk.wait(again).status, Status::Ok);
    rig.disk.finish_clean();
}

#[test]
fn requests_that_hang_do_not_keep_a_device_from_its_reset_nor_the_daemon_from_its_end() {
    let mut rig = Rig::start_with(Setup::new(GEO).queues(2));
    hang_all(&mut rig);
    rig.disk.front().reset_device().unwrap();
    rig.disk.reconnect();
    rig.clear_all();
    assert_eq!(rig.disk.zone(2).wp, at(2, 8));
    assert_eq!(rig.disk.state(6), State::Full);
    assert_eq!(rig.disk.reset_all(), Status::Ok);
    hang_all(&mut rig);
    rig.disk.disconnect();
    rig.disk.finish_clean();
}
