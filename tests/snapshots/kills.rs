//! Kill -9 of the daemon or of the client while a snapshot is saved or reverted to.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::rig::{GEO, Rig, assert_clean, rounds};
use crate::common::cli::{fails, ok, program, run};
use crate::common::disk::Setup;
use crate::common::request::Status;
use crate::common::{Rng, eventually};

/// Kills of an ordinary test run.
const KILLS: u64 = 8;

fn start(rig: &Rig, args: &[&str]) -> std::process::Child {
    let mut command = Command::new(program());
    command.args(["ctl", &rig.control(), "snapshot"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Zones with content, a snapshot of these, and other content.
fn prepare() -> Rig {
    let mut rig = Rig::start(Setup::new(GEO));
    for zone in 2..12 {
        assert_eq!(rig.disk.write(GEO.start(zone), &[3; 32768]), Status::Ok);
    }
    rig.snapshot_ok(&["save", "a"]);
    for zone in 2..12 {
        assert_eq!(rig.disk.reset(zone), Status::Ok);
        assert_eq!(rig.disk.write(GEO.start(zone), &[4; 65536]), Status::Ok);
    }
    rig
}

#[test]
fn a_save_that_is_killed_leaves_no_file_and_an_image_as_it_was() {
    let mut rng = Rng::new(7);
    for round in 0..rounds("SNAPSHOT_KILLS", KILLS) {
        let mut rig = prepare();
        let mut client = start(&rig, &["save", "b"]);
        std::thread::sleep(Duration::from_micros(rng.below(40_000)));
        let daemon = round % 2 == 0;
        if daemon {
            rig.disk.daemon.kill9();
        } else {
            // Has ended already, or is ended here.
            let _ = client.kill();
        }
        let whole = client.wait().unwrap().success();
        let file = rig.file("b");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1 + usize::from(file.exists()));
        if whole || file.exists() {
            assert_clean(&file);
        }
        if daemon {
            let status = run(&["check", &rig.disk.image.name()]).status.code();
            assert!(matches!(status, Some(0 | 3)), "check after a kill: {status:?}");
        } else {
            assert_eq!(rig.disk.write(GEO.start(2) + 128, &[4; 4096]), Status::Ok, "the daemon serves");
            // The one that nobody waits for any more is given up first.
            eventually("another save", || rig.snapshot(&["save", "c"]).status.success().then_some(()));
            assert_clean(&rig.file("c"));
        }
    }
}

#[test]
fn a_revert_that_is_killed_leaves_the_state_before_or_after_or_an_image_that_says_what_to_do() {
    let mut rng = Rng::new(8);
    let (mut before, mut after, mut between) = (0, 0, 0);
    for _ in 0..rounds("SNAPSHOT_KILLS", KILLS) {
        let mut rig = prepare();
        let original = rig.disk.image.beside("before.qcow2");
        rig.snapshot_ok(&["save", "--to", &original.display().to_string()]);
        let mut client = start(&rig, &["revert", "a"]);
        std::thread::sleep(Duration::from_micros(rng.below(40_000)));
        rig.disk.daemon.kill9();
        let _ = client.wait();
        let (image, saved) = (rig.disk.image.name(), rig.file("a").display().to_string());
        if fs::read(&image).unwrap().starts_with(b"zbdrvrt") {
            between += 1;
            fails(&["info", &image], &["being reverted to the snapshot", &saved, "copy that file over it"]);
            fails(&["serve", &image, "--socket-path", &rig.disk.image.beside_name("other")], &["being reverted"]);
            fs::copy(rig.file("a"), &image).unwrap();
        }
        let equal = |other: &str| run(&["diff", &image, other]).status.success();
        match (equal(&saved), equal(&original.display().to_string())) {
            (true, false) => after += 1,
            (false, true) => before += 1,
            other => panic!("neither before nor after: {other:?}"),
        }
        let status = run(&["check", &image]).status.code();
        assert!(matches!(status, Some(0 | 3)), "check after a kill: {status:?}");
        // The next daemon serves it; the frontend's requests of before never come to an end.
        rig.disk.start_again();
        eventually("the control socket", || run(&["ctl", &rig.control(), "info"]).status.success().then_some(()));
        ok(&["ctl", &rig.control(), "report"]);
    }
    println!("killed reverts: {before} before, {after} after, {between} of these copied by hand");
}
