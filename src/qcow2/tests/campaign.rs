//! The damage campaign: every field of sound images of many kinds, wrong in every way that a fault or an attacker is
//! likely to make it wrong, alone and in pairs. What must hold is in [`judge`]; `--nocapture` prints what became of
//! the images, by field.
//!
//! By default a seeded part of all damages is tried. `DAMAGE_SEEDS=n` tries n times as many; 24 is every single one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::sound::*;
use super::support::*;
use crate::fuzzing::Metered;
use crate::qcow2::{Access, ByteOrder, CreateOptions, Finding, Image, Pointers, ZonedLayout};
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, ZoneIndex};

/// One of so many single damages is tried for each seed.
const STRIDE: usize = 24;
/// How many pairs are tried for each seed.
const PAIRS: u64 = 600;
/// How many images qemu-img sees for each seed.
const FOR_QEMU: usize = 48;

const HEADER: [(&str, u64, usize); 21] = [
    ("magic", 0, 4),
    ("version", 4, 4),
    ("backing_file_offset", 8, 8),
    ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4),
    ("size", 24, 8),
    ("crypt_method", 32, 4),
    ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8),
    ("refcount_table_offset", 48, 8),
    ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4),
    ("snapshots_offset", 64, 8),
    ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8),
    ("autoclear_features", 88, 8),
    ("refcount_order", 96, 4),
    ("header_length", 100, 4),
    ("compression_type", 104, 1),
    ("padding of the header", 105, 7),
    ("type and length of the first extension", 112, 8),
];

const EXTENSION: [(&str, u64, usize); 12] = [
    ("type of the zoned extension", 0, 4),
    ("its length", 4, 4),
    ("zoned", 8, 1),
    ("reserved", 9, 3),
    ("zone_size", 12, 4),
    ("zone_capacity", 16, 4),
    ("conventional_zones", 20, 4),
    ("nr_zones", 24, 4),
    ("max_active, max_open", 28, 8),
    ("max_append_bytes", 36, 4),
    ("zonedmeta_size", 40, 8),
    ("zonedmeta_offset", 48, 8),
];

const EXTENSION_B: [(&str, u64, usize); 10] = [
    ("type of the zoned extension", 0, 4),
    ("its length", 4, 4),
    ("zoned", 8, 1),
    ("reserved", 9, 3),
    ("nr_zones", 12, 4),
    ("zone_size", 16, 8),
    ("zone_capacity", 24, 8),
    ("zonedmeta_offset", 32, 8),
    ("conventional_zones", 40, 4),
    ("max_active, max_open", 44, 8),
];

/// What a refusal must speak of: one of the fields above, or one of these.
const SUBJECTS: [&str; 14] = [
    "not a qcow2 image",
    "backing file",
    "encryption",
    "snapshots",
    "incompatible feature bit",
    "compression type",
    "header extension",
    "zoned extension",
    "not a zoned image",
    "refcount table",
    "L1 table entry",
    "the write pointer of zone",
    "zonedmeta",
    "overlap in the cluster at",
];

/// Where a number stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Number {
        at: u64,
        width: usize,
        order: ByteOrder,
    },
    /// Refcounts can be narrower than a byte.
    Refcount {
        cluster: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Damage {
    field: &'static str,
    place: Place,
    value: u64,
}

/// A sound image, and all damages to it.
struct Base {
    name: &'static str,
    file: MemoryMedium,
    anatomy: Anatomy,
    shown: Vec<Option<Vec<u8>>>,
    pointers: Vec<Bytes>,
    damages: Vec<Damage>,
}

/// How an image is made of options: by this project, or as another program could have made it.
fn bases() -> Vec<Base> {
    let capped = |cluster| {
        let mut options = options((3 << 20) - 1024, 256 << 10, cluster);
        options.geometry.zone_capacity = Bytes(192 << 10);
        options
    };
    let little = |options| image_file(&CreateOptions { table_order: ByteOrder::Little, ..options });
    let mut sequential = options(8 << 20, 1 << 20, 2 << 20);
    sequential.geometry.conventional_zones = 0;
    let made = [
        ("64K", lived_in(image_file(&options(3 << 20, 256 << 10, 65536)))),
        (
            "64K, little-endian table, capacity, short last zone",
            lived_in(little(options((3 << 20) - 512, 256 << 10, 65536))),
        ),
        ("4K, capacity, short last zone", lived_in(image_file(&capped(4096)))),
        ("4K, little-endian table", lived_in(little(options(3 << 20, 256 << 10, 4096)))),
        ("512", lived_in(image_file(&options(768 << 10, 64 << 10, 512)))),
        ("4K, 1-bit refcounts", lived_in(foreign_file(12, 0, 3 << 20, 256 << 10))),
        ("512, 8-bit refcounts", lived_in(foreign_file(9, 3, 768 << 10, 64 << 10))),
        ("64K, 64-bit refcounts", lived_in(foreign_file(16, 6, 3 << 20, 256 << 10))),
        ("2M, no conventional zone", lived_in(image_file(&sequential))),
        ("4K, layout B, capacity, short last zone", lived_in(layout_b(&capped(4096)))),
        ("64K, layout B", lived_in(layout_b(&options(3 << 20, 256 << 10, 65536)))),
        ("4K, new", image_file(&options(3 << 20, 256 << 10, 4096))),
    ];
    made.into_iter().map(|(name, file)| Base::new(name, file)).collect()
}

/// An image with zones in all states, each cluster with its own bytes, cleanly closed: conventional ones in part, full
/// by writes, finished with and without data, reset and still mapped, written in part, empty.
fn lived_in(file: MemoryMedium) -> MemoryMedium {
    let mut image = open(file);
    let geometry = *image.geometry();
    let (table, cluster) = (image.pointer_table(), image.header().cluster_size().0);
    for zone in (0..geometry.nr_zones()).map(ZoneIndex) {
        let (start, capacity) = (geometry.start(zone).0, geometry.capacity(zone).0);
        let finished = table.full_pointer(zone).0 - start;
        // What is mapped, and where the pointer is.
        let (mapped, written) = match zone.0 {
            1 => (capacity, capacity),
            2 => (capacity / 2, finished),
            3 => (capacity, 0),
            4 => (capacity / 3, capacity / 3 / 512 * 512),
            5 => (512, 512),
            6 => (0, finished),
            zone if zone < 10 => (capacity / 4, capacity / 4),
            _ => (0, 0),
        };
        image.map(Bytes(start), Bytes(mapped)).unwrap();
        if zone.0 >= geometry.conventional_zones() {
            table.store(zone, Bytes(start + written)).unwrap();
        }
    }
    for extent in all_extents(&mut image) {
        for at in (0..extent.len.0).step_by(cluster.min(4096) as usize) {
            let guest = extent.guest.0 + at;
            // A reset zone shows zeros.
            if geometry.zone_at(Bytes(guest)) != Some(ZoneIndex(3)) {
                write(&**image.storage(), extent.file.0 + at, &(guest + 1).to_be_bytes().repeat(2));
            }
        }
    }
    image.release().unwrap();
    (**image.storage()).clone()
}

fn pointers_of(file: &MemoryMedium) -> Vec<Bytes> {
    Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap().write_pointers().unwrap()
}

impl Base {
    fn new(name: &'static str, file: MemoryMedium) -> Self {
        let mut base = Self {
            name,
            anatomy: Anatomy::of(&file),
            shown: contents(&file),
            pointers: pointers_of(&file),
            damages: Vec::new(),
            file,
        };
        for (field, place) in base.places() {
            base.damages.extend(base.values(place).into_iter().map(|value| Damage { field, place, value }));
        }
        base
    }

    /// Every field of the header and the extensions, and of each table the entries that differ in kind.
    fn places(&self) -> Vec<(&'static str, Place)> {
        let Anatomy { cluster, clusters, refcounts, l1_at, tables, zonedmeta_at, order, layout } = &self.anatomy;
        let number = |at, width| Place::Number { at, width, order: ByteOrder::Big };
        let extension = extension_at(&self.file) - 8;
        let mut places: Vec<_> = HEADER.iter().map(|(field, at, width)| (*field, number(*at, *width))).collect();
        let fields: &[_] = match layout {
            ZonedLayout::V7 => &EXTENSION,
            ZonedLayout::B => &EXTENSION_B,
        };
        places.extend(fields.iter().map(|(field, at, width)| (*field, number(extension + at, *width))));
        let blocks = refcounts.blocks();
        let table = read_u64(&self.file, 48);
        for index in BTreeSet::from([0, blocks / 2, blocks - 1, blocks, refcounts.table.len() as u64 - 1]) {
            places.push(("refcount table entry", number(table + index * 8, 8)));
        }
        let mut counted = BTreeSet::from([0, 1, table / cluster, refcounts.table[0] / cluster, zonedmeta_at / cluster]);
        counted.extend([l1_at / cluster, clusters - 1, *clusters, clusters + 1]);
        let l1_size = read_u64(&self.file, 32) % (1 << 32);
        places.push(("L1 entry", number(l1_at + (l1_size - 1) * 8, 8)));
        for (index, table) in (0..).zip(tables).filter(|(index, _)| [0, 1, tables.len() - 1].contains(index)) {
            places.push(("L1 entry", number(l1_at + index as u64 * 8, 8)));
            let (used, free): (Vec<u64>, Vec<u64>) =
                (0..cluster / 8).partition(|index| read_u64(&self.file, table + index * 8) != 0);
            let picked = [used.first(), used.get(used.len() / 2), used.last(), free.first(), free.last()];
            for entry in picked.into_iter().flatten().map(|index| table + index * 8).collect::<BTreeSet<_>>() {
                places.push(("L2 entry", number(entry, 8)));
                counted.insert((read_u64(&self.file, entry) & OFFSET) / cluster);
            }
            counted.insert(table / cluster);
        }
        places.extend(counted.into_iter().map(|cluster| ("refcount block entry", Place::Refcount { cluster })));
        places.extend((0..self.pointers.len() as u64).map(|zone| {
            ("write pointer table entry", Place::Number { at: zonedmeta_at + zone * 8, width: 8, order: *order })
        }));
        places
    }

    /// Offsets of every kind of metadata, of data, of the end of the file and past it.
    fn targets(&self) -> Vec<u64> {
        let anatomy = &self.anatomy;
        let table = read_u64(&self.file, 48);
        let end = anatomy.clusters * anatomy.cluster;
        let mut targets = vec![0, table, anatomy.refcounts.table[0], anatomy.l1_at, anatomy.zonedmeta_at];
        targets.extend(anatomy.tables.iter().take(2));
        let data = anatomy.tables.first().map(|table| {
            let entries = (0..anatomy.cluster / 8).map(|index| read_u64(&self.file, table + index * 8) & OFFSET);
            entries.filter(|offset| *offset != 0).take(3).collect::<Vec<_>>()
        });
        targets.extend(data.into_iter().flatten().flat_map(|data| [data, data + 512]));
        targets.extend([end - anatomy.cluster, end, end + 9 * anatomy.cluster, 1 << 40, (1 << 56) - anatomy.cluster]);
        targets
    }

    fn value(&self, place: Place) -> u64 {
        let Place::Number { at, width, order } = place else { return 1 };
        let mut bytes = read(&self.file, at, width);
        if order == ByteOrder::Little {
            bytes.reverse();
        }
        bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// The wrong values of a place: each bit flipped, none and all of them, off by one and by one cluster, and what
    /// points elsewhere.
    fn values(&self, place: Place) -> BTreeSet<u64> {
        let was = self.value(place);
        let bits = match place {
            Place::Number { width, .. } => width * 8,
            Place::Refcount { .. } => 1 << self.anatomy.refcounts.order,
        };
        let most = u64::MAX >> (64 - bits);
        let mut values: BTreeSet<u64> = (0..bits).map(|bit| was ^ 1 << bit).collect();
        values.extend([0, 1, 2, most, was.wrapping_add(1), was.wrapping_sub(1)]);
        values.extend([was.wrapping_add(self.anatomy.cluster), was.wrapping_sub(self.anatomy.cluster)]);
        if bits == 64 && matches!(place, Place::Number { .. }) {
            values.extend(self.targets().into_iter().flat_map(|target| [target, target | COPIED]));
        }
        values.into_iter().map(|value| value & most).filter(|value| *value != was).collect()
    }

    fn damage(&self, file: &MemoryMedium, damage: &Damage) {
        match damage.place {
            Place::Refcount { cluster } => self.anatomy.set_refcount(file, cluster, damage.value),
            Place::Number { at, width, order } => {
                let mut bytes = damage.value.to_be_bytes()[8 - width..].to_vec();
                if order == ByteOrder::Little {
                    bytes.reverse();
                }
                write(file, at, &bytes);
            }
        }
    }
}

/// What became of a damaged image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It is not opened for writing, not even to be repaired, and stays as it is.
    Refused,
    /// Nothing is wrong with it and a guest sees what it saw before.
    Harmless,
    /// It is as good as before.
    Repaired,
    /// As asked for, a pointer that says nothing has become the end of its zone or, where nothing is mapped, its start.
    Settled,
    /// It breaks no rule any more and the guest sees something else: nothing in the image says what it saw.
    Changed,
    /// Errors are reported and left.
    Left,
}

/// Opens, checks, serves and repairs a damaged image.
fn judge(base: &Base, file: &MemoryMedium, pointers: Pointers, budget: usize, when: &str) -> (Outcome, MemoryMedium) {
    let looked_at = Arc::new(Metered::new(file));
    match Image::open(Arc::clone(&looked_at), Access::ReadOnly) {
        Err(error) => assert_names_a_field(&error.to_string(), when),
        Ok(mut image) => drop(image.check().unwrap()),
    }
    assert_eq!(looked_at.changes(), 0, "{when}: written by looking at it");
    serving_makes_nothing_worse(file, when);
    let Some((mended, report)) = repair_makes_nothing_worse(file, pointers, budget, when) else {
        return (Outcome::Refused, file.clone());
    };
    let outcome = if report.left.errors > 0 {
        Outcome::Left
    } else if contents(&mended) != base.shown || pointers_of(&mended) != base.pointers {
        if report.pointers_settled > 0 { Outcome::Settled } else { Outcome::Changed }
    } else if mended == *file {
        Outcome::Harmless
    } else {
        Outcome::Repaired
    };
    (outcome, mended)
}

/// An image that opens for writing in spite of damage is written as one that is served is.
fn serving_makes_nothing_worse(file: &MemoryMedium, when: &str) {
    let served = Arc::new(Metered::new(file));
    let Ok(mut image) = Image::open(Arc::clone(&served), Access::ReadWrite) else {
        assert_eq!(served.changes(), 0, "{when}: refused and written");
        return;
    };
    let before = image.check().unwrap();
    for zone in (0..image.geometry().nr_zones().min(16)).map(ZoneIndex) {
        // What cannot be read is refused where it is met; the other zones go on.
        let _ = image.map(image.geometry().start(zone), image.geometry().zone_size());
    }
    image.release().unwrap();
    let after = image.check().unwrap();
    // An entry that leads past the end leads to what is allocated there later: it breaks one rule before and two then.
    // Opening cannot know of it without reading all tables, and its own zone is all that shows it.
    let past_the_end = |finding: &Finding| finding.message.contains("must be inside the file");
    let known = before.errors + before.findings.iter().filter(|finding| past_the_end(finding)).count() as u64;
    assert!(after.errors <= known, "{when}: {:?} became {:?}", before.findings, after.findings);
    assert_same_contents(file, &served.inner, when);
}

fn assert_names_a_field(message: &str, when: &str) {
    let fields = HEADER.iter().chain(&EXTENSION).map(|(field, ..)| *field);
    assert!(fields.chain(SUBJECTS).any(|subject| message.contains(subject)), "{when}: names nothing: {message}");
    assert!(!message.contains('\n'), "{when}: {message:?}");
}

/// Calls `with` with the images of the campaign: base, damages done, the damaged file, and numbers for more choices.
fn each_case(seeds: usize, mut with: impl FnMut(&Base, &[Damage], &MemoryMedium, &mut Seeded)) {
    let bases = bases();
    let mut try_it = |base: &Base, damages: &[Damage], seeded: &mut Seeded| {
        let file = base.file.clone();
        damages.iter().for_each(|damage| base.damage(&file, damage));
        if file != base.file {
            with(base, damages, &file, seeded);
        }
    };
    for (number, base) in bases.iter().enumerate() {
        for seed in 0..seeds.min(STRIDE) {
            let first = (seed + number * 7) % STRIDE;
            for (index, damage) in base.damages.iter().enumerate().skip(first).step_by(STRIDE) {
                try_it(base, &[*damage], &mut Seeded((number << 32 | index) as u64));
            }
        }
    }
    for seed in 0..seeds as u64 * PAIRS {
        let mut seeded = Seeded(seed << 8);
        let base = &bases[seeded.below(bases.len() as u64) as usize];
        let mut pick = || base.damages[seeded.below(base.damages.len() as u64) as usize];
        let pair = [pick(), pick()];
        try_it(base, &pair, &mut seeded);
    }
}

fn seeds() -> usize {
    std::env::var("DAMAGE_SEEDS").map_or(1, |seeds| seeds.parse().unwrap())
}

fn describe(base: &Base, damages: &[Damage]) -> String {
    let list: Vec<String> = damages.iter().map(|damage| format!("{damage:x?}")).collect();
    format!("{}: {}", base.name, list.join(" and "))
}

/// What became of how many images, by field.
#[derive(Default)]
struct Tally {
    rows: BTreeMap<usize, (String, [u64; 6])>,
}

impl Tally {
    fn add(&mut self, base: &Base, damages: &[Damage], outcome: Outcome) {
        let row = match damages {
            // The order of the first base is that of all.
            [one] => base.damages.iter().position(|known| known.field == one.field).unwrap_or(0),
            _ => usize::MAX,
        };
        let name = if row == usize::MAX { "two of these".into() } else { damages[0].field.to_string() };
        let same = self.rows.values_mut().find(|(known, _)| *known == name);
        let counts = match same {
            Some((_, counts)) => counts,
            None => &mut self.rows.entry(row).or_insert((name, [0; 6])).1,
        };
        counts[outcome as usize] += 1;
    }

    fn total(&self, outcome: Outcome) -> u64 {
        self.rows.values().map(|(_, counts)| counts[outcome as usize]).sum()
    }

    fn print(&self) {
        println!("| damaged | images | refused | harmless | repaired | settled | changed | reported and left |");
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        let mut sums = [0; 6];
        for (name, counts) in self.rows.values() {
            println!(
                "| {name} | {} | {} |",
                counts.iter().sum::<u64>(),
                counts.map(|count| count.to_string()).join(" | ")
            );
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        println!("| all | {} | {} |", sums.iter().sum::<u64>(), sums.map(|sum| sum.to_string()).join(" | "));
    }
}

#[test]
fn no_damage_becomes_worse_whatever_field_it_is_in() {
    let mut tally = Tally::default();
    each_case(seeds(), |base, damages, file, seeded| {
        let when = describe(base, damages);
        let pointers = [Pointers::Report, Pointers::Settle][seeded.below(2) as usize];
        let budget = [1, 2, usize::MAX][seeded.below(3) as usize];
        let (outcome, _) = judge(base, file, pointers, budget, &when);
        tally.add(base, damages, outcome);
    });
    tally.print();
    for (outcome, least) in
        [(Outcome::Refused, 600), (Outcome::Repaired, 150), (Outcome::Settled, 50), (Outcome::Left, 300)]
    {
        assert!(tally.total(outcome) >= least, "only {} images {outcome:?}", tally.total(outcome));
    }
}

#[test]
fn qemu_img_agrees_with_what_a_repair_leaves() {
    // Most images are refused, and qemu-img has no say about these.
    let mut left = FOR_QEMU * seeds();
    let (mut clean, mut number) = (0, 0u64);
    let mut disagreements = Vec::new();
    each_case(seeds(), |base, damages, file, _| {
        number += 1;
        // It does not open an image whose snapshots_offset is no place for a table, though there are no snapshots.
        let strict = damages.iter().any(|damage| damage.field == "snapshots_offset");
        if left == 0 || strict || Seeded(number).below(12) != 0 || survey(file).is_err() {
            return;
        }
        left -= 1;
        let (mended, report) = mend(file, Pointers::Settle);
        let (before, after) = (qemu_check(file), qemu_check(&mended));
        let agrees = if report.left.errors == 0 {
            clean += 1;
            after == Some((0, table_clusters(&mended)))
        } else {
            before.zip(after).is_none_or(|((before, _), (after, _))| after <= before)
        };
        if !agrees {
            disagreements.push(format!("{}: {before:?} and now {after:?}: {report:?}", describe(base, damages)));
        }
    });
    println!("{clean} repaired images are clean to qemu-img, {left} fewer than wanted were tried");
    assert!(disagreements.is_empty(), "errors and leaks to qemu-img: {}", disagreements.join("\n"));
    assert!(clean > 20);
}
