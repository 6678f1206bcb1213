//! The daemon is killed at any instruction: what it has acknowledged is there, and no more than a prefix of the rest.

use crate::common::cli::{Geo, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{Req, State, Status};
use crate::common::{KIB, MIB};
use crate::load::Load;

/// Two conventional and ten sequential zones, small enough to be filled and reset often.
pub(crate) const GEO: Geo = Geo {
    size: 12 * 512 * KIB,
    zone: 512 * KIB,
    cap: 384 * KIB,
    conv: 2,
    open: 0,
    active: 0,
    append: 64 * KIB,
    cluster: 64 * KIB,
};

fn kill_rounds(setup: Setup, seed: u64, rounds: u64) {
    let disk = setup.queues(3).queue_size(256).start();
    let mut load = Load::new(disk, seed, 48);
    for round in 0..rounds {
        load.run(150 + 97 * round as usize % 400);
        load.kill_and_compare();
        // Nothing is worse than a leak before the next orderly end.
        load.model.verify(&mut load.disk, false);
    }
    load.run(200);
    load.drain();
    load.model.verify(&mut load.disk, true);
    finish_sound(load.disk);
}

/// What a kill leaves behind is at most leaked clusters, by both checkers.
fn finish_sound(mut disk: Disk) {
    assert!(disk.stop().success());
    assert_no_errors(&disk);
}

fn assert_no_errors(disk: &Disk) {
    let run = run(&["check", &disk.image.name()]);
    assert!(matches!(run.status.code(), Some(0 | 3)), "check after kill -9: expected clean or leaks only: {run:?}");
    disk.image.assert_qemu_finds_at_most_leaks();
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    kill_rounds(Setup::new(GEO), 1, 8);
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_with_the_sync_engine() {
    kill_rounds(Setup::new(GEO).args(&["--aio", "sync"]), 2, 6);
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_with_small_clusters_and_few_open_zones() {
    kill_rounds(Setup::new(Geo { cluster: 4 * KIB, open: 3, ..GEO }), 3, 6);
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_with_clusters_larger_than_zones() {
    kill_rounds(Setup::new(Geo { cluster: 2 * MIB, ..GEO }), 4, 6);
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged_without_the_page_cache() {
    kill_rounds(Setup::new(GEO).args(&["--cache", "none"]), 5, 4);
}

#[test]
fn each_single_acknowledged_request_survives_kill_9() {
    let mut disk = Setup::new(GEO).start();
    let data = pattern(1, 0, 8192);
    let start = |zone| GEO.start(zone);
    type Step = (&'static str, fn(usize) -> Req, State, u64);
    let steps: [Step; 6] = [
        ("a write", |zone| Req::write(GEO.start(zone), pattern(1, 0, 8192)), State::Closed, 16),
        ("an append", |zone| Req::append(GEO.start(zone), pattern(1, 0, 8192)), State::Closed, 16),
        ("a finish", |zone| Req::finish(GEO.start(zone)), State::Full, 0),
        ("an open", |zone| Req::open(GEO.start(zone)), State::Empty, 0),
        ("a write of a whole zone", |zone| Req::write(GEO.start(zone), pattern(1, 0, 384 << 10)), State::Full, 768),
        ("a reset", |zone| Req::reset(GEO.start(zone)), State::Empty, 0),
    ];
    for (at, (name, req, state, written)) in steps.into_iter().enumerate() {
        let zone = 2 + at;
        if name == "a reset" {
            disk.fill(zone, 65536);
        }
        assert_eq!(disk.call(&req(zone)).status, Status::Ok, "{name}");
        disk.daemon.kill9();
        disk.start_again();
        let found = disk.zone(zone);
        assert_eq!(found.state, state, "after {name} and kill -9");
        if found.state != State::Full {
            assert_eq!(found.written(), written, "after {name} and kill -9");
        }
        let len = GEO.zone as usize;
        let mut expected = pattern(1, 0, (written * 512) as usize);
        expected.resize(len, 0);
        assert_same(&disk.read(start(zone), len).unwrap(), &expected, start(zone));
    }
    assert_ok(disk.write(0, &data));
    disk.daemon.kill9();
    disk.start_again();
    assert_same(&disk.read(0, data.len()).unwrap(), &data, 0);
    finish_sound(disk);
}

#[test]
fn what_kill_9_leaves_has_no_errors_and_takes_no_more_of_the_host_with_each_kill() {
    let disk = Setup::new(GEO).queues(2).queue_size(256).start();
    let mut load = Load::new(disk, 7, 64);
    let mut taken = Vec::new();
    for _ in 0..6 {
        load.run(150);
        load.disk.daemon.kill9();
        assert_no_errors(&load.disk);
        taken.push(load.disk.image.host_bytes());
        load.compare_after_end();
    }
    // The device holds 6 MiB; what a kill leaks of the file is holes.
    assert!(taken[5] <= taken[0] + 8 * MIB, "each kill takes space of the host: {taken:?}");
    load.drain();
    finish_sound(load.disk);
}

/// Other settings with each seed. `KILL_SEEDS` (environment) asks for more of them than every test run needs; a
/// failure names its seed.
#[test]
fn kill_9_under_load_loses_nothing_acknowledged_whatever_the_settings() {
    let seeds = std::env::var("KILL_SEEDS").map_or(3, |text| text.parse().expect("KILL_SEEDS is a number"));
    for seed in 0..seeds {
        let geo = match seed % 5 {
            0 => Geo { size: 11 * 512 * KIB + 64 * KIB, conv: 0, ..GEO },
            1 => Geo { cluster: 512, cap: 512 * KIB, open: 1, ..GEO },
            2 => Geo { size: 9 * 4 * MIB + MIB, zone: 4 * MIB, cap: 3 * MIB, conv: 1, ..GEO },
            3 => Geo { cluster: 4 * KIB, open: 3, ..GEO },
            _ => Geo { cluster: 2 * MIB, ..GEO },
        };
        let args: &[&str] = match seed % 4 {
            0 => &[],
            1 => &["--cache", "writethrough"],
            2 => &["--cache", "none"],
            _ => &["--aio", "sync"],
        };
        println!("seed {seed}: {args:?}, {geo:?}");
        kill_rounds(Setup::new(geo).args(args), 1000 + seed, 4);
    }
}
