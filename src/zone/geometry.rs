//! The shape of a zoned device and the rules it must meet.
//!
//! The rules come from the zoned extension's format and from what Linux insists on before the disk appears: equal
//! zones in order, a power-of-two size, at least one sequential zone.

use std::ops::Range;

use crate::units::{Bytes, SECTOR_SIZE, ZoneIndex};

/// The smallest capacity that leaves room for an append: the longest append, plus 512, has to be less.
const LEAST_CAPACITY: u64 = 3 * SECTOR_SIZE;

/// How a zone may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneKind {
    /// Anywhere, in any order.
    Conventional,
    /// At its write pointer only.
    SequentialWriteRequired,
}

impl ZoneKind {
    /// Its name, for people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conventional => "conventional",
            Self::SequentialWriteRequired => "seq-write-required",
        }
    }
}

/// What a device is asked to look like; field names and units are those of the zoned extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeometryRequest {
    /// Bytes on the device.
    pub size: Bytes,
    /// Bytes from one zone start to the next.
    pub zone_size: Bytes,
    /// Writable bytes of a sequential zone.
    pub zone_capacity: Bytes,
    /// How many zones, from the first, are conventional.
    pub conventional_zones: u32,
    /// Most zones open at a time; 0 is no limit.
    pub max_open_zones: u32,
    /// Most zones active at a time; 0 is no limit.
    pub max_active_zones: u32,
    /// Longest append; 0 states no limit, and what the queue can carry is in force.
    pub max_append_bytes: Bytes,
}

/// A rule of the geometry that was broken: which field, its value, what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}: {expected}")]
pub struct GeometryError {
    /// The field, as the zoned extension names it.
    pub field: &'static str,
    /// Its value.
    pub value: u64,
    /// What would have been right.
    pub expected: String,
}

/// A limit that was lowered to one that can be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// The field, as the zoned extension names it.
    pub field: &'static str,
    /// What was asked for.
    pub from: u32,
    /// What is in force.
    pub to: u32,
}

/// The shape of a zoned device. Made only by [`Geometry::new`], so every value of this type keeps the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    size: u64,
    zone_shift: u32,
    zone_capacity: u64,
    conventional_zones: u32,
    nr_zones: u32,
    max_open_zones: u32,
    max_active_zones: u32,
    max_append: u64,
}

impl Geometry {
    /// Checks `request` against every rule. Limits that cannot be reached are lowered, each with a [`Clamp`].
    pub fn new(request: &GeometryRequest) -> Result<(Self, Vec<Clamp>), GeometryError> {
        let nr_zones = check_sizes(request)?;
        let conventional_zones = request.conventional_zones;
        if conventional_zones >= nr_zones {
            return Err(GeometryError {
                field: "conventional_zones",
                value: u64::from(conventional_zones),
                expected: format!(
                    "expected less than the number of zones, {nr_zones}: at least one zone must be sequential"
                ),
            });
        }
        let mut clamps = Vec::new();
        let mut clamp = |field, from: u32, most: u32| {
            if from > most {
                clamps.push(Clamp { field, from, to: most });
                return most;
            }
            from
        };
        let sequential = nr_zones - conventional_zones;
        let max_active = clamp("max_active_zones", request.max_active_zones, nr_zones);
        let open_bound = if max_active == 0 { sequential } else { sequential.min(max_active) };
        let max_open = clamp("max_open_zones", request.max_open_zones, open_bound);
        let no_limit_from = |limit: u32| if limit >= sequential { 0 } else { limit };
        let geometry = Self {
            size: request.size.0,
            zone_shift: request.zone_size.0.trailing_zeros(),
            zone_capacity: request.zone_capacity.0,
            conventional_zones,
            nr_zones,
            max_open_zones: no_limit_from(max_open),
            max_active_zones: no_limit_from(max_active),
            max_append: request.max_append_bytes.0,
        };
        Ok((geometry, clamps))
    }

    /// Bytes on the device.
    pub fn size(&self) -> Bytes {
        Bytes(self.size)
    }

    /// Bytes from one zone start to the next; a power of two.
    pub fn zone_size(&self) -> Bytes {
        Bytes(1 << self.zone_shift)
    }

    /// Writable bytes of a sequential zone that is not cut short by the end of the device.
    pub fn zone_capacity(&self) -> Bytes {
        Bytes(self.zone_capacity)
    }

    /// How many zones there are.
    pub fn nr_zones(&self) -> u32 {
        self.nr_zones
    }

    /// How many zones, from the first, are conventional.
    pub fn conventional_zones(&self) -> u32 {
        self.conventional_zones
    }

    /// Most zones open at a time, 0 for no limit. A limit that all sequential zones fit in is no limit.
    pub fn max_open_zones(&self) -> u32 {
        self.max_open_zones
    }

    /// Most zones active at a time, 0 for no limit. A limit that all sequential zones fit in is no limit.
    pub fn max_active_zones(&self) -> u32 {
        self.max_active_zones
    }

    /// Longest append, where a limit is stated.
    pub fn max_append(&self) -> Option<Bytes> {
        (self.max_append != 0).then_some(Bytes(self.max_append))
    }

    /// The zone that holds the byte at `offset`, or `None` past the end of the device.
    pub fn zone_at(&self, offset: Bytes) -> Option<ZoneIndex> {
        if offset.0 >= self.size {
            return None;
        }
        u32::try_from(offset.0 >> self.zone_shift).ok().map(ZoneIndex)
    }

    /// The zone that starts exactly at `offset`.
    pub fn zone_starting_at(&self, offset: Bytes) -> Option<ZoneIndex> {
        self.zone_at(offset).filter(|zone| self.start(*zone) == offset)
    }

    /// The first byte of a zone.
    pub fn start(&self, zone: ZoneIndex) -> Bytes {
        Bytes(u64::from(zone.0) << self.zone_shift)
    }

    /// The length of a zone: the zone size, or less for the last one.
    pub fn len(&self, zone: ZoneIndex) -> Bytes {
        Bytes(self.zone_size().0.min(self.size.saturating_sub(self.start(zone).0)))
    }

    /// How many bytes of a zone can be written.
    pub fn capacity(&self, zone: ZoneIndex) -> Bytes {
        match self.kind(zone) {
            ZoneKind::Conventional => self.len(zone),
            ZoneKind::SequentialWriteRequired => Bytes(self.len(zone).0.min(self.zone_capacity)),
        }
    }

    /// The end of what can be written of a zone.
    pub fn writable_end(&self, zone: ZoneIndex) -> Bytes {
        Bytes(self.start(zone).0 + self.capacity(zone).0)
    }

    /// How a zone may be written.
    pub fn kind(&self, zone: ZoneIndex) -> ZoneKind {
        if zone.0 < self.conventional_zones { ZoneKind::Conventional } else { ZoneKind::SequentialWriteRequired }
    }

    /// Where the sequential zones begin.
    pub fn first_sequential(&self) -> Bytes {
        self.start(ZoneIndex(self.conventional_zones))
    }

    /// The numbers of all sequential zones.
    pub fn sequential_zones(&self) -> Range<u32> {
        self.conventional_zones..self.nr_zones
    }
}

fn check_sizes(request: &GeometryRequest) -> Result<u32, GeometryError> {
    let wrong = |field, value: Bytes, expected: String| Err(GeometryError { field, value: value.0, expected });
    let GeometryRequest { size, zone_size, zone_capacity, max_append_bytes, .. } = *request;
    if !zone_size.0.is_power_of_two() || zone_size.0 < SECTOR_SIZE || zone_size.0 > u64::from(u32::MAX) {
        return wrong("zone_size", zone_size, "expected a power of two from 512 bytes to 2 GiB".into());
    }
    if size.0 == 0 || !size.is_multiple_of(SECTOR_SIZE) {
        return wrong("size", size, "expected a multiple of 512 bytes, and not 0".into());
    }
    if zone_capacity.0 < LEAST_CAPACITY || zone_capacity > zone_size || !zone_capacity.is_multiple_of(SECTOR_SIZE) {
        let expected = format!(
            "expected a multiple of 512 bytes, at least {LEAST_CAPACITY} so that an append fits, at most the zone size, {zone_size}"
        );
        return wrong("zone_capacity", zone_capacity, expected);
    }
    if !max_append_bytes.is_multiple_of(SECTOR_SIZE) {
        let expected = "expected a multiple of 512 bytes, or 0 to state no limit".into();
        return wrong("max_append_bytes", max_append_bytes, expected);
    }
    if max_append_bytes.0 != 0 && max_append_bytes.0.saturating_add(SECTOR_SIZE) >= zone_capacity.0 {
        let expected = format!("expected it, plus 512, to be less than the zone capacity, {zone_capacity}");
        return wrong("max_append_bytes", max_append_bytes, expected);
    }
    u32::try_from(size.0.div_ceil(zone_size.0)).or_else(|_| {
        wrong("zone_size", zone_size, format!("expected zones large enough for at most 2^32-1 of them on {size} bytes"))
    })
}
