//! A daemon that dies or goes with requests in flight: the next one answers each of them once, and rightly.
//!
//! The frontend does as QEMU does with `reconnect-ms`: it keeps guest memory, rings and the in-flight region, submits
//! nothing again and tells the guest nothing.

mod campaign;
mod race;
mod region;
mod service;
mod syscalls;
mod tracer;
mod traffic;

use crate::common::cli::{Geo, Image, SMALL, run};
use crate::common::daemon::Daemon;
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, pattern};
use crate::common::proto::{ConnError, pf};
use crate::common::request::{Req, State, Status};
use crate::common::{KIB, MIB, eventually};
use crate::crash::GEO;
use traffic::{Traffic, Until};

const SEQ: usize = 2;

/// After an orderly end, `check` and qemu-img find nothing worse than leaked clusters.
#[track_caller]
fn finish_sound(disk: &mut Disk) {
    assert!(disk.stop().success(), "the daemon's end");
    let run = run(&["check", &disk.image.name()]);
    assert!(matches!(run.status.code(), Some(0 | 3)), "check: expected clean or leaks only: {run:?}");
    disk.image.assert_qemu_finds_at_most_leaks();
}

#[test]
fn explicitly_open_zones_are_explicitly_open_after_kill_9_and_a_reconnect() {
    let mut disk = Setup::new(GEO).start();
    let (empty, written, closed) = (SEQ, SEQ + 1, SEQ + 2);
    for zone in [empty, written, closed] {
        assert_ok(disk.open(zone));
    }
    disk.fill(written, 4096);
    disk.fill(SEQ + 3, 4096);
    assert_ok(disk.close(closed));
    for round in 0..3 {
        disk.daemon.kill9();
        disk.resume();
        let states = [empty, written, closed].map(|zone| disk.state(zone));
        assert_eq!(states, [State::ExplicitOpen, State::ExplicitOpen, State::Empty], "round {round}");
        assert_ne!(disk.state(SEQ + 3), State::ExplicitOpen, "round {round}");
    }
    assert_ok(disk.close(empty));
    assert_ok(disk.close(written));
    assert_eq!([empty, written].map(|zone| disk.state(zone)), [State::Empty, State::Closed]);
    assert_eq!(disk.close(empty), Status::InvalidCmd);
    finish_sound(&mut disk);
}

#[test]
fn explicitly_open_zones_count_against_the_limit_after_kill_9_and_a_reconnect() {
    let mut disk = Setup::new(Geo { open: 2, active: 3, ..GEO }).start();
    assert_ok(disk.open(SEQ));
    assert_ok(disk.open(SEQ + 1));
    disk.daemon.kill9();
    disk.resume();
    assert_eq!(disk.open(SEQ + 2), Status::OpenResource);
    assert_eq!(disk.write(GEO.start(SEQ + 2), &[1; 4096]), Status::OpenResource);
    assert_ok(disk.write(GEO.start(SEQ), &[1; 4096]));
    assert_ok(disk.close(SEQ));
    assert_ok(disk.open(SEQ + 2));
    assert_eq!(disk.write(GEO.start(SEQ + 3), &[1; 4096]), Status::ActiveResource);
    finish_sound(&mut disk);
}

#[test]
fn open_zones_are_the_frontend_s_no_more_when_another_comes_after_kill_9() {
    let mut disk = Setup::new(GEO).start();
    assert_ok(disk.open(SEQ));
    disk.daemon.kill9();
    disk.start_again();
    assert_eq!(disk.state(SEQ), State::Empty);
}

/// How a daemon's service of a frontend ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// SIGTERM, and another daemon.
    Term,
    /// The connection is lost and made again; the daemon stays.
    HangUp,
    /// All queues are stopped and started where they stopped.
    Stop,
}

fn orderly_ends(end: End, seed: u64) {
    let disk = Setup::new(GEO).queues(4).queue_size(256).start();
    let mut traffic = Traffic::new(disk, seed, 64);
    for round in 0..8 {
        println!("seed {seed}, round {round}, {end:?}");
        traffic.run(Until::Answers(150));
        match end {
            End::Term => {
                assert!(traffic.disk.daemon.terminate().success());
                traffic.disk.resume();
            }
            End::HangUp => traffic.disk.rejoin().unwrap_or_else(|e| panic!("{e}")),
            End::Stop => {
                let front = traffic.disk.front();
                for queue in 0..front.queues.len() {
                    let base = front.stop_queue(queue).unwrap_or_else(|e| panic!("{e}"));
                    front.start_queue(queue, base).unwrap_or_else(|e| panic!("{e}"));
                }
            }
        }
        if round % 2 == 0 {
            traffic.drain_and_verify();
        }
    }
    traffic.drain_and_verify();
    finish_sound(&mut traffic.disk);
}

#[test]
fn sigterm_and_a_reconnect_lose_and_repeat_nothing() {
    orderly_ends(End::Term, 31);
}

#[test]
fn a_lost_connection_and_a_reconnect_lose_and_repeat_nothing() {
    orderly_ends(End::HangUp, 32);
}

#[test]
fn queues_stopped_and_started_lose_and_repeat_nothing() {
    orderly_ends(End::Stop, 33);
}

#[test]
fn a_frontend_that_tracks_nothing_goes_on_when_nothing_was_in_flight() {
    let mut disk = Setup::new(GEO).queues(2).without_protocol(pf::INFLIGHT_SHMFD).start();
    for round in 0..6_u64 {
        let sector = GEO.start(SEQ) + 8 * round;
        let done = disk.front().call(round as usize % 2, &Req::write(sector, pattern(round, 0, 4096)));
        assert_ok(done.status);
        if round % 2 == 0 {
            disk.daemon.kill9();
        } else {
            assert!(disk.daemon.terminate().success());
        }
        disk.resume();
        assert_eq!(disk.zone(SEQ).written(), 8 * (round + 1));
    }
    let all: Vec<u8> = (0..6).flat_map(|round| pattern(round, 0, 4096)).collect();
    assert_eq!(disk.read(GEO.start(SEQ), all.len()), Ok(all));
    finish_sound(&mut disk);
}

#[test]
fn requests_that_no_daemon_had_taken_are_taken_without_a_kick() {
    let mut disk = Setup::new(GEO).queues(2).start();
    assert_ok(disk.flush());
    disk.daemon.kill9();
    let tokens: Vec<_> = (0..8)
        .map(|at| disk.submit(at as usize % 2, &Req::append(GEO.start(SEQ + at as usize % 2), pattern(at, 0, 4096))))
        .collect();
    disk.resume();
    for token in tokens {
        assert_ok(disk.wait(token).status);
    }
    assert_eq!([SEQ, SEQ + 1].map(|zone| disk.zone(zone).written()), [32, 32]);
    finish_sound(&mut disk);
}

/// A guest that goes on after such a change would write where its zones are not.
#[test]
fn a_frontend_that_reconnects_to_another_geometry_is_refused_and_the_next_one_served() {
    let changes: [(Geo, &str); 7] = [
        (Geo { size: 9 * MIB, ..SMALL }, "size"),
        (Geo { zone: 2 * MIB, ..SMALL }, "zone size"),
        (Geo { cap: 512 * KIB, ..SMALL }, "zone capacity"),
        (Geo { conv: 3, ..SMALL }, "conventional"),
        (Geo { open: 3, ..SMALL }, "open"),
        (Geo { active: 3, ..SMALL }, "active"),
        (Geo { append: 32 * KIB, ..SMALL }, "append"),
    ];
    for (geo, field) in changes {
        for in_flight in [false, true] {
            let mut disk = Setup::new(SMALL).start();
            assert_ok(disk.flush());
            disk.daemon.kill9();
            if in_flight {
                disk.submit(0, &Req::write(SMALL.start(SEQ), pattern(1, 0, 4096)));
            }
            let before = disk.daemon.log().len();
            let other = Image::create(&geo);
            let args: Vec<&str> = disk.setup.args.iter().map(String::as_str).collect();
            disk.daemon = Daemon::start(other.path(), disk.daemon.socket(), &args);
            let refused = disk.rejoin();
            let closed = matches!(refused, Err(ConnError::Gone | ConnError::Refused(_)));
            assert!(closed, "{field}: {refused:?}");
            eventually(&format!("a log line that names {field}"), || {
                let log = disk.daemon.log();
                log[before..].lines().any(|line| line.contains(field) && !line.contains(" INFO ")).then_some(())
            });
            // Nothing of the other frontend was done, and the next one is served.
            disk.setup.geo = geo;
            disk.reconnect();
            assert!(disk.zones().iter().all(|zone| zone.conventional || zone.written() == 0), "{field}");
            disk.assert_works();
            assert!(disk.stop().success());
            other.assert_clean();
        }
    }
}
