//! What the tests of damage and repair share: where things are in a sound image, what a check finds in a damaged one,
//! what a guest sees of it, and what a repair must keep whatever was damaged.

use std::process::Command;
use std::sync::Arc;

use super::support::*;
use crate::fuzzing::Metered;
use crate::qcow2::refcount::Refcounts;
use crate::qcow2::repair::repair_within;
use crate::qcow2::{
    Access, ByteOrder, CheckReport, CreateOptions, Image, Pointers, RepairError, RepairReport, Withheld, ZonedLayout,
    repair,
};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::units::{Bytes, ZoneIndex};

pub(super) const COPIED: u64 = 1 << 63;
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const DIRTY: u64 = 1;
/// How many kinds of damage a repair sets right.
pub(super) const REPAIRABLE: u64 = 6;

/// What a check finds, also where the image does not open for use.
pub(super) fn survey(file: &MemoryMedium) -> Result<CheckReport, String> {
    let mut image = Image::open_for_repair(Arc::new(file.clone())).map_err(|error| error.to_string())?;
    let mut report = image.check().unwrap();
    image.add_wrong_pointers(&mut report).unwrap();
    Ok(report)
}

pub(super) fn mend(file: &MemoryMedium, pointers: Pointers) -> (MemoryMedium, RepairReport) {
    let storage = Arc::new(file.clone());
    let report = repair(&storage, pointers).unwrap();
    ((*storage).clone(), report)
}

/// What each guest cluster shows; `None` where that cannot be told. Zeros and no cluster are the same to a guest.
pub(super) fn contents(file: &MemoryMedium) -> Vec<Option<Vec<u8>>> {
    let image = Image::open_for_repair(Arc::new(file.clone())).unwrap();
    let cluster = image.header().cluster_size().0;
    let clusters = image.header().clusters(image.geometry().size().0);
    let zeros = vec![0; cluster as usize];
    let show = |guest: u64| {
        let mut extents = Vec::new();
        image.extents(Bytes(guest * cluster), Bytes(cluster), &mut extents, 2).ok()?;
        let shown: Vec<u8> =
            extents.iter().map(|extent| read(file, extent.file.0, extent.len.0 as usize)).collect::<Vec<_>>().concat();
        Some(if shown == zeros[..shown.len()] { Vec::new() } else { shown })
    };
    (0..clusters).map(show).collect()
}

/// Where things are in a sound image, for damaging them.
pub(super) struct Anatomy {
    pub(super) cluster: u64,
    pub(super) clusters: u64,
    pub(super) refcounts: Refcounts,
    pub(super) l1_at: u64,
    pub(super) tables: Vec<u64>,
    pub(super) zonedmeta_at: u64,
    pub(super) order: ByteOrder,
    pub(super) layout: ZonedLayout,
}

impl Anatomy {
    pub(super) fn of(file: &MemoryMedium) -> Self {
        let image = Image::open(Arc::new(file.clone()), Access::ReadOnly).unwrap();
        Self {
            cluster: image.header().cluster_size().0,
            clusters: image.header().clusters(file.len().unwrap().0),
            refcounts: Refcounts {
                table: image.refcounts.table.clone(),
                order: image.refcounts.order,
                cluster_bits: image.refcounts.cluster_bits,
            },
            l1_at: image.header().l1_table_offset.0,
            tables: image.l1.iter().map(|entry| entry & OFFSET).filter(|table| *table != 0).collect(),
            zonedmeta_at: image.zoned().zonedmeta_offset,
            order: image.table_order(),
            layout: image.zoned().layout,
        }
    }

    pub(super) fn set_refcount(&self, file: &MemoryMedium, cluster: u64, value: u64) {
        let widest = u64::MAX >> (64 - (1 << self.refcounts.order));
        self.refcounts.fill(file, cluster..cluster + 1, value.min(widest)).unwrap();
    }

    /// Where an L2 entry in use stands.
    fn l2_entry(&self, file: &MemoryMedium, seeded: &mut Seeded) -> u64 {
        let table = self.tables[seeded.below(self.tables.len() as u64) as usize];
        let used: Vec<u64> = (0..self.cluster / 8).filter(|index| read_u64(file, table + index * 8) != 0).collect();
        table + used[seeded.below(used.len() as u64) as usize] * 8
    }

    pub(super) fn set_pointer(&self, file: &MemoryMedium, zone: u64, value: u64) {
        let bytes = if self.order == ByteOrder::Big { value.to_be_bytes() } else { value.to_le_bytes() };
        write(file, self.zonedmeta_at + zone * 8, &bytes);
    }

    /// Does one piece of damage that a repair sets right, and names it. `kind` is below [`REPAIRABLE`].
    pub(super) fn repairable_damage(&self, file: &MemoryMedium, kind: u64, seeded: &mut Seeded) -> String {
        let put = |at: u64, value: u64| {
            let was = read_u64(file, at);
            write(file, at, &value.to_be_bytes());
            format!("{was:#x} at {at:#x} is {value:#x}")
        };
        match kind {
            0..=2 => {
                let (cluster, value) = (seeded.below(self.clusters + 20), seeded.below(4));
                self.set_refcount(file, cluster, value);
                format!("refcount of cluster {cluster} is {value}")
            }
            3 => put(72, read_u64(file, 72) | DIRTY),
            4 => {
                let at = self.l2_entry(file, seeded);
                put(at, read_u64(file, at) & !COPIED)
            }
            _ => {
                let at = self.l1_at + seeded.below(self.tables.len() as u64) * 8;
                put(at, read_u64(file, at) & !COPIED)
            }
        }
    }
}

/// What qemu-img finds where it does not know of the zones: errors and leaks; `None` where it does not open the image.
pub(super) fn qemu_check(file: &MemoryMedium) -> Option<(u64, u64)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.qcow2");
    let copy = file.clone();
    write(&copy, 72, &(read_u64(file, 72) & !0x20).to_be_bytes());
    std::fs::write(&path, read(&copy, 0, copy.len().unwrap().0 as usize)).unwrap();
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2", "--output=json"]).arg(&path).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let number = |name: &str| found.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Some((number("corruptions") + number("check-errors"), number("leaks")))
}

pub(super) fn table_clusters(file: &MemoryMedium) -> u64 {
    let image = Image::open_for_repair(Arc::new(file.clone())).unwrap();
    image.header().clusters(image.zoned().zonedmeta_size)
}

/// Repairs a damaged image, and again, and serves what is whole then; checks what must hold whatever was damaged.
/// `None` where the image is refused.
pub(super) fn repair_makes_nothing_worse(
    damaged: &MemoryMedium,
    pointers: Pointers,
    budget: usize,
    when: &str,
) -> Option<(MemoryMedium, RepairReport)> {
    let storage = Arc::new(Metered::new(damaged));
    let before = match survey(damaged) {
        Ok(before) => before,
        Err(refusal) => {
            let error = repair_within(&storage, pointers, budget).unwrap_err();
            assert!(matches!(&error, RepairError::Open(open) if open.to_string() == refusal), "{when}: {error}");
            assert_eq!(storage.changes(), 0, "{when}: refused and written");
            return None;
        }
    };
    let report = repair_within(&storage, pointers, budget).unwrap_or_else(|error| panic!("{when}: {error}"));
    let mended = storage.inner.clone();
    let left = &report.left;
    assert!(left.errors <= before.errors, "{when}: {:?} became {:?}", before.findings, left.findings);
    assert!(left.errors > 0 || left.leaks == 0, "{when}: leaks stay without a reason: {report:?}");
    assert_eq!(report.left, survey(&mended).unwrap(), "{when}");
    assert_same_contents(damaged, &mended, when);
    if report.withheld == Some(Withheld::Everything) {
        assert!(mended == *damaged, "{when}: withheld and written");
    }
    if left.errors == 0 {
        let mut image = Image::open(Arc::new(Metered::new(&mended)), Access::ReadWrite).unwrap();
        image.map(Bytes(0), image.geometry().size()).unwrap_or_else(|error| panic!("{when}: {error}"));
        image.release().unwrap();
        assert_eq!(image.check().unwrap().errors, 0, "{when}");
    }
    let again = repair_within(&storage, pointers, budget).unwrap();
    assert!(storage.inner == mended, "{when}: a second repair finds more to do: {again:?}");
    Some((mended, report))
}

/// What a guest could read of `before` it reads of `after`.
pub(super) fn assert_same_contents(before: &MemoryMedium, after: &MemoryMedium, when: &str) {
    for (guest, (was, is)) in contents(before).into_iter().zip(contents(after)).enumerate() {
        assert!(was.is_none() || was == is, "{when}: guest cluster {guest} has changed");
    }
}

/// An image whose zones are written in different amounts, each cluster with its own bytes, cleanly closed. Zone 11 is
/// not mapped.
fn written(mut image: Image<MemoryMedium>) -> MemoryMedium {
    let geometry = *image.geometry();
    let cluster = image.header().cluster_size().0;
    let pointers = image.pointer_table();
    for zone in (0..geometry.nr_zones().min(11)).map(ZoneIndex) {
        let start = geometry.start(zone).0;
        let len = u64::from(zone.0 + 1) * 24 * 1024;
        image.map(Bytes(start), Bytes(len)).unwrap();
        if zone.0 >= geometry.conventional_zones() {
            pointers.store(zone, Bytes(start + len)).unwrap();
        }
    }
    for extent in all_extents(&mut image) {
        for at in (0..extent.len.0).step_by(cluster.min(4096) as usize) {
            write(&**image.storage(), extent.file.0 + at, &(extent.guest.0 + at + 1).to_be_bytes().repeat(2));
        }
    }
    image.release().unwrap();
    (**image.storage()).clone()
}

/// Sound images of many kinds, each with twelve zones of 1 MiB.
pub(super) fn bases() -> Vec<(&'static str, MemoryMedium)> {
    let little = CreateOptions { table_order: ByteOrder::Little, ..small() };
    let mut capped = small();
    capped.geometry.zone_capacity = Bytes(768 << 10);
    vec![
        ("64K", written(open(image_file(&small())))),
        ("64K, little-endian table", written(open(image_file(&little)))),
        ("4K", written(open(image_file(&options(12 << 20, 1 << 20, 4096))))),
        ("512", written(open(image_file(&options(12 << 20, 1 << 20, 512))))),
        ("4K, 1-bit refcounts", written(open(foreign_file(12, 0, 12 << 20, 1 << 20)))),
        ("64K, 64-bit refcounts", written(open(foreign_file(16, 6, 12 << 20, 1 << 20)))),
        ("64K, layout B, capacity", written(open(layout_b(&capped)))),
    ]
}
