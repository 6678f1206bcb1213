//! A large disk: 16 TiB in 262,144 zones, each partly written, in bounded memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod common;

use std::collections::VecDeque;
use std::time::Instant;

use common::MIB;
use common::cli::Geo;
use common::disk::{Disk, Setup};
use common::model::pattern;
use common::request::{Req, Status};

const GEO: Geo = Geo {
    size: 16 << 40,
    zone: 64 * MIB,
    cap: 64 * MIB,
    conv: 0,
    open: 0,
    active: 0,
    append: 512 << 10,
    cluster: 64 << 10,
};

/// Writes a block to every zone.
fn write_everywhere(disk: &mut Disk) {
    let mut asked = VecDeque::new();
    for zone in 0..GEO.zones() {
        asked.push_back(disk.submit(0, &Req::write(GEO.start(zone), pattern(zone as u64, 0, 4096))));
        if asked.len() == 64 {
            let first = asked.pop_front().unwrap();
            assert_eq!(disk.wait(first).status, Status::Ok);
        }
    }
    for token in asked {
        assert_eq!(disk.wait(token).status, Status::Ok);
    }
}

/// Times are printed, not judged: run with --nocapture in release mode to see them.
#[test]
fn a_disk_of_16_tebibytes_with_every_zone_partly_written_is_served_in_less_than_200_mebibytes() {
    let begun = Instant::now();
    let image = common::cli::Image::create(&GEO);
    println!("created in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut disk = Setup::new(GEO).start_on(image);
    println!("served in {:?}", begun.elapsed());
    let begun = Instant::now();
    write_everywhere(&mut disk);
    println!("every zone written in {:?}, resident {} KiB", begun.elapsed(), disk.daemon.status_kib("VmRSS"));
    assert!(disk.daemon.status_kib("VmHWM") < 200 * 1024);

    let begun = Instant::now();
    assert!(disk.stop().success());
    println!("stopped in {:?}", begun.elapsed());
    let begun = Instant::now();
    disk.start_again();
    println!("served again in {:?}", begun.elapsed());
    for zone in (0..GEO.zones()).step_by(1000) {
        assert_eq!(disk.read(GEO.start(zone), 4096).unwrap(), pattern(zone as u64, 0, 4096));
        assert_eq!(disk.write(GEO.start(zone) + 8, &pattern(zone as u64, 8, 4096)), Status::Ok);
    }
    println!("resident {} KiB", disk.daemon.status_kib("VmRSS"));
    assert!(disk.daemon.status_kib("VmHWM") < 200 * 1024);
    assert!(disk.stop().success());
    let begun = Instant::now();
    disk.image.assert_clean();
    println!("checked in {:?}", begun.elapsed());
}
