//! Entries of the write-pointer table that are wrong: named with their zone, listed by a check, settled on request.

use std::sync::Arc;

use super::sound::*;
use super::support::*;
use crate::fuzzing::Metered;
use crate::qcow2::{Access, ByteOrder, CreateOptions, FindingKind, Image, PointerFault, Pointers, ZonedLayout};
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, ZoneIndex};

fn damaged(at: u64, bytes: &[u8]) -> MemoryMedium {
    let file = image_file(&small());
    write(&file, at, bytes);
    file
}

#[test]
fn write_pointers_out_of_place_are_named_with_their_zone() {
    let conventional = 1u64 << 59;
    let cases: &[(u64, u64, &str)] = &[
        (3, 0x2ff000, "the write pointer of zone 3 is 0x2ff000: expected 0x300000 to 0x400000, inside the zone"),
        (3, 0x400200, "the write pointer of zone 3 is 0x400200: expected 0x300000 to 0x400000"),
        (3, 0x300100, "the write pointer of zone 3 is 0x300100: expected a multiple of 512"),
        (3, 0x300000 | conventional, "the write pointer of zone 3 is 0x800000000300000: expected bit 59 clear"),
        (0, 0, "the write pointer of zone 0 is 0x0: expected bit 59 set, as zone 0 is conventional"),
        (11, u64::MAX, "the write pointer of zone 11 is 0xffffffffffffffff: expected 0xb00000 to 0xc00000"),
    ];
    for (zone, entry, message) in cases {
        let found = open_error(damaged(0x30000 + zone * 8, &entry.to_be_bytes()), Access::ReadOnly);
        assert!(found.starts_with(message), "{found}");
        let mut options = small();
        options.table_order = crate::qcow2::ByteOrder::Little;
        let file = image_file(&options);
        write(&file, 0x30000 + zone * 8, &entry.to_le_bytes());
        let found = open_error(file, Access::ReadOnly);
        // With the first zone wrong both orders fail, in big-endian as early as in little-endian.
        assert!(found.starts_with(message) || *zone == 0, "{found}");
    }
}

#[test]
fn the_32_bit_bug_is_told_from_other_damage() {
    let mut options = options(5 << 30, 64 << 20, 65536);
    options.table_order = crate::qcow2::ByteOrder::Little;
    for (zone, value, cut) in [
        (64u64, 0u64, true),
        (70, 6 << 26, true),
        (70, (6 << 26) + 4096, true),
        (63, 0, true),
        (70, 8 << 26, false),
        (70, (64 << 26) - 512, false),
        (20, 0, false),
    ] {
        let file = image_file(&options);
        write(&file, 0x30000 + zone * 8, &value.to_le_bytes());
        let found = open_error(file, Access::ReadOnly);
        assert_eq!(found.contains("truncation bug of the v7 binaries"), cut, "{found}");
        assert!(found.starts_with(&format!("the write pointer of zone {zone} is {value:#x}: expected ")), "{found}");
    }
}

#[test]
fn pointers_are_settled_on_request_and_never_lose_what_is_mapped() {
    let start = |zone: u64| zone << 20;
    let all = bases();
    for (name, base) in [&all[0], &all[1], &all[6]] {
        let anatomy = Anatomy::of(base);
        let flag = 1 << anatomy.layout.conventional_bit();
        // Zones 0 to 10 are mapped, zone 11 is not; zone 0 is conventional.
        let full =
            Image::open(Arc::new(base.clone()), Access::ReadOnly).unwrap().pointer_table().full_pointer(ZoneIndex(3)).0;
        let mut cases = vec![
            (3, start(3) + 1000, PointerFault::Unaligned, start(3) + 512),
            (3, start(3) + 511, PointerFault::Unaligned, start(3)),
            (3, full - 1, PointerFault::Unaligned, full - 512),
            (3, start(4) + 512, PointerFault::Contradiction, full),
            (3, start(2) + 512, PointerFault::Contradiction, full),
            (3, start(3) | flag, PointerFault::Contradiction, full),
            (11, start(3), PointerFault::Contradiction, start(11)),
            (11, u64::MAX, PointerFault::Contradiction, start(11)),
            (0, 0, PointerFault::Contradiction, 0),
            (0, 5 << 40, PointerFault::Contradiction, 0),
        ];
        if anatomy.layout == ZonedLayout::B {
            cases.push((3, full + 512, PointerFault::PastWritable, full));
            cases.push((3, start(4), PointerFault::PastWritable, full));
        }
        for (zone, value, fault, expected) in cases {
            let when = format!("{name}, zone {zone}, {value:#x}");
            let file = base.clone();
            anatomy.set_pointer(&file, zone, value);
            write(&file, 88, &(1u64 << 63).to_be_bytes());
            if name.contains("little") && zone == 0 {
                // The other entries tell the order.
                assert_eq!(Image::open_for_repair(Arc::new(file.clone())).unwrap().table_order(), ByteOrder::Little);
            }
            let (untouched, report) = mend(&file, Pointers::Report);
            assert!(untouched == file, "{when}");
            assert_eq!((report.left.errors, report.left.findings[0].kind), (1, FindingKind::WritePointer), "{when}");
            let (mended, report) = mend(&file, Pointers::Settle);
            assert_eq!((report.pointers_settled, report.left.errors), (1, 0), "{when}: {report:?}");
            assert!(!open(mended.clone()).ended_orderly(), "{when}: a pointer may have gone down over data");
            let settled = &report.settled[0];
            assert_eq!(
                (u64::from(settled.zone), settled.fault, settled.write_pointer),
                (zone, fault, expected),
                "{when}"
            );
            let image = Image::open(Arc::new(mended.clone()), Access::ReadWrite).unwrap();
            assert_eq!(image.write_pointers().unwrap()[zone as usize], Bytes(expected), "{when}");
            assert_eq!(image.table_order(), anatomy.order, "{when}");
            // Nothing but the one entry and the mark of the end has changed.
            anatomy.set_pointer(&mended, zone, value);
            write(&mended, 88, &(1u64 << 63).to_be_bytes());
            assert!(mended == file, "{when}");
        }
    }
}

#[test]
fn entries_cut_to_32_bits_are_made_whole() {
    let mut options = options(5 << 30, 64 << 20, 65536);
    options.table_order = ByteOrder::Little;
    let file = image_file(&options);
    let anatomy = Anatomy::of(&file);
    let zone = |number: u64| number << 26;
    let cases = [(63, 0, zone(64)), (64, 0, zone(64)), (70, zone(6) + 4096, zone(70) + 4096), (71, zone(8), zone(72))];
    for (number, value, _) in cases {
        anatomy.set_pointer(&file, number, value);
    }
    anatomy.set_pointer(&file, 66, zone(2) + 700);
    let (mended, report) = mend(&file, Pointers::Settle);
    assert_eq!((report.pointers_settled, report.left.errors), (5, 0), "{report:?}");
    assert!(report.settled.iter().all(|settled| settled.fault == PointerFault::Truncated));
    let image = Image::open(Arc::new(mended), Access::ReadWrite).unwrap();
    assert_eq!(image.table_order(), ByteOrder::Little);
    let pointers = image.write_pointers().unwrap();
    for (number, _, expected) in cases {
        assert_eq!(pointers[number as usize], Bytes(expected), "zone {number}");
    }
    assert_eq!(pointers[66], Bytes(zone(66) + 512));
}

/// An image of zones of 1 MiB, none of them conventional, and how its table is read.
fn table_of(order: ByteOrder) -> MemoryMedium {
    let mut options = CreateOptions { table_order: order, ..small() };
    options.geometry.conventional_zones = 0;
    image_file(&options)
}

#[test]
fn single_entries_in_the_other_byte_order_are_named_with_both_readings_and_settled_by_the_one_that_fits() {
    let bytes_in = |order: ByteOrder, value: u64| match order {
        ByteOrder::Big => value.to_be_bytes(),
        ByteOrder::Little => value.to_le_bytes(),
    };
    for (order, other) in [(ByteOrder::Big, ByteOrder::Little), (ByteOrder::Little, ByteOrder::Big)] {
        let file = table_of(order);
        let written = [(1u64, 1 << 20), (2, (2 << 20) + 4096), (7, 8 << 20)];
        for (zone, pointer) in written {
            write(&file, 0x30000 + zone * 8, &bytes_in(other, pointer));
        }
        let refused = open_error(file.clone(), Access::ReadWrite);
        let expected = format!(
            "the write pointer of zone 1 is 0x100000000000 read {order}-endian, as the table is, and 0x100000 read \
             {other}-endian: expected 0x100000 to 0x200000, inside the zone; the second reading fits, "
        );
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(refused.ends_with("check --repair=pointers settles them"), "{refused}");
        let report = survey(&file).unwrap();
        assert_eq!((report.errors, report.wrong_pointers), (3, 3), "{order}: {:?}", report.findings);
        let (mended, report) = mend(&file, Pointers::Settle);
        let settled: Vec<_> =
            report.settled.iter().map(|one| (u64::from(one.zone), one.write_pointer, one.fault)).collect();
        assert_eq!(settled, written.map(|(zone, pointer)| (zone, pointer, PointerFault::OtherOrder)), "{order}");
        let image = Image::open(Arc::new(mended), Access::ReadWrite).unwrap();
        assert_eq!(image.table_order(), order);
        let pointers = image.write_pointers().unwrap();
        assert_eq!([pointers[1], pointers[2], pointers[7]], written.map(|(_, pointer)| Bytes(pointer)));
    }
}

#[test]
fn the_entry_of_a_conventional_zone_in_the_other_byte_order_becomes_its_own() {
    let file = damaged(0x30000, &(1u64 << 59).to_le_bytes());
    let (mended, report) = mend(&file, Pointers::Settle);
    assert_eq!((report.settled[0].zone, report.settled[0].fault), (0, PointerFault::OtherOrder));
    assert_eq!(read_u64(&mended, 0x30000), 1 << 59);
}

#[test]
fn a_layout_with_one_byte_order_has_no_entries_in_another() {
    let file = layout_b(&small());
    write(&file, 0x30000 + 3 * 8, &(3u64 << 20).to_le_bytes());
    let (_, report) = mend(&file, Pointers::Settle);
    assert_eq!(report.settled[0].fault, PointerFault::Contradiction);
    // Nor has it the bugs of programs that never wrote it.
    let file = layout_b(&options(5 << 30, 64 << 20, 65536));
    write(&file, 0x30000 + 70 * 8, &(6u64 << 26).to_be_bytes());
    let found = open_error(file, Access::ReadOnly);
    assert!(
        found.starts_with("the write pointer of zone 70 is 0x18000000: expected ") && !found.contains("v7"),
        "{found}"
    );
}

#[test]
fn where_an_entry_looks_cut_and_fits_in_the_other_order_the_order_that_v7_writes_counts() {
    // 4 GiB read little-endian, the start of zone 64, is 16 MiB read big-endian: 32 bits of a pointer into that zone.
    let entry = (4u64 << 30).to_le_bytes();
    let cases = [
        (ByteOrder::Big, entry, PointerFault::OtherOrder, 4 << 30),
        (ByteOrder::Little, (16u64 << 20).to_le_bytes(), PointerFault::Truncated, (4 << 30) + (16 << 20)),
    ];
    for (order, entry, fault, expected) in cases {
        let file = image_file(&CreateOptions { table_order: order, ..options(5 << 30, 64 << 20, 65536) });
        write(&file, 0x30000 + 64 * 8, &entry);
        let (_, report) = mend(&file, Pointers::Settle);
        assert_eq!((report.settled[0].fault, report.settled[0].write_pointer), (fault, expected), "{order}");
    }
}

#[test]
fn a_check_lists_every_wrong_pointer_and_writes_nothing() {
    let mut options = options(3 << 30, 1 << 20, 65536);
    options.geometry.conventional_zones = 0;
    let file = image_file(&options);
    for zone in (0..2000u64).step_by(2) {
        write(&file, 0x30000 + zone * 8, &((zone << 20) + 100).to_be_bytes());
    }
    let storage = Arc::new(Metered::new(&file));
    let report = crate::qcow2::check(&storage).unwrap();
    assert_eq!(storage.changes(), 0);
    assert_eq!((report.errors, report.wrong_pointers, report.findings.len()), (1000, 1000, 1000));
    assert!(report.findings.iter().all(|finding| finding.kind == FindingKind::WritePointer));
    let places: Vec<_> = report.findings.iter().map(|finding| finding.file_offset).collect();
    assert_eq!(places, (0..1000).map(|index| Some(0x30000 + index * 16)).collect::<Vec<_>>());
    assert_eq!(report, survey(&file).unwrap(), "as a repair sees it");
    // Besides them other errors are found as ever.
    write(&file, 0x20000 + 2 * 3, &[0, 0]);
    assert!(crate::qcow2::check(&Arc::new(file)).unwrap_err().to_string().contains("has refcount 0: expected 1"));
}
