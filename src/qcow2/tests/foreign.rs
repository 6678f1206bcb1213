//! Images of other programs: all refcount widths, and tables that must move to grow.

use std::sync::Arc;

use super::support::*;
use crate::qcow2::refcount::{get_entry, set_entry};
use crate::qcow2::{Access, Image, MapError};
use crate::units::Bytes;

#[test]
fn refcounts_of_every_width_stand_where_the_format_has_them() {
    // The first entry of a byte is in its lowest bits; entries of several bytes are big-endian.
    let expected: [(u32, &[u8]); 7] = [
        (0, &[0b0000_1010]),
        (1, &[0b0100_0100]),
        (2, &[0x10, 0x10]),
        (3, &[0, 1, 0, 1]),
        (4, &[0, 0, 0, 1, 0, 0, 0, 1]),
        (5, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
        (6, &[0; 8]),
    ];
    for (order, bytes) in expected {
        let mut piece = [0u8; 32];
        set_entry(&mut piece, 1, order, 1);
        set_entry(&mut piece, 3, order, 1);
        if order < 6 {
            assert_eq!(&piece[..bytes.len()], bytes, "order {order}");
        }
        let values: Vec<u64> = (0..4).map(|index| get_entry(&piece, index, order)).collect();
        assert_eq!(values, [0, 1, 0, 1], "order {order}");
        set_entry(&mut piece, 1, order, 0);
        let values: Vec<u64> = (0..4).map(|index| get_entry(&piece, index, order)).collect();
        assert_eq!(values, [0, 0, 0, 1], "order {order}");
    }
}

#[test]
fn refcounts_of_every_width_are_read_and_written() {
    for order in 0..=6 {
        for bits in [9, 12, 16] {
            let mut image = open(foreign_file(bits, order, 6 << 20, 1 << 20));
            assert_eq!(image.header().refcount_order, order);
            let report = image.check().unwrap();
            assert_eq!((report.errors, report.leaks), (0, 0), "order {order}, cluster bits {bits}");
            for start in [5 << 20, 3 << 20, 0] {
                image.map(Bytes(start), Bytes(300_000)).unwrap();
            }
            image.release().unwrap();
            let mut image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
            let report = image.check().unwrap();
            assert_eq!((report.errors, report.leaks), (0, 0), "order {order}, cluster bits {bits}");
            let mapped: u64 = all_extents(&mut image).iter().map(|extent| extent.len.0).sum();
            assert!(mapped >= 900_000);
        }
    }
}

#[test]
fn a_refcount_table_that_is_too_small_moves() {
    for order in [4, 6] {
        let mut image = open(foreign_file(9, order, 48 << 20, 1 << 20));
        let (at, clusters) = (image.header().refcount_table_offset, image.header().refcount_table_clusters);
        for start in 0..48 {
            image.map(Bytes(start << 20), Bytes(1 << 20)).unwrap();
        }
        assert_ne!(image.header().refcount_table_offset, at);
        assert!(image.header().refcount_table_clusters > clusters);
        image.release().unwrap();
        let mut image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
        let report = image.check().unwrap();
        assert_eq!((report.errors, report.leaks, report.allocated_clusters), (0, 0, 48 << 11));
    }
}

#[test]
fn a_file_that_reaches_the_limit_of_refcounts_says_so() {
    let file = foreign_file(9, 4, 4 << 20, 1 << 20);
    // With 512-byte clusters and 16-bit refcounts, 8 MiB of table count 128 GiB. The file already ends there.
    crate::storage::Medium::set_len(&file, Bytes((128 << 30) - 512)).unwrap();
    let mut image = open(file);
    let error = image.map(Bytes(0), Bytes(1 << 20)).unwrap_err();
    assert!(matches!(error, MapError::FileLimit { .. }), "{error}");
    assert!(error.to_string().contains("would exceed its limit of 8388608 bytes"), "{error}");
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{:?}", report.findings);
}
