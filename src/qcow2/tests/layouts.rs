//! The layouts of the zoned extension: each is known by what its fields say, and read and written by its own rules.

use std::sync::Arc;

use super::support::*;
use crate::qcow2::{Access, ByteOrder, Image, ZonedLayout};
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, ZoneIndex};

/// Where the zoned extension's data is in an image with clusters of 64 KiB.
const ZONED: u64 = 0x230;

fn damaged(at: u64, bytes: &[u8]) -> MemoryMedium {
    let file = image_file(&small());
    write(&file, at, bytes);
    file
}

fn damaged_b(at: u64, bytes: &[u8]) -> MemoryMedium {
    let file = layout_b(&small());
    write(&file, at, bytes);
    file
}

#[test]
fn a_longer_extension_is_read() {
    let file = damaged(ZONED - 4, &56u32.to_be_bytes());
    write(&file, ZONED + 56, &[0; 8]);
    assert_eq!(open(file).geometry().nr_zones(), 12);
}

#[test]
fn other_layouts_are_told_apart_by_name() {
    let words = |fields: &[(usize, u64)], len: usize| {
        let mut data = vec![0u8; len.next_multiple_of(8) + 8];
        data[0] = 1;
        for (at, value) in fields {
            let (at, width) = (at % 1000, at / 1000);
            data[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
        }
        data
    };
    let (zone, zones, table) = (1 << 20, 12, 0x30000);
    let cases = [
        // (width * 1000 + offset, value)
        (48, vec![(4004, zone), (4008, zone), (4016, zones), (8032, table), (8040, zones * 8)], "v2 to v4"),
        (48, vec![(4004, zone / 512), (4008, zone / 512), (4016, zones), (8032, table), (8040, 96)], "v2 to v4"),
        (56, vec![(8004, zone), (8012, zone), (4024, zones), (8040, 96), (8048, table)], "v8 to v10"),
        (48, vec![(4004, zones), (8008, zone), (8016, zone), (4036, 4096), (8040, table)], "layout A"),
    ];
    for (len, fields, name) in cases {
        for bit in [0x20, 0] {
            let file = damaged(ZONED - 4, &(len as u32).to_be_bytes());
            write(&file, ZONED, &words(&fields, len));
            write(&file, 79, &[bit]);
            let found = open_error(file, Access::ReadOnly);
            assert!(found.starts_with("the zoned extension has the layout of ") && found.contains(name), "{found}");
            assert!(
                found.ends_with(
                    ", which this program does not read: expected that of v5 to v7 of the QEMU series or \
                layout B of the QEMU series"
                ),
                "{found}"
            );
        }
    }
}

#[test]
fn layout_b_is_read_with_the_fields_where_it_has_them() {
    let mut options = small();
    options.geometry.zone_capacity = Bytes(768 << 10);
    let mut image = open(layout_b(&options));
    let zoned = *image.zoned();
    assert_eq!((zoned.layout, zoned.zone_size, zoned.zone_capacity), (ZonedLayout::B, 1 << 20, 768 << 10));
    assert_eq!((zoned.conventional_zones, zoned.nr_zones), (1, 12));
    assert_eq!((zoned.max_open_zones, zoned.max_active_zones), (3, 4));
    assert_eq!((zoned.zonedmeta_size, zoned.zonedmeta_offset, zoned.max_append_bytes), (96, 0x30000, 0));
    assert_eq!(image.geometry().max_append(), None, "no limit of appends is stated");
    assert_eq!(image.table_order(), ByteOrder::Big);
    let starts: Vec<Bytes> = (0..12).map(|zone| Bytes(zone << 20)).collect();
    assert_eq!(image.write_pointers().unwrap(), starts);
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0));
}

#[test]
fn a_longer_extension_of_layout_b_is_read() {
    let file = damaged_b(ZONED - 4, &48u32.to_be_bytes());
    assert_eq!(open(file).zoned().layout, ZonedLayout::B);
}

#[test]
fn a_finish_stores_what_the_layout_has_for_it() {
    let mut options = options((12 << 20) - (512 << 10), 1 << 20, 65536);
    options.geometry.zone_capacity = Bytes(768 << 10);
    let (third, last) = (ZoneIndex(3), ZoneIndex(11));
    for (file, expected) in [
        (image_file(&options), [4 << 20, 12 << 20]),
        (layout_b(&options), [(3 << 20) + (768 << 10), (12 << 20) - (512 << 10)]),
    ] {
        let image = open(file);
        let table = image.pointer_table();
        assert_eq!([third, last].map(|zone| table.full_pointer(zone).0), expected);
        for zone in [third, last] {
            let full = table.full_pointer(zone);
            table.store(zone, full).unwrap();
            assert!(table.store(zone, Bytes(full.0 + 512)).is_err(), "past the last pointer of the layout");
        }
        let flag = 1 << image.zoned().layout.conventional_bit();
        assert_eq!(u64::from_be_bytes(table.encode(ZoneIndex(0), Bytes(512))), flag);
        let image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
        assert_eq!([third, last].map(|zone| image.write_pointers().unwrap()[zone.index()].0), expected);
    }
}

#[test]
fn every_field_of_layout_b_that_is_wrong_is_named() {
    let cases: &[(u64, &[u8], &str)] = &[
        (0, &[0], "not a zoned image: zoned is 0 (none)"),
        (0, &[2], "zoned is 2: expected 1"),
        (1, &[0, 0, 9], "reserved is 0x9: expected 0"),
        (4, &[0, 0, 0, 11], "nr_zones is 11: expected 12"),
        (8, &[0, 0, 0, 0, 0, 0x18, 0, 0], "zone_size is 1572864: expected a power of two"),
        (8, &[0, 0, 0, 1, 0, 0, 0, 0], "zone_size is 4294967296: expected a power of two from 512 bytes to 2 GiB"),
        (16, &[0, 0, 0, 0, 0, 0x10, 2, 0], "zone_capacity is 1049088: expected a multiple of 512 bytes"),
        (24, &[0; 8], "zonedmeta_offset is 0x0: expected a multiple of the cluster size"),
        (24, &[0, 0, 0, 0, 0, 3, 0, 8], "zonedmeta_offset is 0x30008: expected a multiple of the cluster size"),
        (24, &[0, 0, 0, 0, 0, 5, 0, 0], "zonedmeta_offset is 0x50000: expected the zonedmeta table of 96 bytes to end"),
        (32, &[0, 0, 0, 12], "conventional_zones is 12: expected less than the number of zones"),
    ];
    for (at, bytes, message) in cases {
        let found = open_error(damaged_b(ZONED + at, bytes), Access::ReadOnly);
        assert!(found.starts_with(message), "field at {at}: {found}");
    }
    let found = open_error(damaged_b(79, &[0]), Access::ReadOnly);
    assert!(
        found.starts_with("the zoned extension (0x007a6264) is present, but incompatible feature bit 5"),
        "{found}"
    );
    let found = open_error(damaged_b(4, &[0, 0, 0, 2]), Access::ReadOnly);
    assert!(found.starts_with("version is 2: expected 3"), "{found}");
}

#[test]
fn zones_of_layout_b_are_whole_clusters() {
    let small_zones = options(12 << 14, 1 << 14, 65536);
    assert_eq!(open(image_file(&small_zones)).geometry().nr_zones(), 12);
    let found = open_error(layout_b(&small_zones), Access::ReadOnly);
    assert_eq!(
        found,
        "zone_size is 16384: expected a multiple of the cluster size, 65536, in layout B of the QEMU series"
    );
}

#[test]
fn a_layout_that_nobody_knows_is_refused_in_words() {
    let words = "has no layout that this program knows: expected that of v5 to v7 of the QEMU series or layout B of the \
                 QEMU series; either the image is damaged or a newer program has made it";
    for len in [44u32, 46, 48, 56, 100] {
        let file = damaged(ZONED - 4, &len.to_be_bytes());
        write(&file, ZONED + 1, &vec![0x5e; len as usize - 1]);
        let found = open_error(file, Access::ReadOnly);
        assert_eq!(found, format!("the zoned extension, {len} bytes long, {words}"));
    }
    // The fields of one layout in the length of another are none.
    let found = open_error(damaged(ZONED - 4, &44u32.to_be_bytes()), Access::ReadOnly);
    assert!(found.contains(words), "{found}");
}
