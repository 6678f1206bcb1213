//! Comparing two images zone by zone, as guests see them: states, write pointers, and the bytes below the pointers.
//!
//! What an image is made of does not count: cluster size, byte order and layout of its table, which pointer a full zone has,
//! where in the file data is, and whether zeros are mapped. Mappings are read zone by zone and data in pieces, so the memory is
//! bounded whatever the images say; what neither of them maps is not read.

use std::ops::{ControlFlow, Range};

use super::Image;
use super::error::{CompareError, OpenError, Which};
use super::mapping::Extent;
use crate::storage::Medium;
use crate::units::{Bytes, Depth, FileOffset, SECTOR_SIZE, ZoneIndex};
use crate::zone::{State, Zone};

/// How much data is compared at a time.
const PIECE: u64 = 1 << 20;
/// How many extents of an image are held.
const EXTENTS: usize = 1024;
/// How many write pointers of an image are held.
const POINTERS: u32 = 4096;
/// The longest append.
const APPEND: &str = "max_append_bytes";

/// A property of the whole disk that the images do not share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ShapeDifference {
    /// Its name, as JSON has it.
    pub field: &'static str,
    /// What the first image has.
    pub first: u64,
    /// What the second image has.
    pub second: u64,
}

/// How a zone stands in one image. Open states are not stored: a zone that was open is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its state.
    pub state: State,
    /// Its write pointer, in bytes of the disk.
    pub write_pointer: Bytes,
}

/// What differs in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneDifference {
    /// The zone.
    pub zone: ZoneIndex,
    /// How the first image has it.
    pub first: Seen,
    /// How the second image has it.
    pub second: Seen,
    /// What differs of the data that both have, if any does.
    pub data: Option<DataDifference>,
}

/// What differs of the data of a zone, counted in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataDifference {
    /// The first byte of the disk that differs.
    pub first: Bytes,
    /// How many sectors differ.
    pub sectors: u64,
    /// How many runs of sectors these are.
    pub ranges: u64,
}

impl ZoneDifference {
    /// Whether its states differ.
    pub fn in_state(&self) -> bool {
        self.first.state != self.second.state
    }

    /// Whether its write pointers differ. A conventional zone has none, and that of a full one says nothing.
    pub fn in_pointer(&self) -> bool {
        let says = |seen: Seen, other: Seen| match seen.state {
            State::NotWp => false,
            State::Full => other.state != State::Full,
            _ => true,
        };
        says(self.first, self.second)
            && says(self.second, self.first)
            && self.first.write_pointer != self.second.write_pointer
    }

    fn is_any(&self) -> bool {
        self.in_state() || self.in_pointer() || self.data.is_some()
    }
}

/// The properties that two disks do not share. The longest append counts where both images have a place for it.
pub fn compare_shapes<S: Medium>(first: &Image<S>, second: &Image<S>) -> Vec<ShapeDifference> {
    let of = |image: &Image<S>| {
        let geometry = &image.geometry;
        [
            ("virtual_size", geometry.size().0),
            ("zone_size", geometry.zone_size().0),
            ("zone_capacity", geometry.zone_capacity().0),
            ("conventional_zones", geometry.conventional_zones().into()),
            ("max_open_zones", geometry.max_open_zones().into()),
            ("max_active_zones", geometry.max_active_zones().into()),
            (APPEND, geometry.max_append().map_or(0, |limit| limit.0)),
        ]
    };
    let append_is_stated = [first, second].iter().all(|image| image.zoned.layout.states_append());
    let fields = of(first).into_iter().zip(of(second));
    let differences = fields
        .map(|((field, first), (_, second))| ShapeDifference { field, first, second })
        .filter(|one| one.first != one.second);
    differences.filter(|one| one.field != APPEND || append_is_stated).collect()
}

/// Two images whose zones are of the same size, zone by zone.
pub struct Comparison<'a, S> {
    first: Side<'a, S>,
    second: Side<'a, S>,
}

impl<'a, S: Medium> Comparison<'a, S> {
    /// Begins to compare two images that nobody writes; none where their zones have other sizes.
    pub fn new(first: &'a mut Image<S>, second: &'a mut Image<S>) -> Option<Self> {
        let same = first.geometry.zone_size() == second.geometry.zone_size();
        same.then(|| Self { first: Side::new(first, Which::First), second: Side::new(second, Which::Second) })
    }

    /// The zones that both images have.
    pub fn zones(&self) -> Range<u32> {
        0..self.first.image.geometry.nr_zones().min(self.second.image.geometry.nr_zones())
    }

    /// Compares a zone that both images have; the zones are asked for in order. Data counts as far as both images have it: up to
    /// the lower of the write pointers, and to the end of a conventional zone. `reached` is told how far on the disk all is
    /// compared.
    pub fn zone(
        &mut self,
        zone: ZoneIndex,
        mut reached: impl FnMut(Bytes),
    ) -> Result<Option<ZoneDifference>, CompareError> {
        let ((first, first_end), (second, second_end)) = (self.first.see(zone)?, self.second.see(zone)?);
        let start = self.first.image.geometry.start(zone).0;
        let data = self.data(start..first_end.0.min(second_end.0), &mut reached)?;
        let difference = ZoneDifference { zone, first, second, data };
        Ok(difference.is_any().then_some(difference))
    }

    fn data(
        &mut self,
        range: Range<u64>,
        reached: &mut impl FnMut(Bytes),
    ) -> Result<Option<DataDifference>, CompareError> {
        let mut found = Found::default();
        let mut at = range.start;
        while at < range.end {
            let (first, second) = (self.first.piece(at..range.end)?, self.second.piece(at..range.end)?);
            let mut end = first.end.min(second.end);
            if first.file.is_some() || second.file.is_some() {
                end = end.min(at + PIECE);
                self.first.read(first.file, end - at)?;
                self.second.read(second.file, end - at)?;
                found.add(at, &self.first.bytes, &self.second.bytes);
            }
            at = end;
            reached(Bytes(at));
        }
        Ok(found.first.map(|first| DataDifference { first, sectors: found.sectors, ranges: found.ranges }))
    }
}

/// What was found to differ.
#[derive(Default)]
struct Found {
    first: Option<Bytes>,
    sectors: u64,
    ranges: u64,
    /// Where the last sector that differs ends.
    end: u64,
}

impl Found {
    /// Compares two pieces of the same length that begin at `at`.
    fn add(&mut self, at: u64, first: &[u8], second: &[u8]) {
        if first == second {
            return;
        }
        let sector = SECTOR_SIZE as usize;
        let sectors = first.chunks(sector).zip(second.chunks(sector));
        for (start, (one, other)) in (at..).step_by(sector).zip(sectors) {
            let Some(byte) = one.iter().zip(other).position(|(one, other)| one != other) else { continue };
            self.first.get_or_insert(Bytes(start + byte as u64));
            self.sectors += 1;
            self.ranges += u64::from(self.end != start || self.sectors == 1);
            self.end = start + SECTOR_SIZE;
        }
    }
}

/// A range from some place on that is mapped as a whole, or not at all.
struct Piece {
    /// In which file of the chain it is, and where; `None` where it reads as zeros.
    file: Option<(Depth, FileOffset)>,
    end: u64,
}

/// One of two images, and what was read of it last.
struct Side<'a, S> {
    image: &'a mut Image<S>,
    which: Which,
    /// The write pointers of zones from this one on.
    pointers: (u32, Vec<Bytes>),
    /// All that is mapped up to `known`, from where it was last asked for.
    extents: Vec<Extent>,
    known: u64,
    bytes: Vec<u8>,
}

impl<'a, S: Medium> Side<'a, S> {
    fn new(image: &'a mut Image<S>, which: Which) -> Self {
        Self { image, which, pointers: (0, Vec::new()), extents: Vec::new(), known: 0, bytes: Vec::new() }
    }

    /// How a zone stands, and where its data ends.
    fn see(&mut self, zone: ZoneIndex) -> Result<(Seen, Bytes), CompareError> {
        let pointer = self.pointer(zone).map_err(|source| CompareError::Pointers { which: self.which, source })?;
        let geometry = &self.image.geometry;
        let found = Zone::from_pointer(geometry, zone, pointer);
        let seen = Seen { state: found.state(), write_pointer: found.write_pointer() };
        Ok((seen, found.readable_end(geometry, zone)))
    }

    fn pointer(&mut self, zone: ZoneIndex) -> Result<Bytes, OpenError> {
        let place = |first: u32| zone.0.checked_sub(first).map(|place| place as usize);
        let held = place(self.pointers.0).and_then(|place| self.pointers.1.get(place)).copied();
        if let Some(pointer) = held {
            return Ok(pointer);
        }
        let mut pointers = Vec::with_capacity(POINTERS as usize);
        self.image.each_write_pointer(zone.0..zone.0.saturating_add(POINTERS), |_, pointer| {
            pointers.push(pointer);
            ControlFlow::Continue(())
        })?;
        self.pointers = (zone.0, pointers);
        Ok(self.pointers.1.first().copied().unwrap_or_else(|| self.image.geometry.start(zone)))
    }

    /// The first piece of a range. Ranges are asked for in order.
    fn piece(&mut self, range: Range<u64>) -> Result<Piece, CompareError> {
        if range.start >= self.known {
            self.extents.clear();
            let asked =
                self.image.extents(Bytes(range.start), Bytes(range.end - range.start), &mut self.extents, EXTENTS);
            self.known = asked.map_err(|source| CompareError::Data { which: self.which, source })?.0;
        }
        let next = self.extents.partition_point(|extent| extent.guest.0 + extent.len.0 <= range.start);
        let end = self.known.min(range.end);
        Ok(match self.extents.get(next) {
            Some(extent) if extent.guest.0 <= range.start => Piece {
                file: Some((extent.depth, FileOffset(extent.file.0 + (range.start - extent.guest.0)))),
                end: end.min(extent.guest.0 + extent.len.0),
            },
            Some(extent) => Piece { file: None, end: end.min(extent.guest.0) },
            None => Piece { file: None, end },
        })
    }

    /// Reads from a place of the file, or zeros.
    fn read(&mut self, place: Option<(Depth, FileOffset)>, len: u64) -> Result<(), CompareError> {
        self.bytes.resize(len as usize, 0);
        let Some((depth, place)) = place else {
            self.bytes.fill(0);
            return Ok(());
        };
        let read = self.image.read_chain(depth, place, &mut self.bytes);
        read.map_err(|source| CompareError::Data { which: self.which, source })
    }
}
