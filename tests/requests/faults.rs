//! What the device says when the file below cannot be written, and what it keeps. A limit on the size of the daemon's
//! files stands in for a full file system: writes past it fail with EFBIG as they would with ENOSPC.

use crate::common::MIB;
use crate::common::cli::{Geo, Image, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{Model, pattern};
use crate::common::request::{Req, State, Status};

with_each_engine! {
    a_write_that_fails_below_is_an_error_and_the_pointer_stands_behind_the_last_good_sector,
    of_writes_in_a_row_those_before_the_one_that_fails_are_good,
    when_there_is_room_again_writing_works_again,
}

const GEO: Geo = Geo { size: 64 * MIB, zone: 8 * MIB, cap: 8 * MIB, conv: 1, ..SMALL };

/// A disk, and a length for its file that leaves little room for data.
fn start(setup: Setup) -> (Disk, u64) {
    let image = Image::create(&setup.geo);
    let empty = std::fs::metadata(image.path()).unwrap().len();
    (setup.start_on(image), empty + 5 * MIB)
}

fn a_write_that_fails_below_is_an_error_and_the_pointer_stands_behind_the_last_good_sector(
    setup: impl Fn(Geo) -> Setup,
) {
    // In flight in two zones at once.
    fail_below(setup(GEO), &[2, 3], 128);
}

fn of_writes_in_a_row_those_before_the_one_that_fails_are_good(setup: impl Fn(Geo) -> Setup) {
    // Small ones, which the device may join.
    fail_below(setup(GEO), &[2], 32);
}

/// Writes of `len` sectors to some zones until there is no room.
fn fail_below(setup: Setup, zones: &[usize], len: u64) {
    let (mut disk, room) = start(setup.queue_size(256));
    let mut model = Model::new(GEO);
    for zone in 1..4 {
        assert_eq!(disk.write(GEO.start(zone), &pattern(zone as u64, 0, 65536)), Status::Ok);
        model.wrote(GEO.start(zone), 128, zone as u64);
    }
    disk.daemon.limit_file_size(Some(room));
    // More than there can be room for.
    let mut asked = Vec::new();
    for at in 0..GEO.cap / 512 / len {
        for &zone in zones {
            let (sector, tag) = (model.wp(zone) + len * at, 1000 * zone as u64 + at);
            if sector + len > GEO.start(zone) + GEO.cap(zone) {
                continue;
            }
            let req = Req::write(sector, pattern(tag, 0, 512 * len as usize));
            asked.push((zone, sector, tag, disk.submit(0, &req)));
        }
    }
    let mut failed = [false; 8];
    for (zone, sector, tag, token) in asked {
        let status = disk.wait(token).status;
        if failed[zone] {
            // The pointer has not moved past the failed one, so the later ones can only fail.
            assert_ne!(status, Status::Ok, "zone {zone}, sector {sector:#x}: OK behind a write that failed");
        } else if status == Status::Ok {
            model.wrote(sector, len, tag);
        } else {
            assert_eq!(status, Status::IoErr, "zone {zone}, sector {sector:#x}");
            failed[zone] = true;
        }
    }
    assert!(failed.contains(&true), "nothing has failed: {:#?}", disk.zones());
    assert!(disk.daemon.is_alive());
    for (zone, failed) in failed.into_iter().enumerate() {
        let found = disk.zone(zone);
        // Sectors of the failed write itself may be good, if the pointer says so.
        if failed {
            assert!(found.wp >= model.wp(zone), "zone {zone}: acknowledged data is behind the pointer");
            assert!(found.wp < model.wp(zone) + len, "zone {zone}: the pointer is past the write that failed");
            let acknowledged = (model.zones[zone].written * 512) as usize;
            let read = disk.read(GEO.start(zone), acknowledged).unwrap();
            crate::common::model::assert_same(&read, &model.contents(zone)[..acknowledged], GEO.start(zone));
        } else {
            model.verify_pointer(&mut disk, zone, true);
            model.verify_contents(&mut disk, zone);
        }
    }
    // What is there can be read, reset and reported; nothing of it is lost when the daemon goes.
    assert_eq!(disk.reset(1), Status::Ok);
    disk.daemon.limit_file_size(None);
    let pointers: Vec<u64> = (1..4).map(|zone| disk.zone(zone).wp).collect();
    disk.restart();
    assert_eq!((1..4).map(|zone| disk.zone(zone).wp).collect::<Vec<_>>(), pointers);
    disk.finish_clean();
}

fn when_there_is_room_again_writing_works_again(setup: impl Fn(Geo) -> Setup) {
    let (mut disk, room) = start(setup(GEO));
    assert_eq!(disk.write(GEO.start(2), &pattern(1, 0, 65536)), Status::Ok);
    disk.daemon.limit_file_size(Some(room));
    // Each of these needs room that the file does not have, sooner or later.
    let mut refused = 0;
    for zone in [2, 3, 4, 5, 0] {
        for _ in 0..128 {
            let wp = if zone == 0 { 128 * refused } else { disk.zone(zone).wp };
            if zone != 0 && wp == GEO.start(zone) + GEO.cap(zone) {
                break;
            }
            let status = disk.write(wp, &pattern(9, 0, 65536));
            if status == Status::IoErr {
                refused += 1;
                break;
            }
            assert_eq!(status, Status::Ok, "zone {zone}");
        }
    }
    assert!(refused > 0, "nothing has failed");
    disk.daemon.limit_file_size(None);
    for zone in [2, 3, 4, 5, 6] {
        let wp = disk.zone(zone).wp;
        if disk.state(zone) == State::Full {
            continue;
        }
        let data = pattern(20 + zone as u64, 0, 65536);
        assert_eq!(disk.write(wp, &data), Status::Ok, "zone {zone} after there is room again");
        crate::common::model::assert_same(&disk.read(wp, 65536).unwrap(), &data, wp);
    }
    assert_eq!(disk.write(256, &pattern(3, 0, 4096)), Status::Ok);
    assert_eq!(disk.flush(), Status::Ok);
    disk.finish_clean();
}
