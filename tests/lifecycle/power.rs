//! The power goes on command, at the command line of a user. (tests/power_cuts judges what a cut may leave.)

use std::fs;

use serde_json::Value;

use crate::common::cli::{Geo, Image, SMALL, fails, ok};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{Req, State, Status};

const GEO: Geo = Geo { open: 2, active: 3, ..SMALL };
const SEQ: usize = 2;
const BLOCK: usize = 4096;

fn start(args: &[&str]) -> Disk {
    let image = Image::create(&GEO);
    let control = image.beside_name("control");
    Setup::new(GEO).args(&["--control-path", &control]).args(args).start_on(image)
}

fn ctl(disk: &Disk, args: &[&str]) -> String {
    ok(&[&["ctl", &disk.image.beside_name("control")], args].concat())
}

fn cut(disk: &Disk, words: &[&str]) -> Value {
    serde_json::from_str(&ctl(disk, &[&["--json", "power-cut"], words].concat())).unwrap()
}

/// The driver resets the device and sets it up again.
#[track_caller]
fn reset_device(disk: &mut Disk) {
    disk.front().reset_device().unwrap_or_else(|error| panic!("setting up again: {error}"));
}

#[test]
fn what_was_not_flushed_is_lost_and_what_was_is_there() {
    let mut disk = start(&["--volatile-cache"]);
    let start = disk.geo().start(SEQ);
    let data: Vec<u8> = (0..4).flat_map(|n| pattern(n, 0, BLOCK)).collect();
    assert_ok(disk.write(0, &data[..BLOCK]));
    assert_ok(disk.write(start, &data[..BLOCK]));
    assert_ok(disk.write(start + 8, &data[BLOCK..2 * BLOCK]));
    assert_eq!(disk.call(&Req::flush()).status, Status::Ok);
    assert_ok(disk.write(0, &data[BLOCK..2 * BLOCK]));
    assert_ok(disk.write(start + 16, &data[2 * BLOCK..]));
    let told = cut(&disk, &[]);
    let zone = &told["zones"][0];
    assert_eq!((zone["zone"].as_u64(), zone["torn"].as_bool()), (Some(SEQ as u64), Some(false)), "{told}");
    assert_eq!(told["conventional"][0]["volatile"], 1, "{told}");
    assert!(ctl(&disk, &["info"]).contains("power: off\n"));
    reset_device(&mut disk);
    assert!(ctl(&disk, &["info"]).contains("power: on\n"));
    assert_eq!((disk.state(SEQ), disk.zone(SEQ).written()), (State::Closed, 16));
    assert_same(&disk.read(start, 2 * BLOCK).unwrap(), &data[..2 * BLOCK], start);
    assert_same(&disk.read(0, BLOCK).unwrap(), &data[..BLOCK], 0);
    assert_same(&disk.read(start + 16, 2 * BLOCK).unwrap(), &vec![0; 2 * BLOCK], start + 16);
    assert_ok(disk.write(start + 16, &data[..BLOCK]));
    disk.finish_clean();
}

#[test]
fn a_reset_that_was_not_flushed_is_taken_back_with_all_that_the_zone_held() {
    let mut disk = start(&["--volatile-cache"]);
    let start = disk.geo().start(SEQ);
    let data = pattern(7, 0, 3 * BLOCK);
    assert_ok(disk.write(start, &data));
    assert_eq!(disk.call(&Req::flush()).status, Status::Ok);
    for flushed in [false, true] {
        assert_ok(disk.reset(SEQ));
        if flushed {
            assert_eq!(disk.call(&Req::flush()).status, Status::Ok);
        }
        let told = cut(&disk, &["lose=all"]);
        reset_device(&mut disk);
        if flushed {
            assert_eq!(disk.state(SEQ), State::Empty, "{told}");
        } else {
            assert_eq!((disk.state(SEQ), disk.zone(SEQ).written()), (State::Closed, 24), "{told}");
            assert_same(&disk.read(start, data.len()).unwrap(), &data, start);
        }
    }
    assert_ok(disk.write(start, &data[..BLOCK]));
    assert_same(&disk.read(start + 8, BLOCK).unwrap(), &vec![0; BLOCK], start + 8);
    disk.finish_clean();
}

#[test]
fn a_state_that_was_printed_is_left_again() {
    let mut digests = Vec::new();
    let folder = Image::create(&GEO);
    let file = folder.beside_name("state.json");
    for words in ["seed=11", &format!("state={file}")] {
        let mut disk = start(&["--volatile-cache"]);
        for zone in SEQ..SEQ + 3 {
            disk.fill(zone, 5 * BLOCK as u64);
        }
        assert_ok(disk.finish(SEQ));
        (0..6).for_each(|block| assert_ok(disk.write(8 * block, &pattern(block, 0, BLOCK))));
        let told = cut(&disk, &[words]);
        fs::write(&file, told.to_string()).unwrap();
        digests.push(told["digest"].as_str().unwrap().to_owned());
    }
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn the_trace_has_the_cut_what_failed_without_power_and_when_that_came_back() {
    let image = Image::create(&GEO);
    let (control, trace) = (image.beside_name("control"), image.beside_name("trace"));
    let args = ["--control-path", &control, "--trace", &trace, "--volatile-cache"];
    let mut disk = Setup::new(GEO).args(&args).start_on(image);
    assert_ok(disk.write(0, &pattern(1, 0, BLOCK)));
    // The third request of one round comes when the power is about to go.
    cut(&disk, &["at=request:2", "then=fail"]);
    disk.front().plug();
    let start = disk.geo().start(SEQ);
    let write = |block: u64| Req::write(start + 8 * block, pattern(block, 0, BLOCK));
    let tokens: Vec<_> = (0..6).map(|block| disk.submit(0, &write(block))).collect();
    disk.front().unplug();
    let failed = tokens.into_iter().filter(|token| disk.wait(*token).status == Status::IoErr).count();
    assert!(failed >= 4, "{failed} requests have failed");
    assert_eq!(disk.call(&Req::get_id()).status, Status::IoErr);
    let info: Value = serde_json::from_str(&ctl(&disk, &["info", "--json"])).unwrap();
    reset_device(&mut disk);
    assert_ok(disk.write(0, &pattern(2, 0, BLOCK)));

    let all = disk.image.traced(&[]);
    let place =
        |kind: &str| all.iter().position(|line| line["kind"] == kind).unwrap_or_else(|| panic!("no {kind}: {all:?}"));
    let (off, on) = (place("power-cut"), place("power-back"));
    assert_eq!(all[off]["digest"], info["power"]["last_cut"]["digest"], "{info}");
    assert_eq!(all[off]["touched_zones"], 2, "{}", all[off]);
    let without: Vec<_> = all[off + 1..on].iter().collect();
    assert!(without.iter().all(|line| line["rule"] == "power" && line["status"] == "IOERR"), "{without:?}");
    assert_eq!(without.len(), failed + 1);
    let with = all[..off].iter().chain(&all[on + 1..]);
    assert!(with.clone().all(|line| line["status"] == "OK"), "{all:?}");
    assert_eq!(all[on + 1]["kind"], "write", "{all:?}");
    for (filter, count) in [
        (&["--rule", "power"][..], failed + 1),
        (&["--refused"], failed + 1),
        (&["--kind", "power-cut"], 1),
        (&["--kind", "power-cut,power-back"], 2),
        (&["--kind", "power-cut", "--queue", "0"], 0),
    ] {
        assert_eq!(disk.image.traced(filter).len(), count, "{filter:?}");
    }
    let text = disk.image.trace(&[]);
    let digest = all[off]["digest"].as_str().unwrap();
    for said in [&format!(" the power is cut: 2 zones touched, state {digest}\n"), " the power is back\n"] {
        assert!(text.contains(said), "{text}");
    }
    disk.finish_clean();
}

#[test]
fn the_map_of_a_running_disk_says_how_the_power_is_and_where_it_would_take_something() {
    let mut disk = start(&["--volatile-cache"]);
    let map = |disk: &Disk| ctl(disk, &["map"]);
    assert!(map(&disk).contains("\npower on; volatile 0 B\n"), "{}", map(&disk));
    disk.fill(SEQ, 3 * BLOCK as u64);
    disk.fill(SEQ + 1, BLOCK as u64);
    assert_eq!(disk.call(&Req::flush()).status, Status::Ok);
    let start = disk.geo().start(SEQ);
    assert_ok(disk.write(start + 24, &pattern(3, 0, 2 * BLOCK)));
    cut(&disk, &["at=mark:now"]);
    let text = map(&disk);
    assert!(text.contains("\npower on, to be cut at mark:now; volatile 8 KiB\n"), "{text}");
    assert!(text.ends_with("\nvolatile in zones 2\n"), "{text}");
    let json: Value = serde_json::from_str(&ctl(&disk, &["map", "--json"])).unwrap();
    let cell = &json["cells"][SEQ];
    assert_eq!((&cell["written"], &cell["volatile"]), (&Value::from(5 * BLOCK), &Value::from(2 * BLOCK)), "{json}");
    assert_eq!(json["totals"]["volatile"], 2 * BLOCK, "{json}");
    assert_eq!(ctl(&disk, &["power-cut", "at=never"]), "the cut at mark:now is called off\n");
    assert_eq!(ctl(&disk, &["power-cut", "at=never"]), "no cut was waiting\n");
    cut(&disk, &[]);
    let text = map(&disk);
    assert!(text.contains("\npower off; volatile 0 B\n") && !text.contains("volatile in"), "{text}");
    let svg = ok(&["map", "--socket", &disk.image.beside_name("control"), "--svg", "-"]);
    assert!(svg.contains("power off; volatile 0 B"), "{svg}");
    reset_device(&mut disk);
    disk.finish_clean();
}

#[test]
fn what_is_told_of_the_last_cut_is_what_the_cut_has_told() {
    let mut disk = start(&["--volatile-cache"]);
    disk.fill(SEQ, 3 * BLOCK as u64);
    let told = cut(&disk, &["seed=5"]);
    let info: Value = serde_json::from_str(&ctl(&disk, &["info", "--json"])).unwrap();
    assert_eq!(info["power"]["last_cut"], told);
}

#[test]
fn a_cut_that_cannot_be_is_refused_in_one_line() {
    let refused = |disk: &Disk, words: &[&str], said: &str| {
        let control = disk.image.beside_name("control");
        fails(&[&["ctl", &control, "power-cut"], words].concat(), &[said]);
    };
    let disk = start(&[]);
    refused(&disk, &[], "the disk has no volatile cache: serve it with --volatile-cache");
    refused(&disk, &["seed=x"], "seed is 'x': expected a whole number");
    let disk = start(&["--volatile-cache"]);
    refused(&disk, &["lose=zone:99"], "lose is 'zone:99': expected numbers of zones below");
    refused(&disk, &["at=never", "then=fail"], "at=never calls off the cut that waits: expected no other word with it");
    fails(
        &["serve", &disk.image.name(), "--power-cut", "at=never"],
        &["--power-cut 'at=never'", "the moment of the cut"],
    );
    cut(&disk, &[]);
    refused(&disk, &[], "the power is off already");
}

#[test]
fn a_cut_comes_at_the_moment_that_serve_was_told() {
    let mut disk = start(&["--power-cut", "at=flush:2 then=fail"]);
    let start = disk.geo().start(SEQ);
    for block in 0..2 {
        assert_ok(disk.write(start + 8 * block, &pattern(block, 0, BLOCK)));
        assert_eq!(disk.call(&Req::flush()).status, Status::Ok);
    }
    assert_eq!(disk.write(start + 16, &pattern(3, 0, BLOCK)), Status::IoErr);
    assert_eq!(disk.call(&Req::get_id()).status, Status::IoErr);
    reset_device(&mut disk);
    assert_eq!(disk.zone(SEQ).written(), 16);
}
