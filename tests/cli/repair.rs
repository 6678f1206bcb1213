//! `check --repair`: what it takes, prints, returns and leaves behind.

use std::fs;

use serde_json::Value;

use crate::common::MIB;
use crate::common::cli::{Geo, Image, Run, SMALL, fails, ok, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;

/// All of a zone is writable, so that a pointer is what is written of it.
const GEO: Geo = Geo { cap: MIB, ..SMALL };

/// An image with a zone filled and one written in part; killed, so that a reservation is leaked.
fn killed() -> Image {
    let mut disk = Setup::new(GEO).start();
    disk.fill(2, MIB);
    disk.fill(3, 8192);
    assert_ok(disk.write(0, &[7; 4096]));
    disk.daemon.kill9();
    let Disk { image, .. } = disk;
    image
}

fn sound() -> Image {
    let image = killed();
    ok(&["check", &image.name(), "--repair"]);
    image
}

/// Where the refcount of a cluster stands.
fn refcount_place(image: &Image, cluster: u64) -> u64 {
    image.be64(image.be64(48)) + 2 * cluster
}

/// Where the write pointer of a zone stands.
fn pointer_place(image: &Image, zone: u64) -> u64 {
    image.be64(image.extension() + 40) + 8 * zone
}

fn first_table(image: &Image) -> u64 {
    image.be64(image.be64(40)) & 0x00ff_ffff_ffff_fe00
}

#[track_caller]
fn assert_status(run: &Run, status: i32) {
    assert_eq!(run.status.code(), Some(status), "{run:?}");
    assert_eq!(run.stderr, "", "{run:?}");
}

#[track_caller]
fn repaired_json(image: &Image, option: &str, status: i32) -> Value {
    let run = run(&["check", &image.name(), option, "--json"]);
    assert_status(&run, status);
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

#[test]
fn leaks_after_a_kill_are_given_back() {
    let image = killed();
    assert_eq!(run(&["check", &image.name()]).status.code(), Some(3));
    let before = fs::metadata(image.path()).unwrap().len();
    let zones = ok(&["report", &image.name()]);
    let run = run(&["check", &image.name(), "--repair"]);
    assert_status(&run, 0);
    for part in ["Leaked clusters given back: ", "Bytes cut from the end of the file: ", "No errors were found"] {
        assert!(run.stdout.contains(part), "lacks \"{part}\": {run:?}");
    }
    assert!(fs::metadata(image.path()).unwrap().len() < before);
    image.assert_clean();
    image.assert_qemu_agrees(1);
    assert_eq!(ok(&["report", &image.name()]), zones);
    // What is sound is not touched.
    let bytes = fs::read(image.path()).unwrap();
    for option in ["--repair", "--repair=pointers"] {
        assert!(ok(&["check", &image.name(), option]).starts_with("No errors were found"));
        assert!(fs::read(image.path()).unwrap() == bytes, "{option} has changed a sound image");
    }
}

#[test]
fn refcounts_flags_and_the_dirty_bit_are_set_right() {
    let image = sound();
    let bytes = fs::read(image.path()).unwrap();
    let table = first_table(&image);
    image.patch(refcount_place(&image, table / 65536), &[0, 0]);
    image.patch(refcount_place(&image, 1), &[0, 3]);
    image.patch(image.be64(40), &table.to_be_bytes());
    let entry = image.be64(table);
    image.patch(table, &(entry & !(1 << 63)).to_be_bytes());
    image.patch(79, &[0x21]);
    assert_eq!(run(&["check", &image.name()]).status.code(), Some(2));
    let report = repaired_json(&image, "--repair", 0);
    let expected = [
        ("refcounts_raised", 1),
        ("copied_flags_set", 2),
        ("leaks_returned", 1),
        ("refcount_blocks_added", 0),
        ("pointers_settled", 0),
        ("bytes_cut", 0),
        ("errors", 0),
        ("leaks", 0),
    ];
    for (field, value) in expected {
        assert_eq!(report[field].as_u64(), Some(value), "{field}: {report}");
    }
    assert_eq!(report["dirty_bit_cleared"], true);
    assert!(fs::read(image.path()).unwrap() == bytes, "the image is not what it was before the damage");
}

#[test]
fn what_cannot_be_repaired_safely_is_reported_and_left() {
    let image = sound();
    let table = first_table(&image);
    // Two guest clusters in the same place: one of them was elsewhere, which now looks leaked.
    image.patch(table + 8, &image.be64(table).to_be_bytes());
    let damaged = fs::read(image.path()).unwrap();
    let twice = run(&["check", &image.name(), "--repair=pointers"]);
    assert_status(&twice, 2);
    for part in ["is used twice", "Leaked clusters were left alone", "1 errors and 1 leaked clusters"] {
        assert!(twice.stdout.contains(part), "lacks \"{part}\": {twice:?}");
    }
    assert!(fs::read(image.path()).unwrap() == damaged);
    image.patch(table, &(1u64 << 63 | 0x10000).to_be_bytes());
    image.patch(refcount_place(&image, table / 65536), &[0, 0]);
    let damaged = fs::read(image.path()).unwrap();
    let overlap = run(&["check", &image.name(), "--repair"]);
    assert_status(&overlap, 2);
    for part in ["points at the refcount table", "Nothing was changed"] {
        assert!(overlap.stdout.contains(part), "lacks \"{part}\": {overlap:?}");
    }
    assert!(fs::read(image.path()).unwrap() == damaged);
    // What does not even open is one line.
    image.patch(image.be64(40), &(1u64 << 63 | 1 << 50).to_be_bytes());
    let refused = fails(&["check", &image.name(), "--repair"], &[&image.name(), "L1 table entry 0"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn write_pointers_are_settled_only_where_that_is_asked_for() {
    let image = sound();
    let wrong = [(3, 3 * MIB + 1000), (2, 100 * MIB), (5, 100 * MIB)];
    for (zone, pointer) in wrong {
        image.patch(pointer_place(&image, zone), &u64::to_be_bytes(pointer));
    }
    let damaged = fs::read(image.path()).unwrap();
    let listed = run(&["check", &image.name()]);
    assert_status(&listed, 2);
    let reported = run(&["check", &image.name(), "--repair"]);
    assert_status(&reported, 2);
    for part in ["pointer of zone 2 is", "pointer of zone 3 is", "pointer of zone 5 is", "3 errors and 0 leaked"] {
        assert!(listed.stdout.contains(part), "lacks \"{part}\": {listed:?}");
    }
    assert_eq!(reported.stdout, listed.stdout, "a repair has nothing else to do here, and says the same way out");
    let report = repaired_json(&image, "--repair", 2);
    assert_eq!(report["findings"][0]["kind"], "write-pointer", "{report}");
    assert!(fs::read(image.path()).unwrap() == damaged);
    let report = repaired_json(&image, "--repair=pointers", 0);
    assert_eq!(report["pointers_settled"], 3, "{report}");
    // Zone 3 goes down to its sector, zone 2 is mapped and becomes full, zone 5 is not and becomes empty.
    let settled: Vec<_> =
        report["settled"].as_array().unwrap().iter().map(|zone| zone["write_pointer"].as_u64()).collect();
    assert_eq!(settled, [Some(3 * MIB), Some(3 * MIB + 512), Some(5 * MIB)]);
    let zones: Value = serde_json::from_str(&ok(&["report", &image.name(), "--json"])).unwrap();
    let states: Vec<_> = [2, 3, 5].iter().map(|zone| zones["zones"][zone]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["full", "closed", "empty"]);
    image.assert_clean();
    image.assert_qemu_agrees(1);
}

#[test]
fn an_image_in_use_is_not_repaired() {
    let disk = Setup::new(GEO).start();
    fails(&["check", &disk.image.name(), "--repair"], &[&disk.image.name(), "in use"]);
}

#[test]
fn a_wrong_word_behind_repair_is_refused() {
    let image = Image::create(&GEO);
    fails(&["check", &image.name(), "--repair=everything"], &["everything", "--repair"]);
    // A file name behind the option is not taken for its value.
    ok(&["check", "--repair", &image.name()]);
    fails(&["check", "--repair"], &["FILE"]);
}
