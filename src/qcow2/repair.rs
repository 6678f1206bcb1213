//! Repairing an image: what a check finds wrong is set right where that is safe, and left as it is where it is not.
//!
//! Invariants:
//!
//! - Guest data is never written. Of the mapping, only the COPIED flag of an entry is, where its cluster has no other
//!   owner.
//! - While any entry points at metadata nothing is written: whose cluster that is cannot be known, so a table in it
//!   may be guest data.
//! - Nothing that may belong to somebody is given back. While an entry cannot be read, or a cluster has two owners,
//!   the cluster that was meant may be among those that look leaked; while a pointer contradicts its zone, the table
//!   that was meant may be. So all leaks stay then.
//! - A repair that ends at any instruction leaves an image that is no worse and can be repaired again. The order, each
//!   step durable before the next: refcounts raised, flags set, pointers settled, refcounts lowered, the file cut, the
//!   dirty bit cleared. Up to the lowering every step only adds protection, and when it begins all that is in use is
//!   counted.
//! - Write pointers change only where that was asked for: what a guest has acknowledged as written cannot be known for
//!   sure. A pointer that says what it was meant to be is set to that, never to more. Where it says nothing and
//!   something is mapped, the zone becomes full: an empty one would be cleared when it is served.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::check::{BUDGET, LISTED_POINTERS, SLICE, Tally};
use super::entry::WrongEntry;
use super::error::{CheckError, EntryFault, MapError, OpenError, RepairError};
use super::header::{DIRTY, INCOMPATIBLE_FIELD};
use super::mapping::{COPIED, OFFSET_MASK};
use super::{CheckReport, Finding, FindingKind, Image, PointerFault, table};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset, ZoneIndex};

/// What is to be done about write pointers that are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointers {
    /// They are reported only.
    Report,
    /// They are set to the nearest that cannot lose what was written.
    Settle,
}

/// What a repair did, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepairReport {
    /// Clusters in use that were not counted and now are.
    pub refcounts_raised: u64,
    /// Refcount blocks that were missing.
    pub refcount_blocks_added: u64,
    /// Entries that got the flag of their single owner.
    pub copied_flags_set: u64,
    /// Write pointers settled.
    pub pointers_settled: u64,
    /// The first of them.
    pub settled: Vec<SettledPointer>,
    /// Leaked clusters given back.
    pub leaks_returned: u64,
    /// How much shorter the file became.
    pub bytes_cut: u64,
    /// The dirty bit was set and no longer is.
    pub dirty_bit_cleared: bool,
    /// Why something that could have been repaired was not.
    pub withheld: Option<Withheld>,
    /// What a check finds now.
    #[serde(flatten)]
    pub left: CheckReport,
}

/// A write pointer that was settled.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SettledPointer {
    /// The zone.
    pub zone: u32,
    /// What was wrong.
    pub fault: PointerFault,
    /// The pointer now, in bytes of the device.
    pub write_pointer: u64,
    /// The fault in words.
    pub message: String,
}

/// Why a repair held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// An entry points at metadata, so nothing was changed.
    Everything,
    /// An error that cannot be repaired makes it unsure whose the leaked clusters are.
    Leaks,
}

/// Repairs an image that nobody else has open. After an error part of it may be done; the image is no worse.
pub fn repair<S: Medium>(storage: &Arc<S>, pointers: Pointers) -> Result<RepairReport, RepairError> {
    repair_within(storage, pointers, BUDGET)
}

pub(super) fn repair_within<S: Medium>(
    storage: &Arc<S>,
    pointers: Pointers,
    budget: usize,
) -> Result<RepairReport, RepairError> {
    let mut image = Image::open_for_repair(Arc::clone(storage))?;
    let found = image.check_within(budget)?;
    let wrong = image.count_wrong_pointers()?;
    let settle = pointers == Pointers::Settle && wrong.all > 0;
    let plan = Plan { found: found.tally, leaks: found.leaks, settle, contradictions: wrong.contradictions, budget };
    let mut report = RepairReport::default();
    if plan.found.overlaps > 0 {
        report.withheld = Some(Withheld::Everything);
    } else {
        image.carry_out_repair(&plan, &mut report)?;
    }
    let mut left = Image::open_for_repair(Arc::clone(storage))?;
    report.left = left.check_within(budget)?;
    // The bit speaks of refcounts and mapping only, so wrong pointers do not keep it.
    let sound = report.left.errors == 0 && report.left.leaks == 0;
    left.add_wrong_pointers(&mut report.left)?;
    if image.header.incompatible_features & DIRTY != 0 && sound {
        image.clear_dirty_bit()?;
        report.dirty_bit_cleared = true;
    }
    Ok(report)
}

/// What is to be done.
struct Plan {
    found: Tally,
    leaks: u64,
    settle: bool,
    /// Pointers that say nothing.
    contradictions: u64,
    budget: usize,
}

impl Plan {
    /// Whether what nobody uses certainly belongs to nobody.
    fn leaks_are_certain(&self) -> bool {
        self.found.unclear == 0 && (self.contradictions == 0 || self.settle)
    }
}

/// How many pointers are wrong.
#[derive(Default)]
struct WrongPointers {
    all: u64,
    contradictions: u64,
}

impl<S: Medium> Image<S> {
    fn carry_out_repair(&mut self, plan: &Plan, report: &mut RepairReport) -> Result<(), RepairError> {
        let used_len = plan.found.used_end << self.header.cluster_bits;
        let certain = plan.leaks_are_certain();
        if plan.leaks > 0 && !certain {
            report.withheld = Some(Withheld::Leaks);
        }
        let lower = certain && (plan.leaks > 0 || self.file_len > used_len);
        if plan.found.uncounted == 0 && plan.found.not_copied == 0 && !plan.settle && !lower {
            return Ok(());
        }
        self.prepare_for_writing()?;
        if plan.found.uncounted > 0 {
            self.raise_refcounts(plan.budget, report)?;
        }
        if plan.found.not_copied > 0 {
            self.set_copied_flags(plan.budget, certain, report)?;
        }
        if plan.settle {
            self.settle_pointers(report)?;
        }
        if lower {
            self.return_leaks(plan.budget, report)?;
        }
        Ok(())
    }

    /// Counts once what is used and not counted. Also what is used twice: it must not be given out a third time.
    fn raise_refcounts(&mut self, budget: usize, report: &mut RepairReport) -> Result<(), RepairError> {
        loop {
            let mut missing = BTreeSet::new();
            self.sweep(budget, |image, cluster, stored, used| {
                if stored > 0 || used == 0 {
                    return stored;
                }
                let index = image.refcounts.index(cluster);
                if image.refcounts.has_block(index) {
                    report.refcounts_raised += 1;
                } else {
                    missing.insert(index);
                }
                1
            })?;
            self.flush()?;
            if missing.is_empty() {
                return Ok(());
            }
            // New blocks count nothing yet, as missing ones do; the next round raises in them.
            let before = self.refcounts.blocks();
            self.add_blocks(missing)?;
            report.refcount_blocks_added += self.refcounts.blocks() - before;
        }
    }

    /// Sets the refcount of what nobody uses to 0, of what is used once to 1, and cuts the file behind what is used.
    fn return_leaks(&mut self, budget: usize, report: &mut RepairReport) -> Result<(), RepairError> {
        let mut used_end = 0;
        self.sweep(budget, |_, cluster, stored, used| {
            if used > 0 {
                used_end = used_end.max(cluster + 1);
            }
            if stored > used {
                report.leaks_returned += 1;
            }
            stored.min(used)
        })?;
        // The file must not end before what is counted in it.
        self.flush()?;
        let len = used_end << self.header.cluster_bits;
        if len < self.file_len {
            self.storage.set_len(Bytes(len)).map_err(MapError::io("cut the file"))?;
            self.flush()?;
            report.bytes_cut = self.file_len - len;
            self.file_len = len;
        }
        Ok(())
    }

    /// Calls `judge` with all clusters, window by window, and stores what it returns.
    fn sweep(&self, budget: usize, mut judge: impl FnMut(&Self, u64, u64, u64) -> u64) -> Result<(), CheckError> {
        let mut window = 0..u64::MAX;
        while !window.is_empty() {
            let uses = self.count_uses(window, budget, None)?;
            self.compare(&uses, |cluster, stored, used| judge(self, cluster, stored, used))?;
            window = uses.window.end..u64::MAX;
        }
        Ok(())
    }

    /// Sets the flag of entries that lack it and nothing else, where their cluster is used and counted once. `certain`
    /// says that a higher count is wrong and will be lowered.
    fn set_copied_flags(&mut self, budget: usize, certain: bool, report: &mut RepairReport) -> Result<(), RepairError> {
        for index in 0..self.l1.len() {
            self.set_l1_flag(index, certain, report)?;
        }
        let mut window = 0..u64::MAX;
        while !window.is_empty() {
            let uses = self.count_uses(window, budget, None)?;
            let single = |cluster: u64| {
                let known = uses.window.contains(&cluster) && uses.count(cluster) == 1;
                Ok(known && (certain || self.is_counted_once(cluster)?))
            };
            for table in self.l1.iter().map(|entry| entry & OFFSET_MASK).filter(|table| *table != 0) {
                if self.is_all_readable(table)? {
                    self.set_flags_in(table, single, report)?;
                }
            }
            window = uses.window.end..u64::MAX;
        }
        self.flush()?;
        Ok(())
    }

    fn set_l1_flag(&mut self, index: usize, certain: bool, report: &mut RepairReport) -> Result<(), RepairError> {
        let Some(entry) = self.l1.get(index).copied().filter(|entry| *entry != 0 && entry & COPIED == 0) else {
            return Ok(());
        };
        // Opening has entered the table's cluster as its own, and no entry points at metadata.
        if !certain && !self.is_counted_once((entry & OFFSET_MASK) >> self.header.cluster_bits)? {
            return Ok(());
        }
        let at = FileOffset(self.header.l1_table_offset.0 + index as u64 * 8);
        let written = self.storage.write_at(at, &(entry | COPIED).to_be_bytes());
        written.map_err(MapError::io("write the L1 table"))?;
        if let Some(slot) = self.l1.get_mut(index) {
            *slot = entry | COPIED;
        }
        report.copied_flags_set += 1;
        Ok(())
    }

    fn is_counted_once(&self, cluster: u64) -> Result<bool, MapError> {
        let found = self.refcounts.find(&*self.storage, cluster..cluster + 1, |refcount| refcount == 1);
        Ok(found.map_err(MapError::io("read refcounts"))?.is_some())
    }

    /// Whether no entry of an L2 table has any other fault than a missing flag. Where one has, the table may be no
    /// table, but the guest data that a wrong L1 entry leads to.
    fn is_all_readable(&self, table: u64) -> Result<bool, MapError> {
        let mut readable = true;
        self.each_slice(table, |_, entries| {
            readable &= entries
                .iter()
                .all(|entry| matches!(self.decode(u64::from_be_bytes(*entry)), Ok(_) | Err(EntryFault::NotCopied)));
            Ok(())
        })?;
        Ok(readable)
    }

    fn set_flags_in(
        &self,
        table: u64,
        single: impl Fn(u64) -> Result<bool, MapError>,
        report: &mut RepairReport,
    ) -> Result<(), MapError> {
        self.each_slice(table, |first, entries| {
            for (at, entry) in (first..).step_by(8).zip(entries) {
                let entry = u64::from_be_bytes(*entry);
                let lacks_flag = self.decode(entry) == Err(EntryFault::NotCopied);
                if lacks_flag && single((entry & OFFSET_MASK) >> self.header.cluster_bits)? {
                    let written = self.storage.write_at(FileOffset(at), &(entry | COPIED).to_be_bytes());
                    written.map_err(MapError::io("write an L2 table"))?;
                    report.copied_flags_set += 1;
                }
            }
            Ok(())
        })
    }

    /// Calls `each` with the entries of an L2 table and the file offset of the first, slice by slice.
    fn each_slice(
        &self,
        table: u64,
        mut each: impl FnMut(u64, &[[u8; 8]]) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let end = self.header.l2_entries();
        let mut bytes = Vec::new();
        for done in (0..end).step_by(SLICE as usize) {
            let at = table + done * 8;
            self.read_entries(FileOffset(at), &(done..end.min(done + SLICE)), &mut bytes)?;
            each(at, bytes.as_chunks::<8>().0)?;
        }
        Ok(())
    }

    fn each_wrong_pointer(&self, each: impl FnMut(WrongEntry) -> ControlFlow<()>) -> Result<(), OpenError> {
        let offset = FileOffset(self.zoned.zonedmeta_offset);
        table::wrong_entries(&*self.storage, offset, &self.entries, each)
    }

    fn count_wrong_pointers(&self) -> Result<WrongPointers, OpenError> {
        let mut wrong = WrongPointers::default();
        self.each_wrong_pointer(|entry| {
            wrong.all += 1;
            wrong.contradictions += u64::from(entry.fault == PointerFault::Contradiction);
            ControlFlow::Continue(())
        })?;
        Ok(wrong)
    }

    pub(super) fn add_wrong_pointers(&self, report: &mut CheckReport) -> Result<(), OpenError> {
        let offset = |zone: ZoneIndex| self.zoned.zonedmeta_offset + u64::from(zone.0) * table::ENTRY;
        let room = report.findings.len() + LISTED_POINTERS;
        self.each_wrong_pointer(|entry| {
            report.errors += 1;
            report.wrong_pointers += 1;
            // Only what is listed needs words: a hostile image can have 2^32 of these.
            if report.findings.len() < room {
                report.findings.push(Finding {
                    kind: FindingKind::WritePointer,
                    file_offset: Some(offset(entry.zone)),
                    guest_offset: Some(self.geometry.start(entry.zone).0),
                    message: entry.error(&self.entries).to_string(),
                });
            }
            ControlFlow::Continue(())
        })
    }

    fn settle_pointers(&self, report: &mut RepairReport) -> Result<(), RepairError> {
        let pointers = self.pointer_table();
        let mut settled = Ok(());
        self.each_wrong_pointer(|entry| {
            let pointer = entry.meant.unwrap_or_else(|| self.safe_pointer(entry.zone));
            settled = pointers.store(entry.zone, pointer).map_err(MapError::io("write the zonedmeta table"));
            if settled.is_err() {
                return ControlFlow::Break(());
            }
            report.pointers_settled += 1;
            if report.settled.len() < LISTED_POINTERS {
                let (zone, message) = (entry.zone.0, entry.error(&self.entries).to_string());
                report.settled.push(SettledPointer { zone, fault: entry.fault, write_pointer: pointer.0, message });
            }
            ControlFlow::Continue(())
        })?;
        settled?;
        self.flush()?;
        Ok(())
    }

    /// The pointer of a zone whose entry says nothing: nothing that is mapped becomes unreadable.
    fn safe_pointer(&self, zone: ZoneIndex) -> Bytes {
        let start = self.geometry.start(zone);
        // What cannot be looked up may be mapped, and so may what a base has, which is not opened for a repair.
        let mapped = self.backing.is_some() || self.anything_mapped(start, self.geometry.zone_size()).unwrap_or(true);
        if mapped { self.entries.layout.full_pointer(&self.geometry, zone) } else { start }
    }

    fn clear_dirty_bit(&mut self) -> Result<(), MapError> {
        // All that was repaired is durable before the mark goes.
        self.flush()?;
        let features = self.header.incompatible_features & !DIRTY;
        let written = self.storage.write_at(FileOffset(INCOMPATIBLE_FIELD), &features.to_be_bytes());
        written.map_err(MapError::io("write the header"))?;
        self.flush()?;
        self.header.incompatible_features = features;
        Ok(())
    }
}
