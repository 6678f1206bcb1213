//! `resize`: larger disks, and what is refused.

use std::fs;

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL, fails, ok, run};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::State;

fn written() -> Image {
    let mut disk = Setup::new(SMALL).start();
    assert_ok(disk.write(8, &[7; 8192]));
    disk.fill(2, 65536);
    disk.fill(7, 4096);
    assert_ok(disk.finish(3));
    assert!(disk.stop().success());
    let Disk { image, .. } = disk;
    image
}

#[test]
fn a_disk_has_its_zones_and_data_and_the_new_zones_when_it_is_served_again() {
    let image = written();
    let before = Image::absent();
    fs::copy(image.path(), before.path()).unwrap();
    let grew = ok(&["resize", &image.name(), "+1016M"]);
    assert_eq!(
        grew,
        format!("Grew '{}': 1 GiB: 1024 zones of 1 MiB, 768 KiB of each writable, 2 conventional\n", image.name())
    );
    image.assert_clean();
    image.assert_qemu_agrees(1);
    let diff = run(&["diff", &before.name(), &image.name()]);
    assert_eq!(diff.stdout, "virtual size: 8 MiB against 1 GiB\n0 of 8 zones differ.\n");
    let geo = Geo { size: 1024 * MIB, ..SMALL };
    let mut disk = Setup::new(geo).start_on(image);
    assert_eq!(disk.read(geo.start(0) + 8, 8192), Ok(vec![7; 8192]));
    assert_eq!([3, 7, 8, 1023].map(|zone| disk.state(zone)), [State::Full, State::Closed, State::Empty, State::Empty]);
    disk.fill(1023, 65536);
    assert_ok(disk.flush());
    assert!(disk.stop().success());
    disk.image.assert_clean();
    disk.image.assert_qemu_agrees(1);
}

#[test]
fn a_short_last_zone_is_filled_where_that_is_asked_for() {
    let image = Image::create(&Geo { size: 8 * MIB - 4096, ..SMALL });
    let before = fs::read(image.path()).unwrap();
    fails(&["resize", &image.name(), "+1M"], &[&image.name(), "last zone, 7", "1044480", "--fill-last-zone"]);
    assert!(fs::read(image.path()).unwrap() == before, "refused, and the image has changed");
    assert!(ok(&["resize", &image.name(), "+0", "--fill-last-zone"]).contains(": 8 MiB: 8 zones"));
    assert!(ok(&["resize", &image.name(), "--fill-last-zone", "+2M"]).contains(": 10 MiB: 10 zones"));
    image.assert_clean();
}

#[test]
fn anything_but_whole_zones_more_is_refused_and_changes_nothing() {
    let image = written();
    let before = fs::read(image.path()).unwrap();
    for (by, fragments) in [
        ("-1M", &["'-1M'", "cannot become smaller", "+SIZE"][..]),
        ("16M", &["'16M'", "expected +SIZE"]),
        ("+", &["'' is not a size"]),
        ("+1X", &["'1X' is not a size"]),
        ("+0", &["0 bytes", "whole zones"]),
        ("+1536K", &["1572864 bytes", "a multiple of 1048576 bytes"]),
        ("+7E", &["zone_size", "expected"]),
        ("+32T", &["33554440 zones", "at most 16777216"]),
    ] {
        let run = fails(&["resize", &image.name(), by], &[fragments, &[&image.name()]].concat());
        assert_eq!(run.status.code(), Some(1), "{by}");
    }
    assert!(fs::read(image.path()).unwrap() == before, "refused, and the image has changed");
    let served = Disk::small();
    fails(&["resize", &served.image.name(), "+1M"], &[&served.image.name(), "in use"]);
    let absent = Image::absent();
    fails(&["resize", &absent.name(), "+1M"], &[&absent.name(), "No such file"]);
}
