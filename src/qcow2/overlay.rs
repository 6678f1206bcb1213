//! What an image with a base does where another one has nothing to do: copying up, and hiding what the base has.
//!
//! Invariants:
//!
//! - A cluster that comes in front of what the base shows holds the same bytes, durably, before an entry names the cluster.
//! - What the base shows of a zone that was reset is hidden before the zone's write pointer moves again: each cluster of it becomes
//!   a *zero cluster*, or gets a cluster of its own where zones share one, and its entry is durable before the pointer moves. Never
//!   does an entry become unallocated again.

use std::ops::Range;

use super::Image;
use super::error::MapError;
use super::mapping::{Extent, Mapping, ZERO};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, Depth, FileOffset};

impl<S: Medium> Image<S> {
    /// Whether it builds on another image.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// Reads what an extent of the chain has, from its beginning on.
    pub fn read_extent(&self, extent: &Extent, into: &mut [u8]) -> Result<(), MapError> {
        self.read_chain(extent.depth, extent.file, into)
    }

    /// Reads from the file at a depth of the chain.
    pub fn read_chain(&self, depth: Depth, from: FileOffset, into: &mut [u8]) -> Result<(), MapError> {
        let base = self.base.as_ref().and_then(|base| base.medium(depth));
        let read = match base {
            Some(medium) => medium.read_at(from, into),
            None => self.storage.read_at(from, into),
        };
        read.map_err(MapError::io("read the disk's data"))
    }

    /// The bytes of the disk in a guest cluster.
    pub(super) fn cluster_range(&self, guest: u64) -> Range<u64> {
        let bits = self.header.cluster_bits;
        guest << bits..((guest + 1) << bits).min(self.header.size.0)
    }

    /// What the base shows in a range of the disk, with nothing of the image itself in front.
    pub(super) fn shown(&self, range: Range<u64>) -> Result<Vec<Extent>, MapError> {
        self.base.as_ref().map_or(Ok(Vec::new()), |base| base.shown(range))
    }

    /// Writes what the base shows of a guest cluster, but for what is `hidden`, into the new cluster at `to`, which reads as
    /// zeros. What was written is added to `copied` and has to be durable before an entry names the cluster.
    pub(super) fn copy_up(
        &self,
        guest: u64,
        to: FileOffset,
        hidden: &Range<u64>,
        copied: &mut Vec<FileRange>,
    ) -> Result<(), MapError> {
        if self.base.is_none() {
            return Ok(());
        }
        let cluster = self.cluster_range(guest);
        let mut bytes = Vec::new();
        for part in without(&cluster, hidden) {
            for extent in self.shown(part)? {
                bytes.resize(extent.len.0 as usize, 0);
                self.read_extent(&extent, &mut bytes)?;
                let place = FileOffset(to.0 + (extent.guest.0 - cluster.start));
                self.storage.write_at(place, &bytes).map_err(MapError::io("copy from the base"))?;
                copied.push((place, extent.len));
            }
        }
        Ok(())
    }

    /// Makes what the base shows in a range of the disk read as zeros. What it shows beside the range stays. What has to be durable for
    /// that is added to `changed`.
    pub fn hide(&mut self, start: Bytes, end: Bytes, changed: &mut Vec<FileRange>) -> Result<(), MapError> {
        if self.base.is_none() {
            return Ok(());
        }
        let bits = self.header.cluster_bits;
        let range = start.0..end.0.min(self.header.size.0);
        let mut clusters = self.guest_clusters(start, Bytes(end.0.saturating_sub(start.0)));
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let in_part = self.cluster_range(part.clusters.start).start.max(range.start)
                ..self.cluster_range(part.clusters.end - 1).end.min(range.end);
            let shown = self.shown(in_part)?;
            let (Some(first), Some(last)) = (shown.first(), shown.last()) else { continue };
            // All entries in front of what the base shows have to be durable, also those that are there already.
            let covered = first.guest.0 >> bits..(last.guest.0 + last.len.0).div_ceil(1 << bits);
            match part.entries {
                Some(entries) => self.read_entries(entries, &part.clusters, &mut bytes)?,
                None => {
                    bytes.clear();
                    bytes.resize((part.clusters.end - part.clusters.start) as usize * 8, 0);
                }
            }
            let through = self.showing_through(&shown, part.clusters.clone(), &bytes)?;
            self.hide_clusters(&through, &range)?;
            self.note_entries(covered, changed)?;
        }
        Ok(())
    }

    /// The guest clusters, of those whose entries are `bytes`, in which the base shows what is in `shown`.
    fn showing_through(&self, shown: &[Extent], clusters: Range<u64>, bytes: &[u8]) -> Result<Vec<u64>, MapError> {
        let mut through: Vec<u64> = Vec::new();
        let entries = bytes.as_chunks::<8>().0;
        for extent in shown {
            for guest in self.guest_clusters(extent.guest, extent.len) {
                let at = guest.checked_sub(clusters.start).and_then(|at| usize::try_from(at).ok());
                let Some(entry) = at.and_then(|at| entries.get(at)) else { continue };
                let is_new = through.last().is_none_or(|last| *last != guest);
                if is_new && self.mapping(guest, u64::from_be_bytes(*entry))? == Mapping::Unmapped {
                    through.push(guest);
                }
            }
        }
        Ok(through)
    }

    /// Hides `range` in guest clusters in which the base shows through.
    fn hide_clusters(&mut self, guests: &[u64], range: &Range<u64>) -> Result<(), MapError> {
        let mut rest = guests;
        while let Some((first, _)) = rest.split_first() {
            let cluster = self.cluster_range(*first);
            let mut beside = Vec::new();
            for part in without(&cluster, range) {
                beside.append(&mut self.shown(part)?);
            }
            if !beside.is_empty() {
                let len = Bytes(cluster.end - cluster.start);
                self.map_without(Bytes(cluster.start), len, range.clone())?;
                rest = &rest[1..];
                continue;
            }
            // A run of clusters of which all is hidden, with their entries side by side.
            let run = rest.iter().zip(*first..).take_while(|(guest, next)| *guest == next).count() as u64;
            let whole = |guest: u64| {
                let cluster = self.cluster_range(guest);
                range.start <= cluster.start && cluster.end <= range.end
            };
            let run = (1..run).take_while(|more| whole(*first + more)).count() as u64 + 1;
            let end = (*first / self.header.l2_entries() + 1) * self.header.l2_entries();
            let run = *first..(*first + run).min(end);
            self.write_zero_entries(run.clone())?;
            rest = &rest[(run.end - run.start) as usize..];
        }
        Ok(())
    }

    /// Makes guest clusters of one L2 table, which have none of their own, zero clusters.
    fn write_zero_entries(&mut self, run: Range<u64>) -> Result<(), MapError> {
        self.add_tables_for(run.clone())?;
        let Some(entries) = self.part(run.clone())?.entries else { return Err(MapError::InDoubt) };
        let bytes: Vec<u8> = run.flat_map(|_| ZERO.to_be_bytes()).collect();
        self.storage.write_at(entries, &bytes).map_err(MapError::io("write an L2 table"))
    }

    /// Adds where the entries of guest clusters of one L2 table stand, and that of their table.
    fn note_entries(&self, run: Range<u64>, changed: &mut Vec<FileRange>) -> Result<(), MapError> {
        let index = run.start / self.header.l2_entries();
        changed.push((FileOffset(self.header.l1_table_offset.0 + index * 8), Bytes(8)));
        if let Some(entries) = self.part(run.clone())?.entries {
            changed.push((entries, Bytes((run.end - run.start) * 8)));
        }
        Ok(())
    }
}

/// The parts of a range that are not in another one.
fn without(range: &Range<u64>, hidden: &Range<u64>) -> [Range<u64>; 2] {
    if hidden.is_empty() {
        return [range.clone(), range.end..range.end];
    }
    [range.start..range.end.min(hidden.start.max(range.start)), hidden.end.clamp(range.start, range.end)..range.end]
}
