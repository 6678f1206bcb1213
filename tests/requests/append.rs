//! ZONE_APPEND.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_same, pattern};
use crate::common::request::{Req, State, Status};
use crate::common::{KIB, MIB, SECTOR};

with_each_engine! {
    an_append_lands_at_the_write_pointer_and_says_where,
    appends_in_flight_on_several_queues_never_overlap_or_leave_a_gap,
    appends_fill_a_zone_to_its_capacity_and_no_further,
}

const SEQ: usize = 2;

fn an_append_lands_at_the_write_pointer_and_says_where(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    let start = disk.geo().start(SEQ);
    let mut expected = Vec::new();
    for (tag, len) in [4096, 8192, 4096, 65536].into_iter().enumerate() {
        let data = pattern(tag as u64, 0, len);
        assert_eq!(disk.append(start, &data), Ok(start + expected.len() as u64 / SECTOR));
        expected.extend(data);
    }
    // A plain write goes on where the appends have left the pointer, and the other way round.
    let data = pattern(50, 0, 4096);
    let wp = disk.zone(SEQ).wp;
    assert_eq!(disk.write(wp, &data), Status::Ok);
    expected.extend(&data);
    assert_eq!(disk.append(start, &data), Ok(wp + 8));
    expected.extend(&data);
    assert_same(&disk.read(start, expected.len()).unwrap(), &expected, start);
    assert_eq!(disk.zone(SEQ).written(), expected.len() as u64 / SECTOR);
    disk.finish_clean();
}

/// 32 in flight on each of four queues, all for two zones, sizes mixed.
fn appends_in_flight_on_several_queues_never_overlap_or_leave_a_gap(setup: impl Fn(Geo) -> Setup) {
    let geo = Geo { size: 16 * MIB, zone: 4 * MIB, cap: 3 * MIB, conv: 0, ..SMALL };
    let mut disk = setup(geo).queues(4).queue_size(256).start();
    for round in 0..3 {
        let mut asked = Vec::new();
        disk.front().plug();
        for at in 0..128_u64 {
            let zone = (at / 4 % 2) as usize;
            let data = pattern(1000 * round + at, 0, 4096 * (1 + at as usize % 5));
            let token = disk.submit(at as usize % 4, &Req::append(geo.start(zone), data.clone()));
            asked.push((token, zone, data));
        }
        disk.front().unplug();
        let mut landed: [Vec<(u64, Vec<u8>)>; 2] = Default::default();
        for (token, zone, data) in asked {
            let done = disk.wait(token);
            assert_eq!(done.status, Status::Ok, "append to zone {zone}");
            landed[zone].push((done.number(), data));
        }
        for (zone, mut list) in landed.into_iter().enumerate() {
            list.sort_by_key(|(at, _)| *at);
            let mut next = geo.start(zone);
            for (at, data) in &list {
                assert_eq!(*at, next, "zone {zone}: overlap or gap");
                assert_same(&disk.read(*at, data.len()).unwrap(), data, *at);
                next += data.len() as u64 / SECTOR;
            }
            assert_eq!(disk.zone(zone).wp, next);
            assert_eq!(disk.reset(zone), Status::Ok);
        }
    }
    disk.finish_clean();
}

fn appends_fill_a_zone_to_its_capacity_and_no_further(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).queues(2).queue_size(256).start();
    let start = disk.geo().start(SEQ);
    // 12 appends of 64 KiB fit in 768 KiB; four more are asked for at the same time.
    let tokens: Vec<_> =
        (0..16).map(|tag| disk.submit(tag % 2, &Req::append(start, pattern(tag as u64, 0, 65536)))).collect();
    let done = disk.front().wait_all(&tokens);
    let mut landed: Vec<u64> = done.iter().filter(|d| d.status == Status::Ok).map(|d| d.number()).collect();
    landed.sort_unstable();
    assert_eq!(landed, (0..12).map(|at| start + at * 128).collect::<Vec<_>>());
    assert_eq!(done.iter().filter(|d| d.status == Status::InvalidCmd).count(), 4);
    assert_eq!(disk.state(SEQ), State::Full);
    assert_eq!(disk.append(start, &pattern(1, 0, 4096)), Err(Status::InvalidCmd));
    assert_eq!(disk.state(SEQ + 1), State::Empty);
    disk.finish_clean();
}

#[test]
fn an_append_is_invalid_unless_its_sector_is_the_start_of_a_sequential_zone() {
    let mut disk = Disk::small();
    let geo = disk.geo();
    let data = pattern(1, 0, 4096);
    let start = geo.start(SEQ);
    for at in [start + 1, start + 8, start - 1, 0, 8, geo.start(1), geo.end(), geo.end() + 8, 1 << 50, u64::MAX] {
        assert_eq!(disk.append(at, &data), Err(Status::InvalidCmd), "append at sector {at:#x}");
    }
    assert_eq!(disk.append(start, &data), Ok(start));
    assert_eq!(disk.append(start + 8, &data), Err(Status::InvalidCmd), "the pointer is not the zone's start");
    assert_eq!(disk.zone(SEQ).written(), 8);
}

#[test]
fn an_append_longer_than_the_limit_is_invalid() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let most = disk.config_u32(84) as usize * 512;
    assert_eq!(most as u64, SMALL.append, "max_append_sectors of the configuration");
    assert_eq!(disk.append(start, &vec![1; most + 4096]), Err(Status::InvalidCmd));
    assert_eq!(disk.append(start, &vec![1; 2 * most]), Err(Status::InvalidCmd));
    assert_eq!(disk.state(SEQ), State::Empty);
    assert_eq!(disk.append(start, &vec![1; most]), Ok(start));
}

#[test]
fn the_place_of_an_append_stands_first_in_the_writable_part_however_long_that_is() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    // Linux passes 15 bytes and the status: a number, then seven bytes that nobody uses.
    for (at, in_len) in [8, 15, 16, 64].into_iter().enumerate() {
        let done = disk.call(&Req { in_len, ..Req::append(start, pattern(1, 0, 4096)) });
        assert_eq!((done.status, done.number()), (Status::Ok, start + 8 * at as u64), "{in_len} writable bytes");
    }
}

#[test]
fn the_default_append_limit_is_one_that_linux_accepts() {
    let image = crate::common::cli::Image::create_with(&["64M", "--zone-size", "8M"]);
    let geo = Geo { size: 64 * MIB, zone: 8 * MIB, cap: 8 * MIB, conv: 0, cluster: 64 * KIB, ..SMALL };
    let mut disk = Setup::new(geo).start_on(image);
    let (seg_max, append, granularity) = (disk.config_u32(12), disk.config_u32(84), disk.config_u32(88));
    assert!(append * 512 >= granularity, "at least one block: {append} sectors");
    assert!(append <= seg_max * 8, "what seg_max pages can carry: {append} sectors, {seg_max} segments");
    let data = pattern(3, 0, append as usize * 512);
    assert_eq!(disk.append(geo.start(3), &data), Ok(geo.start(3)));
    assert_same(&disk.read(geo.start(3), data.len()).unwrap(), &data, geo.start(3));
}
