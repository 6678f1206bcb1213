//! Checking a whole image, read-only: what every cluster's refcount should be, against what it is.
//!
//! Uses are counted in two bits a cluster, in chunks that exist only where something is used. When the chunks reach
//! their budget the highest are dropped and counted in a further pass over the tables, so the memory is bounded on
//! any image, and each pass gets on by at least the budget. A [`repair`](super::repair) counts and compares the same
//! way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::Image;
use super::error::{CheckError, EntryFault, MapError};
use super::mapping::{COPIED, Mapping, OFFSET_MASK};
use super::refcount::{get_entry, set_entry};
use crate::storage::Medium;
use crate::units::{Bytes, FileOffset};

/// Clusters of a chunk.
const CHUNK: u64 = 4096;
/// Bytes of a chunk, at two bits a cluster.
const CHUNK_BYTES: usize = (CHUNK / 4) as usize;
/// Most chunks at a time: 64 MiB of counts, enough for a full image of 16 TiB in clusters of 64 KiB in one pass.
pub(super) const BUDGET: usize = 65_536;
/// How many findings and how many ranges of leaked clusters are listed; all are counted.
const LISTED: usize = 100;
/// How many wrong write pointers are listed besides; people look through these before they have them settled.
pub(super) const LISTED_POINTERS: usize = 4096;
/// How much of an L2 table is read at a time, in entries.
pub(super) const SLICE: u64 = 8192;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// How many errors there are.
    pub errors: u64,
    /// How many of these are wrong write pointers.
    pub wrong_pointers: u64,
    /// The first errors.
    pub findings: Vec<Finding>,
    /// How many clusters are counted more often than used. That wastes space and harms nothing.
    pub leaks: u64,
    /// The first ranges of leaked clusters.
    pub leaked: Vec<LeakedRange>,
    /// Clusters of the device.
    pub total_clusters: u64,
    /// Clusters of the device that are mapped.
    pub allocated_clusters: u64,
    /// The end of the last cluster in use, in bytes.
    pub image_end: u64,
    #[serde(skip)]
    pub(super) tally: Tally,
}

/// The errors by what a repair can do about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Clusters in use that are not counted at all.
    pub(super) uncounted: u64,
    /// Entries that lack only the flag of their single owner.
    pub(super) not_copied: u64,
    /// Entries that point at metadata.
    pub(super) overlaps: u64,
    /// Other entries that break a rule, and clusters with several owners.
    pub(super) unclear: u64,
    /// The cluster behind the last one in use.
    pub(super) used_end: u64,
}

impl Tally {
    fn entry(&mut self, fault: EntryFault) {
        match fault {
            EntryFault::NotCopied => self.not_copied += 1,
            EntryFault::Metadata { .. } => self.overlaps += 1,
            _ => self.unclear += 1,
        }
    }
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What sort of error.
    pub kind: FindingKind,
    /// Where in the file it is.
    pub file_offset: Option<u64>,
    /// Where on the device it shows.
    pub guest_offset: Option<u64>,
    /// The error in words.
    pub message: String,
}

/// The sorts of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A cluster in use is counted less often than it is used, and could be given out again.
    RefcountTooLow,
    /// A cluster has several owners.
    DoubleUse,
    /// An entry of an L1 or L2 table breaks a rule.
    BadEntry,
    /// A write pointer is where it cannot be. An image with one is not served.
    WritePointer,
}

/// Clusters that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LeakedRange {
    /// Where in the file they begin.
    pub file_offset: u64,
    /// How many clusters.
    pub clusters: u64,
}

impl CheckReport {
    fn error(&mut self, kind: FindingKind, file: Option<u64>, guest: Option<u64>, message: String) {
        self.errors += 1;
        if self.findings.len() < LISTED {
            self.findings.push(Finding { kind, file_offset: file, guest_offset: guest, message });
        }
    }

    fn leak(&mut self, offset: u64, cluster_size: u64) {
        self.leaks += 1;
        if let Some(last) = self.leaked.last_mut()
            && last.file_offset + last.clusters * cluster_size == offset
        {
            last.clusters += 1;
        } else if self.leaked.len() < LISTED {
            self.leaked.push(LeakedRange { file_offset: offset, clusters: 1 });
        }
    }
}

/// Checks an image that nobody is writing to, its write pointers included. Writes nothing.
pub fn check<S: Medium>(storage: &Arc<S>) -> Result<CheckReport, CheckError> {
    let mut image = Image::open_for_check(Arc::clone(storage))?;
    let mut report = image.check()?;
    image.add_wrong_pointers(&mut report)?;
    Ok(report)
}

/// How often each cluster of a window is used: 0, 1, 2, or 3 for more.
pub(super) struct Uses {
    pub(super) window: Range<u64>,
    chunks: BTreeMap<u64, Box<[u8; CHUNK_BYTES]>>,
    budget: usize,
}

impl Uses {
    fn mark(&mut self, clusters: Range<u64>) {
        let mut at = clusters.start.max(self.window.start);
        while at < clusters.end.min(self.window.end) {
            let chunk = at / CHUNK;
            let stop = clusters.end.min(self.window.end).min((chunk + 1) * CHUNK);
            let counts = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; CHUNK_BYTES]));
            for cluster in at..stop {
                let (byte, shift) = Self::place(cluster);
                if counts[byte] >> shift & 3 != 3 {
                    counts[byte] += 1 << shift;
                }
            }
            at = stop;
            if self.chunks.len() > self.budget
                && let Some((dropped, _)) = self.chunks.pop_last()
            {
                // The window stays whole chunks, so what was dropped is counted from its beginning next time.
                self.window.end = dropped * CHUNK;
            }
        }
    }

    fn get(counts: Option<&[u8; CHUNK_BYTES]>, cluster: u64) -> u64 {
        let (byte, shift) = Self::place(cluster);
        counts.map_or(0, |counts| u64::from(counts[byte] >> shift & 3))
    }

    fn place(cluster: u64) -> (usize, u32) {
        let inside = cluster % CHUNK;
        ((inside / 4) as usize, (inside % 4 * 2) as u32)
    }

    /// How often a cluster of the window is used.
    pub(super) fn count(&self, cluster: u64) -> u64 {
        Self::get(self.chunk(cluster), cluster)
    }

    fn chunk(&self, cluster: u64) -> Option<&[u8; CHUNK_BYTES]> {
        self.chunks.get(&(cluster / CHUNK)).map(|counts| &**counts)
    }
}

impl<S: Medium> Image<S> {
    /// Checks everything but what opening has, and changes nothing. Clusters reserved by this open image are not leaks.
    pub fn check(&mut self) -> Result<CheckReport, CheckError> {
        self.check_within(BUDGET)
    }

    pub(super) fn check_within(&mut self, budget: usize) -> Result<CheckReport, CheckError> {
        let mut report = CheckReport { total_clusters: self.header.clusters(self.header.size.0), ..Default::default() };
        let mut window = 0..u64::MAX;
        while !window.is_empty() {
            // Entries are judged in the first pass only, or they would be reported once a pass.
            let judge = (window.start == 0).then_some(&mut report);
            let uses = self.count_uses(window, budget, judge)?;
            self.compare(&uses, |cluster, stored, used| {
                self.judge_refcount(cluster, stored, used, &mut report);
                stored
            })?;
            window = uses.window.end..u64::MAX;
        }
        Ok(report)
    }

    /// Counts the uses of the clusters of a window, or of as much of its beginning as the budget allows.
    pub(super) fn count_uses(
        &self,
        window: Range<u64>,
        budget: usize,
        mut judge: Option<&mut CheckReport>,
    ) -> Result<Uses, CheckError> {
        let mut uses = Uses { window, chunks: BTreeMap::new(), budget };
        for (clusters, _) in self.regions.iter() {
            uses.mark(clusters);
        }
        for clusters in self.reserve.ranges() {
            uses.mark(clusters);
        }
        for index in 0..self.l1.len() {
            self.walk_table(index, &mut uses, &mut judge)?;
        }
        Ok(uses)
    }

    fn walk_table(
        &self,
        index: usize,
        uses: &mut Uses,
        judge: &mut Option<&mut CheckReport>,
    ) -> Result<(), CheckError> {
        let entry = self.l1.get(index).copied().unwrap_or(0);
        let table = entry & OFFSET_MASK;
        if table == 0 {
            return Ok(());
        }
        let first = index as u64 * self.header.l2_entries();
        if entry & COPIED == 0
            && let Some(report) = judge
        {
            let guest = Bytes(first << self.header.cluster_bits);
            let error = MapError::L1 { guest, entry, fault: EntryFault::NotCopied };
            report.tally.entry(EntryFault::NotCopied);
            report.error(FindingKind::BadEntry, Some(table), Some(guest.0), error.to_string());
        }
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < self.header.l2_entries() {
            let count = SLICE.min(self.header.l2_entries() - done);
            bytes.resize(count as usize * 8, 0);
            let read = self.storage.read_at(FileOffset(table + done * 8), &mut bytes);
            read.map_err(|source| CheckError::Io { doing: "read an L2 table", source })?;
            self.walk_slice(first + done, &bytes, uses, judge);
            done += count;
        }
        Ok(())
    }

    fn walk_slice(&self, first: u64, bytes: &[u8], uses: &mut Uses, judge: &mut Option<&mut CheckReport>) {
        let bits = self.header.cluster_bits;
        let mut run = 0..0;
        for (guest, entry) in (first..).zip(bytes.as_chunks::<8>().0) {
            let entry = u64::from_be_bytes(*entry);
            if entry == 0 {
                continue;
            }
            let (cluster, mut fault) = match self.decode(entry) {
                Ok(Mapping::Unmapped | Mapping::Zero) => continue,
                Ok(Mapping::Mapped(offset) | Mapping::Zeroed(offset)) => (Some(offset >> bits), None),
                // The cluster is used all the same.
                Err(fault @ EntryFault::NotCopied) => (Some((entry & OFFSET_MASK) >> bits), Some(fault)),
                Err(fault) => (None, Some(fault)),
            };
            let owner = cluster.and_then(|cluster| self.owner_fault(cluster..cluster + 1));
            fault = owner.map(|(_, fault)| fault).or(fault);
            if let Some(report) = judge {
                report.allocated_clusters += 1;
                if let Some(fault) = fault {
                    let guest = Bytes(guest << bits);
                    let message = MapError::L2 { guest, entry, fault }.to_string();
                    report.tally.entry(fault);
                    report.error(FindingKind::BadEntry, cluster.map(|at| at << bits), Some(guest.0), message);
                }
            }
            // What belongs to metadata has been reported as that, not as a second use.
            let Some(cluster) = cluster.filter(|_| owner.is_none()) else { continue };
            if run.end != cluster {
                uses.mark(run);
                run = cluster..cluster;
            }
            run.end = cluster + 1;
        }
        uses.mark(run);
    }

    /// Calls `judge` with each cluster of the window that is counted or used, what is stored and how often it is used,
    /// and stores what it returns. Where there is no refcount block nothing can be stored.
    pub(super) fn compare(&self, uses: &Uses, mut judge: impl FnMut(u64, u64, u64) -> u64) -> Result<(), CheckError> {
        let covered = self.refcounts.covered();
        let end = uses.window.end.min(covered);
        let mut at = uses.window.start;
        let mut bytes = Vec::new();
        while at < end {
            let chunk_end = (at / CHUNK + 1) * CHUNK;
            let counts = uses.chunk(at);
            match self.refcounts.piece(at..end.min(chunk_end)) {
                Ok(piece) => {
                    bytes.resize(piece.len, 0);
                    let read = self.storage.read_at(piece.offset, &mut bytes);
                    read.map_err(|source| CheckError::Io { doing: "read a refcount block", source })?;
                    at = piece.clusters.end;
                    if counts.is_none() && bytes.iter().all(|byte| *byte == 0) {
                        continue;
                    }
                    let order = self.refcounts.order;
                    let mut changed = false;
                    for cluster in piece.clusters {
                        let index = (cluster - piece.first) as usize;
                        let stored = get_entry(&bytes, index, order);
                        let wanted = judge(cluster, stored, Uses::get(counts, cluster));
                        if wanted != stored {
                            set_entry(&mut bytes, index, order, wanted);
                            changed = true;
                        }
                    }
                    if changed {
                        let written = self.storage.write_at(piece.offset, &bytes);
                        written.map_err(|source| CheckError::Io { doing: "write a refcount block", source })?;
                    }
                }
                Err(next) if counts.is_some() => {
                    for cluster in at..next {
                        judge(cluster, 0, Uses::get(counts, cluster));
                    }
                    at = next;
                }
                Err(_) => {
                    // Nothing counted and nothing used: on to the next block or the next chunk in use.
                    let block = self.refcounts.counted_by(self.refcounts.index(at)).end;
                    let used = uses.chunks.range(at / CHUNK..).next().map_or(end, |(chunk, _)| chunk * CHUNK);
                    at = block.min(used).max(at + 1);
                }
            }
        }
        for (chunk, counts) in uses.chunks.range(covered / CHUNK..) {
            for cluster in (chunk * CHUNK).max(covered)..(chunk + 1) * CHUNK {
                judge(cluster, 0, Uses::get(Some(counts), cluster));
            }
        }
        Ok(())
    }

    fn judge_refcount(&self, cluster: u64, stored: u64, used: u64, report: &mut CheckReport) {
        if stored == 0 && used == 0 {
            return;
        }
        let bits = self.header.cluster_bits;
        let offset = cluster << bits;
        if used > 0 {
            report.tally.used_end = report.tally.used_end.max(cluster + 1);
            report.tally.uncounted += u64::from(stored == 0);
        }
        report.image_end = report.image_end.max((cluster + 1) << bits);
        if used > 1 {
            let times = if used > 2 { "more than twice" } else { "twice" };
            let message = format!("the cluster at {offset:#x} is used {times}: expected once");
            report.tally.unclear += 1;
            report.error(FindingKind::DoubleUse, Some(offset), None, message);
        } else if stored < used {
            let message = format!("the cluster at {offset:#x} has refcount {stored}: expected {used}");
            report.error(FindingKind::RefcountTooLow, Some(offset), None, message);
        } else if stored > used {
            report.leak(offset, 1 << bits);
        }
    }
}
