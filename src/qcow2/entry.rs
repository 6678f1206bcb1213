//! One entry of the write-pointer table: eight bytes, the absolute guest offset of the zone's write pointer, with a flag
//! for a conventional zone (the series that adds zones to qcow2, "Write-pointer table").
//!
//! What an entry must be follows from the geometry, the layout and the byte order together: [`Entries`]. An entry that
//! breaks a rule is told by which, and by what it was meant to be where it says that: [`WrongEntry`].

use super::ZonedLayout;
use super::error::PointerError;
use super::order::ByteOrder;
use crate::units::{Bytes, SECTOR_SIZE, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// How the entries of a table are read and written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries {
    pub(super) geometry: Geometry,
    pub(super) layout: ZonedLayout,
    pub(super) order: ByteOrder,
}

/// The rule that an entry breaks.
#[derive(Clone, Copy)]
enum Rule {
    /// It lies in its zone once 2^32 is added as often as the zone's start needs.
    WholeOffset,
    InsideZone,
    /// It lies in its zone, behind the highest pointer of the layout.
    Writable,
    FlagSet,
    FlagClear,
    WholeSectors,
}

/// The sorts of wrong entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointerFault {
    /// Cut to 32 bits by the v7 binaries.
    Truncated,
    /// Inside its zone, and no multiple of 512.
    Unaligned,
    /// Right in the byte order that the table does not have.
    OtherOrder,
    /// Inside its zone, behind what can be written of it.
    PastWritable,
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
    /// The reading that fits, where only the table's own does not.
    fits: Option<(ByteOrder, u64)>,
}

impl Entries {
    /// The same table, read in another byte order.
    pub(super) fn in_order(self, order: ByteOrder) -> Self {
        Self { order, ..self }
    }

    /// The bytes of a zone's entry; that of a conventional zone is always its start with the flag.
    pub(super) fn encode(&self, zone: ZoneIndex, pointer: Bytes) -> [u8; 8] {
        self.order.encode(match self.geometry.kind(zone) {
            ZoneKind::Conventional => self.geometry.start(zone).0 | self.layout.conventional_flag(),
            ZoneKind::SequentialWriteRequired => pointer.0,
        })
    }

    /// The write pointer in an entry; the start for a conventional zone.
    pub(super) fn pointer(&self, zone: ZoneIndex, bytes: [u8; 8]) -> Result<Bytes, WrongEntry> {
        match self.wrong(zone, bytes) {
            Some(wrong) => Err(wrong),
            None if self.geometry.kind(zone) == ZoneKind::Conventional => Ok(self.geometry.start(zone)),
            None => Ok(Bytes(self.order.decode(bytes))),
        }
    }

    /// The highest pointer that a zone's entry may hold.
    fn last(&self, zone: ZoneIndex) -> u64 {
        match self.geometry.kind(zone) {
            ZoneKind::Conventional => self.zone_end(zone),
            ZoneKind::SequentialWriteRequired => self.layout.full_pointer(&self.geometry, zone).0,
        }
    }

    fn zone_end(&self, zone: ZoneIndex) -> u64 {
        self.geometry.start(zone).0 + self.geometry.zone_size().0
    }

    /// The rule that an entry breaks, if it breaks one.
    fn broken_rule(&self, zone: ZoneIndex, value: u64) -> Option<Rule> {
        let (start, end) = (self.geometry.start(zone).0, self.zone_end(zone));
        let flag = self.layout.conventional_flag();
        let conventional = value & flag != 0;
        let offset = value & !flag;
        if !(start..=end).contains(&offset) {
            let cut = |whole: u64| whole & u64::from(u32::MAX);
            let is_cut = self.layout.cuts_pointers()
                && end > u64::from(u32::MAX)
                && offset <= u64::from(u32::MAX)
                && (offset.wrapping_sub(cut(start)) <= self.geometry.zone_size().0 || offset == cut(end));
            return Some(if is_cut { Rule::WholeOffset } else { Rule::InsideZone });
        }
        match self.geometry.kind(zone) {
            ZoneKind::Conventional => (!conventional).then_some(Rule::FlagSet),
            ZoneKind::SequentialWriteRequired if conventional => Some(Rule::FlagClear),
            ZoneKind::SequentialWriteRequired if offset > self.last(zone) => Some(Rule::Writable),
            ZoneKind::SequentialWriteRequired => (!offset.is_multiple_of(SECTOR_SIZE)).then_some(Rule::WholeSectors),
        }
    }

    /// What an entry that breaks a rule says all the same: the sort of fault, and the pointer that was meant.
    fn told(&self, zone: ZoneIndex, value: u64, rule: Rule) -> (PointerFault, Option<Bytes>) {
        let start = self.geometry.start(zone).0;
        let sector_below = |pointer: u64| Some(Bytes(pointer / SECTOR_SIZE * SECTOR_SIZE));
        let conventional = self.geometry.kind(zone) == ZoneKind::Conventional;
        match rule {
            // The entry of a conventional zone can only be one value.
            Rule::WholeOffset if conventional => (PointerFault::Truncated, Some(Bytes(start))),
            _ if conventional => (PointerFault::Contradiction, Some(Bytes(start))),
            Rule::WholeOffset if value & self.layout.conventional_flag() == 0 => {
                // A zone is shorter than 4 GiB, so one value in it at most has these 32 bits.
                let written = u64::from((value as u32).wrapping_sub(start as u32));
                (PointerFault::Truncated, sector_below(start + written))
            }
            Rule::WholeSectors => (PointerFault::Unaligned, sector_below(value)),
            Rule::Writable => (PointerFault::PastWritable, Some(Bytes(self.last(zone)))),
            _ => (PointerFault::Contradiction, None),
        }
    }

    /// Whether an entry tells a pointer in this byte order, and whether it is right in it.
    pub(super) fn telling(&self, zone: ZoneIndex, bytes: [u8; 8]) -> (bool, bool) {
        let value = self.order.decode(bytes);
        match self.broken_rule(zone, value).map(|rule| self.told(zone, value, rule).0) {
            None => (true, true),
            Some(fault) => (fault != PointerFault::Contradiction, false),
        }
    }

    /// What is wrong with an entry, if anything is.
    pub(super) fn wrong(&self, zone: ZoneIndex, bytes: [u8; 8]) -> Option<WrongEntry> {
        let value = self.order.decode(bytes);
        let rule = self.broken_rule(zone, value)?;
        let (fault, meant) = self.told(zone, value, rule);
        let mut wrong = WrongEntry { zone, fault, meant, value, rule, fits: None };
        // Only a v7 binary mixes byte orders, and on almost every host it stores little-endian. So a fault that looks
        // like another of its bugs is that bug only where it has that byte order.
        let others = self.layout.orders().iter().filter(|order| **order != self.order);
        let mut others = others.filter(|order| fault == PointerFault::Contradiction || **order == ByteOrder::Little);
        let fits = |order: &&ByteOrder| self.in_order(**order).broken_rule(zone, order.decode(bytes)).is_none();
        if let Some(order) = others.find(fits) {
            let value = order.decode(bytes);
            let conventional = self.geometry.kind(zone) == ZoneKind::Conventional;
            wrong.meant = Some(if conventional { self.geometry.start(zone) } else { Bytes(value) });
            wrong.fault = PointerFault::OtherOrder;
            wrong.fits = Some((*order, value));
        }
        Some(wrong)
    }
}

impl WrongEntry {
    /// The fault in words; `entries` is what found it.
    pub(super) fn error(&self, entries: &Entries) -> PointerError {
        let Self { zone, value, .. } = *self;
        let bit = entries.layout.conventional_bit();
        let expected = match self.rule {
            Rule::WholeOffset | Rule::InsideZone | Rule::Writable => {
                let (start, last) = (entries.geometry.start(zone).0, entries.last(zone));
                let what = if last == entries.zone_end(zone) { "inside the zone" } else { "what can be written of it" };
                format!("{start:#x} to {last:#x}, {what}")
            }
            Rule::FlagSet => format!("bit {bit} set, as zone {zone} is conventional"),
            Rule::FlagClear => format!("bit {bit} clear, as zone {zone} is sequential"),
            Rule::WholeSectors => "a multiple of 512".into(),
        };
        match (self.fits, self.fault) {
            (Some((other_order, other)), _) => {
                PointerError::OtherOrder { zone, value, order: entries.order, other, other_order, expected }
            }
            (None, PointerFault::Truncated) => PointerError::Truncated32 { zone, value, expected },
            (None, _) => PointerError::Wrong { zone, value, expected },
        }
    }
}
