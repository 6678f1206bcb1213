//! What `create` makes, `open` accepts: over cluster sizes, byte orders and sizes.

use std::sync::Arc;

use super::support::*;
use crate::qcow2::{Access, ByteOrder, CreateError, Image, create};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, FileOffset, ZoneIndex};

#[test]
fn every_cluster_size_and_byte_order_opens_again() {
    for bits in 9..=21 {
        for order in [ByteOrder::Big, ByteOrder::Little] {
            let mut options = options((11 << 20) + 512, 1 << 20, 1 << bits);
            options.table_order = order;
            let mut image = open(image_file(&options));
            assert_eq!(image.table_order(), order);
            assert_eq!(image.header().cluster_bits, bits);
            assert_eq!(image.geometry().nr_zones(), 12);
            assert_eq!(image.zoned().max_append_bytes, 4096);
            let pointers = image.write_pointers().unwrap();
            let starts: Vec<Bytes> = (0..12).map(|zone| Bytes(zone << 20)).collect();
            assert_eq!(pointers, starts);
            assert_eq!(all_extents(&mut image), []);
            let report = image.check().unwrap();
            assert_eq!((report.errors, report.leaks, report.allocated_clusters), (0, 0, 0), "cluster bits {bits}");
            assert_eq!(report.image_end, image.file_len().0);
        }
    }
}

#[test]
fn a_small_image_is_laid_out_as_qemu_does() {
    let image = open(image_file(&small()));
    assert_eq!(image.header().refcount_table_offset, FileOffset(0x10000));
    assert_eq!(image.zoned().zonedmeta_offset, 0x30000);
    assert_eq!(image.header().l1_table_offset, FileOffset(0x40000));
    assert_eq!(read_u64(&**image.storage(), 0x228) >> 32, 0x007a_6264, "the zoned extension is where v7 puts it");
}

#[test]
fn stored_pointers_are_read_again_in_the_order_of_the_image() {
    for order in [ByteOrder::Big, ByteOrder::Little] {
        let mut options = small();
        options.table_order = order;
        let image = open(image_file(&options));
        let table = image.pointer_table();
        table.store(ZoneIndex(3), Bytes((3 << 20) + 512)).unwrap();
        table.store(ZoneIndex(11), Bytes(12 << 20)).unwrap();
        table.store(ZoneIndex(0), Bytes(4096)).unwrap();
        assert!(table.store(ZoneIndex(4), Bytes((3 << 20) + 512)).is_err(), "a pointer of another zone");
        assert!(table.store(ZoneIndex(12), Bytes(12 << 20)).is_err(), "no such zone");
        let raw = read_u64(&**image.storage(), table.offset(ZoneIndex(0)).0);
        let raw = if order == ByteOrder::Little { raw.swap_bytes() } else { raw };
        assert_eq!(raw, 1 << 59, "a conventional zone keeps its start and its flag");
        let image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
        assert_eq!(image.table_order(), order);
        let pointers = image.write_pointers().unwrap();
        assert_eq!([pointers[0], pointers[3], pointers[11]], [Bytes(0), Bytes((3 << 20) + 512), Bytes(12 << 20)]);
    }
}

#[test]
fn one_empty_zone_fits_both_orders_and_is_taken_as_big() {
    for (pointer, found) in [(0u64, ByteOrder::Big), (4096, ByteOrder::Little)] {
        let mut options = options(1 << 20, 1 << 20, 65536);
        options.geometry.conventional_zones = 0;
        options.table_order = ByteOrder::Little;
        let file = image_file(&options);
        write(&file, 0x30000, &pointer.to_le_bytes());
        assert_eq!(open(file).table_order(), found);
    }
}

#[test]
fn sixteen_tib_take_little_of_file_and_memory() {
    let mut options = options(16 << 40, 64 << 20, 65536);
    options.geometry.conventional_zones = 0;
    let file = image_file(&options);
    assert!(file.allocated().0 < 4 << 20);
    let mut image = open(file);
    assert_eq!(image.geometry().nr_zones(), 262_144);
    assert_eq!(image.write_pointers().unwrap()[262_143], Bytes(262_143 * (64 << 20)));
    let table = image.pointer_table();
    for zone in (0..262_144).step_by(1000) {
        let start = zone << 26;
        image.map(Bytes(start), Bytes(65536)).unwrap();
        table.store(ZoneIndex(zone as u32), Bytes(start + 4096)).unwrap();
    }
    let offset = image.header().refcount_table_offset;
    image.release().unwrap();
    let mut image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
    assert_eq!(image.header().refcount_table_offset, offset, "the refcount table was large enough from the start");
    assert_eq!(all_extents(&mut image).len(), 263);
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks, report.allocated_clusters), (0, 0, 263));
}

#[test]
fn what_cannot_be_made_is_refused_by_naming_the_rule() {
    let error = |options| create(&MemoryMedium::default(), &options).unwrap_err().to_string();
    for cluster_size in [0, 256, 1000, 4 << 20] {
        let message = error(options(12 << 20, 1 << 20, cluster_size));
        assert_eq!(message, format!("cluster_size is {cluster_size}: expected a power of two from 512 bytes to 2 MiB"));
    }
    let message = error(options(1 << 40, 64 << 20, 512));
    assert!(message.contains("the L1 table would exceed its limit of 33554432 bytes"), "{message}");
    assert!(message.contains("a larger cluster size"), "{message}");
    let message = error(options(127 << 30, 64 << 20, 512));
    assert!(message.contains("the refcount table would exceed its limit of 8388608 bytes"), "{message}");
    assert!(error(options(12 << 20, 3 << 20, 65536)).starts_with("zone_size is 3145728: "));
    let huge = options(u64::MAX - 511, 1 << 31, 2 << 20);
    assert!(error(huge).contains("zone_size is"), "too many zones");
    let file = MemoryMedium::from_bytes(b"something").unwrap();
    let refused = create(&file, &small());
    assert!(matches!(refused, Err(CreateError::NotEmpty { len: Bytes(9) })));
}

#[test]
fn a_crash_while_creating_leaves_no_image() {
    for cluster_size in [512, 65536] {
        for dies_at in 0.. {
            let storage = Powered::new(&MemoryMedium::default());
            storage.dies_at.store(dies_at, std::sync::atomic::Ordering::Relaxed);
            if create(&storage, &options(12 << 20, 1 << 20, cluster_size)).is_ok() {
                assert!(dies_at > 5);
                break;
            }
            for seed in 0..50 {
                let file = storage.after_power_loss(&mut Seeded(seed));
                if let Ok(report) = check(&file) {
                    assert_eq!((report.errors, report.leaks), (0, 0), "step {dies_at}, seed {seed}");
                }
            }
            let killed = check(&storage.after_kill());
            assert!(killed.is_err() || killed.is_ok_and(|report| report.errors == 0));
        }
    }
}

#[test]
fn an_image_need_not_state_a_limit_of_appends() {
    let mut options = small();
    options.geometry.max_append_bytes = Bytes(0);
    let image = open(image_file(&options));
    assert_eq!((image.zoned().max_append_bytes, image.geometry().max_append()), (0, None));
    assert_eq!(open(image_file(&small())).geometry().max_append(), Some(Bytes(4096)));
}

#[test]
fn limits_that_cannot_be_met_are_stored_and_lowered() {
    let mut options = small();
    options.geometry.max_active_zones = 100;
    options.geometry.max_open_zones = 90;
    let storage = MemoryMedium::default();
    let clamps = create(&storage, &options).unwrap();
    assert_eq!(clamps.len(), 2);
    let image = open(storage);
    assert_eq!(image.clamps(), clamps);
    assert_eq!(image.zoned().max_active_zones, 100);
    assert_eq!(image.geometry().max_active_zones(), 0, "12 of 11 sequential zones is no limit");
}

#[test]
fn a_file_that_ends_inside_its_last_cluster_is_made_whole() {
    let file = image_file(&small());
    file.set_len(Bytes(0x40000 + 8)).unwrap();
    let image = Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap();
    assert_eq!(image.file_len(), Bytes(0x40008));
    let image = open(file);
    assert_eq!(image.storage().len().unwrap(), Bytes(0x50000));
}
