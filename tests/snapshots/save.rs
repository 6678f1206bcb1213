//! Copies of a disk that is in use.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::load::Load;
use super::rig::{GEO, Rig, assert_clean, look, rounds};
use crate::common::Rng;
use crate::common::cli::{Geo, Image, assert_refusal, ok, run};
use crate::common::disk::Setup;
use crate::common::request::Status;

/// Saves of an ordinary test run, of each kind of disk.
const SAVES: u64 = 5;

/// Ways in which a disk is served.
const KINDS: &[&[&str]] =
    &[&[], &["--volatile-cache"], &["--cache", "writethrough"], &["--aio", "sync", "--volatile-cache"]];

fn save_under_load(args: &[&str], seed: u64, saves: u64) -> Vec<u64> {
    let mut rig = Rig::start(Setup::new(GEO).queues(4).queue_size(256).memory(32 << 20).args(args));
    let mut load = Load::new(GEO, seed);
    let mut held = Vec::new();
    for round in 0..saves {
        (0..200).for_each(|_| load.step(&mut rig));
        let (over, name) = (AtomicBool::new(false), format!("s{round}"));
        let from = load.now();
        let control = rig.control();
        let said = std::thread::scope(|scope| {
            let save = scope.spawn(|| {
                let said = run(&["ctl", &control, "snapshot", "save", &name, "--json"]);
                over.store(true, Ordering::Release);
                said
            });
            while !over.load(Ordering::Acquire) {
                load.step(&mut rig);
            }
            save.join().unwrap()
        });
        assert!(said.status.success(), "{said:?}");
        load.collect(&mut rig);
        let to = load.now();
        let said: Value = serde_json::from_str(&said.stdout).unwrap();
        held.push(said["held_us"].as_u64().unwrap());
        load.drain(&mut rig);
        let file = rig.file(&name);
        assert_clean(&file);
        load.judge(&look(&file, &GEO), from, to);
        rig.snapshot_ok(&["drop", &name]);
    }
    load.drain(&mut rig);
    let end = load.now();
    assert!(rig.disk.stop().success());
    assert_clean(rig.disk.image.path());
    load.judge(&look(rig.disk.image.path(), &GEO), end, end);
    held
}

#[test]
fn a_copy_under_load_is_clean_and_the_state_of_one_moment_while_it_was_made() {
    let saves = rounds("SNAPSHOTS", SAVES);
    for (seed, args) in (1..).zip(KINDS) {
        let mut held = save_under_load(args, seed, saves.div_ceil(KINDS.len() as u64).max(3));
        held.sort_unstable();
        let (half, most) = (held[held.len() / 2], held.last().copied().unwrap_or(0));
        println!("{args:?}: {} saves, requests held for {half} us in half of them, {most} us at most", held.len());
    }
}

#[test]
fn a_snapshot_by_name_is_listed_and_dropped_and_its_file_is_an_image_with_the_images_mode() {
    let image = Image::create(&GEO);
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let mut rig = Rig::start_on(Setup::new(GEO), image);
    assert_eq!(rig.snapshot_ok(&["list"]), "no snapshots\n");
    assert_eq!(rig.disk.write(GEO.start(3), &[7; 8192]), Status::Ok);
    let said = rig.snapshot_ok(&["save", "one"]);
    assert!(said.contains("one.qcow2") && said.contains("requests were held for "), "{said}");
    assert_eq!(rig.disk.write(GEO.start(3) + 16, &[8; 4096]), Status::Ok);
    rig.snapshot_ok(&["save", "two"]);
    let folder = rig.file("one").parent().unwrap().to_path_buf();
    assert_eq!(fs::metadata(rig.file("one")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o750);
    // What is no snapshot is left out.
    fs::write(folder.join("notes.txt"), "").unwrap();
    let list = rig.snapshot_ok(&["list"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    let json: Value = serde_json::from_str(&rig.snapshot_ok(&["list", "--json"])).unwrap();
    let names: Vec<_> = json["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(json["snapshots"][0]["virtual_size"], GEO.size);
    let blocks = |name| look(&rig.file(name), &GEO)[3].len();
    assert_eq!((blocks("one"), blocks("two")), (2, 3));
    ok(&["info", &rig.file("one").display().to_string()]);
    rig.snapshot_ok(&["drop", "one"]);
    fs::remove_file(folder.join("notes.txt")).unwrap();
    assert!(folder.exists() && !rig.file("one").exists());
    rig.snapshot_ok(&["drop", "two"]);
    assert!(!folder.exists(), "the folder stays when nothing is in it");
}

#[test]
fn a_disk_is_saved_with_no_frontend_and_read_only_and_while_the_power_is_off() {
    let mut rig = Rig::start(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(rig.disk.write(GEO.start(3), &[7; 8192]), Status::Ok);
    assert_eq!(rig.disk.flush(), Status::Ok);
    assert_eq!(rig.disk.write(GEO.start(3) + 16, &[8; 4096]), Status::Ok);
    ok(&["ctl", &rig.control(), "power-cut"]);
    rig.snapshot_ok(&["save", "off"]);
    assert_eq!(look(&rig.file("off"), &GEO)[3].len(), 2, "what a cut has left");
    let power = ok(&["ctl", &rig.control(), "info"]);
    assert!(power.contains("power: off\n"), "a save brings no power: {power}");
    rig.disk.disconnect();
    let target = rig.disk.image.beside("no-frontend.qcow2");
    rig.snapshot_ok(&["save", "--to", &target.display().to_string()]);
    assert_clean(&target);
    let image = rig.disk.image.name();
    assert!(rig.disk.stop().success());
    let copied = look(&target, &GEO);
    assert!(copied == look(rig.disk.image.path(), &GEO), "{image}");
    let Rig { disk } = rig;
    let rig = Rig::start_on(Setup::new(GEO).args(&["--read-only"]), disk.image);
    rig.snapshot_ok(&["save", "read-only"]);
    assert!(look(&rig.file("read-only"), &GEO) == copied);
}

#[test]
fn zones_that_are_being_cleared_are_empty_in_the_copy_and_take_writes_there() {
    for args in [&[][..], &["--volatile-cache"]] {
        let mut rig = Rig::start(Setup::new(GEO).args(args));
        for round in 0..10 {
            for zone in 2..12 {
                assert_eq!(rig.disk.write(GEO.start(zone), &[round + 1; 16384]), Status::Ok);
            }
            (2..12).for_each(|zone| assert_eq!(rig.disk.reset(zone), Status::Ok));
            let name = format!("r{round}");
            rig.snapshot_ok(&["save", &name]);
            assert_clean(&rig.file(&name));
        }
        assert!(rig.disk.stop().success());
        let copy = Image::absent();
        fs::copy(rig.file("r9"), copy.path()).unwrap();
        let mut rig = Rig::start_on(Setup::new(GEO), copy);
        for zone in 2..12 {
            assert_eq!(rig.disk.finish(zone), Status::Ok);
            assert_eq!(rig.disk.read(GEO.start(zone), 16384).unwrap(), vec![0; 16384], "zone {zone}");
        }
    }
}

#[test]
fn a_cut_that_comes_with_a_saves_flush_comes_after_the_save() {
    let mut rig = Rig::start(Setup::new(GEO).args(&["--volatile-cache"]));
    assert_eq!(rig.disk.write(GEO.start(3), &[7; 8192]), Status::Ok);
    ok(&["ctl", &rig.control(), "power-cut", "at=flush:2", "then=fail"]);
    rig.snapshot_ok(&["save", "a"]);
    assert_eq!(look(&rig.file("a"), &GEO)[3].len(), 2);
    crate::common::eventually("the cut", || {
        ok(&["ctl", &rig.control(), "info"]).contains("power: off\n").then_some(())
    });
    assert_eq!(rig.disk.write(GEO.start(3) + 16, &[7; 8192]), Status::IoErr);
    std::thread::sleep(Duration::from_millis(1));
    rig.reset_device();
    assert_eq!(rig.disk.write(GEO.start(3) + 16, &[7; 8192]), Status::Ok);
}

#[test]
fn queues_that_are_stopped_while_a_copy_is_made_have_their_answers_and_go_on() {
    let geo = Geo { size: 12 << 22, zone: 1 << 22, cap: 1 << 22, ..GEO };
    let mut rig = Rig::start(Setup::new(geo).queues(2).memory(32 << 20));
    let mut load = Load::new(geo, 9);
    for zone in 2..10 {
        rig.disk.fill(zone, 1 << 22);
    }
    let mut rng = Rng::new(9);
    let (mut saved, mut given_up) = (0, 0);
    for round in 0..rounds("SNAPSHOTS", 6) {
        let (control, name) = (rig.control(), format!("s{round}"));
        let wait = Duration::from_micros(rng.below(60_000));
        let said = std::thread::scope(|scope| {
            let save = scope.spawn(|| run(&["ctl", &control, "snapshot", "save", &name]));
            let begin = Instant::now();
            while begin.elapsed() < wait {
                load.step_in(&mut rig, 10..12);
            }
            let front = rig.disk.front();
            let bases: Vec<u16> = (0..2).map(|queue| front.stop_queue(queue).unwrap()).collect();
            for (queue, base) in bases.into_iter().enumerate() {
                front.start_queue(queue, base).unwrap();
            }
            save.join().unwrap()
        });
        load.drain(&mut rig);
        match said.status.success() {
            true => {
                saved += 1;
                assert_clean(&rig.file(&name));
                rig.snapshot_ok(&["drop", &name]);
            }
            false => {
                given_up += 1;
                assert_refusal(&said, &["given up", "stopped a queue"], "a save");
                assert!(!rig.file(&name).exists());
            }
        }
    }
    println!("{saved} saved, {given_up} given up");
    rig.disk.assert_works();
}
