//! The configuration space.

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::feature;
use crate::common::request::{State, Status};
use crate::common::{KIB, MIB};

/// All 96 bytes.
const LEN: u32 = 96;

#[test]
fn the_configuration_describes_the_image() {
    for (block, queues) in [(512_u32, 1), (4096, 3)] {
        let geo = Geo { open: 3, active: 5, ..SMALL };
        let mut disk = Setup::new(geo).queues(queues).args(&["--block-size", &block.to_string()]).start();
        let config = disk.config(0, LEN);
        let u64_at = |at: usize| u64::from_le_bytes(config[at..at + 8].try_into().unwrap());
        let u32_at = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
        assert_eq!(u64_at(0), geo.size / 512, "capacity");
        let seg_max = u32_at(12);
        assert!(seg_max >= 126, "seg_max is {seg_max}");
        assert_eq!(u32_at(20), block, "blk_size");
        assert_eq!(config[32], 1, "writeback");
        assert_eq!(u32::from(u16::from_le_bytes([config[34], config[35]])), queues, "num_queues");
        assert_eq!(u32_at(72), 2048, "zone_sectors");
        assert_eq!((u32_at(76), u32_at(80)), (3, 5), "max_open_zones, max_active_zones");
        assert_eq!(u32_at(84), 128, "max_append_sectors");
        assert_eq!(u32_at(88), block, "write_granularity");
        assert_eq!(config[92], 1, "model: host-managed");
        // What is offered for devices that can discard or erase, and padding.
        assert_eq!((config[33], &config[36..72], &config[93..]), (0, &[0; 36][..], &[0; 3][..]));
    }
}

#[test]
fn any_range_of_the_configuration_is_exactly_those_bytes() {
    let mut disk = Disk::small();
    let whole = disk.config(0, LEN);
    for offset in 0..LEN {
        for size in [1, 2, 4, 8, LEN - offset] {
            let end = (offset + size).min(LEN);
            let mut expected = whole[offset as usize..end as usize].to_vec();
            expected.resize(size as usize, 0);
            assert_eq!(disk.config(offset, size), expected, "{size} bytes at {offset}");
        }
    }
    // What frontends ask for; what is past the end is zeros.
    for size in [57, 60, 96, 97, 200, 256] {
        let mut expected = whole.clone();
        expected.resize(size, 0);
        assert_eq!(disk.config(0, size as u32), expected, "{size} bytes at 0");
    }
    assert_eq!(disk.config(100, 4), [0; 4]);
    assert_eq!(disk.config(255, 1), [0]);
}

#[test]
fn the_cache_mode_is_the_one_asked_for_and_can_be_switched() {
    for cache in ["writeback", "none"] {
        let mut disk = Setup::new(SMALL).args(&["--cache", cache]).start();
        assert_eq!(disk.config(32, 1), [1], "--cache {cache}");
        for value in [1, 0, 0, 1] {
            disk.front().conn.set_config(32, &[value]).unwrap_or_else(|e| panic!("writeback = {value}: {e}"));
            assert_eq!(disk.config(32, 1), [value]);
            disk.assert_works();
            assert_eq!(disk.flush(), Status::Ok);
        }
        // A driver that is new starts with what was asked for.
        disk.front().conn.set_config(32, &[0]).unwrap();
        disk.front().reset_device().unwrap();
        assert_eq!(disk.config(32, 1), [1], "after a device reset");
    }
}

#[test]
fn a_disk_that_is_write_through_by_its_command_line_stays_so() {
    let mut disk = Setup::new(SMALL).args(&["--cache", "writethrough"]).start();
    for value in [0, 1, 0] {
        disk.front().conn.set_config(32, &[value]).unwrap_or_else(|e| panic!("writeback = {value}: {e}"));
        assert_eq!(disk.config(32, 1), [0]);
        disk.assert_works();
    }
    assert_eq!(disk.flush(), Status::Ok);
}

#[test]
fn writing_back_the_whole_configuration_unchanged_costs_nothing() {
    let mut disk = Disk::small();
    let mut whole = disk.config(0, LEN);
    disk.front().conn.set_config(0, &whole).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(disk.config(0, LEN), whole);
    // The same with the one byte that may change.
    whole[32] = 0;
    disk.front().conn.set_config(0, &whole).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(disk.config(0, LEN), whole);
    disk.assert_works();
}

#[test]
fn no_other_field_can_be_written() {
    let mut disk = Disk::small();
    let before = disk.config(0, LEN);
    for offset in (0..LEN).filter(|at| *at != 32) {
        // Ignored or refused, also by hanging up.
        let refused = disk.front().conn.set_config(offset, &[0xff ^ before[offset as usize]]).is_err();
        if refused {
            disk.reconnect();
        }
        assert_eq!(disk.config(0, LEN), before, "after a write at {offset}");
    }
    disk.assert_works();
}

#[test]
fn a_short_last_zone_counts_and_a_large_disk_is_described() {
    let geo = Geo { size: 5 * MIB + 512 * KIB, conv: 0, ..SMALL };
    let mut disk = Setup::new(geo).start();
    assert_eq!(disk.config(0, 8), (geo.size / 512).to_le_bytes());
    assert_eq!(disk.zones().len(), 6);
    // 16 TiB in zones of 2 GiB.
    let tib = 1 << 40;
    let geo = Geo { size: 16 * tib, zone: 2048 * MIB, cap: 2048 * MIB, conv: 0, ..SMALL };
    let mut disk = Setup::new(geo).start();
    assert_eq!(disk.config(0, 8), (16 * tib / 512).to_le_bytes());
    assert_eq!(disk.config_u32(72), 4 << 20);
    let zones = disk.report(geo.end() - 1, 5);
    assert_eq!((zones.len(), zones[0].start), (1, geo.start(8191)));
    disk.assert_works();
}

#[test]
fn what_is_not_offered_is_zero_and_blocks_have_no_offset() {
    for block in [512_u32, 4096] {
        let mut disk = Setup::new(SMALL).args(&["--block-size", &block.to_string()]).start();
        assert_eq!(disk.front().offered & (feature::SIZE_MAX | 1 << 4), 0, "SIZE_MAX, GEOMETRY");
        assert_eq!(disk.config_u32(8), 0, "size_max");
        assert_eq!(disk.config(16, 4), [0; 4], "geometry");
        // A physical block is a logical one, the first begins at 0, and I/O may be as small as one.
        assert_eq!(disk.config(24, 4), [0, 0, 1, 0], "physical_block_exp, alignment_offset, min_io_size");
        assert_eq!(disk.config_u32(28), 0, "opt_io_size");
    }
}

/// Linux's own checks (drivers/block/virtio_blk.c and block/blk-zoned.c): a disk that fails one does not appear.
#[test]
fn configuration_and_report_pass_the_checks_of_linux_on_every_geometry() {
    let whole = Geo { cap: MIB, ..SMALL };
    let geometries = [
        SMALL,
        whole,
        Geo { conv: 0, ..SMALL },
        Geo { conv: 7, ..whole },
        Geo { size: 4 * MIB + 256 * KIB, conv: 1, ..SMALL },
        Geo { size: 4 * MIB + 832 * KIB, conv: 0, ..SMALL },
        Geo { size: MIB, conv: 0, ..SMALL },
        Geo { open: 2, active: 3, append: 4 * KIB, ..SMALL },
        Geo { open: 2, active: 3, append: 1000 * KIB, ..whole },
    ];
    for geo in geometries {
        for block in ["512", "4096"] {
            let mut disk = Setup::new(geo).args(&["--block-size", block]).start();
            let [zone, open, active, append, granularity] = [72, 76, 80, 84, 88].map(|at| disk.config_u32(at));
            let capacity = u64::from_le_bytes(disk.config(0, 8).try_into().unwrap());
            let what = format!("{geo:?}, blocks of {block}");
            assert!(zone.is_power_of_two(), "{what}: {zone} sectors in a zone");
            assert!(granularity != 0 && append != 0 && granularity <= append * 512, "{what}: {granularity}, {append}");
            assert!(append <= disk.config_u32(12) * 8, "{what}: an append of {append} sectors in segments of a page");
            assert!(active == 0 || open <= active, "{what}: {open} open, {active} active");
            let (zones, mut next) = (disk.zones(), 0);
            assert!(zones.iter().any(|zone| !zone.conventional), "{what}: no sequential zone");
            for (at, found) in zones.iter().enumerate() {
                let len = u64::from(zone).min(capacity - next);
                assert_eq!(found.start, next, "{what}: zone {at} does not begin where the last one ends");
                assert!(len == u64::from(zone) || at + 1 == zones.len(), "{what}: zone {at} is short");
                if found.conventional {
                    assert_eq!((found.cap, found.state), (len, State::NotWp), "{what}: zone {at}");
                } else {
                    assert!(found.cap > 0 && found.cap <= len, "{what}: capacity of zone {at}");
                    let last = at + 1 == zones.len();
                    assert!(last || found.cap == geo.cap / 512, "{what}: capacity of zone {at}");
                }
                next += len;
            }
            assert_eq!(next, capacity, "{what}: the zones do not fill the disk");
        }
    }
}
