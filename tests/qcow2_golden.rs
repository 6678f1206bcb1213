//! Images written by a QEMU with revision v7 of the zoned series: opened, read, checked and written on.
//!
//! tests/golden holds the images and, beside each, what is in its header and which entries of its write-pointer table
//! are not those of an empty sequential zone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use vhost_user_zbd::qcow2::{Access, ByteOrder, Image, OpenError, PointerFault, Pointers, repair};
use vhost_user_zbd::storage::Storage;
use vhost_user_zbd::storage::memory::MemoryStorage;
use vhost_user_zbd::units::{Bytes, ZoneIndex};
use vhost_user_zbd::zone::ZoneKind;

const CONVENTIONAL: u64 = 1 << 59;

fn golden(name: &str) -> (MemoryStorage, Value) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let packed = fs::File::open(directory.join(format!("{name}.qcow2.zst"))).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut bytes).unwrap();
    let about = fs::read_to_string(directory.join(format!("{name}.json"))).unwrap();
    (MemoryStorage::from_bytes(&bytes).unwrap(), serde_json::from_str(&about).unwrap())
}

fn byte_at(image: &mut Image<MemoryStorage>, guest: u64) -> u8 {
    let mut extents = Vec::new();
    image.extents(Bytes(guest), Bytes(1), &mut extents, 1).unwrap();
    let mut byte = [0];
    if let Some(extent) = extents.first() {
        image.storage().read_at(extent.file, &mut byte).unwrap();
    }
    byte[0]
}

fn assert_clean(image: &mut Image<MemoryStorage>, name: &str) {
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{name}: {:?}", report.findings);
}

fn opens_as_described(name: &str) {
    let (file, about) = golden(name);
    let mut image = Image::open(Arc::new(file), Access::ReadWrite).unwrap();
    // Each of these has at least one entry that tells the order.
    assert_eq!(image.table_order(), ByteOrder::Little, "{name}");
    assert_eq!(serde_json::to_value(image.zoned()).unwrap(), about["zoned_header"], "{name}");
    assert_eq!(json!(image.header().size.0), about["size"]);
    assert_eq!(json!(image.header().cluster_bits), about["cluster_bits"]);
    assert_eq!(image.clamps(), [], "{name}");
    let geometry = *image.geometry();
    let pointers = image.write_pointers().unwrap();
    assert_eq!(pointers.len(), geometry.nr_zones() as usize);
    let entries = about["table_entries_not_empty"].as_object().unwrap();
    for (zone, pointer) in (0..).map(ZoneIndex).zip(&pointers) {
        let start = geometry.start(zone);
        let entry = entries
            .get(&zone.to_string())
            .and_then(Value::as_str)
            .map_or(start.0, |entry| u64::from_str_radix(entry.trim_start_matches("0x"), 16).unwrap());
        let conventional = geometry.kind(zone) == ZoneKind::Conventional;
        assert_eq!(conventional, entry & CONVENTIONAL != 0, "{name}, zone {zone}");
        assert_eq!(pointer.0, entry & !CONVENTIONAL, "{name}, zone {zone}");
        assert_eq!(image.pointer_table().encode(zone, *pointer), entry.to_le_bytes(), "{name}, zone {zone}");
    }
    assert_clean(&mut image, name);
    // Going on with the image leaves it as clean as it was, and the table in its byte order.
    image.map(Bytes(0), Bytes(geometry.size().0)).unwrap();
    let table = image.pointer_table();
    table.store(ZoneIndex(geometry.nr_zones() - 1), geometry.start(ZoneIndex(geometry.nr_zones() - 1))).unwrap();
    image.release().unwrap();
    let mut image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
    assert_clean(&mut image, name);
    // A single zone that is empty again fits both orders.
    if geometry.nr_zones() > 1 {
        assert_eq!(image.table_order(), ByteOrder::Little);
    }
}

#[test]
fn images_of_v7_open_with_their_geometry_byte_order_and_pointers() {
    for name in [
        "fresh-12x64M-64k",
        "conv-2c6s-64k",
        "mixed-12x4M-64k",
        "many-300x1M-4k",
        "onezone-4M-64k",
        "short-7x4M+1536K-finished-64k",
        "cap3M-of-4M-6z-64k",
    ] {
        opens_as_described(name);
    }
}

#[test]
fn data_of_v7_is_where_the_mapping_says() {
    let (file, _) = golden("mixed-12x4M-64k");
    let mut image = Image::open(Arc::new(file), Access::ReadOnly).unwrap();
    let zone = 4 << 20;
    let bytes: [(u64, u8); 9] = [
        (zone, 0xa1),
        (zone + 4095, 0xa1),
        (2 * zone, 0xa2),
        (2 * zone + 65536, 0xb2),
        (2 * zone + 65536 + 511, 0xb2),
        (4 * zone + 131_071, 0xa4),
        (5 * zone + zone - 1, 0xa5),
        (8 * zone + 12287, 0xa8),
        (11 * zone + (1 << 20) - 1, 0xab),
    ];
    for (guest, byte) in bytes {
        assert_eq!(byte_at(&mut image, guest), byte, "at {guest:#x}");
    }
}

#[test]
fn the_32_bit_bug_of_v7_is_refused_by_name() {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let (file, _) = golden("big-80x64M-64k");
        let error = Image::open(Arc::new(file), access).err().unwrap();
        assert!(matches!(error, OpenError::Truncated32 { zone: ZoneIndex(64), value: 0, .. }), "{error}");
        let message = error.to_string();
        assert!(
            message.starts_with("the write pointer of zone 64 is 0x0: expected 0x100000000 to 0x104000000"),
            "{message}"
        );
        assert!(message.contains("truncation bug of the v7 binaries"), "{message}");
    }
}

#[test]
fn the_32_bit_bug_of_v7_is_settled_on_request() {
    let (file, about) = golden("big-80x64M-64k");
    let storage = Arc::new(file);
    let report = repair(&storage, Pointers::Report).unwrap();
    // Zone 70 was finished, which stored its pointer whole.
    assert_eq!((report.left.errors, report.left.leaks, report.pointers_settled), (15, 0, 0));
    assert!(Image::open(Arc::clone(&storage), Access::ReadOnly).is_err());
    let report = repair(&storage, Pointers::Settle).unwrap();
    assert_eq!((report.left.errors, report.left.leaks, report.pointers_settled), (0, 0, 15));
    assert!(report.settled.iter().all(|settled| settled.fault == PointerFault::Truncated));
    let mut image = Image::open(storage, Access::ReadWrite).unwrap();
    assert_eq!(image.table_order(), ByteOrder::Little);
    let geometry = *image.geometry();
    let entries = about["table_entries_not_empty"].as_object().unwrap();
    for (zone, pointer) in (0..).map(ZoneIndex).zip(image.write_pointers().unwrap()) {
        let start = geometry.start(zone).0;
        let stored = entries.get(&zone.to_string()).and_then(Value::as_str).map_or(start, |entry| {
            let stored = u64::from_str_radix(entry.trim_start_matches("0x"), 16).unwrap();
            if stored < start { stored + (1 << 32) } else { stored }
        });
        assert_eq!(pointer, Bytes(stored), "zone {zone}");
        assert!(zone.0 == 63 || zone.0 == 70 || pointer.0 == start, "zone {zone}");
    }
    assert_clean(&mut image, "big-80x64M-64k");
}

#[test]
fn pointers_of_v7_past_the_end_of_a_short_last_zone_are_full() {
    let (file, _) = golden("short-7x4M+1536K-finished-64k");
    let mut image = Image::open(Arc::new(file), Access::ReadOnly).unwrap();
    let last = ZoneIndex(7);
    let pointer = image.write_pointers().unwrap()[last.index()];
    assert_eq!(pointer, Bytes(8 * (4 << 20)));
    assert!(pointer > image.geometry().size() && pointer >= image.geometry().writable_end(last));
}
