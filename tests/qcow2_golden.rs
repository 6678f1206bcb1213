//! Images written by a QEMU with the zoned series, of revision v7 and of layout B: opened, read, checked and written on.
//!
//! tests/golden holds the images of v7, tests/golden/b those of layout B. Beside each is what is in its header, which
//! entries of its write-pointer table are not those of an empty sequential zone and, for some, the state of the zones
//! that are not empty with the SHA-256 of what a guest reads of them, where it is not all zeros.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking and share helpers")]

mod sim;

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use sim::disk::SimDisk;
use sim::rig::Rig;
use vhost_user_zbd::convert;
use vhost_user_zbd::convert::image::{ImageSource, ImageTarget};
use vhost_user_zbd::qcow2::{
    Access, ByteOrder, Comparison, CreateOptions, Growth, Image, OpenError, PointerError, PointerFault, Pointers,
    ZonedLayout, compare_shapes, create, grow, repair,
};
use vhost_user_zbd::storage::Medium;
use vhost_user_zbd::storage::memory::MemoryMedium;
use vhost_user_zbd::store::{Action, Op, ZoneInfo};
use vhost_user_zbd::units::{Bytes, FileOffset, ZoneIndex};
use vhost_user_zbd::zone::{GeometryRequest, State, ZoneKind};

const V7: [&str; 8] = [
    "fresh-12x64M-64k",
    "conv-2c6s-64k",
    "mixed-12x4M-64k",
    "many-300x1M-4k",
    "onezone-4M-64k",
    "short-7x4M+1536K-finished-64k",
    "cap3M-of-4M-6z-64k",
    "nolimit-defaults-8x4M-64k",
];

const B: [&str; 8] = [
    "b/conv-2c6s-64k",
    "b/mixed-12x4M-64k",
    "b/many-300x1M-4k",
    "b/onezone-4M-64k",
    "b/short-7x4M+1536K-partial-64k",
    "b/cap3M-of-4M-6z-64k",
    "b/limits-8x1M-64k",
    "b/big-80x64M-64k",
];

fn golden(name: &str) -> (MemoryMedium, Value) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let packed = fs::File::open(directory.join(format!("{name}.qcow2.zst"))).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut bytes).unwrap();
    let about = fs::read_to_string(directory.join(format!("{name}.json"))).unwrap();
    (MemoryMedium::from_bytes(&bytes).unwrap(), serde_json::from_str(&about).unwrap())
}

fn byte_at(image: &mut Image<MemoryMedium>, guest: u64) -> u8 {
    let mut extents = Vec::new();
    image.extents(Bytes(guest), Bytes(1), &mut extents, 1).unwrap();
    let mut byte = [0];
    if let Some(extent) = extents.first() {
        image.storage().read_at(extent.file, &mut byte).unwrap();
    }
    byte[0]
}

fn assert_clean(image: &mut Image<MemoryMedium>, name: &str) {
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{name}: {:?}", report.findings);
}

/// A field of the zoned extension by its name.
fn field<S: Medium>(image: &Image<S>, name: &str) -> Value {
    let zoned = image.zoned();
    match name {
        "zoned" => json!(zoned.zoned),
        "zone_size" => json!(zoned.zone_size),
        "zone_capacity" => json!(zoned.zone_capacity),
        "conventional_zones" => json!(zoned.conventional_zones),
        "nr_zones" => json!(zoned.nr_zones),
        "max_active_zones" => json!(zoned.max_active_zones),
        "max_open_zones" => json!(zoned.max_open_zones),
        "max_append_bytes" => json!(zoned.max_append_bytes),
        "zonedmeta_size" => json!(zoned.zonedmeta_size),
        "zonedmeta_offset" => json!(zoned.zonedmeta_offset),
        other => panic!("no field {other}"),
    }
}

fn opens_as_described(name: &str, layout: ZonedLayout, order: ByteOrder) {
    let (file, about) = golden(name);
    let mut image = Image::open(Arc::new(file), Access::ReadWrite).unwrap();
    assert_eq!(image.zoned().layout, layout, "{name}");
    // Each of these has at least one entry that tells the order.
    assert_eq!(image.table_order(), order, "{name}");
    for (name, value) in about["zoned_header"].as_object().unwrap() {
        assert_eq!(field(&image, name), *value, "{name}");
    }
    let flag = 1 << layout.conventional_bit();
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
        assert_eq!(conventional, entry & flag != 0, "{name}, zone {zone}");
        assert_eq!(pointer.0, entry & !flag, "{name}, zone {zone}");
        let bytes = if order == ByteOrder::Big { entry.to_be_bytes() } else { entry.to_le_bytes() };
        assert_eq!(image.pointer_table().encode(zone, *pointer), bytes, "{name}, zone {zone}");
    }
    assert_clean(&mut image, name);
    // Going on with the image leaves it as clean as it was, and the table in its byte order.
    image.map(Bytes(0), Bytes(geometry.size().0)).unwrap();
    let table = image.pointer_table();
    table.store(ZoneIndex(geometry.nr_zones() - 1), geometry.start(ZoneIndex(geometry.nr_zones() - 1))).unwrap();
    image.release().unwrap();
    let mut image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
    assert_clean(&mut image, name);
    assert_eq!(image.zoned().layout, layout, "{name}");
    // A single zone that is empty again fits both orders.
    if geometry.nr_zones() > 1 {
        assert_eq!(image.table_order(), order);
    }
}

#[test]
fn images_of_v7_open_with_their_geometry_byte_order_and_pointers() {
    V7.iter().for_each(|name| opens_as_described(name, ZonedLayout::V7, ByteOrder::Little));
}

#[test]
fn images_of_layout_b_open_with_their_geometry_and_pointers() {
    B.iter().for_each(|name| opens_as_described(name, ZonedLayout::B, ByteOrder::Big));
}

/// A golden image on a disk of its own, served.
fn served(name: &str) -> (Rig, Value) {
    let (file, about) = golden(name);
    let disk = SimDisk::default();
    let len = file.len().unwrap();
    disk.set_len(len).unwrap();
    let mut piece = vec![0; 4096];
    for at in (0..len.0).step_by(4096) {
        let part = &mut piece[..(len.0 - at).min(4096) as usize];
        file.read_at(FileOffset(at), part).unwrap();
        if part.iter().any(|byte| *byte != 0) {
            disk.write_at(FileOffset(at), part).unwrap();
        }
    }
    (Rig::open(Arc::new(disk)), about)
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

fn assert_shows(rig: &mut Rig, zone: &ZoneInfo, expected: Option<&str>, what: &str) {
    let data = rig.read(zone.start.0, zone.len.0 as usize);
    match expected {
        Some(expected) => assert_eq!(sha256(&data), expected, "{what}"),
        None => assert!(data.iter().all(|byte| *byte == 0), "{what} is not all zeros"),
    }
}

#[test]
fn a_guest_sees_the_zones_of_layout_b_in_their_states_with_their_contents() {
    for name in B.into_iter().chain(["nolimit-defaults-8x4M-64k"]) {
        let (mut rig, about) = served(name);
        let described = about["zones_not_empty"].as_object().unwrap();
        for zone in rig.zones() {
            let what = format!("{name}, zone {}", zone.index);
            let Some(about) = described.get(&zone.index.to_string()) else {
                assert_eq!((zone.state, zone.write_pointer), (State::Empty, zone.start), "{what}");
                continue;
            };
            assert_eq!(zone.state.name(), about["state"], "{what}");
            assert_shows(&mut rig, &zone, about["sha256"].as_str(), &what);
        }
    }
}

/// What is done to a zone, what it is then, and the bytes that it shows from its start.
fn go_on(rig: &mut Rig, zone: &ZoneInfo, turn: usize) -> (State, Vec<u8>) {
    let manage = |rig: &mut Rig, action| {
        rig.run(Op::Manage { action, zone: zone.start.to_sector() }, Vec::new()).0.unwrap();
    };
    let mut shown = rig.read(zone.start.0, zone.len.0 as usize);
    match (zone.state, turn % 2) {
        (State::NotWp, _) => {
            rig.write(zone.start.0 + 512, vec![0xc5; 1024]).unwrap();
            shown[512..1536].fill(0xc5);
            (State::NotWp, shown)
        }
        (State::Closed, 0) => {
            let at = (zone.write_pointer.0 - zone.start.0) as usize;
            rig.write(zone.write_pointer.0, vec![0x5c; 512]).unwrap();
            let append = Op::Append { zone: zone.start.to_sector(), len: Bytes(1024) };
            rig.run(append, vec![0x5d; 1024]).0.unwrap();
            manage(rig, Action::Close);
            shown[at..at + 512].fill(0x5c);
            shown[at + 512..at + 1536].fill(0x5d);
            (State::Closed, shown)
        }
        (State::Closed, _) => {
            manage(rig, Action::Finish);
            (State::Full, shown)
        }
        (State::Full, 0) => {
            manage(rig, Action::Reset);
            (State::Empty, vec![0; shown.len()])
        }
        _ => (zone.state, shown),
    }
}

#[test]
fn what_is_written_to_an_image_of_layout_b_is_read_again() {
    for name in B {
        let (mut rig, _) = served(name);
        let zones: Vec<_> = rig.zones().into_iter().filter(|zone| zone.state != State::Empty).collect();
        let expected: Vec<_> =
            zones.iter().enumerate().map(|(turn, zone)| (zone.index, go_on(&mut rig, zone, turn))).collect();
        rig.store.close().unwrap();
        let disk = Arc::clone(&rig.disk);
        let mut image = Image::open(Arc::clone(&disk), Access::ReadOnly).unwrap();
        assert_eq!((image.zoned().layout, image.table_order()), (ZonedLayout::B, ByteOrder::Big), "{name}");
        let report = image.check().unwrap();
        assert_eq!((report.errors, report.leaks), (0, 0), "{name}: {:?}", report.findings);
        for (zone, pointer) in (0..).map(ZoneIndex).zip(image.write_pointers().unwrap()) {
            assert!(pointer <= image.geometry().writable_end(zone), "{name}, zone {zone}: another reader refuses it");
        }
        let mut rig = Rig::open(disk);
        let again = rig.zones();
        for (index, (state, shown)) in expected {
            let zone = &again[index.index()];
            assert_eq!(zone.state, state, "{name}, zone {index}");
            assert!(rig.read(zone.start.0, shown.len()) == shown, "{name}, zone {index}: other contents");
        }
    }
}

#[test]
fn an_image_of_layout_b_is_repaired_by_its_own_rules() {
    let (file, _) = golden("b/cap3M-of-4M-6z-64k");
    let table = Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap().zoned().zonedmeta_offset;
    // Zone 1 is finished as v7 does it, zone 2 nowhere near itself.
    let storage = Arc::new(file);
    storage.write_at(FileOffset(table + 8), &(8u64 << 20).to_be_bytes()).unwrap();
    storage.write_at(FileOffset(table + 16), &u64::MAX.to_be_bytes()).unwrap();
    let error = Image::open(Arc::clone(&storage), Access::ReadWrite).err().unwrap().to_string();
    let expected = "the write pointer of zone 1 is 0x800000: expected 0x400000 to 0x700000, what can be written of it";
    assert!(error.starts_with(expected), "{error}");
    let report = repair(&storage, Pointers::Settle).unwrap();
    let settled: Vec<_> = report.settled.iter().map(|one| (one.zone, one.fault, one.write_pointer)).collect();
    assert_eq!(settled, [(1, PointerFault::PastWritable, 7 << 20), (2, PointerFault::Contradiction, 8 << 20)]);
    let mut image = Image::open(storage, Access::ReadWrite).unwrap();
    assert_eq!(image.zoned().layout, ZonedLayout::B);
    assert_clean(&mut image, "b/cap3M-of-4M-6z-64k");
}

#[test]
fn an_image_made_with_the_default_options_of_v7_states_no_limit_of_appends() {
    let (file, _) = golden("nolimit-defaults-8x4M-64k");
    let image = Image::open(Arc::new(file), Access::ReadWrite).unwrap();
    assert_eq!(image.geometry().max_append(), None);
    let (mut rig, _) = served("nolimit-defaults-8x4M-64k");
    let append = Op::Append { zone: Bytes(4 << 20).to_sector(), len: Bytes(2 << 20) };
    assert!(rig.run(append, vec![1; 2 << 20]).0.is_ok(), "bounded by the zone alone");
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
        let OpenError::Pointer(pointer) = &error else { panic!("{error}") };
        assert!(matches!(pointer, PointerError::Truncated32 { zone: ZoneIndex(64), value: 0, .. }), "{error}");
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
    let image = Image::open(Arc::new(file), Access::ReadOnly).unwrap();
    let last = ZoneIndex(7);
    let pointer = image.write_pointers().unwrap()[last.index()];
    assert_eq!(pointer, Bytes(8 * (4 << 20)));
    assert!(pointer > image.geometry().size() && pointer >= image.geometry().writable_end(last));
}

#[test]
fn an_image_of_any_binary_grows_and_keeps_its_zones() {
    for name in V7.into_iter().chain(B) {
        for zones in [1, 9000] {
            let when = format!("{name}, {zones} zones");
            let start = golden(name).0;
            let mut before = Image::open(Arc::new(start.clone()), Access::ReadOnly).unwrap();
            let (old, zone) = (*before.geometry(), before.geometry().zone_size().0);
            let storage = Arc::new(start);
            let growth = Growth { by: Bytes(zones * zone), fill_last_zone: true, most_zones: 1 << 24 };
            let new = grow(&storage, &growth).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(new.size().0, old.size().0.next_multiple_of(zone) + zones * zone, "{when}");
            let mut after = Image::open(storage, Access::ReadWrite).unwrap();
            assert_clean(&mut after, &when);
            assert_eq!((after.table_order(), after.zoned().layout), (before.table_order(), before.zoned().layout));
            let (pointers, kept) = (before.write_pointers().unwrap(), after.write_pointers().unwrap());
            assert_eq!(kept[..pointers.len()], pointers[..], "{when}");
            let mut comparison = Comparison::new(&mut before, &mut after).unwrap();
            for index in comparison.zones().map(ZoneIndex) {
                let difference = comparison.zone(index, drop).unwrap();
                // What was short has room again.
                let grown = old.len(index) != new.len(index) && difference.is_some_and(|one| one.data.is_none());
                assert!(difference.is_none() || grown, "{when}: {difference:?}");
            }
        }
    }
}

#[test]
fn an_image_of_any_binary_becomes_one_of_this_program_with_the_same_zones() {
    for name in V7.into_iter().chain(B) {
        for (cluster, table_order) in [(4 << 10, ByteOrder::Big), (2 << 20, ByteOrder::Little)] {
            let start = Arc::new(golden(name).0);
            let mut before = Image::open(Arc::clone(&start), Access::ReadOnly).unwrap();
            let old = *before.geometry();
            let geometry = GeometryRequest {
                size: old.size(),
                zone_size: old.zone_size(),
                zone_capacity: old.zone_capacity(),
                conventional_zones: old.conventional_zones(),
                max_open_zones: old.max_open_zones(),
                max_active_zones: old.max_active_zones(),
                max_append_bytes: old.max_append().unwrap_or_default(),
            };
            let storage = Arc::new(MemoryMedium::default());
            create(&*storage, &CreateOptions { geometry, cluster_size: Bytes(cluster), table_order }).unwrap();
            let mut source = ImageSource::new(Image::open(start, Access::ReadOnly).unwrap()).unwrap();
            convert::copy(&mut source, ImageTarget::new(Arc::clone(&storage)).unwrap(), |_, _| {}).unwrap();
            let mut after = Image::open(storage, Access::ReadWrite).unwrap();
            assert_clean(&mut after, name);
            assert!(after.ended_orderly());
            assert_eq!(compare_shapes(&before, &after), [], "{name}");
            let mut comparison = Comparison::new(&mut before, &mut after).unwrap();
            for zone in comparison.zones().map(ZoneIndex) {
                assert_eq!(comparison.zone(zone, drop).unwrap(), None, "{name}");
            }
        }
    }
}
