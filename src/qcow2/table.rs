//! The write-pointer table ("zonedmeta clusters"): an [entry](super::entry) of eight bytes a zone, in zone order.
//!
//! The byte order is not recorded in the image: v7 binaries stored the host's, everything else is big-endian. Each
//! entry lies in its own zone, so all entries together tell the order; only a single zone whose pointer is 0 fits
//! both, and then big-endian is taken. The table is read in pieces, never as a whole.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::entry::{Entries, WrongEntry};
use super::error::{OpenError, PointerError};
use super::order::ByteOrder;
use super::{Access, ZonedLayout};
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::Geometry;

/// How much of the table is read or written at a time.
const PIECE: usize = 64 * 1024;
/// Bytes of an entry.
pub(super) const ENTRY: u64 = 8;
/// How many entries tell the likely order where only the first fault is wanted; and by how many an image is judged that is
/// only looked at: all of a usual one, and of any other no more than this.
pub(super) const SAMPLE: u32 = 65_536;

/// Calls `each` with every wrong entry in zone order until it breaks.
pub(super) fn wrong_entries<S: Medium>(
    storage: &S,
    offset: FileOffset,
    entries: &Entries,
    mut each: impl FnMut(WrongEntry) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    stream(storage, offset, 0..entries.geometry.nr_zones(), |zone, entry| {
        entries.wrong(zone, entry).map_or(ControlFlow::Continue(()), &mut each)
    })
}

/// Calls `each` with the entry of each of these zones, in order, until it breaks.
fn stream<S: Medium>(
    storage: &S,
    offset: FileOffset,
    zones: Range<u32>,
    mut each: impl FnMut(ZoneIndex, [u8; 8]) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    let mut piece = vec![0u8; PIECE.min(zones.len() * ENTRY as usize)];
    let mut zone = zones.start;
    while zone < zones.end {
        let count = (zones.end - zone).min((PIECE as u64 / ENTRY) as u32);
        let bytes = &mut piece[..count as usize * ENTRY as usize];
        let at = FileOffset(offset.0 + u64::from(zone) * ENTRY);
        storage.read_at(at, bytes).map_err(OpenError::io("read the zonedmeta table"))?;
        for entry in bytes.as_chunks::<8>().0 {
            if each(ZoneIndex(zone), *entry).is_break() {
                return Ok(());
            }
            zone += 1;
        }
    }
    Ok(())
}

/// What the entries of a table look like in one byte order.
struct Reading {
    entries: Entries,
    /// How many entries tell a pointer, and how many of these are right.
    score: (u32, u32),
    first_wrong: Option<WrongEntry>,
}

/// Finds the byte order in which the entries of the first `zones` zones are right, or else most make sense, big-endian
/// where both fit as well; and what is wrong first in it. Those that are right in no order are all looked at only where
/// `thorough`.
pub(super) fn find_order<S: Medium>(
    storage: &S,
    offset: FileOffset,
    geometry: &Geometry,
    layout: ZonedLayout,
    zones: u32,
    thorough: bool,
) -> Result<(Entries, Option<PointerError>), OpenError> {
    let usual = Entries { geometry: *geometry, layout, order: ByteOrder::Big };
    let reading = |order: &ByteOrder| Reading { entries: usual.in_order(*order), score: (0, 0), first_wrong: None };
    let mut readings: Vec<Reading> = layout.orders().iter().map(reading).collect();
    stream(storage, offset, 0..zones, |zone, entry| {
        for reading in &mut readings {
            let (tells, right) = reading.entries.telling(zone, entry);
            reading.score.0 += u32::from(tells);
            reading.score.1 += u32::from(right);
            if !right && reading.first_wrong.is_none() {
                reading.first_wrong = reading.entries.wrong(zone, entry);
            }
        }
        let none_is_right = readings.iter().all(|reading| reading.first_wrong.is_some());
        if none_is_right && !thorough && zone.0 >= SAMPLE { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    // Of equal scores the first counts, which is that of the usual order.
    let likely = readings.into_iter().rev().max_by_key(|reading| reading.score);
    Ok(likely.map_or((usual, None), |reading| {
        let wrong = reading.first_wrong.map(|wrong| wrong.error(&reading.entries));
        (reading.entries, wrong)
    }))
}

/// Calls `each` with the write pointer of each of these zones, in order, until it breaks; the start of the zone for a
/// conventional one.
pub(super) fn read<S: Medium>(
    storage: &S,
    offset: FileOffset,
    entries: &Entries,
    zones: Range<u32>,
    mut each: impl FnMut(ZoneIndex, Bytes) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    let mut fault = Ok(());
    stream(storage, offset, zones, |zone, entry| match entries.pointer(zone, entry) {
        Ok(pointer) => each(zone, pointer),
        Err(wrong) => {
            fault = Err(OpenError::Pointer(wrong.error(entries)));
            ControlFlow::Break(())
        }
    })?;
    fault
}

/// Writes the entries of empty zones into the table at `offset`.
pub(super) fn write_empty<S: Medium>(
    storage: &S,
    offset: FileOffset,
    entries: &Entries,
    zones: Range<u32>,
) -> io::Result<()> {
    let geometry = &entries.geometry;
    let mut writer = TableWriter::new(storage, offset, zones.start);
    for zone in zones.map(ZoneIndex) {
        writer.add(entries.encode(zone, geometry.start(zone)))?;
    }
    writer.finish()
}

/// Writes entries one after the other, in large pieces.
pub(super) struct TableWriter<'a, S> {
    storage: &'a S,
    at: FileOffset,
    piece: Vec<u8>,
}

impl<'a, S: Medium> TableWriter<'a, S> {
    /// Writes from the entry of zone `first` on into the table at `offset`.
    pub(super) fn new(storage: &'a S, offset: FileOffset, first: u32) -> Self {
        Self { storage, at: FileOffset(offset.0 + u64::from(first) * ENTRY), piece: Vec::with_capacity(PIECE) }
    }

    /// Writes the next entry, sooner or later.
    pub(super) fn add(&mut self, entry: [u8; 8]) -> io::Result<()> {
        self.piece.extend_from_slice(&entry);
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.storage.write_at(self.at, &self.piece)?;
        self.at.0 += PIECE as u64;
        self.piece.clear();
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(self) -> io::Result<()> {
        self.storage.write_at(self.at, &self.piece)
    }
}

/// A handle to the write-pointer table for the threads that serve the guest: storing a pointer is one write of eight
/// bytes and needs nothing else of the image.
#[derive(Debug)]
pub struct PointerTable<S> {
    storage: Arc<S>,
    offset: FileOffset,
    entries: Entries,
    access: Access,
}

impl<S> Clone for PointerTable<S> {
    fn clone(&self) -> Self {
        Self { storage: Arc::clone(&self.storage), ..*self }
    }
}

impl<S> PointerTable<S> {
    pub(super) fn new(storage: Arc<S>, offset: FileOffset, entries: Entries, access: Access) -> Self {
        Self { storage, offset, entries, access }
    }

    /// The bytes of a zone's entry. `pointer` is the absolute guest offset of its write pointer; the entry of a
    /// conventional zone is always its start with the flag.
    pub fn encode(&self, zone: ZoneIndex, pointer: Bytes) -> [u8; 8] {
        self.entries.encode(zone, pointer)
    }

    /// The pointer that a finish of a sequential zone stores, which is the layout's to say.
    pub fn full_pointer(&self, zone: ZoneIndex) -> Bytes {
        self.entries.layout.full_pointer(&self.entries.geometry, zone)
    }

    /// Where a zone's entry stands in the file.
    pub fn offset(&self, zone: ZoneIndex) -> FileOffset {
        FileOffset(self.offset.0 + u64::from(zone.0) * ENTRY)
    }
}

impl<S: Medium> PointerTable<S> {
    /// Where the entries of all zones are.
    pub fn range(&self) -> FileRange {
        (self.offset, Bytes(u64::from(self.entries.geometry.nr_zones()) * ENTRY))
    }

    /// Makes all pointers durable that were stored before this call. Waits for nothing else of the file.
    pub fn flush(&self) -> io::Result<()> {
        self.storage.sync_ranges(&[self.range()])
    }

    /// Stores a zone's write pointer. Not durable before the next flush of the storage; never torn, as an entry lies
    /// inside one sector.
    pub fn store(&self, zone: ZoneIndex, pointer: Bytes) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let geometry = &self.entries.geometry;
        let inside =
            zone.0 < geometry.nr_zones() && (geometry.start(zone)..=self.full_pointer(zone)).contains(&pointer);
        if !inside {
            // The next open would refuse the image, so such a value must not reach it.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pointer} is no write pointer of zone {zone}"),
            ));
        }
        self.storage.write_at(self.offset(zone), &self.encode(zone, pointer))
    }
}
