//! The write-pointer table ("zonedmeta clusters"): eight bytes a zone, the absolute guest offset of the zone's write
//! pointer, bit 59 set for a conventional zone (the format document, section "Write-pointer table").
//!
//! The byte order is not recorded in the image: v7 binaries stored the host's, everything else is big-endian. Each
//! entry lies in its own zone, so all entries together tell the order; only a single zone whose pointer is 0 fits
//! both, and then big-endian is taken. The table is read in pieces, never as a whole.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Access;
use super::error::OpenError;
use crate::storage::Storage;
use crate::units::{Bytes, FileOffset, SECTOR_SIZE, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Marks the entry of a conventional zone.
const CONVENTIONAL: u64 = 1 << 59;
/// How much of the table is read or written at a time.
const PIECE: usize = 64 * 1024;
/// Bytes of an entry.
pub(super) const ENTRY: u64 = 8;

/// The byte order of the write-pointer table; all other integers of an image are big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// As everything else in qcow2.
    Big,
    /// As the v7 binaries wrote on little-endian hosts.
    Little,
}

impl ByteOrder {
    fn encode(self, value: u64) -> [u8; 8] {
        match self {
            Self::Big => value.to_be_bytes(),
            Self::Little => value.to_le_bytes(),
        }
    }

    fn decode(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Big => u64::from_be_bytes(bytes),
            Self::Little => u64::from_le_bytes(bytes),
        }
    }
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Big => "big",
            Self::Little => "little",
        })
    }
}

fn entry_of(geometry: &Geometry, zone: ZoneIndex, pointer: Bytes) -> u64 {
    match geometry.kind(zone) {
        ZoneKind::Conventional => geometry.start(zone).0 | CONVENTIONAL,
        ZoneKind::SequentialWriteRequired => pointer.0,
    }
}

/// The rule that an entry breaks.
#[derive(Clone, Copy)]
enum Rule {
    /// It lies in its zone once 2^32 is added as often as the zone's start needs.
    WholeOffset,
    InsideZone,
    FlagSet,
    FlagClear,
    WholeSectors,
}

/// The rule that an entry breaks, if it breaks one.
fn broken_rule(geometry: &Geometry, zone: ZoneIndex, value: u64) -> Option<Rule> {
    let start = geometry.start(zone).0;
    let end = start + geometry.zone_size().0;
    let conventional = value & CONVENTIONAL != 0;
    let offset = value & !CONVENTIONAL;
    if !(start..=end).contains(&offset) {
        let cut = |whole: u64| whole & u64::from(u32::MAX);
        let is_cut = end > u64::from(u32::MAX)
            && offset <= u64::from(u32::MAX)
            && (offset.wrapping_sub(cut(start)) <= geometry.zone_size().0 || offset == cut(end));
        return Some(if is_cut { Rule::WholeOffset } else { Rule::InsideZone });
    }
    match geometry.kind(zone) {
        ZoneKind::Conventional => (!conventional).then_some(Rule::FlagSet),
        ZoneKind::SequentialWriteRequired if conventional => Some(Rule::FlagClear),
        ZoneKind::SequentialWriteRequired => (!offset.is_multiple_of(SECTOR_SIZE)).then_some(Rule::WholeSectors),
    }
}

fn pointer_error(geometry: &Geometry, zone: ZoneIndex, value: u64, rule: Rule) -> OpenError {
    let start = geometry.start(zone).0;
    let expected = match rule {
        Rule::WholeOffset | Rule::InsideZone => {
            format!("{start:#x} to {:#x}, inside the zone", start + geometry.zone_size().0)
        }
        Rule::FlagSet => format!("bit 59 set, as zone {zone} is conventional"),
        Rule::FlagClear => format!("bit 59 clear, as zone {zone} is sequential"),
        Rule::WholeSectors => "a multiple of 512".into(),
    };
    match rule {
        Rule::WholeOffset => OpenError::Truncated32 { zone, value, expected },
        _ => OpenError::Pointer { zone, value, expected },
    }
}

/// Checks one entry and returns the write pointer in it; the start for a conventional zone.
fn pointer_of(geometry: &Geometry, zone: ZoneIndex, value: u64) -> Result<Bytes, OpenError> {
    match broken_rule(geometry, zone, value) {
        Some(rule) => Err(pointer_error(geometry, zone, value, rule)),
        None if geometry.kind(zone) == ZoneKind::Conventional => Ok(geometry.start(zone)),
        None => Ok(Bytes(value)),
    }
}

/// The sorts of wrong entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointerFault {
    /// Cut to 32 bits by the v7 binaries.
    Truncated,
    /// Inside its zone, and no multiple of 512.
    Unaligned,
    /// Outside its zone, or of a kind of zone that this one is not: nothing can be read from it.
    Contradiction,
}

/// A wrong entry.
#[derive(Clone, Copy)]
pub(super) struct WrongEntry {
    pub(super) zone: ZoneIndex,
    pub(super) fault: PointerFault,
    /// The pointer that the entry stands for, where it tells that; never more than was written.
    pub(super) meant: Option<Bytes>,
    value: u64,
    rule: Rule,
}

impl WrongEntry {
    /// What is wrong with an entry, if anything is.
    fn find(geometry: &Geometry, zone: ZoneIndex, value: u64) -> Option<Self> {
        let rule = broken_rule(geometry, zone, value)?;
        let start = geometry.start(zone).0;
        let sector_below = |pointer: u64| Some(Bytes(pointer / SECTOR_SIZE * SECTOR_SIZE));
        let conventional = geometry.kind(zone) == ZoneKind::Conventional;
        let (fault, meant) = match rule {
            // The entry of a conventional zone can only be one value.
            Rule::WholeOffset if conventional => (PointerFault::Truncated, Some(Bytes(start))),
            _ if conventional => (PointerFault::Contradiction, Some(Bytes(start))),
            Rule::WholeOffset if value & CONVENTIONAL == 0 => {
                // A zone is shorter than 4 GiB, so one value in it at most has these 32 bits.
                let written = u64::from((value as u32).wrapping_sub(start as u32));
                (PointerFault::Truncated, sector_below(start + written))
            }
            Rule::WholeSectors => (PointerFault::Unaligned, sector_below(value)),
            _ => (PointerFault::Contradiction, None),
        };
        Some(Self { zone, fault, meant, value, rule })
    }

    /// The fault in words.
    pub(super) fn message(&self, geometry: &Geometry) -> String {
        pointer_error(geometry, self.zone, self.value, self.rule).to_string()
    }
}

/// The byte order in which most entries make sense, of a table that is right in neither; big-endian where both fit
/// as well.
pub(super) fn likely_order<S: Storage>(
    storage: &S,
    offset: FileOffset,
    geometry: &Geometry,
) -> Result<ByteOrder, OpenError> {
    // How many entries tell a pointer, and how many of these are right.
    let mut scores = [(0u32, 0u32); 2];
    stream(storage, offset, geometry.nr_zones(), |zone, entry| {
        for (score, order) in scores.iter_mut().zip([ByteOrder::Big, ByteOrder::Little]) {
            match WrongEntry::find(geometry, zone, order.decode(entry)).map(|wrong| wrong.fault) {
                None => *score = (score.0 + 1, score.1 + 1),
                Some(PointerFault::Truncated | PointerFault::Unaligned) => score.0 += 1,
                Some(PointerFault::Contradiction) => {}
            }
        }
        ControlFlow::Continue(())
    })?;
    let [big, little] = scores;
    Ok(if little > big { ByteOrder::Little } else { ByteOrder::Big })
}

/// Calls `each` with every wrong entry in zone order until it breaks.
pub(super) fn wrong_entries<S: Storage>(
    storage: &S,
    offset: FileOffset,
    geometry: &Geometry,
    order: ByteOrder,
    mut each: impl FnMut(WrongEntry) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    stream(storage, offset, geometry.nr_zones(), |zone, entry| {
        WrongEntry::find(geometry, zone, order.decode(entry)).map_or(ControlFlow::Continue(()), &mut each)
    })
}

/// Calls `each` with every entry in zone order until it breaks.
fn stream<S: Storage>(
    storage: &S,
    offset: FileOffset,
    nr_zones: u32,
    mut each: impl FnMut(ZoneIndex, [u8; 8]) -> ControlFlow<()>,
) -> Result<(), OpenError> {
    let mut piece = vec![0u8; PIECE];
    let mut zone = 0u32;
    while zone < nr_zones {
        let count = (nr_zones - zone).min((PIECE as u64 / ENTRY) as u32);
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

/// Finds the byte order in which every entry is right, or returns what is wrong in the order that fits longer.
pub(super) fn detect<S: Storage>(storage: &S, offset: FileOffset, geometry: &Geometry) -> Result<ByteOrder, OpenError> {
    let mut big: Option<OpenError> = None;
    let mut little: Option<OpenError> = None;
    // What to report when no order fits: the fault found last, big-endian's where both come at the same entry.
    let mut last = ByteOrder::Big;
    stream(storage, offset, geometry.nr_zones(), |zone, entry| {
        let mut look = |fault: &mut Option<OpenError>, order: ByteOrder| {
            if fault.is_none() {
                *fault = pointer_of(geometry, zone, order.decode(entry)).err();
                if fault.is_some() {
                    last = order;
                }
            }
        };
        look(&mut little, ByteOrder::Little);
        look(&mut big, ByteOrder::Big);
        if big.is_some() && little.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match (big, little) {
        (None, _) => Ok(ByteOrder::Big),
        (Some(_), None) => Ok(ByteOrder::Little),
        (Some(big), Some(little)) => Err(if last == ByteOrder::Little { little } else { big }),
    }
}

/// Reads every write pointer; the start of the zone for a conventional one.
pub(super) fn read<S: Storage>(
    storage: &S,
    offset: FileOffset,
    geometry: &Geometry,
    order: ByteOrder,
) -> Result<Vec<Bytes>, OpenError> {
    // The number of zones is safe to allocate for: opening has read that many entries from inside the file, and all
    // but the first zone's differ from the zeros of a hole.
    let mut pointers = Vec::with_capacity(geometry.nr_zones() as usize);
    let mut fault = Ok(());
    stream(storage, offset, geometry.nr_zones(), |zone, entry| {
        match pointer_of(geometry, zone, order.decode(entry)) {
            Ok(pointer) => {
                pointers.push(pointer);
                ControlFlow::Continue(())
            }
            Err(error) => {
                fault = Err(error);
                ControlFlow::Break(())
            }
        }
    })?;
    fault.map(|()| pointers)
}

/// Writes the table of a new image: every zone empty.
pub(super) fn write_new<S: Storage>(
    storage: &S,
    offset: FileOffset,
    geometry: &Geometry,
    order: ByteOrder,
) -> io::Result<()> {
    let mut piece = Vec::with_capacity(PIECE);
    let mut at = offset.0;
    for zone in (0..geometry.nr_zones()).map(ZoneIndex) {
        piece.extend_from_slice(&order.encode(entry_of(geometry, zone, geometry.start(zone))));
        if piece.len() == PIECE {
            storage.write_at(FileOffset(at), &piece)?;
            at += PIECE as u64;
            piece.clear();
        }
    }
    storage.write_at(FileOffset(at), &piece)
}

/// A handle to the write-pointer table for the threads that serve the guest: storing a pointer is one write of eight
/// bytes and needs nothing else of the image.
#[derive(Debug)]
pub struct PointerTable<S> {
    storage: Arc<S>,
    offset: FileOffset,
    geometry: Geometry,
    order: ByteOrder,
    access: Access,
}

impl<S> Clone for PointerTable<S> {
    fn clone(&self) -> Self {
        Self { storage: Arc::clone(&self.storage), ..*self }
    }
}

impl<S> PointerTable<S> {
    pub(super) fn new(
        storage: Arc<S>,
        offset: FileOffset,
        geometry: Geometry,
        order: ByteOrder,
        access: Access,
    ) -> Self {
        Self { storage, offset, geometry, order, access }
    }

    /// The bytes of a zone's entry. `pointer` is the absolute guest offset of its write pointer; the entry of a
    /// conventional zone is always its start with the flag.
    pub fn encode(&self, zone: ZoneIndex, pointer: Bytes) -> [u8; 8] {
        self.order.encode(entry_of(&self.geometry, zone, pointer))
    }

    /// Where a zone's entry stands in the file.
    pub fn offset(&self, zone: ZoneIndex) -> FileOffset {
        FileOffset(self.offset.0 + u64::from(zone.0) * ENTRY)
    }
}

impl<S: Storage> PointerTable<S> {
    /// Lets the storage know that pointers will be stored.
    pub fn prepare(&self) {
        if self.access == Access::ReadWrite {
            self.storage.expect_words(self.offset, Bytes(u64::from(self.geometry.nr_zones()) * ENTRY));
        }
    }

    /// Makes all pointers durable that were stored before this call. Waits for nothing else of the file.
    pub fn flush(&self) -> io::Result<()> {
        self.storage.flush_words(self.offset, Bytes(u64::from(self.geometry.nr_zones()) * ENTRY))
    }

    /// Stores a zone's write pointer. Not durable before the next flush of the storage; never torn, as an entry lies
    /// inside one sector.
    pub fn store(&self, zone: ZoneIndex, pointer: Bytes) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let start = self.geometry.start(zone).0;
        let inside = zone.0 < self.geometry.nr_zones() && pointer.0.wrapping_sub(start) <= self.geometry.zone_size().0;
        if !inside {
            // The next open would refuse the image, so such a value must not reach it.
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pointer} is no write pointer of zone {zone}"),
            ));
        }
        self.storage.write_word(self.offset(zone), self.encode(zone, pointer))
    }
}
