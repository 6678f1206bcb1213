//! Calls that fail and power that goes, at every step of every operation: the image is never wrong, at most leaky.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::support::*;
use crate::qcow2::{Access, Image, MapError};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, FileOffset};

/// Clusters reserved at a time: few, so that one short life sees many reservations.
const STEP: u64 = 100;

/// Images to begin with: with room in the refcount table, with new blocks at every turn, with a table that must move
/// later, and with one that must move at once.
fn starts() -> Vec<(&'static str, MemoryMedium, u64)> {
    let at_the_end = foreign_file(9, 6, 256 << 10, 64 << 10);
    // 64 blocks count 64 clusters each.
    at_the_end.set_len(Bytes(4090 * 512)).unwrap();
    vec![
        ("512, at the end of its refcount table", at_the_end, 256 << 10),
        ("64K", image_file(&options(3 << 20, 256 << 10, 65536)), 3 << 20),
        ("512", image_file(&options(256 << 10, 64 << 10, 512)), 256 << 10),
        ("512, 64-bit refcounts", foreign_file(9, 6, 5 << 19, 256 << 10), 5 << 19),
        ("4K, 1-bit refcounts", foreign_file(12, 0, 1 << 20, 256 << 10), 1 << 20),
    ]
}

fn assert_sound(file: &MemoryMedium, when: &str) {
    let report = check(file).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(report.errors, 0, "{when}: {:?}", report.findings);
}

fn assert_mapped_once<S: Medium>(image: &mut Image<S>, size: u64, when: &str) {
    let extents = all_extents(image);
    assert_eq!(extents.iter().map(|extent| extent.len.0).sum::<u64>(), size, "{when}");
    let cluster = image.header().cluster_size().0;
    let mut hosts = BTreeSet::new();
    for extent in extents {
        for at in (0..extent.len.0).step_by(cluster as usize) {
            assert!(hosts.insert(extent.file.0 + at), "{when}: a cluster has two owners");
        }
        let bytes = read(&**image.storage(), extent.file.0, extent.len.0 as usize);
        assert!(bytes.iter().all(|byte| *byte == 0), "{when}: new clusters are not zeros");
    }
}

#[test]
fn a_map_that_fails_at_any_call_can_be_repeated() {
    for (name, start, size) in starts() {
        for failures in [1, 3] {
            let mut left = 0;
            loop {
                let when = format!("{name}, {failures} failures after {left}");
                let storage = Failing {
                    inner: start.clone(),
                    left: (-1).into(),
                    failures: failures.into(),
                    ..Failing::default()
                };
                let storage = Arc::new(storage);
                let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
                image.reserve.step = STEP;
                storage.left.store(left, Ordering::Relaxed);
                let mut failed = 0;
                for part in 0..3 {
                    while let Err(error) = image.map(Bytes(size / 3 * part), Bytes(size / 3 + 1000)) {
                        failed += 1;
                        assert!(failed < 20, "{when}: {error}");
                        assert_sound(&storage.inner, &when);
                        if matches!(error, MapError::InDoubt) {
                            image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
                        }
                    }
                }
                let _ = image.release();
                image.map(Bytes(0), Bytes(size)).unwrap();
                assert_mapped_once(&mut image, size, &when);
                image.release().unwrap();
                assert_sound(&storage.inner, &when);
                if storage.failures.load(Ordering::Relaxed) == failures {
                    // The fault lies behind the last call of all.
                    break;
                }
                left += 1 + left / 10;
            }
        }
    }
}

#[test]
fn a_full_disk_does_not_make_the_file_grow_with_each_attempt() {
    let storage = Arc::new(Failing {
        inner: image_file(&small()),
        left: (-1).into(),
        failures: 1000.into(),
        ..Failing::default()
    });
    let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
    storage.left.store(1, Ordering::Relaxed);
    let mut lens = BTreeSet::new();
    for _ in 0..100 {
        assert!(matches!(image.map(Bytes(0), Bytes(4096)), Err(MapError::Io { .. })));
        lens.insert(storage.len().unwrap());
    }
    assert_eq!(lens.len(), 1);
    storage.left.store(-1, Ordering::Relaxed);
    image.map(Bytes(0), Bytes(4096)).unwrap();
    image.release().unwrap();
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0));
}

#[test]
fn a_failed_flush_is_told_apart() {
    let storage =
        Arc::new(Failing { inner: image_file(&small()), left: (-1).into(), failures: 1.into(), ..Failing::default() });
    let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
    // The file grows, refcounts are written, then comes the flush.
    storage.left.store(2, Ordering::Relaxed);
    assert!(matches!(image.map(Bytes(0), Bytes(4096)), Err(MapError::Flush(_))));
}

/// One life of a process that maps, writes what it mapped and gives back the rest, until it dies.
fn live(storage: &Arc<Powered>, size: u64, seed: u64) -> Result<(), MapError> {
    let mut seeded = Seeded(seed);
    // Nothing can be wrong with the image, but the process may die in here.
    let mut image = Image::open(Arc::clone(storage), Access::ReadWrite).map_err(|_| MapError::InDoubt)?;
    image.reserve.step = STEP;
    let cluster = image.header().cluster_size().0;
    for round in 0..4 {
        let (start, len) = (seeded.below(size), seeded.below(size / 2));
        image.map(Bytes(start), Bytes(len))?;
        let mut extents = Vec::new();
        image.extents(Bytes(start), Bytes(len), &mut extents, 2)?;
        for extent in extents {
            // One sector in the first cluster, with the name of its place on the device.
            let tag = extent.guest.0 / cluster + 1;
            let file = FileOffset(extent.file.0 / 512 * 512);
            storage.write_at(file, &tag.to_be_bytes().repeat(64)).map_err(|_| MapError::InDoubt)?;
        }
        if round == 1 {
            image.release()?;
        }
        if round == 2 {
            image.refill(Bytes(size))?;
        }
    }
    image.release()
}

fn assert_survives(file: &MemoryMedium, size: u64, when: &str) {
    assert_sound(file, when);
    let mut image = Image::open(Arc::new(file.clone()), Access::ReadWrite).unwrap();
    let cluster = image.header().cluster_size().0;
    for extent in all_extents(&mut image) {
        for at in (0..extent.len.0).step_by(512) {
            let tag = read_u64(&**image.storage(), extent.file.0 + at);
            let own = (extent.guest.0 + at) / cluster + 1;
            assert!(tag == 0 || tag == own, "{when}: guest cluster {own} shows what belongs to {tag}");
        }
    }
    image.map(Bytes(0), Bytes(size)).unwrap_or_else(|error| panic!("{when}: {error}"));
    image.release().unwrap();
    assert_sound(image.storage(), when);
}

#[test]
fn the_image_is_sound_after_a_death_at_any_step() {
    for (name, start, size) in starts() {
        for seed in 0..3 {
            let mut dies_at = 0;
            loop {
                let storage = Arc::new(Powered::new(&start));
                storage.dies_at.store(dies_at, Ordering::Relaxed);
                let ended = live(&storage, size, seed).is_ok();
                let when = format!("{name}, seed {seed}, dead at step {dies_at}");
                assert_survives(&storage.after_kill(), size, &format!("{when}, killed"));
                for loss in 0..4 {
                    let file = storage.after_power_loss(&mut Seeded(loss * 1000 + dies_at as u64));
                    assert_survives(&file, size, &format!("{when}, power loss {loss}"));
                }
                if ended {
                    break;
                }
                // Every step at first, then ever fewer: the later ones repeat the earlier ones' kinds.
                dies_at += 1 + dies_at / 10;
            }
        }
    }
}
