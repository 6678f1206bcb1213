//! Comparing images, against a model that holds the whole disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::support::*;
use crate::qcow2::{
    Access, ByteOrder, Comparison, CreateOptions, DataDifference, Image, Seen, ShapeDifference, ZoneDifference,
    compare_shapes,
};
use crate::storage::memory::MemoryMedium;
use crate::storage::{Layer, Layered, Medium};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::State;

const ZONE: u64 = 1 << 20;
const CAPACITY: u64 = 768 << 10;
/// The last zone is a half of one.
const SIZE: u64 = 12 * ZONE - ZONE / 2;

fn shape(cluster_size: u64, table_order: ByteOrder) -> CreateOptions {
    let mut shape = options(SIZE, ZONE, cluster_size);
    shape.geometry.zone_capacity = Bytes(CAPACITY);
    CreateOptions { table_order, ..shape }
}

/// Images of the same disk that have nothing else in common.
fn kinds() -> [(&'static str, MemoryMedium); 5] {
    [
        ("64K", image_file(&shape(65536, ByteOrder::Big))),
        ("512, little-endian", image_file(&shape(512, ByteOrder::Little))),
        ("4K", image_file(&shape(4096, ByteOrder::Big))),
        ("2M, larger than a zone", image_file(&shape(2 << 20, ByteOrder::Big))),
        ("64K, layout B", layout_b(&shape(65536, ByteOrder::Big))),
    ]
}

/// An image and what is in it.
struct Disk {
    image: Image<MemoryMedium>,
    bytes: Vec<u8>,
    pointers: Vec<u64>,
}

impl Disk {
    fn new(file: MemoryMedium) -> Self {
        let image = open(file);
        let pointers = image.write_pointers().unwrap().iter().map(|pointer| pointer.0).collect();
        Self { image, bytes: vec![0; SIZE as usize], pointers }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min((SIZE - at) as usize)];
        self.image.map(Bytes(at), Bytes(bytes.len() as u64)).unwrap();
        let mut extents = Vec::new();
        self.image.extents(Bytes(at), Bytes(bytes.len() as u64), &mut extents, usize::MAX).unwrap();
        for extent in extents {
            let from = (extent.guest.0 - at) as usize;
            write(&**self.image.storage(), extent.file.0, &bytes[from..from + extent.len.0 as usize]);
        }
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Sets a zone's pointer, or finishes it where that is none.
    fn point(&mut self, zone: u32, pointer: Option<u64>) {
        let table = self.image.pointer_table();
        let pointer = pointer.map_or_else(|| table.full_pointer(ZoneIndex(zone)), Bytes);
        table.store(ZoneIndex(zone), pointer).unwrap();
        self.pointers[zone as usize] = pointer.0;
    }

    fn seen(&self, zone: u32) -> (Seen, u64) {
        let start = u64::from(zone) * ZONE;
        let (end, pointer) = ((start + CAPACITY).min(SIZE), self.pointers[zone as usize]);
        let (state, write_pointer, readable) = match zone {
            0 => (State::NotWp, start, start + ZONE),
            _ if pointer == start => (State::Empty, start, start),
            _ if pointer >= end => (State::Full, end, end),
            _ => (State::Closed, pointer, pointer),
        };
        (Seen { state, write_pointer: Bytes(write_pointer) }, readable)
    }
}

fn expected(first: &Disk, second: &Disk) -> Vec<ZoneDifference> {
    let mut all = Vec::new();
    for zone in 0..12 {
        let ((one, one_end), (other, other_end)) = (first.seen(zone), second.seen(zone));
        let range = (u64::from(zone) * ZONE) as usize..one_end.min(other_end) as usize;
        let differs: Vec<usize> = range.filter(|at| first.bytes[*at] != second.bytes[*at]).collect();
        let mut sectors: Vec<usize> = differs.iter().map(|at| at / 512).collect();
        sectors.dedup();
        let breaks = sectors.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count() as u64;
        let data = differs.first().map(|at| DataDifference {
            first: Bytes(*at as u64),
            sectors: sectors.len() as u64,
            ranges: breaks + 1,
        });
        if one != other || data.is_some() {
            all.push(ZoneDifference { zone: ZoneIndex(zone), first: one, second: other, data });
        }
    }
    all
}

fn found<S: Medium>(first: &mut Image<S>, second: &mut Image<S>) -> Vec<ZoneDifference> {
    let mut comparison = Comparison::new(first, second).unwrap();
    let mut last = Bytes(0);
    let zones = comparison.zones();
    zones
        .filter_map(|zone| {
            let reached = |at: Bytes| {
                assert!(at > last);
                last = at;
            };
            comparison.zone(ZoneIndex(zone), reached).unwrap()
        })
        .collect()
}

/// Writes the same to both, in another order and with other pieces of zeros mapped.
fn fill(first: &mut Disk, second: &mut Disk, seeded: &mut Seeded) {
    for zone in 0..12u32 {
        let start = u64::from(zone) * ZONE;
        let room = if zone == 0 { ZONE } else { CAPACITY.min(SIZE - start) };
        let len = seeded.below(room / 512 + 1) * 512;
        let bytes: Vec<u8> = (0..len).map(|_| seeded.below(256) as u8).collect();
        for disk in [&mut *first, &mut *second] {
            // What is behind the pointer is anything.
            let behind = vec![seeded.below(256) as u8; seeded.below(room - len + 1) as usize];
            if zone > 0 && seeded.below(2) == 0 {
                disk.put(start + len, &behind);
            }
            disk.put(start, &bytes);
            let full = seeded.below(2) == 0;
            if zone > 0 && !(len == room && full) {
                disk.point(zone, Some(start + len));
            } else if zone > 0 {
                disk.point(zone, None);
            }
        }
    }
}

#[test]
fn the_same_disk_is_equal_whatever_its_image_is_made_of_and_each_difference_is_found() {
    let names = kinds().map(|(name, _)| name);
    for (one, other) in [(0, 0), (0, 1), (0, 2), (1, 3), (2, 4), (3, 0), (4, 1)] {
        let mut seeded = Seeded((one * 10 + other) as u64);
        let when = format!("{} and {}", names[one], names[other]);
        let (mut first, mut second) = (Disk::new(kinds()[one].1.clone()), Disk::new(kinds()[other].1.clone()));
        assert!(compare_shapes(&first.image, &second.image).is_empty(), "{when}");
        assert!(found(&mut first.image, &mut second.image).is_empty(), "{when}: as made");
        fill(&mut first, &mut second, &mut seeded);
        assert!(found(&mut first.image, &mut second.image).is_empty(), "{when}: with the same in both");
        let mut seen = 0;
        for round in 0..40 {
            let disk = if seeded.below(2) == 0 { &mut first } else { &mut second };
            let zone = seeded.below(12) as u32;
            let start = u64::from(zone) * ZONE;
            match seeded.below(6) {
                0 if zone > 0 => disk.point(zone, None),
                1 if zone > 0 => {
                    let room = CAPACITY.min(SIZE - start) / 512;
                    disk.point(zone, Some(start + seeded.below(room + 1) * 512));
                }
                2 if zone > 0 => disk.point(zone, Some(start)),
                3 => disk.put(start + seeded.below(ZONE / 2), &[0; 300_000]),
                4 => disk.put(start + seeded.below(ZONE / 2), &vec![round + 1; 200_000]),
                _ => disk.put(start + seeded.below(ZONE / 2), &[round]),
            }
            let differences = found(&mut first.image, &mut second.image);
            assert_eq!(differences, expected(&first, &second), "{when}, round {round}");
            seen += differences.len();
        }
        assert!(seen > 40, "{when}: {seen}");
    }
}

#[test]
fn a_state_a_pointer_and_data_are_told_apart() {
    let pair = || (Disk::new(kinds()[0].1.clone()), Disk::new(kinds()[1].1.clone()));
    type Change = fn(&mut Disk, &mut Disk);
    // Whether the state and the pointer differ; of data the first byte, how many sectors, in how many runs.
    type Differs = (bool, bool, Option<(u64, u64, u64)>);
    let cases: [(&str, Change, Differs); 6] = [
        ("empty and closed", |one, _| one.point(1, Some(ZONE + 512)), (true, true, None)),
        (
            "closed and finished",
            |one, other| {
                one.point(1, Some(ZONE + 512));
                other.point(1, None)
            },
            (true, true, None),
        ),
        (
            "two pointers",
            |one, other| {
                one.point(1, Some(ZONE + 512));
                other.point(1, Some(ZONE + 1024))
            },
            (false, true, None),
        ),
        (
            "one byte below the lower of two pointers",
            |one, other| {
                one.point(1, Some(ZONE + 512));
                other.point(1, Some(ZONE + 1024));
                one.put(ZONE + 511, &[1, 1]);
            },
            (false, true, Some((ZONE + 511, 1, 1))),
        ),
        (
            "runs that meet and one that does not, over the border of a cluster",
            |one, _| {
                one.put(65536 - 1, &[1, 1]);
                one.put(65536 + 1024, &[1]);
            },
            (false, false, Some((65535, 3, 2))),
        ),
        (
            "zeros that are mapped and zeros that are not, with a byte behind them",
            |one, _| {
                one.put(0, &vec![0; 70_000]);
                one.put(70_000, &[1]);
            },
            (false, false, Some((70_000, 1, 1))),
        ),
    ];
    for (name, change, (state, pointer, data)) in cases {
        for turned in [false, true] {
            let (mut one, mut other) = pair();
            if turned {
                change(&mut other, &mut one)
            } else {
                change(&mut one, &mut other)
            }
            let differences = found(&mut one.image, &mut other.image);
            assert_eq!(differences.len(), 1, "{name}");
            let difference = differences[0];
            assert_eq!((difference.in_state(), difference.in_pointer()), (state, pointer), "{name}");
            let data = data.map(|(first, sectors, ranges)| DataDifference { first: Bytes(first), sectors, ranges });
            assert_eq!(difference.data, data, "{name}");
        }
    }
}

#[test]
fn each_property_of_the_disk_is_compared_and_zones_of_other_sizes_are_not() {
    let mut limited = shape(65536, ByteOrder::Big);
    limited.geometry.max_append_bytes = Bytes(8192);
    let of = |change: fn(&mut CreateOptions)| {
        let mut changed = shape(65536, ByteOrder::Big);
        change(&mut changed);
        open(image_file(&changed))
    };
    type Change = fn(&mut CreateOptions);
    let cases: [(Change, (&'static str, u64, u64)); 7] = [
        (|options| options.geometry.size = Bytes(SIZE - 512), ("virtual_size", SIZE, SIZE - 512)),
        (|options| options.geometry.zone_size = Bytes(2 * ZONE), ("zone_size", ZONE, 2 * ZONE)),
        (|options| options.geometry.zone_capacity = Bytes(ZONE), ("zone_capacity", CAPACITY, ZONE)),
        (|options| options.geometry.conventional_zones = 2, ("conventional_zones", 1, 2)),
        (|options| options.geometry.max_open_zones = 2, ("max_open_zones", 3, 2)),
        (|options| options.geometry.max_active_zones = 0, ("max_active_zones", 4, 0)),
        (|options| options.geometry.max_append_bytes = Bytes(0), ("max_append_bytes", 4096, 0)),
    ];
    for (change, expected) in cases {
        let (mut usual, mut changed) = (of(|_| ()), of(change));
        let (field, first, second) = expected;
        let expected = ShapeDifference { field, first, second };
        assert_eq!(compare_shapes(&usual, &changed), [expected]);
        let comparable = field != "zone_size";
        assert_eq!(Comparison::new(&mut usual, &mut changed).is_some(), comparable, "{expected:?}");
    }
    // A layout that has no place for the longest append says nothing of it.
    let (stated, without) = (open(image_file(&limited)), open(layout_b(&shape(65536, ByteOrder::Big))));
    assert!(compare_shapes(&stated, &without).is_empty());
}

#[test]
fn zones_that_only_one_image_has_are_left_out_and_a_short_one_is_compared_as_far_as_it_goes() {
    let mut longer = shape(4096, ByteOrder::Big);
    longer.geometry.size = Bytes(14 * ZONE);
    let (mut short, mut long) = (open(kinds()[0].1.clone()), open(image_file(&longer)));
    assert_eq!(Comparison::new(&mut short, &mut long).unwrap().zones(), 0..12);
    for (image, pointer) in [(&short, 11 * ZONE + 4096), (&long, 11 * ZONE + CAPACITY)] {
        image.pointer_table().store(ZoneIndex(11), Bytes(pointer)).unwrap();
        image.pointer_table().store(ZoneIndex(10), Bytes(10 * ZONE + 512)).unwrap();
    }
    let differences = found(&mut short, &mut long);
    assert_eq!(differences.iter().map(|difference| difference.zone.0).collect::<Vec<_>>(), [11]);
}

/// Counts the bytes that are read.
struct Counting {
    below: MemoryMedium,
    read: AtomicU64,
}

impl Layer for Counting {
    type Below = MemoryMedium;

    fn below(&self) -> &MemoryMedium {
        &self.below
    }

    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.below.read_at(offset, buf)
    }
}

#[test]
fn what_neither_image_maps_is_not_read() {
    let mut large = options(1 << 40, 1 << 30, 65536);
    large.geometry.conventional_zones = 1000;
    let mut images = [0u8, 1].map(|content| {
        let mut image = open(image_file(&large));
        image.map(Bytes(700 << 30), Bytes(4096)).unwrap();
        let at = all_extents(&mut image)[0].file.0;
        write(&**image.storage(), at, &[content]);
        let counting = Counting { below: (**image.storage()).clone(), read: AtomicU64::new(0) };
        Image::open(Arc::new(Layered(counting)), Access::ReadOnly).unwrap()
    });
    let read = |images: &[Image<Layered<Counting>>; 2]| -> u64 {
        images.iter().map(|image| image.storage().0.read.load(Ordering::Relaxed)).sum()
    };
    let before = read(&images);
    let [first, second] = &mut images;
    let differences = found(first, second);
    let data = DataDifference { first: Bytes(700 << 30), sectors: 1, ranges: 1 };
    assert_eq!(differences.iter().map(|difference| difference.data).collect::<Vec<_>>(), [Some(data)]);
    let read = read(&images) - before;
    assert!(read < 1 << 20, "{read} bytes were read");
}
