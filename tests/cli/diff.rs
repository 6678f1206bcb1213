//! `diff`: what it prints of two images, and its exit status.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, assert_refusal, ok, program, run, run_command};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;

/// A disk with data in a conventional zone, a closed zone and a full one; `more` is written on top of that.
fn written(geo: Geo, more: impl FnOnce(&mut Disk)) -> Image {
    let mut disk = Setup::new(geo).start();
    assert_ok(disk.write(8, &[7; 8192]));
    disk.fill(2, 65536);
    assert_ok(disk.finish(3));
    more(&mut disk);
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    image
}

/// Runs `diff`, which must have this exit status, and gives what it prints.
#[track_caller]
fn diff(first: &Image, second: &Image, status: i32) -> String {
    let run = run(&["diff", &first.name(), &second.name()]);
    assert_eq!((run.status.code(), run.stderr.as_str()), (Some(status), ""), "{}", run.stdout);
    run.stdout
}

#[test]
fn two_images_of_the_same_are_equal_whatever_their_clusters_and_0_says_so() {
    let first = written(SMALL, |_| ());
    let second = written(Geo { cluster: 4096, ..SMALL }, |_| ());
    for (one, other) in [(&first, &second), (&second, &first), (&first, &first)] {
        assert_eq!(diff(one, other, 0), "No differences were found in 8 zones.\n");
        let report = ok(&["diff", &one.name(), &other.name(), "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        let expected = json!({
            "schema_version": 1, "shape": [], "zones": [], "zones_compared": 8, "zones_different": 0, "equal": true,
        });
        assert_eq!(report, expected);
    }
}

#[test]
fn each_zone_that_differs_is_a_line_with_what_differs_and_1_says_so() {
    let first = written(SMALL, |_| ());
    let second = written(SMALL, |disk| {
        assert_ok(disk.write(9, &[8; 512 * 7]));
        assert_ok(disk.write(18, &[8; 512]));
        disk.fill(2, 4096);
        assert_ok(disk.reset(3));
        assert_ok(disk.finish(4));
    });
    let before = [&first, &second].map(|image| fs::read(image.path()).unwrap());
    let expected = "zone 0: data from sector 0x000000009 on, 8 sectors in 2 ranges\n\
                    zone 2: wptr 0x000080 against 0x000088\n\
                    zone 3: state full against empty; wptr 0x000600 against 0x000000\n\
                    zone 4: state empty against full; wptr 0x000000 against 0x000600\n\
                    4 of 8 zones differ.\n";
    assert_eq!(diff(&first, &second, 1), expected);
    let json = run(&["diff", &first.name(), &second.name(), "--json"]);
    assert_eq!(json.status.code(), Some(1), "{json:?}");
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&report["equal"], &report["zones_different"]), (&json!(false), &json!(4)));
    let indices: Vec<_> = report["zones"].as_array().unwrap().iter().map(|zone| zone["index"].clone()).collect();
    assert_eq!(indices, [0, 2, 3, 4]);
    let zone = json!({
        "index": 0,
        "state_differs": false,
        "pointer_differs": false,
        "first": { "state": "not-wp", "write_pointer": 0 },
        "second": { "state": "not-wp", "write_pointer": 0 },
        "data": { "first": 9 * 512, "sectors": 8, "ranges": 2 },
    });
    assert_eq!(report["zones"][0], zone);
    assert_eq!(report["zones"][2]["second"], json!({ "state": "empty", "write_pointer": 3 * MIB }));
    let after = [&first, &second].map(|image| fs::read(image.path()).unwrap());
    assert!(before == after, "diff has changed an image");
}

#[test]
fn disks_of_other_shapes_are_told_first_and_zones_that_both_have_are_compared_all_the_same() {
    let first = Image::create(&SMALL);
    let second = Image::create(&Geo { size: 16 * MIB, open: 3, active: 5, append: 4096, cap: MIB, ..SMALL });
    let expected = "virtual size: 8 MiB against 16 MiB\n\
                    zone capacity: 768 KiB against 1 MiB\n\
                    max open zones: no limit against 3\n\
                    max active zones: no limit against 5\n\
                    max append: 64 KiB against 4 KiB\n\
                    0 of 8 zones differ.\n";
    assert_eq!(diff(&first, &second, 1), expected);
    let third = Image::create(&Geo { zone: 2 * MIB, conv: 1, ..SMALL });
    let expected = "zone size: 1 MiB against 2 MiB\n\
                    conventional zones: 2 against 1\n\
                    No zones were compared, as they are of different sizes.\n";
    assert_eq!(diff(&first, &third, 1), expected);
}

#[test]
fn what_cannot_be_compared_is_one_line_and_2() {
    let image = written(SMALL, |_| ());
    let absent = Image::absent();
    let (served, plain) = (Disk::small(), Image::absent());
    fs::write(plain.path(), [0; 4096]).unwrap();
    let wrong_pointer = Image::create(&SMALL);
    let table = wrong_pointer.be64(wrong_pointer.extension() + 40);
    wrong_pointer.patch(table + 8 * 7, &[0x11; 8]);
    // The last entry of what is mapped, behind data that differs.
    let wrong_entry = written(SMALL, |disk| assert_ok(disk.write(0, &[9; 512])));
    let l2 = wrong_entry.be64(wrong_entry.be64(40)) & 0x00ff_ffff_ffff_fe00;
    wrong_entry.patch(l2 + 8 * 32, &(1u64 << 62).to_be_bytes());
    let cases: [(&Image, &[&str]); 5] = [
        (&absent, &["No such file"]),
        (&plain, &["not a qcow2 image"]),
        (&served.image, &["in use"]),
        (&wrong_pointer, &["the write pointer of zone 7"]),
        (&wrong_entry, &["the L2 entry for guest offset 0x200000", "compressed"]),
    ];
    for (other, fragments) in cases {
        for (first, second) in [(&image, other), (other, &image)] {
            for more in [&[][..], &["--json"]] {
                let run = run(&[&["diff", &first.name(), &second.name()], more].concat());
                assert_refusal(&run, &[fragments, &[&other.name()]].concat(), &other.name());
                assert_eq!(run.status.code(), Some(2), "{run:?}");
            }
        }
    }
    for args in [&["diff"][..], &["diff", "one"], &["diff", "one", "two", "three"], &["diff", "--frobnicate"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}: 1 would say that they differ");
    }
}

#[test]
fn a_terminal_is_left_with_the_result_alone() {
    let image = written(SMALL, |_| ());
    let line = format!("{} diff {} {}", program(), image.name(), image.name());
    let run = run_command(Command::new("script").args(["-qec", &line, "/dev/null"]));
    assert_eq!((run.status.code(), run.stdout.trim_end()), (Some(0), "No differences were found in 8 zones."));
}
