//! The way back.

use std::time::{Duration, Instant};

use super::load::Load;
use super::rig::{GEO, Rig, look, rounds};
use crate::common::Rng;
use crate::common::cli::{ok, run};
use crate::common::disk::Setup;
use crate::common::request::{Req, State, Status};

/// Ways in which a disk is served.
const KINDS: &[&[&str]] = &[&[], &["--volatile-cache"], &["--cache", "none"], &["--aio", "sync"]];

#[test]
fn after_a_revert_and_a_device_reset_the_disk_is_what_was_saved_and_goes_on_from_there() {
    for (seed, args) in (1..).zip(KINDS) {
        let mut rig = Rig::start(Setup::new(GEO).queues(2).memory(32 << 20).args(args));
        let mut load = Load::new(GEO, seed);
        (0..150).for_each(|_| load.step(&mut rig));
        load.drain(&mut rig);
        assert_eq!(rig.disk.write(0, &[5; 8192]), Status::Ok, "a conventional zone");
        rig.snapshot_ok(&["save", "a"]);
        let saved = look(&rig.file("a"), &GEO);
        (0..300).for_each(|_| load.step(&mut rig));
        load.drain(&mut rig);
        assert_eq!(rig.disk.write(0, &[6; 16384]), Status::Ok);
        assert_eq!(rig.disk.open(11), Status::Ok);
        let said = rig.snapshot_ok(&["revert", "a"]);
        assert!(said.contains("nothing is answered until the device is reset"), "{said}");
        rig.reset_device();
        let zones = rig.disk.zones();
        for (zone, blocks) in saved.iter().enumerate().skip(GEO.first_seq()) {
            assert_eq!(zones[zone].written(), (blocks.len() * 8) as u64, "zone {zone}, {args:?}");
            assert!(!matches!(zones[zone].state, State::ExplicitOpen | State::ImplicitOpen), "zone {zone}");
            if !blocks.is_empty() {
                assert!(rig.disk.read(GEO.start(zone), blocks.len() * 4096).unwrap() == blocks.concat(), "zone {zone}");
            }
        }
        assert_eq!(rig.disk.read(0, 16384).unwrap(), [vec![5; 8192], vec![0; 8192]].concat());
        rig.finish_equal_to_after_writes(&saved);
    }
}

impl Rig {
    /// The image equals its snapshot; then it takes writes and resets in every zone, and is sound.
    fn finish_equal_to_after_writes(mut self, saved: &[Vec<Vec<u8>>]) {
        let file = self.file("a");
        // A second copy is the same, as nothing was written since.
        self.snapshot_ok(&["save", "b"]);
        ok(&["diff", &file.display().to_string(), &self.file("b").display().to_string()]);
        for (zone, blocks) in saved.iter().enumerate().skip(GEO.first_seq()) {
            let room = GEO.cap(zone) * 512 / 4096 - blocks.len() as u64;
            if room > 0 {
                let at = GEO.start(zone) + blocks.len() as u64 * 8;
                assert_eq!(self.disk.write(at, &[9; 4096]), Status::Ok, "zone {zone}");
                assert_eq!(self.disk.read(at, 4096).unwrap(), vec![9; 4096]);
            }
            assert_eq!(self.disk.reset(zone), Status::Ok);
            assert_eq!(self.disk.write(GEO.start(zone), &[10; 8192]), Status::Ok, "zone {zone}");
        }
        self.snapshot_ok(&["revert", "b", "then=fail"]);
        assert_eq!(self.disk.write(0, &[1; 4096]), Status::IoErr, "no power");
        self.finish_equal_to(&file);
    }
}

#[test]
fn requests_in_flight_at_a_revert_fail_or_are_never_answered_as_it_says() {
    for (then, args) in [("then=fail", &[][..]), ("then=dead", &[]), ("then=fail", &["--volatile-cache"])] {
        let mut rig = Rig::start(Setup::new(GEO).queues(2).args(args));
        rig.snapshot_ok(&["save", "a"]);
        // A rule holds one back, so that it is surely in flight.
        ok(&["ctl", &rig.control(), "fault", "add", "h", "--on", "write", "--zone", "5", "--do", "hang"]);
        let held = rig.disk.submit(0, &Req::write(GEO.start(5), vec![3; 4096]));
        ok(&["ctl", &rig.control(), "fault", "list"]);
        let said = rig.snapshot_ok(&["revert", "a", then]);
        let later = rig.disk.submit(1, &Req::write(GEO.start(6), vec![3; 4096]));
        if then == "then=fail" {
            assert!(said.contains("requests fail"), "{said}");
            for token in [held, later] {
                assert_eq!(rig.disk.wait(token).status, Status::IoErr);
            }
        } else {
            let front = rig.disk.front();
            assert!(front.wait_for(held, Duration::from_millis(200)).is_none());
            assert!(front.poll(later).is_none());
        }
        rig.reset_device();
        assert_eq!(rig.disk.zone(5).written(), 0);
        assert_eq!(rig.disk.write(GEO.start(6), &[4; 4096]), Status::Ok);
    }
}

#[test]
fn a_zone_that_the_drive_has_taken_away_stays_so_and_one_that_comes_back_has_what_was_saved() {
    let mut rig = Rig::start(Setup::new(GEO));
    for zone in [5, 6] {
        assert_eq!(rig.disk.write(GEO.start(zone), &[3; 8192]), Status::Ok);
    }
    rig.snapshot_ok(&["save", "a"]);
    for zone in [5, 6] {
        assert_eq!(rig.disk.write(GEO.start(zone) + 16, &[3; 8192]), Status::Ok);
    }
    let fault = |args: &[&str]| ok(&[&["ctl", &rig.control(), "fault", "add"], args].concat());
    fault(&["r", "--zone", "5", "--do", "zone-state=read-only"]);
    fault(&["o", "--zone", "6", "--do", "zone-state=offline"]);
    fault(&["b", "--zone", "6", "--do", "zone-state=restore"]);
    rig.snapshot_ok(&["revert", "a"]);
    rig.reset_device();
    assert_eq!(rig.disk.state(5), State::ReadOnly);
    assert_eq!(rig.disk.zone(6).state, State::Closed);
    assert_eq!(rig.disk.zone(6).written(), 16);
}

#[test]
fn the_way_back_works_again_and_again_and_takes_this_long() {
    let mut rig = Rig::start(Setup::new(GEO).queues(2).memory(32 << 20));
    let mut load = Load::new(GEO, 3);
    (0..150).for_each(|_| load.step(&mut rig));
    load.drain(&mut rig);
    rig.snapshot_ok(&["save", "a"]);
    let saved = look(&rig.file("a"), &GEO);
    let mut took = Vec::new();
    for round in 0..rounds("SNAPSHOTS", 5) {
        for zone in GEO.first_seq()..GEO.zones() {
            assert_eq!(rig.disk.reset(zone), Status::Ok);
            assert_eq!(rig.disk.write(GEO.start(zone), &[round as u8; 8192]), Status::Ok);
        }
        let begin = Instant::now();
        rig.snapshot_ok(&["revert", "a", "then=fail"]);
        rig.reset_device();
        let zones = rig.disk.zones();
        took.push(begin.elapsed());
        for zone in GEO.first_seq()..GEO.zones() {
            assert_eq!(zones[zone].written(), (saved[zone].len() * 8) as u64);
        }
    }
    took.sort_unstable();
    println!("revert, device reset and report of {} zones: {:?} to {:?}", GEO.zones(), took[0], took[took.len() - 1]);
    let file = rig.file("a");
    rig.finish_equal_to(&file);
}

#[test]
fn a_device_reset_at_any_moment_of_a_revert_brings_back_the_state_before_or_after() {
    let mut rng = Rng::new(5);
    let mut rig = Rig::start(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(rig.disk.write(GEO.start(4), &[3; 8192]), Status::Ok);
    rig.snapshot_ok(&["save", "a"]);
    for _ in 0..rounds("SNAPSHOTS", 10) {
        assert_eq!(rig.disk.write(GEO.start(4) + 16, &[4; 4096]), Status::Ok);
        let control = rig.control();
        let wait = Duration::from_micros(rng.below(30_000));
        let said = std::thread::scope(|scope| {
            let revert = scope.spawn(|| run(&["ctl", &control, "snapshot", "revert", "a", "then=fail"]));
            std::thread::sleep(wait);
            rig.reset_device();
            revert.join().unwrap()
        });
        assert!(said.status.success(), "{said:?}");
        // Where the reset came first, the power is off now.
        rig.reset_device();
        assert_eq!(rig.disk.zone(4).written(), 16);
        assert_eq!(rig.disk.read(GEO.start(4), 8192).unwrap(), [3; 8192]);
    }
    let file = rig.file("a");
    rig.finish_equal_to(&file);
}
