//! Growing the image: reservations, new mappings, and a larger refcount table where a foreign image needs one.
//!
//! The order of every step makes each prefix of it, and any loss of what was not flushed, a sound image:
//!
//! 1. A *reservation* is a range of clusters at the end of the file that read as zeros and have refcount 1, both
//!    durable. A refcount block that this takes is durable before the table entry that names it, and that entry
//!    before the reservation is used.
//! 2. L2 tables and data clusters come out of a reservation only, so L1 and L2 entries are plain writes: whichever of
//!    them reach the disk name zeros that are counted. Losing them leaves clusters without an owner, nothing else.
//! 3. Nothing is ever freed but what was never handed out. A cluster whose entry may or may not have been written
//!    (a failed write) is not handed out again; it is leaked until a repair.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::Range;

use super::error::MapError;
use super::header::{AUTOCLEAR_FIELD, ORDERLY, REFCOUNT_TABLE_FIELDS, REFCOUNT_TABLE_LIMIT};
use super::mapping::{COPIED, Mapping};
use super::regions::Kind;
use super::{Access, Image};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};

/// How much is reserved at a time.
const RESERVE_STEP: u64 = 16 << 20;
/// The least number of clusters reserved at a time, for large clusters.
const RESERVE_CLUSTERS: u64 = 64;
/// How often the step of reservations doubles: to 256 MiB.
const DOUBLINGS: u32 = 4;
/// The most that is kept ahead of fast writers.
const MAX_AHEAD: u64 = 4 << 30;
/// After so many tries the search for free clusters steps by whole refcount blocks, so that it ends soon on any image.
const CLOSE_TRIES: u32 = 16;

/// What is done where the file becomes longer.
const EXTEND: &str = "extend the file";

/// How many clusters are reserved at a time at first.
pub(super) fn reserve_step(cluster_bits: u32) -> u64 {
    (RESERVE_STEP >> cluster_bits).max(RESERVE_CLUSTERS)
}

/// Clusters that are counted and zero, durably, and belong to nobody yet.
#[derive(Debug)]
pub(super) struct Reserve {
    free: VecDeque<Range<u64>>,
    /// How many clusters are reserved at a time. Doubles a few times with use: each reservation waits for the host's
    /// journal, and a kill leaks what is left of one, so an image that takes much space takes it in large steps and a
    /// small one stays small.
    pub(super) step: u64,
    doublings_left: u32,
    /// How many clusters are to be there ahead of need, see [`Image::keep_ahead`].
    ahead: u64,
    /// How many clusters were handed out since the image was opened.
    taken: u64,
    /// Below this nothing is looked for: clusters in doubt after a failed flush.
    search_from: u64,
    /// A reservation that failed midway. Going on with it keeps a full disk from growing the file by each attempt.
    pending: Option<Pending>,
    /// Which of two refcount tables is in force is unknown.
    in_doubt: bool,
}

#[derive(Debug)]
struct Pending {
    plan: Plan,
    /// The refcounts and the new blocks are durable, the table entries of the blocks are not.
    counted: bool,
}

/// Clusters to be reserved: first one for each refcount block that must be added to count them, then the rest.
#[derive(Debug)]
struct Plan {
    clusters: Range<u64>,
    blocks: Vec<u64>,
}

impl Plan {
    /// The clusters without those of the new refcount blocks.
    fn rest(&self) -> Range<u64> {
        self.clusters.start + self.blocks.len() as u64..self.clusters.end
    }

    /// The new refcount blocks: index and cluster.
    fn new_blocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.blocks.iter().copied().zip(self.clusters.start..)
    }
}

impl Reserve {
    pub(super) fn new(cluster_bits: u32) -> Self {
        Self {
            free: VecDeque::new(),
            step: reserve_step(cluster_bits),
            doublings_left: DOUBLINGS,
            ahead: 0,
            taken: 0,
            search_from: 0,
            pending: None,
            in_doubt: false,
        }
    }

    fn count(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    /// The first of some clusters that is reserved and unused.
    pub(super) fn find(&self, clusters: Range<u64>) -> Option<u64> {
        let first =
            |free: &Range<u64>| Some(free.start.max(clusters.start)).filter(|at| *at < free.end.min(clusters.end));
        self.free.iter().filter_map(first).min()
    }

    /// The reserved clusters.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.free.iter().cloned()
    }

    fn add(&mut self, range: Range<u64>) {
        match self.free.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.free.push_back(range),
        }
    }

    /// Hands out up to `most` contiguous clusters; none only where none are left.
    pub(super) fn take(&mut self, most: u64) -> Range<u64> {
        let Some(front) = self.free.front_mut() else { return 0..0 };
        let end = front.end.min(front.start.saturating_add(most));
        let taken = front.start..end;
        front.start = end;
        self.taken = self.taken.saturating_add(taken.end - taken.start);
        if front.is_empty() {
            self.free.pop_front();
        }
        taken
    }
}

impl<S: Medium> Image<S> {
    pub(super) fn flush(&self) -> Result<(), MapError> {
        self.storage.flush().map_err(MapError::Flush)
    }

    /// Makes metadata durable, and the length of the file, without the guest's data.
    fn sync(&self, ranges: &[FileRange]) -> Result<(), MapError> {
        self.storage.sync_ranges(ranges).map_err(MapError::Flush)
    }

    pub(super) fn offset(&self, cluster: u64) -> FileOffset {
        FileOffset(cluster << self.header.cluster_bits)
    }

    fn check_writable(&self) -> Result<(), MapError> {
        if self.access == Access::ReadOnly { Err(MapError::ReadOnly) } else { Ok(()) }
    }

    /// How much was taken from reservations since the image was opened.
    pub fn drawn(&self) -> Bytes {
        Bytes(self.reserve.taken << self.header.cluster_bits)
    }

    /// Has so much reserved at a time, within bounds, for writers that need it soon: [`refill`](Self::refill) then tops the
    /// reservation up when half of it is gone.
    pub fn keep_ahead(&mut self, ahead: Bytes) {
        let most = MAX_AHEAD.min(self.geometry().size().0);
        self.reserve.ahead = self.header.clusters(ahead.0.min(most));
    }

    /// Tops the reservation up so that at least `wanted` bytes can be mapped without a barrier. Returns whether that
    /// took any work. L2 tables come out of the same reservation.
    pub fn refill(&mut self, wanted: Bytes) -> Result<bool, MapError> {
        self.check_writable()?;
        let wanted = self.header.clusters(wanted.0).max(self.reserve.ahead / 2);
        if self.reserve.count() >= wanted {
            return Ok(false);
        }
        self.reserve_up_to(wanted).map(|()| true)
    }

    fn reserve_up_to(&mut self, wanted: u64) -> Result<(), MapError> {
        loop {
            let missing = wanted.saturating_sub(self.reserve.count());
            if missing == 0 {
                return Ok(());
            }
            let step = self.reserve.step.max(self.reserve.ahead);
            match self.reserve_more(missing.max(step)) {
                // Near a limit of the file, what is needed may still fit.
                Err(error) if missing < step && is_limit(&error) => {
                    self.reserve.pending = None;
                    self.reserve_more(missing)?;
                }
                result => result?,
            }
        }
    }

    fn reserve_more(&mut self, count: u64) -> Result<(), MapError> {
        if self.reserve.in_doubt {
            return Err(MapError::InDoubt);
        }
        let mut pending = match self.reserve.pending.take() {
            Some(pending) => pending,
            None => Pending { plan: self.plan(count)?, counted: false },
        };
        match self.carry_out(&mut pending) {
            Ok(()) => {
                self.reserve.add(pending.plan.rest());
                if self.reserve.doublings_left > 0 {
                    self.reserve.doublings_left -= 1;
                    self.reserve.step = self.reserve.step.saturating_mul(2);
                }
                Ok(())
            }
            Err(error @ MapError::Flush(_)) => {
                // Nothing is known of what was written: leave these clusters alone.
                self.reserve.search_from = pending.plan.clusters.end;
                Err(error)
            }
            Err(error) => {
                self.reserve.pending = Some(pending);
                Err(error)
            }
        }
    }

    fn carry_out(&mut self, pending: &mut Pending) -> Result<(), MapError> {
        if !pending.counted {
            self.lay_down(&pending.plan)?;
            pending.counted = true;
        }
        self.enter_blocks(&pending.plan)
    }

    /// Finds `count` free clusters past the end of the file, and room for the refcount blocks they need.
    fn plan(&mut self, count: u64) -> Result<Plan, MapError> {
        let mut from = 0;
        let mut tries = 0u32;
        loop {
            from = self.reserve.search_from.max(self.header.clusters(self.file_len)).max(from);
            let plan = self.plan_at(from, count);
            if plan.clusters.end > self.refcounts.covered() {
                self.grow_table(plan.clusters.end)?;
                continue;
            }
            let Some(taken) = self.first_counted(plan.clusters.clone())? else { return Ok(plan) };
            tries += 1;
            // Clusters past the end of the file are counted where a reservation was lost with the host's power.
            let next_block = self.refcounts.counted_by(self.refcounts.index(taken)).end;
            from = if tries < CLOSE_TRIES { taken + 1 } else { next_block };
        }
    }

    fn first_counted(&self, clusters: Range<u64>) -> Result<Option<u64>, MapError> {
        let found = self.refcounts.find(&*self.storage, clusters, |refcount| refcount != 0);
        Ok(found.map_err(MapError::io("read refcounts"))?.map(|(cluster, _)| cluster))
    }

    /// The plan for `count` clusters from `start` on. New blocks lengthen the range, which can take further blocks.
    fn plan_at(&self, start: u64, count: u64) -> Plan {
        let mut blocks: Vec<u64> = Vec::new();
        loop {
            let end = start + count + blocks.len() as u64;
            let counted = self.refcounts.index(start)..=self.refcounts.index(end - 1);
            let missing: Vec<u64> = counted.filter(|index| !self.refcounts.has_block(*index)).collect();
            if missing.len() == blocks.len() {
                return Plan { clusters: start..end, blocks };
            }
            blocks = missing;
        }
    }

    /// Adds the refcount blocks that are missing, durably; each counts only what new block is among its clusters. For a
    /// repair. Clusters past the end of the file have no owner, whatever their refcounts say.
    pub(super) fn add_blocks(&mut self, mut missing: BTreeSet<u64>) -> Result<(), MapError> {
        loop {
            let Some(last) = missing.last().copied() else { return Ok(()) };
            let start = self.reserve.search_from.max(self.header.clusters(self.file_len));
            let end = start + missing.len() as u64;
            let counted = self.refcounts.index(start)..=self.refcounts.index(end - 1);
            if last.max(*counted.end()) >= self.refcounts.table.len() as u64 {
                self.grow_table(self.refcounts.counted_by(last).end)?;
                missing.retain(|index| !self.refcounts.has_block(*index));
                continue;
            }
            let before = missing.len();
            missing.extend(counted.filter(|index| !self.refcounts.has_block(*index)));
            if missing.len() == before {
                let plan = Plan { clusters: start..end, blocks: missing.into_iter().collect() };
                self.lay_down(&plan)?;
                return self.enter_blocks(&plan);
            }
        }
    }

    /// Makes the planned clusters zero and counted, and the new blocks' contents, durable. Can be repeated.
    fn lay_down(&mut self, plan: &Plan) -> Result<(), MapError> {
        let (start, end) = (self.offset(plan.clusters.start), self.offset(plan.clusters.end));
        let mut changed = Vec::new();
        if start.0 < self.file_len {
            let len = Bytes(end.0.min(self.file_len) - start.0);
            self.storage.punch(start, len).map_err(MapError::io("clear new clusters"))?;
            changed.push((start, len));
        }
        if end.0 > self.file_len {
            self.storage.set_len(Bytes(end.0)).map_err(MapError::io(EXTEND))?;
            self.file_len = end.0;
        }
        for (index, cluster) in plan.new_blocks() {
            let counted = self.refcounts.counted_by(index);
            let clusters = counted.start.max(plan.clusters.start)..counted.end.min(plan.clusters.end);
            let filled = self.refcounts.fill_in(&*self.storage, self.offset(cluster).0, clusters, 1);
            changed.extend(filled.map_err(MapError::io("write a new refcount block"))?);
        }
        let filled = self.refcounts.fill(&*self.storage, plan.clusters.clone(), 1);
        changed.extend(filled.map_err(MapError::io("write refcounts"))?);
        self.sync(&changed)
    }

    /// Enters the new blocks of a plan into the refcount table, durably.
    fn enter_blocks(&mut self, plan: &Plan) -> Result<(), MapError> {
        let mut rest: Vec<(u64, u64)> = plan.new_blocks().collect();
        while !rest.is_empty() {
            // A block is in the table only after the one that counts it: any of the entries of a round can be lost
            // without the others, and a block in the table whose own refcount is gone is an error.
            let counted = |(index, cluster): &(u64, u64)| {
                let by = self.refcounts.index(*cluster);
                by == *index || self.refcounts.has_block(by)
            };
            let (round, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(counted);
            if round.is_empty() {
                return Err(MapError::InDoubt);
            }
            let mut changed = Vec::new();
            for (index, cluster) in &round {
                let at = FileOffset(self.header.refcount_table_offset.0 + index * 8);
                let written = self.storage.write_at(at, &self.offset(*cluster).0.to_be_bytes());
                written.map_err(MapError::io("write the refcount table"))?;
                changed.push((at, Bytes(8)));
            }
            self.sync(&changed)?;
            for (index, cluster) in round {
                if self.refcounts.has_block(index) {
                    // Entered by an attempt that failed later.
                    continue;
                }
                self.own(cluster..cluster + 1, Kind::RefcountBlock)?;
                if let Some(entry) = self.refcounts.table.get_mut(index as usize) {
                    *entry = cluster << self.header.cluster_bits;
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// Enters new metadata. It lies past everything known at open, so an owner there is a contradiction in the image.
    fn own(&mut self, clusters: Range<u64>, kind: Kind) -> Result<(), MapError> {
        self.regions.insert(clusters, kind).map_err(|_| MapError::InDoubt)
    }

    /// Moves the refcount table to a larger one that can count `clusters` clusters and itself. Images made here never
    /// need it before they have leaked a lot; foreign ones do.
    fn grow_table(&mut self, clusters: u64) -> Result<(), MapError> {
        let plan = self.plan_table(clusters)?;
        let prepared = self.lay_down(&plan).and_then(|()| self.write_new_table(&plan));
        let table = match prepared {
            Ok(table) => table,
            Err(error) => {
                self.reserve.search_from = plan.clusters.end;
                return Err(error);
            }
        };
        let rest = plan.rest();
        let new_offset = self.offset(rest.start);
        let new_clusters = (rest.end - rest.start) as u32;
        let mut fields = [0u8; 12];
        fields[..8].copy_from_slice(&new_offset.0.to_be_bytes());
        fields[8..].copy_from_slice(&new_clusters.to_be_bytes());
        // Both fields are in the first sector, so the switch is one or the other, never half.
        let written = self.storage.write_at(FileOffset(REFCOUNT_TABLE_FIELDS), &fields);
        let changed = [(FileOffset(REFCOUNT_TABLE_FIELDS), Bytes(fields.len() as u64))];
        let switched = written.map_err(MapError::io("write the header")).and_then(|()| self.sync(&changed));
        if let Err(error) = switched {
            self.reserve.in_doubt = true;
            return Err(error);
        }
        let old = self.header.refcount_table_offset.0 >> self.header.cluster_bits;
        let old = old..old + u64::from(self.header.refcount_table_clusters);
        self.header.refcount_table_offset = new_offset;
        self.header.refcount_table_clusters = new_clusters;
        self.refcounts.table = table;
        self.regions.remove(old.start);
        self.own(rest, Kind::RefcountTable)?;
        for (_, cluster) in plan.new_blocks() {
            self.own(cluster..cluster + 1, Kind::RefcountBlock)?;
        }
        // The old table is out of use; where this fails its clusters are leaked.
        let filled = self.refcounts.fill(&*self.storage, old, 0);
        filled.map_err(MapError::io("free the old refcount table"))?;
        Ok(())
    }

    /// Where a larger refcount table goes, and how large it is.
    fn plan_table(&self, clusters: u64) -> Result<Plan, MapError> {
        let limit = REFCOUNT_TABLE_LIMIT >> self.header.cluster_bits;
        let too_large = MapError::FileLimit { clusters, limit: REFCOUNT_TABLE_LIMIT };
        let per_cluster = self.header.l2_entries();
        let mut from = self.reserve.search_from.max(self.header.clusters(self.file_len));
        while let Some(taken) = self.first_counted(from..self.refcounts.covered().max(from))? {
            from = self.refcounts.counted_by(self.refcounts.index(taken)).end;
        }
        let mut size = (u64::from(self.header.refcount_table_clusters) * 3).div_ceil(2);
        loop {
            size = size.min(limit);
            let plan = self.plan_at(from, size);
            let grown = clusters.saturating_add(plan.clusters.end - plan.clusters.start).max(plan.clusters.end);
            if self.refcounts.index(grown) < size * per_cluster {
                return Ok(plan);
            }
            if size == limit {
                return Err(too_large);
            }
            size *= 2;
        }
    }

    /// Writes the larger table, durably, and returns its entries.
    fn write_new_table(&self, plan: &Plan) -> Result<Vec<u64>, MapError> {
        let rest = plan.rest();
        let entries = (rest.end - rest.start) * self.header.l2_entries();
        let mut table = self.refcounts.table.clone();
        table.resize(entries as usize, 0);
        for (index, cluster) in plan.new_blocks() {
            if let Some(entry) = table.get_mut(index as usize) {
                *entry = cluster << self.header.cluster_bits;
            }
        }
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let written = self.storage.write_at(self.offset(rest.start), &bytes);
        written.map_err(MapError::io("write the larger refcount table"))?;
        self.sync(&[(self.offset(rest.start), Bytes(bytes.len() as u64))])?;
        Ok(table)
    }

    /// Maps every cluster of a range of the device (rounded out to clusters, cut at the device's end). New clusters
    /// read as zeros, also after a loss of power, and lie in runs as long as the reservation allows. After an error
    /// part of the range may be mapped, and the call can be repeated. What a base shows there is copied to them.
    pub fn map(&mut self, start: Bytes, len: Bytes) -> Result<(), MapError> {
        self.map_without(start, len, 0..0)
    }

    /// The same, and what the base shows in `hidden` reads as zeros.
    pub fn map_without(&mut self, start: Bytes, len: Bytes, hidden: Range<u64>) -> Result<(), MapError> {
        self.check_writable()?;
        let clusters = self.guest_clusters(start, len);
        let missing = self.count_missing(clusters.clone())?;
        if missing.clusters == 0 && !missing.zeroed {
            return Ok(());
        }
        self.reserve_up_to(missing.clusters)?;
        // Tables first, so that they do not part the data.
        self.add_tables(clusters.clone())?;
        self.add_data(clusters, &hidden)
    }

    /// Reserves and adds the L2 tables that a range of guest clusters lacks.
    pub(super) fn add_tables_for(&mut self, clusters: Range<u64>) -> Result<(), MapError> {
        self.check_writable()?;
        let (first, last) =
            (clusters.start / self.header.l2_entries(), clusters.end.saturating_sub(1) / self.header.l2_entries());
        let missing =
            (first..=last).filter(|index| self.l1.get(*index as usize).is_none_or(|entry| *entry == 0)).count();
        self.reserve_up_to(missing as u64)?;
        self.add_tables(clusters)
    }

    fn count_missing(&self, mut clusters: Range<u64>) -> Result<Missing, MapError> {
        let mut missing = Missing::default();
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let Some(entries) = part.entries else {
                missing.clusters += 1 + part.clusters.end - part.clusters.start;
                continue;
            };
            self.read_entries(entries, &part.clusters, &mut bytes)?;
            for (guest, entry) in part.clusters.zip(bytes.as_chunks::<8>().0) {
                match self.mapping(guest, u64::from_be_bytes(*entry))? {
                    Mapping::Unmapped | Mapping::Zero => missing.clusters += 1,
                    Mapping::Zeroed(_) => missing.zeroed = true,
                    Mapping::Mapped(_) => {}
                }
            }
        }
        Ok(missing)
    }

    /// Adds the L2 tables that a range of guest clusters lacks.
    fn add_tables(&mut self, mut clusters: Range<u64>) -> Result<(), MapError> {
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            if part.entries.is_some() {
                continue;
            }
            let index = part.clusters.start / self.header.l2_entries();
            let table = self.reserve.take(1);
            let entry = self.offset(table.start).0 | COPIED;
            let at = FileOffset(self.header.l1_table_offset.0 + index * 8);
            // Where this fails the cluster stays taken: the entry may have reached the file.
            self.storage.write_at(at, &entry.to_be_bytes()).map_err(MapError::io("write the L1 table"))?;
            self.own(table, Kind::L2)?;
            if let Some(slot) = self.l1.get_mut(index as usize) {
                *slot = entry;
            }
        }
        Ok(())
    }

    /// Gives every guest cluster of a range a cluster; the L2 tables are there.
    fn add_data(&mut self, mut clusters: Range<u64>, hidden: &Range<u64>) -> Result<(), MapError> {
        let mut bytes = Vec::new();
        while !clusters.is_empty() {
            let part = self.part(clusters.clone())?;
            clusters.start = part.clusters.end;
            let Some(at) = part.entries else { continue };
            self.read_entries(at, &part.clusters, &mut bytes)?;
            let first = part.clusters.start;
            let entries = bytes.as_chunks_mut::<8>().0;
            let mut missing = Vec::new();
            let mut zeroed = Vec::new();
            for (guest, entry) in part.clusters.clone().zip(entries.iter()) {
                match self.mapping(guest, u64::from_be_bytes(*entry))? {
                    Mapping::Unmapped => missing.push(((guest - first) as usize, true)),
                    Mapping::Zero => missing.push(((guest - first) as usize, false)),
                    Mapping::Zeroed(offset) => zeroed.push(((guest - first) as usize, offset)),
                    Mapping::Mapped(_) => {}
                }
            }
            self.clear_zeroed(&zeroed)?;
            for (index, offset) in &zeroed {
                entries[*index] = (offset | COPIED).to_be_bytes();
            }
            let mut copied = Vec::new();
            for (index, through) in &missing {
                let cluster = self.reserve.take(1);
                if cluster.is_empty() {
                    // The count before was of the same entries, so the reservation suffices; an entry of 0 is unmapped
                    // and safe all the same.
                    return Err(MapError::InDoubt);
                }
                let place = self.offset(cluster.start);
                if *through {
                    self.copy_up(first + *index as u64, place, hidden, &mut copied)?;
                }
                entries[*index] = (place.0 | COPIED).to_be_bytes();
            }
            // An entry that is durable before what it hides was copied would show zeros in its place.
            if !copied.is_empty() {
                self.sync(&copied)?;
            }
            let changed = || missing.iter().map(|(index, _)| *index).chain(zeroed.iter().map(|(index, _)| *index));
            let (Some(low), Some(high)) = (changed().min(), changed().max()) else { continue };
            // One write for the slice; entries between the changed ones are written as they were. Where it fails the
            // clusters stay taken: any of the entries may have reached the file.
            let at = FileOffset(at.0 + low as u64 * 8);
            let written = self.storage.write_at(at, &bytes[low * 8..(high + 1) * 8]);
            written.map_err(MapError::io("write an L2 table"))?;
        }
        Ok(())
    }

    /// Makes clusters that read as zeros by a flag really zero, durably, so that the flag can go.
    fn clear_zeroed(&self, zeroed: &[(usize, u64)]) -> Result<(), MapError> {
        let holes: Vec<FileRange> =
            zeroed.iter().map(|(_, offset)| (FileOffset(*offset), self.header.cluster_size())).collect();
        for (offset, len) in &holes {
            self.storage.punch(*offset, *len).map_err(MapError::io("clear a cluster"))?;
        }
        if holes.is_empty() { Ok(()) } else { self.sync(&holes) }
    }

    /// Marks the image as left in order: for the end of a clean close, when beyond the write pointers of zones that hold
    /// data the file durably reads as zeros. A change of the image after this call must not happen.
    pub fn mark_orderly(&mut self) -> Result<(), MapError> {
        if self.access == Access::ReadOnly || self.reserve.in_doubt {
            return Ok(());
        }
        let at = FileOffset(AUTOCLEAR_FIELD);
        let written = self.storage.write_at(at, &ORDERLY.to_be_bytes());
        written.map_err(MapError::io("mark the end in the header"))?;
        self.flush()
    }

    /// Gives back what is reserved and unused: for a clean close. The image can be used on afterwards. At any point of
    /// a crash in here, clusters are counted without an owner at worst.
    pub fn release(&mut self) -> Result<(), MapError> {
        if self.access == Access::ReadOnly || self.reserve.in_doubt {
            return Ok(());
        }
        // Out of the reservation first: after a failure below none of these may be handed out.
        let mut free: Vec<Range<u64>> = std::mem::take(&mut self.reserve.free).into();
        if let Some(Pending { plan, counted }) = self.reserve.pending.take() {
            // A block that may be in the table already keeps its count.
            let unused = if counted { plan.rest() } else { plan.clusters.clone() };
            self.reserve.search_from = plan.clusters.end;
            free.push(unused);
        }
        if free.is_empty() {
            return Ok(());
        }
        for range in &free {
            let filled = self.refcounts.fill(&*self.storage, range.clone(), 0);
            filled.map_err(MapError::io("free the clusters reserved"))?;
        }
        // The file must not end before what is counted in it.
        self.flush()?;
        let mut end = self.header.clusters(self.file_len);
        for range in free.iter().rev() {
            if range.end == end {
                end = range.start;
            }
        }
        let len = self.offset(end).0;
        if len < self.file_len {
            self.storage.set_len(Bytes(len)).map_err(MapError::io("cut the file"))?;
            self.file_len = len;
        }
        Ok(())
    }
}

/// Whether a file cannot become as long as asked for, by the format or by its host. Nothing was changed then.
fn is_limit(error: &MapError) -> bool {
    match error {
        MapError::FileLimit { .. } => true,
        MapError::Io { doing, source } => *doing == EXTEND && source.kind() == io::ErrorKind::FileTooLarge,
        _ => false,
    }
}

/// What a range lacks.
#[derive(Default)]
struct Missing {
    /// Clusters to take: L2 tables and data.
    clusters: u64,
    /// Whether a cluster is held behind a zero flag.
    zeroed: bool,
}
