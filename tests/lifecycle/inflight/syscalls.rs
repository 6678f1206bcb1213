//! Kills at every n-th storage call, not at random: before it, after it, and some instructions later.

use std::time::{Duration, Instant};

use crate::common::PATIENCE;
use crate::common::disk::Setup;
use crate::common::model::{assert_ok, pattern};
use crate::common::request::Req;

use super::tracer::{Point, Seen, Tracer};
use super::traffic::{Traffic, Until};
use super::{GEO, finish_sound};

/// Medium calls from one kill to the next in an ordinary test run. `INFLIGHT_STRIDE` (environment) set to 1 kills at
/// every one.
const STRIDE: u32 = 11;

fn stride() -> u32 {
    std::env::var("INFLIGHT_STRIDE").map_or(STRIDE, |text| text.parse().expect("INFLIGHT_STRIDE is a number"))
}

impl Traffic {
    /// Waits until all is answered or the daemon is dead. Dead it is afterwards.
    fn until_dead(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.take_answers();
            if self.in_flight() == 0 {
                // The n-th call may be one behind the last answer.
                std::thread::sleep(Duration::from_millis(5));
                if self.disk.daemon.is_alive() {
                    self.disk.daemon.kill9();
                }
            } else if !self.disk.front().collect_until(end) {
                assert!(Instant::now() < end, "the daemon lives and does not answer");
                self.disk.daemon.wait();
            }
            if !self.disk.daemon.is_alive() {
                self.take_answers();
                return;
            }
        }
    }

    /// Makes many requests at once of a daemon that dies at one of its storage calls.
    fn strike(&mut self, nth: u32, point: Point) -> Seen {
        let tracer = Tracer::attach(self.disk.daemon.pid(), nth, point);
        self.disk.front().plug();
        self.fill();
        self.disk.front().unplug();
        self.until_dead();
        tracer.seen()
    }

    /// Goes on with a daemon that dies at one of its storage calls.
    fn strike_recovery(&mut self, nth: u32, point: Point) -> Seen {
        self.disk.respawn();
        let tracer = Tracer::attach(self.disk.daemon.pid(), nth, point);
        if self.disk.rejoin().is_ok() {
            self.until_dead();
        } else {
            self.disk.daemon.wait();
        }
        tracer.seen()
    }
}

fn traffic(seed: u64, args: &[&str]) -> Traffic {
    let disk = Setup::new(GEO).args(args).queues(2).queue_size(256).start();
    let mut traffic = Traffic::new(disk, seed, 24);
    // Zones in all states, so that each kind of request finds one.
    traffic.run(Until::Answers(150));
    traffic.drain_and_verify();
    traffic
}

/// Kills with `kill` at the first call, and so on, until it is not reached any more.
fn at_every_call(traffic: &mut Traffic, name: &str, mut kill: impl FnMut(&mut Traffic, u32, Point) -> Seen) {
    let mut kills = 0;
    for (at, phase) in [Point::Entry, Point::Exit, Point::After(0)].into_iter().enumerate() {
        let mut nth = 1 + at as u32;
        loop {
            let steps = traffic.rng.below(4000) as u32;
            let point = if phase == Point::After(0) { Point::After(steps) } else { phase };
            println!("{name}: call {nth}, {point:?}");
            let seen = kill(traffic, nth, point);
            kills += u32::from(seen.killed);
            if nth.is_multiple_of(2) {
                // The guest does not know that the daemon is gone.
                traffic.fill();
            }
            traffic.disk.resume();
            traffic.drain_and_verify();
            if seen.calls < nth {
                break;
            }
            nth += stride();
        }
    }
    println!("{name}: {kills} kills");
    assert!(kills > 0, "the daemon makes no storage calls");
}

fn kills_under_load(seed: u64, args: &[&str]) {
    let mut traffic = traffic(seed, args);
    at_every_call(&mut traffic, &format!("load {args:?}"), Traffic::strike);
    finish_sound(&mut traffic.disk);
}

#[test]
fn a_kill_at_any_storage_call_loses_and_repeats_nothing_with_the_sync_engine() {
    kills_under_load(41, &["--aio", "sync"]);
}

#[test]
fn a_kill_at_any_storage_call_loses_and_repeats_nothing_with_io_uring() {
    kills_under_load(42, &[]);
}

#[test]
fn a_kill_at_any_storage_call_loses_and_repeats_nothing_with_write_through() {
    kills_under_load(43, &["--aio", "sync", "--cache", "writethrough"]);
}

/// The pointer of the zone is stored when the daemon dies, and then the guest appends to it on a queue that the next
/// daemon starts earlier.
#[test]
fn a_reset_that_was_done_does_not_run_again_over_what_another_queue_has_appended() {
    let zone = 2;
    let start = GEO.start(zone);
    for nth in 1..4 {
        let mut disk = Setup::new(GEO).args(&["--aio", "sync"]).queues(2).start();
        disk.fill(zone, 64 << 10);
        let tracer = Tracer::attach(disk.daemon.pid(), nth, Point::Exit);
        let reset = disk.submit(1, &Req::reset(start));
        if let Some(done) = disk.front().wait_for(reset, Duration::from_millis(300)) {
            assert_ok(done.status);
            break;
        }
        disk.daemon.wait();
        assert!(tracer.seen().killed);
        let append = disk.submit(0, &Req::append(start, pattern(7, 0, 4096)));
        disk.resume();
        let append = disk.wait(append);
        assert_ok(append.status);
        assert_ok(disk.wait(reset).status);
        let end = disk.zone(zone).wp;
        println!("call {nth}: appended at {:#x}, then the write pointer is {end:#x}", append.number());
        // Either it came before the reset, behind the old data, or its data is there.
        if append.number() < start + 128 {
            assert_eq!((append.number(), end), (start, start + 8), "an answered append is gone");
            assert_eq!(disk.read(start, 4096), Ok(pattern(7, 0, 4096)));
        } else {
            assert_eq!((append.number(), end), (start + 128, start), "a reset has left something");
        }
    }
}

#[test]
fn a_kill_at_any_storage_call_of_a_recovery_loses_and_repeats_nothing() {
    let mut traffic = traffic(44, &["--aio", "sync"]);
    at_every_call(&mut traffic, "recovery", |traffic, nth, point| {
        traffic.disk.front().plug();
        traffic.fill();
        traffic.disk.front().unplug();
        let delay = traffic.rng.below(1500);
        std::thread::sleep(Duration::from_micros(delay));
        traffic.disk.daemon.kill9();
        traffic.take_answers();
        traffic.strike_recovery(nth, point)
    });
    finish_sound(&mut traffic.disk);
}
