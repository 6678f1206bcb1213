//! IN and OUT.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{Req, State, Status};
use crate::common::{KIB, MIB, SECTOR};

with_each_engine! {
    sequential_writes_land_at_the_write_pointer_and_read_back,
    pipelined_writes_in_one_zone_all_land,
    reads_beyond_the_write_pointer_are_zeros,
    after_a_reset_nothing_of_the_earlier_generation_is_read,
    conventional_zones_are_written_anywhere_in_any_order,
    one_request_can_fill_and_read_a_whole_zone,
    any_cluster_size_holds_the_data,
}

/// The first zone of [`SMALL`] that is written in sequence.
const SEQ: usize = 2;

/// Sectors in a block of 4096 bytes.
const BLOCK: u64 = 8;

fn sequential_writes_land_at_the_write_pointer_and_read_back(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    let start = disk.geo().start(SEQ);
    let mut all = Vec::new();
    for (tag, len) in [4096, 8192, 64 * 1024, 4096, 20480, 131_072].into_iter().enumerate() {
        let at = start + all.len() as u64 / SECTOR;
        let data = pattern(tag as u64, 0, len);
        assert_ok(disk.write(at, &data));
        all.extend(data);
        let zone = disk.zone(SEQ);
        assert_eq!((zone.state, zone.written()), (State::ImplicitOpen, all.len() as u64 / SECTOR));
    }
    assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
    // Any part of it, also from the middle of a block.
    for (first, count) in [(1, 1), (3, 17), (127, 130)] {
        let expected = &all[(first * SECTOR) as usize..((first + count) * SECTOR) as usize];
        assert_same(&disk.read(start + first, expected.len()).unwrap(), expected, start + first);
    }
    disk.finish_clean();
}

fn pipelined_writes_in_one_zone_all_land(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).queue_size(256).start();
    let start = disk.geo().start(SEQ);
    let data = |at: u64| pattern(at, 0, 4096);
    // 64 in flight, each at the pointer that the ones before it will leave.
    let tokens: Vec<_> = (0..64).map(|at| disk.submit(0, &Req::write(start + at * BLOCK, data(at)))).collect();
    for (at, done) in disk.front().wait_all(&tokens).iter().enumerate() {
        assert_eq!(done.status, Status::Ok, "write {at} of the pipeline");
    }
    assert_eq!(disk.zone(SEQ).written(), 64 * BLOCK);
    let all: Vec<u8> = (0..64).flat_map(data).collect();
    assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
    disk.finish_clean();
}

fn reads_beyond_the_write_pointer_are_zeros(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    let start = disk.geo().start(SEQ);
    let zone_len = disk.geo().zone as usize;
    assert_eq!(disk.read(start, zone_len).unwrap(), vec![0; zone_len], "an empty zone");
    let mut expected = pattern(7, 0, 12288);
    assert_ok(disk.write(start, &expected));
    expected.resize(zone_len, 0);
    // Across the pointer, across the capacity, up to the end of the zone, in one request and in single sectors.
    assert_same(&disk.read(start, zone_len).unwrap(), &expected, start);
    let gap = disk.geo().cap / SECTOR;
    for at in [23, 24, 25, gap - 1, gap, gap + 1, 2 * MIB / SECTOR / 2 - 1] {
        let sector = &expected[(at * SECTOR) as usize..((at + 1) * SECTOR) as usize];
        assert_same(&disk.read(start + at, 512).unwrap(), sector, start + at);
    }
}

fn after_a_reset_nothing_of_the_earlier_generation_is_read(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    let (start, zone_len) = (disk.geo().start(SEQ), disk.geo().zone as usize);
    for round in 0..3_u64 {
        disk.fill(SEQ, SMALL.cap);
        assert_eq!(disk.state(SEQ), State::Full);
        assert_ok(disk.reset(SEQ));
        assert_eq!(disk.read(start, zone_len).unwrap(), vec![0; zone_len], "after reset {round}");
        let mut expected = pattern(100 + round, 0, 4096);
        assert_ok(disk.write(start, &expected));
        expected.resize(zone_len, 0);
        assert_same(&disk.read(start, zone_len).unwrap(), &expected, start);
        assert_ok(disk.finish(SEQ));
        assert_same(&disk.read(start, zone_len).unwrap(), &expected, start);
        assert_ok(disk.reset(SEQ));
    }
    disk.finish_clean();
}

fn conventional_zones_are_written_anywhere_in_any_order(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(Geo { open: 1, active: 1, ..SMALL }).start();
    let len = 2 * MIB as usize;
    let mut expected = vec![0; len];
    assert_eq!(disk.read(0, len).unwrap(), expected);
    let mut put = |disk: &mut Disk, sector: u64, data: &[u8]| {
        assert_ok(disk.write(sector, data));
        let at = (sector * SECTOR) as usize;
        expected[at..at + data.len()].copy_from_slice(data);
    };
    // Backwards, over what is there, single sectors, across the border between two of them, up to their end.
    for (tag, (sector, len)) in
        [(2048, 8192), (512, 65536), (520, 4096), (3, 512), (2040, 8192), (4088, 4096), (0, 131_072), (100, 1536)]
            .into_iter()
            .enumerate()
    {
        put(&mut disk, sector, &pattern(tag as u64, 0, len));
    }
    assert_same(&disk.read(0, len).unwrap(), &expected, 0);
    for zone in disk.report(0, 2) {
        assert_eq!((zone.state, zone.conventional, zone.cap), (State::NotWp, true, MIB / SECTOR));
    }
    // The limit of one open zone is still there for a sequential zone.
    assert_ok(disk.write(disk.geo().start(SEQ), &pattern(1, 0, 4096)));
    disk.finish_clean();
}

fn one_request_can_fill_and_read_a_whole_zone(setup: impl Fn(Geo) -> Setup) {
    let geo = Geo { size: 16 * MIB, zone: 4 * MIB, cap: 4 * MIB, conv: 0, ..SMALL };
    let mut disk = setup(geo).start();
    let data = pattern(5, 0, 4 * MIB as usize);
    assert_ok(disk.write(geo.start(1), &data));
    assert_eq!(disk.state(1), State::Full);
    assert_same(&disk.read(geo.start(1), data.len()).unwrap(), &data, geo.start(1));
    disk.finish_clean();
}

fn any_cluster_size_holds_the_data(setup: impl Fn(Geo) -> Setup) {
    for cluster in [512, 4 * KIB, 128 * KIB, 2 * MIB] {
        let mut disk = setup(Geo { cluster, ..SMALL }).start();
        let geo = disk.geo();
        let data = pattern(cluster, 0, 300 * KIB as usize / 4096 * 4096);
        for zone in [0, 2, 5, 7] {
            assert_ok(disk.write(geo.start(zone), &data));
        }
        assert_ok(disk.reset(5));
        for zone in [0, 2, 7] {
            assert_same(&disk.read(geo.start(zone), data.len()).unwrap(), &data, geo.start(zone));
        }
        assert_eq!(disk.read(geo.start(5), data.len()).unwrap(), vec![0; data.len()]);
        disk.finish_clean();
    }
}

#[test]
fn a_write_elsewhere_than_at_the_write_pointer_is_unaligned_and_writes_nothing() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let data = pattern(1, 0, 4096);
    for at in [BLOCK, 1, 100 * BLOCK] {
        assert_eq!(disk.write(start + at, &data), Status::UnalignedWp, "empty zone, {at} sectors from its start");
        assert_eq!(disk.state(SEQ), State::Empty);
    }
    let kept = pattern(2, 0, 8192);
    assert_ok(disk.write(start, &kept));
    let before = disk.zones();
    for at in [0, BLOCK, 2 * BLOCK - 1, 2 * BLOCK + 1, 3 * BLOCK] {
        assert_eq!(disk.write(start + at, &data), Status::UnalignedWp, "pointer at 16, write at {at}");
    }
    assert_eq!(disk.zones(), before, "refused writes have changed zones");
    let mut expected = kept;
    expected.resize(65536, 0);
    assert_same(&disk.read(start, 65536).unwrap(), &expected, start);
}

#[test]
fn a_misplaced_write_in_a_pipeline_fails_alone() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let offsets = [0, 8, 24, 16, 16, 24];
    let tokens = offsets.map(|at| disk.submit(0, &Req::write(start + at, pattern(at, 0, 4096))));
    let statuses: Vec<Status> = disk.front().wait_all(&tokens).iter().map(|done| done.status).collect();
    use Status::{Ok, UnalignedWp};
    assert_eq!(statuses, [Ok, Ok, UnalignedWp, Ok, UnalignedWp, Ok]);
    let all: Vec<u8> = [0, 8, 16, 24].iter().flat_map(|at| pattern(*at, 0, 4096)).collect();
    assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
}

#[test]
fn a_write_or_append_that_ends_off_the_write_granularity_is_unaligned() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    assert_ok(disk.write(start, &pattern(1, 0, 4096)));
    for len in [512, 3584, 4608] {
        assert_eq!(disk.write(start + BLOCK, &pattern(2, 0, len)), Status::UnalignedWp, "write of {len} bytes");
        assert_eq!(disk.append(start, &pattern(2, 0, len)), Err(Status::UnalignedWp), "append of {len} bytes");
    }
    assert_eq!(disk.zone(SEQ).written(), BLOCK);
}

#[test]
fn with_a_block_size_of_512_single_sectors_are_written() {
    let mut disk = Setup::new(SMALL).args(&["--block-size", "512"]).start();
    let start = disk.geo().start(SEQ);
    let data = pattern(3, 0, 10 * 512);
    for (at, sector) in data.chunks(512).enumerate() {
        assert_ok(disk.write(start + at as u64, sector));
    }
    assert_eq!(disk.append(start, &pattern(4, 0, 1536)), Ok(start + 10));
    assert_eq!(disk.zone(SEQ).written(), 13);
    assert_same(&disk.read(start, data.len()).unwrap(), &data, start);
    disk.finish_clean();
}

#[test]
fn a_write_or_append_past_the_capacity_is_invalid() {
    let mut disk = Disk::small();
    let (start, cap) = (disk.geo().start(SEQ), SMALL.cap);
    assert_eq!(disk.write(start, &pattern(1, 0, (cap + 4096) as usize)), Status::InvalidCmd, "an empty zone");
    assert_eq!(disk.state(SEQ), State::Empty);
    disk.fill(SEQ, cap - 4096);
    let wp = disk.zone(SEQ).wp;
    assert_eq!(disk.write(wp, &pattern(1, 0, 8192)), Status::InvalidCmd, "write");
    assert_eq!(disk.append(start, &pattern(1, 0, 8192)), Err(Status::InvalidCmd), "append");
    assert_eq!(disk.zone(SEQ).wp, wp);
    let last = pattern(9, 0, 4096);
    assert_ok(disk.write(wp, &last));
    assert_eq!(disk.state(SEQ), State::Full);
    assert_same(&disk.read(wp, 4096).unwrap(), &last, wp);
}

#[test]
fn a_write_into_the_next_zone_is_invalid() {
    let geo = Geo { cap: MIB, ..SMALL };
    let mut disk = Setup::new(geo).start();
    disk.fill(SEQ, MIB - 4096);
    let wp = disk.zone(SEQ).wp;
    assert_eq!(disk.write(wp, &pattern(1, 0, 8192)), Status::InvalidCmd, "from a sequential zone");
    assert_eq!(disk.write(geo.start(SEQ) - BLOCK, &pattern(1, 0, 8192)), Status::InvalidCmd, "from a conventional one");
    assert_eq!(disk.state(SEQ + 1), State::Empty);
    assert_eq!(disk.read(geo.start(SEQ) - BLOCK, 4096).unwrap(), vec![0; 4096], "nothing of it was written");
}

#[test]
fn a_write_or_append_to_a_full_zone_is_invalid() {
    let mut disk = Disk::small();
    disk.fill(SEQ, SMALL.cap);
    disk.fill(SEQ + 1, 4096);
    assert_ok(disk.finish(SEQ + 1));
    for (zone, written) in [(SEQ, SMALL.cap), (SEQ + 1, 4096)] {
        let start = disk.geo().start(zone);
        assert_eq!(disk.state(zone), State::Full);
        for at in [start, start + written / SECTOR, start + SMALL.cap / SECTOR] {
            assert_eq!(disk.write(at, &pattern(1, 0, 4096)), Status::InvalidCmd, "zone {zone}, sector {at:#x}");
        }
        assert_eq!(disk.append(start, &pattern(1, 0, 4096)), Err(Status::InvalidCmd));
    }
    assert_eq!(disk.state(SEQ + 2), State::Empty, "the zone behind a full one");
}

#[test]
fn a_read_across_the_border_of_a_sequential_zone_is_invalid() {
    let mut disk = Disk::small();
    let geo = disk.geo();
    disk.fill(SEQ, 4096);
    assert_eq!(disk.read(geo.start(SEQ + 1) - 1, 1024), Err(Status::InvalidCmd), "two sequential zones");
    assert_eq!(disk.read(geo.start(SEQ), MIB as usize + 512), Err(Status::InvalidCmd), "a zone and one sector");
    assert_eq!(disk.read(geo.start(SEQ) - 1, 1024), Err(Status::InvalidCmd), "a conventional and a sequential zone");
    assert_eq!(disk.read(geo.start(1) - 1, 1024).unwrap(), vec![0; 1024], "two conventional zones");
}

#[test]
fn reads_and_writes_beyond_the_device_are_errors() {
    let mut disk = Disk::small();
    let end = disk.geo().end();
    for sector in [end, end + 1, 1 << 40, u64::MAX >> 9, u64::MAX] {
        assert_eq!(disk.read(sector, 4096), Err(Status::IoErr), "read at {sector:#x}");
        assert_eq!(disk.write(sector, &[1; 4096]), Status::IoErr, "write at {sector:#x}");
    }
    assert_eq!(disk.read(end - 1, 1024), Err(Status::IoErr), "read across the end");
    assert_eq!(disk.write(end - 1, &[1; 1024]), Status::IoErr, "write across the end");
    disk.assert_works();
}

#[test]
fn data_that_is_not_whole_sectors_is_an_error() {
    let mut disk = Disk::small();
    for len in [1, 511, 513, 4095] {
        for zone in [0, SEQ] {
            let start = disk.geo().start(zone);
            assert_eq!(disk.call(&Req::read(start, len)).status, Status::IoErr, "read of {len} bytes");
            assert_eq!(disk.write(start, &vec![1; len]), Status::IoErr, "write of {len} bytes");
        }
        let start = disk.geo().start(SEQ);
        let appended = disk.append(start, &vec![1; len]);
        assert!(matches!(appended, Err(Status::IoErr | Status::UnalignedWp)), "append of {len} bytes: {appended:?}");
    }
    assert_eq!(disk.state(SEQ), State::Empty);
    assert_eq!(disk.read(0, 8192).unwrap(), vec![0; 8192]);
}

#[test]
fn requests_without_data_change_nothing() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    for req in [Req::read(start, 0), Req::write(start, []), Req::append(start, [])] {
        let status = disk.call(&req).status;
        assert!(!matches!(status, Status::Untouched | Status::Unknown(_)), "type {}: {status:?}", req.kind);
    }
    assert_eq!(disk.state(SEQ), State::Empty);
    disk.assert_works();
}

#[test]
fn the_reserved_field_of_the_header_is_ignored() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let data = pattern(1, 0, 4096);
    for req in [Req::write(start, data.clone()), Req::read(start, 4096), Req::finish(start)] {
        let done = disk.call(&Req { reserved: 0xffff_ffff, ..req });
        assert_eq!(done.status, Status::Ok);
    }
}

#[test]
fn a_finish_makes_the_unwritten_rest_zeros() {
    let mut disk = Disk::small();
    let (start, zone_len) = (disk.geo().start(SEQ), disk.geo().zone as usize);
    // Clusters that held data before, so that something could shine through.
    disk.fill(SEQ, SMALL.cap);
    assert_ok(disk.reset(SEQ));
    let mut expected = pattern(4, 0, 20480);
    assert_ok(disk.write(start, &expected));
    assert_ok(disk.finish(SEQ));
    expected.resize(zone_len, 0);
    assert_same(&disk.read(start, zone_len).unwrap(), &expected, start);
    disk.restart();
    assert_same(&disk.read(start, zone_len).unwrap(), &expected, start);
    assert_eq!(disk.state(SEQ), State::Full);
    disk.finish_clean();
}

#[test]
fn a_short_last_zone_takes_what_is_left_of_the_device() {
    for last in [256 * KIB, 768 * KIB, 960 * KIB] {
        let geo = Geo { size: 4 * MIB + last, conv: 1, ..SMALL };
        let mut disk = Setup::new(geo).start();
        let zone = disk.zone(4);
        let cap = last.min(SMALL.cap);
        assert_eq!((zone.start, zone.cap), (geo.start(4), cap / SECTOR), "last zone of {last} bytes");
        assert_eq!(disk.zones().len(), 5);
        // Past the capacity is invalid; past the device as well is an input/output error.
        let expected = if cap + 4096 > last { Status::IoErr } else { Status::InvalidCmd };
        assert_eq!(disk.write(zone.start, &vec![1; cap as usize + 4096]), expected, "last zone of {last} bytes");
        disk.fill(4, cap);
        assert_eq!(disk.state(4), State::Full);
        assert_eq!(disk.read(zone.start, last as usize).unwrap().len(), last as usize);
        assert_ok(disk.reset(4));
        assert_ok(disk.finish(4));
        assert_eq!(disk.state(4), State::Full);
        disk.restart();
        assert_eq!(disk.state(4), State::Full);
        assert_ok(disk.reset(4));
        assert_eq!(disk.zone(4), zone);
        disk.finish_clean();
    }
}
