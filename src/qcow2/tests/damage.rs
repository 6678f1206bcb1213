//! Images that break a rule: each is refused with the field, its value and what was expected, or found by a check.

use std::sync::Arc;

use super::support::*;
use crate::qcow2::{Access, FindingKind, Image, MapError};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, FileOffset};

/// Where the zoned extension's data is in an image with clusters of 64 KiB.
const ZONED: u64 = 0x230;

fn damaged(at: u64, bytes: &[u8]) -> MemoryMedium {
    let file = image_file(&small());
    write(&file, at, bytes);
    file
}

#[test]
fn every_field_of_the_header_that_is_wrong_is_named() {
    let cases: &[(u64, &[u8], &str)] = &[
        (0, b"abcd", "not a qcow2 image: it begins with 0x61626364, expected 0x514649fb"),
        (4, &[0, 0, 0, 2], "version is 2: expected 3; version 2 has no feature bits"),
        (4, &[0, 0, 0, 4], "version is 4: expected 3"),
        (8, &[0, 0, 0, 0, 0, 0, 2, 0], "backing_file_size is 0: expected 1 to 1023"),
        (16, &[0, 0, 0, 7], "backing_file_offset is 0x0: expected a place inside the first cluster"),
        (20, &[0, 0, 0, 8], "cluster_bits is 8: expected 9 to 21"),
        (20, &[0, 0, 0, 22], "cluster_bits is 22: expected 9 to 21"),
        (24, &[0, 0, 0, 0, 0, 0xc0, 0, 1], "size is 12582913: expected a multiple of 512 bytes"),
        (24, &[0; 8], "size is 0: expected a multiple of 512 bytes, and not 0"),
        (24, &[0xff; 8], "l1_size is 1: expected at least 34359738368 for a device of 18446744073709551615 bytes"),
        (32, &[0, 0, 0, 1], "encryption (crypt_method is not 0) is not supported"),
        (36, &[0, 0, 0, 0], "l1_size is 0: expected at least 1"),
        (
            36,
            &[0, 64, 0, 1],
            "l1_size is 4194305: expected at least 1 for a device of 12582912 bytes, and at most 4194304",
        ),
        (
            36,
            &[0, 0, 0xff, 0xff],
            "l1_table_offset is 0x40000: expected the L1 table of 524280 bytes to end inside the file",
        ),
        (40, &[0; 8], "l1_table_offset is 0x0: expected a multiple of the cluster size, 65536, and not 0"),
        (40, &[0, 0, 0, 0, 0, 4, 2, 0], "l1_table_offset is 0x40200: expected a multiple of the cluster size"),
        (
            40,
            &[0, 0, 0, 0, 0, 9, 0, 0],
            "l1_table_offset is 0x90000: expected the L1 table of 8 bytes to end inside the file",
        ),
        (40, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], "l1_table_offset is 0xffffffffffff0000: expected"),
        (40, &[0, 0, 0, 0, 0, 3, 0, 0], "the L1 table and the zonedmeta table overlap in the cluster at 0x30000"),
        (48, &[0; 8], "refcount_table_offset is 0x0: expected"),
        (
            48,
            &[0, 0, 0, 0, 1, 0, 0, 0],
            "refcount_table_offset is 0x1000000: expected the refcount table of 65536 bytes",
        ),
        (48, &[0, 0, 0, 0, 0, 4, 0, 0], "the refcount table and the L1 table overlap in the cluster at 0x40000"),
        (56, &[0, 0, 0, 0], "refcount_table_clusters is 0: expected 1 to 128"),
        (56, &[0, 0, 0, 129], "refcount_table_clusters is 129: expected 1 to 128"),
        (60, &[0, 0, 0, 1], "an image with internal snapshots (nb_snapshots is not 0) is not supported"),
        (79, &[0x21], "incompatible feature bit 0 (dirty bit) is set: the refcounts are marked inexact"),
        (79, &[0x22], "incompatible feature bit 1 (corrupt bit) is set: the image can be opened read-only"),
        (79, &[0x24], "an external data file (incompatible feature bit 2) is not supported"),
        (79, &[0x28], "an unknown compression type (incompatible feature bit 3) is not supported"),
        (79, &[0x30], "extended L2 entries (incompatible feature bit 4) is not supported"),
        (79, &[0x60], "incompatible feature bit 6 (unnamed by the image) is set: expected only known features"),
        (79, &[0x00], "the zoned extension (0x007a6264) is present, but incompatible feature bit 5"),
        (96, &[0, 0, 0, 7], "refcount_order is 7: expected 0 to 6"),
        (100, &[0, 0, 0, 96], "header_length is 96: expected a multiple of 8 from 104"),
        (100, &[0, 0, 0, 107], "header_length is 107: expected a multiple of 8"),
        (100, &[0, 2, 0, 0], "header_length is 131072: expected a multiple of 8 from 104 to the cluster size, 65536"),
        (104, &[1], "compression_type is 1: expected 0 while incompatible feature bit 3 is not set"),
    ];
    for (at, bytes, message) in cases {
        let found = open_error(damaged(*at, bytes), Access::ReadWrite);
        assert!(found.starts_with(message), "byte {at}: {found}");
    }
    let file = damaged(79, &[0x28]);
    write(&file, 104, &[1]);
    assert!(open_error(file, Access::ReadOnly).starts_with("compression type zstd (incompatible feature bit 3)"));
    let file = damaged(79, &[0x60]);
    write(&file, 120 + 4 * 48, b"\0\x06new \x1b[31mthing\0");
    let found = open_error(file, Access::ReadOnly);
    assert!(found.starts_with("incompatible feature bit 6 (new [31mthing) is set"), "{found:?}");
}

#[test]
fn every_field_of_the_extension_that_is_wrong_is_named() {
    let cases: &[(u64, &[u8], &str)] = &[
        (0, &[0], "not a zoned image: zoned is 0 (none), expected 1 (host-managed)"),
        (0, &[2], "zoned is 2: expected 1 (host-managed)"),
        (1, &[0, 0, 9], "reserved is 0x9: expected 0"),
        (4, &[0; 4], "zone_size is 0: expected a power of two"),
        (4, &[0, 0x18, 0, 0], "zone_size is 1572864: expected a power of two"),
        (
            8,
            &[0; 4],
            "zone_capacity is 0: expected a multiple of 512 bytes, at least 1536 so that an append fits, at most the zone size",
        ),
        (8, &[0, 0x20, 0, 0], "zone_capacity is 2097152: expected a multiple of 512"),
        (8, &[0, 0x0f, 0xff, 0xff], "zone_capacity is 1048575: expected a multiple of 512"),
        (12, &[0, 0, 0, 12], "conventional_zones is 12: expected less than the number of zones, 12"),
        (16, &[0, 0, 0, 13], "nr_zones is 13: expected 12, the zones of 1048576 bytes on a device of 12582912 bytes"),
        (16, &[0, 0, 0, 0], "nr_zones is 0: expected 12"),
        (28, &[0, 0, 0, 1], "max_append_bytes is 1: expected a multiple of 512 bytes, or 0 to state no limit"),
        (28, &[0, 0x10, 0, 0], "max_append_bytes is 1048576: expected it, plus 512, to be less than the zone capacity"),
        (28, &[0xff, 0xff, 0xfe, 0], "max_append_bytes is 4294966784: expected it, plus 512, to be less"),
        (32, &[0, 0, 0, 0, 0, 0, 0, 95], "zonedmeta_size is 95: expected at least 96, 8 bytes for each of 12 zones"),
        (32, &[0xff; 8], "zonedmeta_offset is 0x30000: expected the zonedmeta table of 18446744073709551615 bytes"),
        (32, &[0, 0, 0, 0, 0, 1, 0, 1], "the zonedmeta table and the L1 table overlap"),
        (40, &[0; 8], "zonedmeta_offset is 0x0: expected a multiple of the cluster size, 65536, and not 0"),
        (40, &[0, 0, 0, 0, 0, 3, 0, 8], "zonedmeta_offset is 0x30008: expected a multiple of the cluster size"),
        (40, &[0, 0, 0, 0, 0, 5, 0, 0], "zonedmeta_offset is 0x50000: expected the zonedmeta table of 96 bytes to end"),
        (40, &[0, 0, 0, 0, 0, 2, 0, 0], "the write pointer of zone 0 is"),
        (40, &[0, 0, 0, 0, 0, 1, 0, 0], "the refcount table and the zonedmeta table overlap in the cluster at 0x10000"),
    ];
    for (at, bytes, message) in cases {
        let found = open_error(damaged(ZONED + at, bytes), Access::ReadOnly);
        let swapped = message.replace("the zonedmeta table and the L1 table", "the L1 table and the zonedmeta table");
        assert!(found.starts_with(message) || found.starts_with(&swapped), "field at {at}: {found}");
    }
    let found = open_error(damaged(ZONED - 4, &40u32.to_be_bytes()), Access::ReadOnly);
    assert_eq!(
        found,
        "the length of the zoned extension is 40: expected at least 48 (v5 to v7 of the QEMU series) or 44 (layout B of \
         the QEMU series)"
    );
    let found = open_error(damaged(ZONED - 4, &[0xff; 4]), Access::ReadOnly);
    assert!(found.starts_with("the length of the zoned extension is 4294967295: expected at most 64976"), "{found}");
    let found = open_error(damaged(ZONED - 8, &[0xff; 4]), Access::ReadOnly);
    assert_eq!(
        found,
        "incompatible feature bit 5 (zoned format) is set, but the zoned extension (0x007a6264) is missing"
    );
    let file = damaged(ZONED - 8, &[0xff; 4]);
    write(&file, 79, &[0]);
    assert!(open_error(file, Access::ReadOnly).starts_with("not a zoned image: it is plain qcow2"));
    let found = open_error(damaged(116, &[0xff; 4]), Access::ReadOnly);
    assert!(found.starts_with("the length of a header extension is 4294967295"), "{found}");
}

#[test]
fn truncated_files_are_refused_wherever_they_end() {
    let mut image = open(image_file(&small()));
    image.map(Bytes(0), Bytes(1)).unwrap();
    image.release().unwrap();
    let whole = (**image.storage()).clone();
    // The data cluster behind it all can only be missed when it is used.
    let l2_end = (read_u64(&whole, 0x40000) & !(1 << 63)) + 0x10000;
    for len in (0..l2_end).step_by(509).chain([1, 103, 104, 111, 0x228, 0x22f, 0x25f, l2_end - 1]) {
        let file = whole.clone();
        file.set_len(Bytes(len)).unwrap();
        for access in [Access::ReadOnly, Access::ReadWrite] {
            assert!(Image::open(Arc::new(file.clone()), access).is_err(), "{len} bytes");
        }
        assert_eq!(file.len().unwrap(), Bytes(len), "nothing was written");
    }
    let message = open_error(MemoryMedium::from_bytes(&read(&whole, 0, 108)).unwrap(), Access::ReadOnly);
    assert_eq!(message, "the file is truncated: the header needs 112 bytes, the file has 108");
}

#[test]
fn entries_of_tables_that_are_wrong_are_named() {
    let cases: &[(u64, u64, &str)] = &[
        (0x10000, 0x20001, "refcount table entry 0 is 0x20001: expected its reserved bits to be 0"),
        (
            0x10000,
            0x20200,
            "refcount table entry 0 is 0x20200: expected an offset that is a multiple of the cluster size",
        ),
        (0x10008, 1 << 40, "refcount table entry 1 is 0x10000000000: expected a cluster that is inside the file"),
        (0x10008, 0x20000, "a refcount block and a refcount block overlap in the cluster at 0x20000"),
        (0x10000, 0x40000, "the L1 table and a refcount block overlap in the cluster at 0x40000"),
        (0x40000, 1 << 63 | 0x20000, "a refcount block and an L2 table overlap in the cluster at 0x20000"),
        (0x40000, 1 << 62 | 0x20000, "L1 table entry 0 is 0x4000000000020000: expected its reserved bits to be 0"),
        (
            0x40000,
            1 << 63 | 0x50000,
            "L1 table entry 0 is 0x8000000000050000: expected a cluster that is inside the file",
        ),
        (0x40000, 1 << 63, "L1 table entry 0 is 0x8000000000000000: expected an offset other than 0"),
    ];
    for (at, entry, message) in cases {
        let found = open_error(damaged(*at, &entry.to_be_bytes()), Access::ReadOnly);
        assert!(found.starts_with(message), "{found}");
    }
    let found = open_error(damaged(0x20006, &[0, 0]), Access::ReadOnly);
    assert!(
        found.starts_with("the zonedmeta cluster at 0x30000 has refcount 0: expected 1; a check by qemu-img"),
        "{found}"
    );
}

#[test]
fn dirty_and_corrupt_images_open_read_only_and_can_be_checked() {
    for bit in [0x21, 0x22] {
        let mut image = Image::open(Arc::new(damaged(79, &[bit])), Access::ReadOnly).unwrap();
        assert_eq!(image.check().unwrap().errors, 0);
    }
}

/// An image with two data clusters: where its L2 table and the first data cluster are.
fn with_data() -> (Image<MemoryMedium>, u64, u64) {
    let mut image = open(image_file(&small()));
    image.map(Bytes(0), Bytes(0x20000)).unwrap();
    let table = read_u64(&**image.storage(), 0x40000) & !(1 << 63);
    let data = all_extents(&mut image)[0].file.0;
    (image, table, data)
}

#[test]
fn l2_entries_that_are_wrong_are_named_when_used_and_found_by_a_check() {
    let copied = 1u64 << 63;
    let (_, table, data) = with_data();
    let cases = [
        (copied | 1 << 62 | data, "compressed clusters (bit 62) are not supported"),
        (copied | data | 2, "its reserved bits must be 0"),
        (copied | 1 << 56 | data, "its reserved bits must be 0"),
        (copied | (data + 512), "its offset must be a multiple of the cluster size"),
        (copied | 1 << 40, "its offset must be inside the file of"),
        (copied, "it points at the header, expected a cluster of its own"),
        (copied | 0x10000, "it points at the refcount table"),
        (copied | 0x20000, "it points at a refcount block"),
        (copied | 0x30000, "it points at the zonedmeta table"),
        (copied | 0x40000, "it points at the L1 table"),
        (copied | table, "it points at an L2 table"),
        (copied | (data + 0x40000), "it points at a cluster that is not allocated"),
        (data, "its COPIED flag (bit 63) must be set"),
        (copied | 0x10001, "it points at the refcount table"),
    ];
    for (entry, message) in cases {
        let (mut image, table, _) = with_data();
        write(&**image.storage(), table, &entry.to_be_bytes());
        let expected = format!("the L2 entry for guest offset 0x0 is {entry:#x}: {message}");
        let mut out = Vec::new();
        let looked_up = image.extents(Bytes(100), Bytes(70_000), &mut out, 9);
        // Behind the zero flag the cluster is not looked at before it is needed.
        if entry & 1 == 0 {
            assert!(looked_up.unwrap_err().to_string().starts_with(&expected), "{expected}");
        }
        let mapped = image.map(Bytes(0), Bytes(1)).unwrap_err();
        assert!(matches!(mapped, MapError::L2 { .. }) && mapped.to_string().starts_with(&expected), "{mapped}");
        let report = image.check().unwrap();
        assert_eq!(report.errors, 1, "{:?}", report.findings);
        assert_eq!(report.findings[0].kind, FindingKind::BadEntry);
        assert!(report.findings[0].message.starts_with(&expected));
        assert_eq!(report.findings[0].guest_offset, Some(0));
    }
}

#[test]
fn an_l1_entry_without_its_flag_is_named_when_used_and_found_by_a_check() {
    let (mut image, table, _) = with_data();
    image.release().unwrap();
    write(&**image.storage(), 0x40000, &table.to_be_bytes());
    let mut image = Image::open(Arc::clone(image.storage()), Access::ReadOnly).unwrap();
    let error = image.extents(Bytes(0), Bytes(1), &mut Vec::new(), 1).unwrap_err();
    assert!(matches!(error, MapError::L1 { .. }), "{error}");
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.findings[0].kind, report.leaks), (1, FindingKind::BadEntry, 0));
}

#[test]
fn a_check_finds_double_use_low_refcounts_and_leaks() {
    let (mut image, table, data) = with_data();
    image.release().unwrap();
    let storage = Arc::clone(image.storage());
    let entry = |cluster: u64| 0x20000 + cluster * 2;
    // The second guest cluster is where the first is, so its own is leaked.
    write(&*storage, table + 8, &(1 << 63 | data).to_be_bytes());
    // The L2 table is not counted; three clusters past the end are.
    write(&*storage, entry(table >> 16), &[0, 0]);
    write(&*storage, entry(100), &[0, 1, 0, 3, 0, 1]);
    let report = image.check().unwrap();
    let mut found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.file_offset)).collect();
    found.sort_by_key(|finding| finding.1);
    assert_eq!(found, [(FindingKind::RefcountTooLow, Some(table)), (FindingKind::DoubleUse, Some(data))]);
    assert_eq!((report.errors, report.leaks), (2, 4));
    let leaked: Vec<_> = report.leaked.iter().map(|range| (range.file_offset, range.clusters)).collect();
    assert_eq!(leaked, [(data + 0x10000, 1), (100 << 16, 3)]);
    assert_eq!(report.image_end, 103 << 16);
}

#[test]
fn a_check_in_many_passes_finds_the_same() {
    let mut image = open(image_file(&options(24 << 20, 1 << 20, 512)));
    for zone in 0..24 {
        image.map(Bytes(zone << 20), Bytes(700_000)).unwrap();
    }
    image.release().unwrap();
    let storage = Arc::clone(image.storage());
    let table = read_u64(&*storage, image.header().l1_table_offset.0) & !(1 << 63);
    let second = read_u64(&*storage, table + 8);
    write(&*storage, table, &second.to_be_bytes());
    write(&*storage, table + 16, &(1u64 << 63 | 1 << 50).to_be_bytes());
    let whole = image.check_within(usize::MAX).unwrap();
    assert_eq!((whole.errors, whole.leaks), (2, 2), "{:?}", whole.findings);
    for budget in [1, 2, 5] {
        let mut parts = image.check_within(budget).unwrap();
        let mut expected = whole.clone();
        parts.findings.sort_by_key(|finding| finding.message.clone());
        expected.findings.sort_by_key(|finding| finding.message.clone());
        assert_eq!(parts, expected, "budget {budget}");
    }
}

#[test]
fn a_check_of_a_file_of_holes_ends_soon() {
    let file = image_file(&small());
    file.set_len(Bytes(1 << 50)).unwrap();
    // The last refcounts the table can hold, for a cluster far out.
    let blocks = 0x10000 / 8;
    let block = (1u64 << 50) - 0x10000;
    write(&file, 0x10000 + (blocks - 1) * 8, &block.to_be_bytes());
    file.write_at(FileOffset(block), &[0, 1]).unwrap();
    let mut image = Image::open(Arc::new(file), Access::ReadOnly).unwrap();
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (1, 1), "the block itself is not counted: {:?}", report.findings);
}
