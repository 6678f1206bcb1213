//! ZONE_REPORT.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::assert_ok;
use crate::common::request::{POISON, Req, State, Status};
use crate::common::{KIB, MIB, SECTOR};

#[test]
fn a_report_starts_with_the_zone_that_has_the_sector() {
    let mut disk = Disk::small();
    let all = disk.zones();
    assert_eq!(all.len(), 8);
    for zone in 0..8 {
        let start = disk.geo().start(zone);
        for sector in [start, start + 1, start + 1536, start + 2047] {
            assert_eq!(disk.report(sector, 8), all[zone..], "report from sector {sector:#x}");
            assert_eq!(disk.report(sector, 1), all[zone..=zone]);
        }
    }
}

#[test]
fn a_report_has_as_many_zones_as_fit_in_whole() {
    let mut disk = Disk::small();
    for (len, zones) in
        [(64, 0), (65, 0), (127, 0), (128, 1), (191, 1), (192, 2), (64 + 8 * 64, 8), (4096, 8), (65536, 8)]
    {
        let done = disk.call(&Req::report(0, len));
        assert_eq!((done.status, done.number()), (Status::Ok, zones), "a buffer of {len} bytes");
        assert_eq!(done.zones().len() as u64, zones);
    }
}

#[test]
fn a_report_into_less_than_its_header_is_invalid() {
    let mut disk = Disk::small();
    for len in [0, 1, 8, 63] {
        let done = disk.call(&Req::report(0, len));
        assert_eq!(done.status, Status::InvalidCmd, "a buffer of {len} bytes");
    }
    disk.assert_works();
}

#[test]
fn a_report_from_beyond_the_device_is_invalid() {
    let mut disk = Disk::small();
    let end = disk.geo().end();
    for sector in [end, end + 1, 1 << 54, u64::MAX] {
        assert_eq!(disk.call(&Req::report(sector, 4096)).status, Status::InvalidCmd, "sector {sector:#x}");
    }
    assert_eq!(disk.report(end - 1, 8).len(), 1);
}

#[test]
fn a_disk_of_many_zones_is_reported_in_pages_as_the_driver_asks() {
    // 300 zones, the last of them short.
    let geo = Geo { size: 299 * 128 * KIB + 64 * KIB, zone: 128 * KIB, cap: 96 * KIB, conv: 5, cluster: 4096, ..SMALL };
    let geo = Geo { append: 32 * KIB, ..geo };
    let mut disk = Setup::new(geo).start();
    for zone in [5, 63, 64, 200, 298] {
        disk.fill(zone, 4096);
    }
    for page in [1, 7, 63, 64, 126, 299, 300, 1000] {
        let (mut next, mut seen) = (0, 0);
        while next < geo.end() {
            let zones = disk.report(next, page);
            assert!(!zones.is_empty() && zones.len() <= page, "{} zones on a page of {page}", zones.len());
            for zone in &zones {
                assert_eq!((zone.start, zone.cap), (geo.start(seen), geo.cap(seen)), "zone {seen}, pages of {page}");
                let state = match seen {
                    0..5 => State::NotWp,
                    5 | 63 | 64 | 200 | 298 => State::ImplicitOpen,
                    _ => State::Empty,
                };
                assert_eq!((zone.state, zone.conventional), (state, seen < 5), "zone {seen}");
                seen += 1;
            }
            next = geo.start(seen);
        }
        assert_eq!(seen, 300, "zones seen on pages of {page}");
    }
}

#[test]
fn a_report_writes_nothing_behind_its_zones() {
    let mut disk = Disk::small();
    let done = disk.call(&Req::report(disk.geo().start(6), 1024));
    assert_eq!(done.number(), 2);
    let tail = &done.data[64 + 2 * 64..];
    // Zeros are as good as leaving it alone; bytes of the daemon's memory would not be.
    assert!(tail.iter().all(|b| *b == POISON) || tail.iter().all(|b| *b == 0), "{tail:02x?}");
}

#[test]
fn a_report_tells_types_capacities_and_pointers() {
    let mut disk = Disk::small();
    disk.fill(3, 12288);
    assert_ok(disk.open(4));
    disk.fill(5, SMALL.cap);
    let zones = disk.zones();
    for (at, zone) in zones.iter().enumerate() {
        assert_eq!(zone.start, at as u64 * MIB / SECTOR);
        assert_eq!(zone.conventional, at < 2);
        assert_eq!(zone.cap, if at < 2 { MIB } else { SMALL.cap } / SECTOR, "capacity of zone {at}");
    }
    use State::{Empty, ExplicitOpen, Full, ImplicitOpen, NotWp};
    let states: Vec<State> = zones.iter().map(|zone| zone.state).collect();
    assert_eq!(states, [NotWp, NotWp, Empty, ImplicitOpen, ExplicitOpen, Full, Empty, Empty]);
    assert_eq!([zones[2].written(), zones[3].written(), zones[4].written()], [0, 24, 0]);
}

#[test]
fn a_report_while_writes_are_in_flight_shows_a_pointer_that_one_of_them_left() {
    let mut disk = Setup::new(SMALL).queues(2).queue_size(256).start();
    let start = disk.geo().start(4);
    let writes: Vec<_> = (0..48).map(|at| disk.submit(0, &Req::write(start + 8 * at, vec![1; 4096]))).collect();
    let mut last = 0;
    for _ in 0..20 {
        let done = disk.front().call(1, &Req::report(start, 128));
        let written = done.zones()[0].written();
        assert_eq!(written % 8, 0, "a pointer in the middle of a block");
        assert!(written >= last, "the pointer went back from {last} to {written}");
        last = written;
    }
    assert!(disk.front().wait_all(&writes).iter().all(|done| done.status == Status::Ok));
    assert_eq!(disk.zone(4).written(), 48 * 8);
}

#[test]
fn a_report_from_every_sector_into_every_buffer_has_the_zones_that_fit() {
    // Six zones, the last of them short.
    let geo = Geo { size: 5 * 128 * KIB + 64 * KIB, zone: 128 * KIB, cap: 96 * KIB, append: 32 * KIB, ..SMALL };
    let mut disk = Setup::new(geo).start();
    disk.fill(3, 8192);
    let all = disk.zones();
    assert_eq!(all.len(), 6);
    let zone_of = |sector: u64| (sector * SECTOR / geo.zone) as usize;
    for sector in 0..geo.end() {
        assert_eq!(disk.report(sector, 2), all[zone_of(sector)..all.len().min(zone_of(sector) + 2)], "from {sector}");
    }
    for zone in 0..6 {
        for sector in [geo.start(zone), geo.start(zone) + geo.len(zone) - 1] {
            for len in 0..64 * 8 {
                let done = disk.call(&Req::report(sector, len));
                let what = format!("{len} bytes from sector {sector}");
                if len < 64 {
                    assert_eq!((done.status, done.used_len), (Status::InvalidCmd, 1), "{what}");
                    assert!(done.data.iter().all(|b| *b == POISON), "{what}: written in spite of the refusal");
                    continue;
                }
                let count = (len / 64 - 1).min(6 - zone);
                assert_eq!((done.status, done.number()), (Status::Ok, count as u64), "{what}");
                assert_eq!(done.zones(), all[zone..zone + count], "{what}");
                assert!(done.data[64 * (1 + count)..].iter().all(|b| *b == POISON), "{what}: more than zones written");
            }
        }
    }
}
