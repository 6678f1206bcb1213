//! Changes of several places at once, by a process that dies at every step of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::support::*;
use crate::fuzzing::Metered;
use crate::qcow2::header::{AUTOCLEAR_FIELD, CHANGING};
use crate::qcow2::{Access, Change, Image};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, ZoneIndex};

const DATA: u64 = 1 << 20;

/// An image with a mapped zone, and changes of two write pointers and of some data.
fn start() -> (MemoryMedium, Vec<Change>) {
    let mut image = open(image_file(&small()));
    image.map(Bytes(DATA), Bytes(DATA)).unwrap();
    image.release().unwrap();
    let table = image.pointer_table();
    let at = all_extents_of(&mut image)[0].file;
    let pointer = |zone: u32, pointer| (table.offset(ZoneIndex(zone)), table.encode(ZoneIndex(zone), pointer).to_vec());
    let changes = vec![pointer(1, Bytes(DATA + 4096)), pointer(7, Bytes(7 * DATA + 512)), (at, vec![7; 5000])];
    ((**image.storage()).clone(), changes)
}

fn all_extents_of(image: &mut Image<MemoryMedium>) -> Vec<crate::qcow2::Extent> {
    let mut out = Vec::new();
    image.extents(Bytes(DATA), Bytes(DATA), &mut out, usize::MAX).unwrap();
    out
}

fn are_made(file: &MemoryMedium, changes: &[Change]) -> Vec<bool> {
    changes.iter().map(|(place, content)| read(file, place.0, content.len()) == *content).collect()
}

#[test]
fn a_process_that_dies_at_any_step_has_made_all_changes_or_none() {
    let (file, changes) = start();
    let len = file.len().unwrap();
    let mut seen = [0, 0];
    for left in 0.. {
        let storage =
            Arc::new(Failing { inner: file.clone(), left: (-1).into(), failures: i64::MAX.into(), longest: None });
        let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
        storage.left.store(left, Ordering::Relaxed);
        let mut decided = false;
        let result = image.change_at_once(&changes, 5, || decided = true);
        drop(image);
        let dead = storage.inner.clone();
        let looked =
            Image::open(Arc::new(dead.clone()), Access::ReadOnly).map(|_| ()).map_err(|error| error.to_string());
        let half = read_u64(&dead, AUTOCLEAR_FIELD) & CHANGING != 0;
        assert_eq!(looked.is_err(), half, "after {left} changes: {looked:?}");
        assert!(looked.err().is_none_or(|error| error.contains("check --repair")));
        let image = Image::open(Arc::new(dead), Access::ReadWrite).unwrap();
        let made = are_made(image.storage(), &changes);
        assert!(made.iter().all(|each| *each == made[0]), "after {left} changes: {made:?}");
        assert!(result.is_err() || made[0], "what was promised is not made");
        assert_eq!(image.changed_by(), half.then_some(5));
        assert!(made[0] == decided || result.is_err());
        seen[usize::from(made[0])] += 1;
        assert_eq!(check(&(**image.storage()).clone()).unwrap().errors, 0);
        assert!(image.storage().len().unwrap().0 >= len.0);
        if storage.left.load(Ordering::Relaxed) > 0 {
            assert_eq!(image.storage().len().unwrap(), len, "nothing is left behind the end");
            break;
        }
    }
    assert!(seen.iter().all(|count| *count > 1), "{seen:?}");
}

#[test]
fn a_mark_that_is_another_programs_is_cleared_like_any() {
    let (file, _) = start();
    write(&file, AUTOCLEAR_FIELD, &(CHANGING | 1).to_be_bytes());
    assert!(Image::open(Arc::new(file.clone()), Access::ReadOnly).is_ok());
    let image = open(file);
    assert_eq!(read_u64(&**image.storage(), AUTOCLEAR_FIELD), 0);
}

#[test]
fn changes_that_would_make_a_wrong_header_are_refused_and_not_made() {
    for (place, content, expected) in [
        (24u64, [0u64, 1, 0x40000], "size is 0"),
        (24, [12 << 20, 1, 1 << 40], "l1_table_offset is 0x10000000000"),
        (104, [0, 0, 0], "the zoned extension (0x007a6264) is missing"),
    ] {
        let (file, _) = start();
        let end = file.len().unwrap().0;
        let content = content.map(u64::to_be_bytes).concat();
        let mut log = [place.to_be_bytes(), 24u64.to_be_bytes()].concat();
        log.extend(content);
        log.resize(65536 - 24, 0);
        log.extend([end.to_be_bytes(), 40u64.to_be_bytes(), *b"zbdredo\x01"].concat());
        write(&file, end, &log);
        write(&file, AUTOCLEAR_FIELD, &CHANGING.to_be_bytes());
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let storage = Arc::new(Metered::new(&file));
            let error = Image::open(Arc::clone(&storage), access).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(storage.changes(), 0, "{error}: something was written");
        }
    }
}

#[test]
fn changes_outside_the_image_are_no_changes() {
    let of_the_header = [0u64, 16, 17, 41, 48, 72, 80, 88, 95, 96, 100].map(|place| (place, 8u64));
    for (place, len) in of_the_header.into_iter().chain([(u64::MAX - 4, 8), (1 << 40, 8), (4096, 1 << 40)]) {
        let (file, _) = start();
        let end = file.len().unwrap().0;
        let mut log = [place.to_be_bytes(), len.to_be_bytes()].concat();
        log.resize(65536 - 24, 0);
        log.extend([end.to_be_bytes(), 24u64.to_be_bytes(), *b"zbdredo\x01"].concat());
        write(&file, end, &log);
        write(&file, AUTOCLEAR_FIELD, &CHANGING.to_be_bytes());
        let before = read(&file, 0, end as usize);
        let image = open(file);
        let mut after = read(&**image.storage(), 0, end as usize);
        after[AUTOCLEAR_FIELD as usize..][..8].copy_from_slice(&CHANGING.to_be_bytes());
        assert!(before == after, "{place} {len}");
    }
}
