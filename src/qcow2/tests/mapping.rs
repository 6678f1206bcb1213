//! Mapping and looking up, against a model that knows nothing of the format.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::support::*;
use crate::qcow2::{Access, Extent, Image, MapError};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset};

/// Which guest cluster is where in the file.
type Model = BTreeMap<u64, u64>;

fn look_up<S: Medium>(image: &mut Image<S>, start: u64, len: u64, most: usize) -> Vec<Extent> {
    let mut out = Vec::new();
    let mut at = start;
    while at < start + len {
        let before = out.len();
        let next = image.extents(Bytes(at), Bytes(start + len - at), &mut out, most).unwrap();
        assert!(out.len() - before <= most);
        assert!(next.0 > at || out.len() - before == most, "no progress at {at:#x}");
        at = next.0;
    }
    out
}

fn check_against_model<S: Medium>(image: &mut Image<S>, model: &Model, start: u64, len: u64, most: usize) {
    let cluster = image.header().cluster_size().0;
    let size = image.geometry().size().0;
    let mut bytes = 0;
    let mut last_end = start;
    for Extent { guest, file, len: part, .. } in look_up(image, start, len, most) {
        assert!(guest.0 >= last_end && guest.0 + part.0 <= (start + len).min(size) && part.0 > 0);
        last_end = guest.0 + part.0;
        let mut at = guest.0;
        while at < last_end {
            let host = model.get(&(at / cluster)).copied();
            assert_eq!(host.map(|host| host + at % cluster), Some(file.0 + (at - guest.0)), "at {at:#x}");
            at = (at / cluster + 1) * cluster;
        }
        bytes += part.0;
    }
    let end = (start + len).min(size);
    let inside = |guest: u64| ((guest + 1) * cluster).min(end).saturating_sub((guest * cluster).max(start));
    let expected: u64 = model.keys().map(|guest| inside(*guest)).sum();
    assert_eq!(bytes, expected, "mapped bytes of {start:#x} and {len:#x}");
}

fn learn<S: Medium>(image: &mut Image<S>, model: &mut Model) {
    let cluster = image.header().cluster_size().0;
    for extent in all_extents(image) {
        let count = extent.len.0.div_ceil(cluster);
        for index in 0..count {
            let host = extent.file.0 + index * cluster;
            let known = *model.entry(extent.guest.0 / cluster + index).or_insert(host);
            assert_eq!(known, host, "a mapping moved");
        }
    }
    let hosts: std::collections::BTreeSet<_> = model.values().collect();
    assert_eq!(hosts.len(), model.len(), "a cluster has two owners");
}

fn random_run(cluster_size: u64, size: u64, seed: u64) {
    let mut seeded = Seeded(seed);
    let mut image = open(image_file(&options(size, 1 << 20, cluster_size)));
    let mut model = Model::new();
    for _ in 0..60 {
        let start = seeded.below(size);
        let most = if seeded.below(8) == 0 { size } else { 3 * cluster_size };
        let len = seeded.below(most);
        match seeded.below(8) {
            0 => {
                image.release().unwrap();
                image = Image::open(Arc::clone(image.storage()), Access::ReadWrite).unwrap();
            }
            1 => {
                image.refill(Bytes(len)).unwrap();
                assert!(!image.refill(Bytes(len)).unwrap(), "a second refill has nothing to do");
            }
            2..=4 => {
                image.map(Bytes(start), Bytes(len)).unwrap();
                learn(&mut image, &mut model);
                let end = (start + len).min(size);
                let clusters = if len == 0 { 0..0 } else { start / cluster_size..end.div_ceil(cluster_size) };
                assert!(clusters.clone().all(|guest| model.contains_key(&guest)), "{clusters:?} is mapped");
                assert!(model.len() as u64 <= size.div_ceil(cluster_size));
            }
            _ => check_against_model(&mut image, &model, start, len, 1 + seeded.below(5) as usize),
        }
    }
    check_against_model(&mut image, &model, 0, size, usize::MAX);
    for host in model.values() {
        assert!(read(&**image.storage(), *host, cluster_size as usize).iter().all(|byte| *byte == 0));
    }
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0), "{:?}", report.findings);
    assert_eq!(report.allocated_clusters, model.len() as u64);
    image.release().unwrap();
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 0));
    assert_eq!(report.image_end, image.file_len().0, "nothing is left behind the last cluster in use");
}

#[test]
fn random_maps_and_lookups_agree_with_the_model() {
    for (cluster_size, size) in
        [(512, 3 << 20), (1024, (5 << 20) + 512), (4096, 12 << 20), (65536, (64 << 20) + 1536), (2 << 20, 256 << 20)]
    {
        for seed in 0..6 {
            random_run(cluster_size, size, seed);
        }
    }
}

#[test]
fn a_large_range_is_one_run_in_the_file() {
    // 512 bytes per cluster: an L2 table every 32 KiB, which must not part the data.
    for cluster_size in [512, 4096, 65536] {
        let mut image = open(image_file(&options(64 << 20, 1 << 20, cluster_size)));
        image.map(Bytes(1 << 20), Bytes(8 << 20)).unwrap();
        let extents = all_extents(&mut image);
        assert_eq!(extents.len(), 1, "clusters of {cluster_size}");
        assert_eq!((extents[0].guest, extents[0].len), (Bytes(1 << 20), Bytes(8 << 20)));
    }
}

#[test]
fn mapping_again_changes_nothing() {
    let mut image = open(image_file(&small()));
    image.map(Bytes(100), Bytes(200_000)).unwrap();
    let before = (all_extents(&mut image), image.file_len());
    image.map(Bytes(0), Bytes(200_000)).unwrap();
    assert_eq!((all_extents(&mut image), image.file_len()), before);
}

#[test]
fn a_refilled_image_maps_without_a_flush() {
    let powered = shared(Powered::new(&image_file(&small())));
    let mut image = Image::open(Arc::clone(&powered), Access::ReadWrite).unwrap();
    assert!(image.refill(Bytes(2 << 20)).unwrap());
    let before = powered.steps.load(std::sync::atomic::Ordering::Relaxed);
    image.map(Bytes(0), Bytes(1 << 20)).unwrap();
    let steps = powered.steps.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert_eq!(steps, 2, "one L1 entry and one slice of an L2 table");
}

#[test]
fn what_is_kept_ahead_is_topped_up_by_half_and_never_more_than_the_device() {
    let powered = shared(Powered::new(&image_file(&options(1 << 30, 1 << 20, 65536))));
    let mut image = Image::open(Arc::clone(&powered), Access::ReadWrite).unwrap();
    let start = image.file_len();
    image.keep_ahead(Bytes(64 << 20));
    assert!(image.refill(Bytes(1)).unwrap());
    assert_eq!(image.file_len().0 - start.0, 64 << 20);
    image.map(Bytes(0), Bytes(31 << 20)).unwrap();
    assert!(!image.refill(Bytes(1)).unwrap(), "a half and the L2 table are left");
    image.map(Bytes(31 << 20), Bytes(2 << 20)).unwrap();
    assert!(image.refill(Bytes(1)).unwrap());
    assert_eq!(image.drawn(), Bytes((33 << 20) + 65536));
    image.keep_ahead(Bytes(u64::MAX));
    assert!(image.refill(Bytes(1)).unwrap());
    assert!(image.file_len().0 - start.0 <= (2 << 30) + (1 << 20), "{}", image.file_len());
}

#[test]
fn where_the_file_cannot_be_as_long_as_is_kept_ahead_what_is_needed_is_mapped_all_the_same() {
    let limited =
        Failing { inner: image_file(&small()), left: (-1).into(), longest: Some(Bytes(4 << 20)), ..Failing::default() };
    let mut image = Image::open(shared(limited), Access::ReadWrite).unwrap();
    image.keep_ahead(Bytes(12 << 20));
    image.map(Bytes(0), Bytes(1 << 20)).unwrap();
    assert!(image.file_len() <= Bytes(4 << 20));
    image.map(Bytes(1 << 20), Bytes(4 << 20)).unwrap_err();
    image.map(Bytes(1 << 20), Bytes(1 << 20)).unwrap();
}

#[test]
fn ranges_past_the_device_are_cut() {
    let mut image = open(image_file(&options((1 << 20) + 512, 1 << 20, 65536)));
    image.map(Bytes(1 << 20), Bytes(u64::MAX)).unwrap();
    image.map(Bytes(5 << 20), Bytes(1)).unwrap();
    image.map(Bytes(0), Bytes(0)).unwrap();
    let mut out = Vec::new();
    assert_eq!(image.extents(Bytes(0), Bytes(8 << 20), &mut out, 9).unwrap(), Bytes(8 << 20));
    assert_eq!(out.len(), 1);
    assert_eq!((out[0].guest, out[0].len), (Bytes(1 << 20), Bytes(512)));
}

#[test]
fn a_read_only_image_is_never_written() {
    let file = image_file(&small());
    write(&file, 88, &3u64.to_be_bytes());
    file.set_len(Bytes(0x40000 + 8)).unwrap();
    let powered = shared(Powered::new(&file));
    let mut image = Image::open(Arc::clone(&powered), Access::ReadOnly).unwrap();
    assert!(matches!(image.map(Bytes(0), Bytes(1)), Err(MapError::ReadOnly)));
    assert!(matches!(image.refill(Bytes(1)), Err(MapError::ReadOnly)));
    assert!(image.pointer_table().store(crate::units::ZoneIndex(1), Bytes(1 << 20)).is_err());
    image.release().unwrap();
    image.check().unwrap();
    assert_eq!(powered.steps.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[test]
fn only_an_end_in_order_is_told_to_the_next_open() {
    let file = Arc::new(image_file(&small()));
    let reopen = |access| Image::open(Arc::clone(&file), access).unwrap();
    assert!(reopen(Access::ReadOnly).ended_orderly(), "as made");
    assert!(reopen(Access::ReadWrite).ended_orderly(), "as made, and now being written");
    assert!(!reopen(Access::ReadOnly).ended_orderly(), "the writer has said nothing");
    let mut image = reopen(Access::ReadWrite);
    assert!(!image.ended_orderly());
    image.release().unwrap();
    assert!(!reopen(Access::ReadOnly).ended_orderly(), "it may be used on");
    image.mark_orderly().unwrap();
    assert!(reopen(Access::ReadOnly).ended_orderly());
}

#[test]
fn unknown_autoclear_bits_are_cleared_before_the_first_change() {
    let file = image_file(&small());
    write(&file, 88, &(1u64 << 63 | 3).to_be_bytes());
    let image = open(file);
    assert_eq!(read_u64(&**image.storage(), 88), 0);
    assert_eq!(image.header().autoclear_features, 0);
}

#[test]
fn a_cluster_behind_a_zero_flag_reads_as_zeros_and_is_cleared_when_mapped() {
    let mut image = open(image_file(&small()));
    image.map(Bytes(0), Bytes(1 << 20)).unwrap();
    let host = all_extents(&mut image)[0].file.0;
    let storage = Arc::clone(image.storage());
    write(&*storage, host, &[7; 3 * 65536]);
    let table = read_u64(&*storage, image.header().l1_table_offset.0) & !(1 << 63);
    // The second cluster keeps its place behind the flag, the fourth has none.
    write(&*storage, table + 8, &((host + 65536) | (1 << 63) | 1).to_be_bytes());
    write(&*storage, table + 24, &1u64.to_be_bytes());
    let guests: Vec<u64> = all_extents(&mut image).iter().map(|extent| extent.guest.0).collect();
    assert_eq!(guests, [0, 2 * 65536, 4 * 65536]);
    image.map(Bytes(0), Bytes(1 << 20)).unwrap();
    let file_of = |image: &mut Image<_>, guest: u64| {
        let mut out = Vec::new();
        image.extents(Bytes(guest), Bytes(1), &mut out, 1).unwrap();
        out[0].file
    };
    assert_eq!(file_of(&mut image, 65536), FileOffset(host + 65536));
    assert!(read(&*storage, host + 65536, 65536).iter().all(|byte| *byte == 0));
    assert_eq!(read(&*storage, host, 1), [7]);
    assert_ne!(file_of(&mut image, 3 * 65536), FileOffset(host + 3 * 65536));
    let report = image.check().unwrap();
    assert_eq!((report.errors, report.leaks), (0, 1), "what the fourth had before is leaked");
}
