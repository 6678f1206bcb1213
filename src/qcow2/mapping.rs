//! From guest offsets to file offsets: L1 and L2 entries (docs/interop/qcow2, "Cluster mapping").
//!
//! The L1 table is in memory, L2 tables are read in slices and never kept. Each entry is judged when it is used. Where an image
//! has no cluster, its base shows through ([`base`](super::base)).

use std::ops::{ControlFlow, Range};

use super::Image;
use super::error::{EntryFault, MapError};
use crate::storage::Medium;
use crate::units::{Bytes, Depth, FileOffset};

/// The offset in an L1 or standard L2 entry.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster has this one owner.
pub(super) const COPIED: u64 = 1 << 63;
/// Reserved bits of an L1 entry.
pub(super) const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros, whatever the file holds.
pub(super) const ZERO: u64 = 1;
const L2_RESERVED: u64 = !(OFFSET_MASK | COPIED | COMPRESSED | ZERO);
/// Most entries of an L2 table read at a time (64 KiB).
const SLICE: u64 = 8192;

/// A run of guest bytes that are contiguous in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the device.
    pub guest: Bytes,
    /// The file that holds it.
    pub depth: Depth,
    /// Where it starts in that file.
    pub file: FileOffset,
    /// How long it is.
    pub len: Bytes,
}

/// What an L2 entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// No cluster: reads as what the base has there, or as zeros.
    Unmapped,
    /// Reads as zeros, without a cluster.
    Zero,
    /// A cluster at this offset.
    Mapped(u64),
    /// Reads as zeros, with a cluster at this offset held for later writes.
    Zeroed(u64),
}

/// Guest clusters with one L2 table.
pub(super) struct Part {
    /// The guest clusters.
    pub(super) clusters: Range<u64>,
    /// Where their entries stand; `None` where there is no L2 table.
    pub(super) entries: Option<FileOffset>,
}

impl<S: Medium> Image<S> {
    /// The guest clusters that hold a range, clipped to the device.
    pub(super) fn guest_clusters(&self, start: Bytes, len: Bytes) -> Range<u64> {
        let end = start.0.saturating_add(len.0).min(self.header.size.0);
        if start.0 >= end {
            return 0..0;
        }
        start.0 >> self.header.cluster_bits..self.header.clusters(end)
    }

    /// The first part of a range of guest clusters: as many as are in one L2 table and in one slice.
    pub(super) fn part(&self, clusters: Range<u64>) -> Result<Part, MapError> {
        let per_table = self.header.l2_entries();
        let index = clusters.start / per_table;
        let table_end = ((index + 1) * per_table).min(clusters.end);
        // Opening has made sure that the L1 table covers the device.
        let entry = usize::try_from(index).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or(0);
        if entry == 0 {
            return Ok(Part { clusters: clusters.start..table_end, entries: None });
        }
        if entry & COPIED == 0 {
            let guest = Bytes(index * self.header.bytes_per_l2());
            return Err(MapError::L1 { guest, entry, fault: EntryFault::NotCopied });
        }
        let at = (entry & OFFSET_MASK) + clusters.start % per_table * 8;
        let end = table_end.min(clusters.start + SLICE);
        Ok(Part { clusters: clusters.start..end, entries: Some(FileOffset(at)) })
    }

    /// Reads the entries that stand at `entries` for `clusters`.
    pub(super) fn read_entries(
        &self,
        entries: FileOffset,
        clusters: &Range<u64>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), MapError> {
        bytes.resize((clusters.end - clusters.start) as usize * 8, 0);
        self.storage.read_at(entries, bytes).map_err(MapError::io("read an L2 table"))
    }

    /// Judges an L2 entry by itself; [`Image::owner_fault`] judges what it points at.
    pub(super) fn decode(&self, entry: u64) -> Result<Mapping, EntryFault> {
        if entry == 0 {
            return Ok(Mapping::Unmapped);
        }
        if entry & COMPRESSED != 0 {
            return Err(EntryFault::Compressed);
        }
        if entry & L2_RESERVED != 0 {
            return Err(EntryFault::Reserved);
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 && entry & COPIED == 0 {
            return Ok(if entry & ZERO == 0 { Mapping::Unmapped } else { Mapping::Zero });
        }
        if !offset.is_multiple_of(self.header.cluster_size().0) {
            return Err(EntryFault::Unaligned);
        }
        if offset >= self.file_len {
            return Err(EntryFault::OutsideFile { file_len: Bytes(self.file_len) });
        }
        if entry & COPIED == 0 {
            return Err(EntryFault::NotCopied);
        }
        Ok(if entry & ZERO == 0 { Mapping::Mapped(offset) } else { Mapping::Zeroed(offset) })
    }

    /// The first of some file clusters that guest data must not be in, and why.
    pub(super) fn owner_fault(&self, clusters: Range<u64>) -> Option<(u64, EntryFault)> {
        let metadata =
            self.regions.find(clusters.clone()).map(|(cluster, kind)| (cluster, EntryFault::Metadata { kind }));
        metadata.or_else(|| self.reserve.find(clusters).map(|cluster| (cluster, EntryFault::Unallocated)))
    }

    /// Judges an L2 entry and what it points at.
    pub(super) fn mapping(&self, guest_cluster: u64, entry: u64) -> Result<Mapping, MapError> {
        let mapping = self.decode(entry).map_err(|fault| self.l2_error(guest_cluster, entry, fault))?;
        if let Mapping::Mapped(offset) | Mapping::Zeroed(offset) = mapping {
            let cluster = offset >> self.header.cluster_bits;
            if let Some((_, fault)) = self.owner_fault(cluster..cluster + 1) {
                return Err(self.l2_error(guest_cluster, entry, fault));
            }
        }
        Ok(mapping)
    }

    /// Whether any entry in a range of the device is in use, be it right or wrong.
    pub(super) fn anything_mapped(&self, start: Bytes, len: Bytes) -> Result<bool, MapError> {
        let mut clusters = self.guest_clusters(start, len);
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let Some(entries) = part.entries else { continue };
            self.read_entries(entries, &part.clusters, &mut bytes)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn l2_error(&self, guest_cluster: u64, entry: u64, fault: EntryFault) -> MapError {
        MapError::L2 { guest: Bytes(guest_cluster << self.header.cluster_bits), entry, fault }
    }

    /// Appends the mapped runs of a range of the device to `out`, merged where a file is contiguous and cut to the
    /// range; what is left out reads as zeros. Where the image has no cluster, runs of its base are among them. Stops before
    /// the run after `max`. Returns the guest offset up to which the answer is complete: the end of the range, or where the
    /// next run begins. What lies past the device is unmapped. After an error `out` holds only runs that are right.
    pub fn extents(&self, start: Bytes, len: Bytes, out: &mut Vec<Extent>, max: usize) -> Result<Bytes, MapError> {
        let range = start.0..start.0.saturating_add(len.0);
        complete_to(self.visit(range.clone(), Depth::TOP, true, &mut Sink { out, room: max })?, range.end)
    }

    /// The same, of the image's own clusters alone.
    pub fn own_extents(&self, start: Bytes, len: Bytes, out: &mut Vec<Extent>, max: usize) -> Result<Bytes, MapError> {
        let range = start.0..start.0.saturating_add(len.0);
        complete_to(self.visit(range.clone(), Depth::TOP, false, &mut Sink { out, room: max })?, range.end)
    }

    /// Gives the runs of a range to `sink`, those of bases where `through`; breaks with the place of a run that the sink has no
    /// room for. This image is at `depth` of the chain.
    pub(super) fn visit(
        &self,
        range: Range<u64>,
        depth: Depth,
        through: bool,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<u64>, MapError> {
        let bits = self.header.cluster_bits;
        let end = range.end.min(self.header.size.0);
        let mut run = Run { image: self, extent: None };
        let base = self.base.as_ref().filter(|_| through);
        // From where on the base shows through.
        let mut open: Option<u64> = None;
        let mut clusters = self.guest_clusters(Bytes(range.start), Bytes(range.end.saturating_sub(range.start)));
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let first_of = |guest: u64| (guest << bits).max(range.start);
            let Some(entries) = part.entries else {
                open.get_or_insert(first_of(part.clusters.start));
                continue;
            };
            self.read_entries(entries, &part.clusters, &mut bytes)?;
            for (guest, entry) in part.clusters.zip(bytes.as_chunks::<8>().0) {
                let entry = u64::from_be_bytes(*entry);
                let mapping = self.decode(entry).map_err(|fault| self.l2_error(guest, entry, fault))?;
                let first = first_of(guest);
                if mapping == Mapping::Unmapped {
                    open.get_or_insert(first);
                    continue;
                }
                if let (Some(base), Some(from)) = (base, open.take()) {
                    let met = run.finish(sink)?;
                    let met = if met.is_break() { met } else { base.visit(from..first, below(depth), sink)? };
                    if met.is_break() {
                        return Ok(met);
                    }
                }
                let Mapping::Mapped(offset) = mapping else { continue };
                let file = FileOffset(offset + (first - (guest << bits)));
                let len = Bytes(((guest + 1) << bits).min(end) - first);
                if let ControlFlow::Break(at) = run.add(Extent { guest: Bytes(first), depth, file, len }, sink)? {
                    return Ok(ControlFlow::Break(at));
                }
            }
        }
        let met = run.finish(sink)?;
        match (base, open) {
            (Some(base), Some(from)) if met.is_continue() => base.visit(from..end, below(depth), sink),
            _ => Ok(met),
        }
    }
}

/// The depth of the base of an image. Opening has made sure that chains are short.
fn below(depth: Depth) -> Depth {
    Depth(depth.0.saturating_add(1))
}

/// Up to where an answer is complete that was asked for up to `end`.
fn complete_to(met: ControlFlow<u64>, end: u64) -> Result<Bytes, MapError> {
    Ok(Bytes(met.break_value().unwrap_or(end)))
}

/// Takes so many runs.
pub(super) struct Sink<'a> {
    pub(super) out: &'a mut Vec<Extent>,
    pub(super) room: usize,
}

/// Merges extents of one image, and looks at what each run points at once instead of cluster by cluster.
struct Run<'a, S> {
    image: &'a Image<S>,
    extent: Option<Extent>,
}

impl<S: Medium> Run<'_, S> {
    /// Adds an extent; breaks where there is no room for a further run.
    fn add(&mut self, next: Extent, sink: &mut Sink<'_>) -> Result<ControlFlow<u64>, MapError> {
        if let Some(run) = &mut self.extent {
            if run.guest.0 + run.len.0 == next.guest.0 && run.file.0 + run.len.0 == next.file.0 {
                run.len.0 += next.len.0;
                return Ok(ControlFlow::Continue(()));
            }
            if let ControlFlow::Break(at) = self.finish(sink)? {
                return Ok(ControlFlow::Break(at));
            }
        }
        if sink.room == 0 {
            return Ok(ControlFlow::Break(next.guest.0));
        }
        self.extent = Some(next);
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self, sink: &mut Sink<'_>) -> Result<ControlFlow<u64>, MapError> {
        let Some(run) = self.extent.take() else { return Ok(ControlFlow::Continue(())) };
        let bits = self.image.header.cluster_bits;
        let first = run.file.0 >> bits;
        let clusters = first..(run.file.0 + run.len.0).div_ceil(1 << bits);
        if let Some((cluster, fault)) = self.image.owner_fault(clusters) {
            let guest = (run.guest.0 >> bits) + (cluster - first);
            return Err(self.image.l2_error(guest, cluster << bits | COPIED, fault));
        }
        if sink.room == 0 {
            return Ok(ControlFlow::Break(run.guest.0));
        }
        sink.out.push(run);
        sink.room -= 1;
        Ok(ControlFlow::Continue(()))
    }
}
