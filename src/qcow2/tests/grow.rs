//! Disks that grow, and processes and power that end in the midst of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::sound::{bases, qemu_check, table_clusters};
use super::support::*;
use crate::qcow2::{Access, ByteOrder, CreateOptions, GrowError, Growth, Image, OpenError, ZonedLayout, grow};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::State;
use crate::zone::Zone;

const ZONE: u64 = 1 << 20;

fn growth(by: u64) -> Growth {
    Growth { by: Bytes(by), fill_last_zone: true, most_zones: 1 << 24 }
}

/// Places on the disk and the sectors there that are not zeros.
type Content = Vec<(u64, Vec<u8>)>;

/// Each zone's pointer as stored, and what is in its range of the disk; zeros are the same as no cluster.
fn zones(file: &MemoryMedium) -> Vec<(u64, Content)> {
    let image = Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap();
    let geometry = *image.geometry();
    let pointers = image.write_pointers().unwrap();
    (0..geometry.nr_zones())
        .map(|zone| {
            let (start, len) = (geometry.start(ZoneIndex(zone)), geometry.len(ZoneIndex(zone)));
            let mut extents = Vec::new();
            image.extents(start, len, &mut extents, usize::MAX).unwrap();
            let sectors = extents.iter().flat_map(|extent| {
                let bytes = read(file, extent.file.0, extent.len.0 as usize);
                let sectors = bytes.chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
                (extent.guest.0..).step_by(512).zip(sectors)
            });
            (pointers[zone as usize].0, sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0)).collect())
        })
        .collect()
}

/// The image is right, has this size, and what was in its zones before is there.
fn assert_grown(file: &MemoryMedium, before: &MemoryMedium, size: u64, leaks: bool, when: &str) {
    let mut image =
        Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(image.header().size.0, size, "{when}");
    let report = image.check().unwrap();
    assert_eq!(report.errors, 0, "{when}: {:?}", report.findings);
    assert!(leaks || report.leaks == 0, "{when}: {:?}", report.leaked);
    let (old, new) = (zones(before), zones(file));
    assert_eq!(old[..], new[..old.len()], "{when}");
    for (zone, (pointer, content)) in new.iter().enumerate().skip(old.len()) {
        assert_eq!((*pointer, content.len()), (zone as u64 * ZONE, 0), "{when}: zone {zone}");
    }
}

/// An image with the last zone short, and written in part of it.
fn short(options: &CreateOptions, layout: ZonedLayout) -> MemoryMedium {
    let mut options = *options;
    options.geometry.size.0 -= ZONE / 2;
    let mut image = open(if layout == ZonedLayout::B { layout_b(&options) } else { image_file(&options) });
    let last = 11 * ZONE;
    image.map(Bytes(last), Bytes(ZONE / 2)).unwrap();
    let at = all_extents(&mut image)[0].file;
    write(&**image.storage(), at.0, &[0x5a; 4096]);
    image.pointer_table().store(ZoneIndex(11), Bytes(last + 4096)).unwrap();
    image.release().unwrap();
    (**image.storage()).clone()
}

/// The image with random data in random places, and random pointers.
fn scattered(file: MemoryMedium, seed: u64) -> MemoryMedium {
    let mut seeded = Seeded(seed);
    let mut image = open(file);
    let (geometry, table) = (*image.geometry(), image.pointer_table());
    for _ in 0..12 {
        let zone = ZoneIndex(seeded.below(geometry.nr_zones().into()) as u32);
        let (start, capacity) = (geometry.start(zone), geometry.capacity(zone).0);
        let from = seeded.below(capacity / 512) * 512;
        let len = (seeded.below(64 << 10) / 512 * 512).min(capacity - from);
        let range = Bytes(start.0 + from);
        image.map(range, Bytes(len)).unwrap();
        let mut extents = Vec::new();
        image.extents(range, Bytes(len), &mut extents, usize::MAX).unwrap();
        for extent in extents {
            let bytes: Vec<u8> = (0..extent.len.0).map(|_| seeded.below(256) as u8).collect();
            write(&**image.storage(), extent.file.0, &bytes);
        }
        table.store(zone, Bytes(start.0 + seeded.below(capacity / 512 + 1) * 512)).unwrap();
    }
    image.release().unwrap();
    (**image.storage()).clone()
}

fn starts() -> Vec<(&'static str, MemoryMedium)> {
    let mut starts: Vec<_> = (1..).zip(bases()).map(|(seed, (name, file))| (name, scattered(file, seed))).collect();
    let little = CreateOptions { table_order: ByteOrder::Little, ..options(12 * ZONE, ZONE, 4096) };
    starts.push(("4K, little-endian, short last zone", short(&little, ZonedLayout::V7)));
    starts.push(("64K, layout B, short last zone", short(&small(), ZonedLayout::B)));
    starts.push(("2M, larger than a zone", scattered(image_file(&options(12 * ZONE, ZONE, 2 << 20)), 9)));
    starts.push(("64K, ended in order", image_file(&small())));
    starts
}

fn size_of(file: &MemoryMedium) -> u64 {
    read_u64(file, 24)
}

/// The size of a disk that grows by so many zones.
fn grown_size(file: &MemoryMedium, zones: u64) -> u64 {
    size_of(file).next_multiple_of(ZONE) + zones * ZONE
}

#[test]
fn a_disk_grows_by_any_number_of_zones_and_all_that_was_there_stays() {
    for (name, start) in starts() {
        // Tables stay where they are, move, need further refcount blocks, and a larger refcount table.
        for zones in [1, 5, 52, 200, 5000] {
            let when = format!("{name}, {zones} zones");
            let storage = Arc::new(start.clone());
            let geometry = match grow(&storage, &growth(zones * ZONE)) {
                Ok(geometry) => geometry,
                Err(error) => panic!("{when}: {error}"),
            };
            let size = grown_size(&start, zones);
            assert_eq!((geometry.size().0, u64::from(geometry.nr_zones())), (size, size / ZONE), "{when}");
            assert_grown(&storage, &start, size, false, &when);
            let image = Image::open(Arc::clone(&storage), Access::ReadOnly).unwrap();
            let was = Image::open(Arc::new(start.clone()), Access::ReadOnly).unwrap();
            assert_eq!((image.table_order(), image.zoned().layout), (was.table_order(), was.zoned().layout), "{when}");
            assert_eq!(image.ended_orderly(), was.ended_orderly(), "{when}");
            if zones <= 200 {
                assert_eq!(qemu_check(&storage), Some((0, table_clusters(&storage))), "{when}");
            }
            // The new zones are written like any.
            let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
            image.map(Bytes(size - ZONE), Bytes(ZONE)).unwrap();
            image.pointer_table().store(ZoneIndex(geometry.nr_zones() - 1), Bytes(size - ZONE + 512)).unwrap();
            image.release().unwrap();
            drop(image);
            assert!(grow(&storage, &growth(ZONE)).is_ok(), "{when}: again");
            let report = check(&storage).unwrap();
            assert_eq!((report.errors, report.leaks), (0, 0), "{when}: again");
        }
    }
}

#[test]
fn a_process_that_dies_and_power_that_goes_at_any_step_leave_the_old_size_or_the_new_one() {
    for (name, start) in starts() {
        for zones in [3, 600] {
            let (old, new) = (size_of(&start), grown_size(&start, zones));
            let mut seen = [0, 0];
            for dies_at in 0.. {
                let storage = Arc::new(Powered::new(&start));
                storage.dies_at.store(dies_at, Ordering::Relaxed);
                let result = grow(&storage, &growth(zones * ZONE));
                let survives = |file: MemoryMedium, how: &str| {
                    let when = format!("{name}, {zones} zones, dead at step {dies_at}, {how}");
                    let looked = Image::open(Arc::new(file.clone()), Access::ReadOnly).err();
                    assert!(looked.is_none_or(|error| matches!(error, OpenError::HalfChanged)), "{when}");
                    let opened = Image::open(Arc::new(file), Access::ReadWrite);
                    let opened = opened.unwrap_or_else(|error| panic!("{when}: {error}"));
                    assert_eq!(opened.changed_by(), None, "{when}: that is no loss of the disk's power");
                    let file = (**opened.storage()).clone();
                    let size = size_of(&file);
                    assert!(size == old || size == new, "{when}: {size}");
                    assert!(size == new || result.is_err(), "{when}: what was promised is not there");
                    assert_grown(&file, &start, size, true, &when);
                    size == new
                };
                let killed = survives(storage.after_kill(), "killed");
                seen[usize::from(killed)] += 1;
                for loss in 0..4 {
                    let mut seeded = Seeded(loss * 1000 + dies_at as u64);
                    survives(storage.after_power_loss(&mut seeded), &format!("power loss {loss}"));
                }
                if storage.steps.load(Ordering::Relaxed) <= dies_at {
                    assert!(result.is_ok());
                    break;
                }
            }
            assert!(seen.iter().all(|count| *count > 1), "{name}: {seen:?}");
        }
    }
}

#[test]
fn a_step_that_fails_leaves_the_old_size_or_the_new_one_and_can_be_repeated() {
    for (name, start) in starts() {
        for left in 0.. {
            let when = format!("{name}, a failure after {left}");
            let storage = Failing { inner: start.clone(), left: left.into(), failures: 1.into(), longest: None };
            let storage = Arc::new(storage);
            let result = grow(&storage, &growth(200 * ZONE));
            let never = storage.failures.load(Ordering::Relaxed) == 1;
            storage.left.store(-1, Ordering::Relaxed);
            drop(
                Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap_or_else(|error| panic!("{when}: {error}")),
            );
            let size = size_of(&storage.inner);
            let (old, new) = (size_of(&start), grown_size(&start, 200));
            assert!(size == old || size == new, "{when}: {size}");
            assert!(result.is_err() || size == new, "{when}");
            assert_grown(&storage.inner, &start, size, true, &when);
            if size == old {
                grow(&storage, &growth(200 * ZONE)).unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_grown(&storage.inner, &start, new, true, &when);
            }
            if never {
                break;
            }
        }
    }
}

#[test]
fn what_a_disk_cannot_grow_by_is_refused_by_its_reason_and_nothing_is_written() {
    let mut large = options(12 * ZONE, ZONE, 512);
    large.geometry.max_open_zones = 0;
    let whole = image_file(&small());
    let more_metadata = image_file(&small());
    write(&more_metadata, extension_at(&more_metadata) + 32, &104u64.to_be_bytes());
    let cases: [(MemoryMedium, Growth, &str); 8] = [
        (whole.clone(), growth(0), "the disk is to grow by 0 bytes: expected whole zones, a multiple of 1048576 bytes"),
        (whole.clone(), growth(ZONE + 512), "the disk is to grow by 1049088 bytes: expected whole zones"),
        (
            short(&small(), ZonedLayout::V7),
            Growth { fill_last_zone: false, ..growth(ZONE) },
            "the last zone, 11, is 524288 bytes long: expected it to be whole, 1048576 bytes",
        ),
        (whole.clone(), Growth { most_zones: 12, ..growth(ZONE) }, "the disk would have 13 zones: expected at most 12"),
        (image_file(&large), growth(1 << 37), "with clusters of 512 bytes the L1 table would exceed its limit"),
        (foreign_file(12, 6, 12 * ZONE, ZONE), growth(4 << 40), "with clusters of 4096 bytes the refcount table"),
        (more_metadata, growth(ZONE), "zonedmeta_size is 104: expected 96, 8 bytes a zone"),
        (whole, growth(1 << 62), "zone_size is 1048576: expected zones large enough"),
    ];
    for (start, growth, expected) in cases {
        let storage = Arc::new(Powered::new(&start));
        let error = grow(&storage, &growth).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(storage.steps.load(Ordering::Relaxed), 0, "{error}: something was written");
    }
    let error = grow(&Arc::new(MemoryMedium::default()), &growth(ZONE)).unwrap_err();
    assert!(matches!(error, GrowError::Open(_)), "{error}");
}

#[test]
fn a_last_zone_that_becomes_whole_keeps_its_pointer_and_shows_zeros_behind_its_old_end() {
    for (layout, finished, state) in [
        (ZonedLayout::V7, true, State::Full),
        (ZonedLayout::V7, false, State::Closed),
        (ZonedLayout::B, true, State::Closed),
        (ZonedLayout::B, false, State::Closed),
    ] {
        let file = short(&small(), layout);
        let image = open(file);
        let end = 11 * ZONE + ZONE / 2;
        let table = image.pointer_table();
        let pointer = if finished { table.full_pointer(ZoneIndex(11)) } else { Bytes(end) };
        table.store(ZoneIndex(11), pointer).unwrap();
        // Another program has left something in a cluster of the zone behind the end of the disk.
        let storage = Arc::clone(image.storage());
        let l2 = read_u64(&*storage, image.header().l1_table_offset.0) & 0x00ff_ffff_ffff_fe00;
        let behind = end / 65536;
        drop(image);
        let mut other = open((*storage).clone());
        other.refill(Bytes(65536)).unwrap();
        let place = other.reserve.take(1).start * 65536;
        let file = (**other.storage()).clone();
        drop(other);
        write(&file, l2 + behind * 8, &(place | 1 << 63).to_be_bytes());
        write(&file, place, &[9; 65536]);
        let storage = Arc::new(file);
        let geometry = grow(&storage, &growth(0)).unwrap();
        assert_eq!(geometry.size(), Bytes(12 * ZONE));
        let image = Image::open(Arc::clone(&storage), Access::ReadOnly).unwrap();
        let now = image.write_pointers().unwrap()[11];
        assert_eq!((now, Zone::from_pointer(&geometry, ZoneIndex(11), now).state()), (pointer, state));
        let mut extents = Vec::new();
        image.extents(Bytes(end), Bytes(ZONE / 2), &mut extents, usize::MAX).unwrap();
        assert_eq!(extents.len(), 1);
        let mut bytes = vec![1; 65536];
        storage.read_at(FileOffset(extents[0].file.0), &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
