//! A trace: each request as a record of fixed length, little-endian, behind one header.
//!
//! The header says whose requests they are, so that a trace can be read without the image. A record is written when its
//! request was answered; several queues write to one file, each record with one system call together with others of its
//! queue, so that records are whole and those of one queue in the order of their answers. A file that was cut short ends
//! with part of a record, which is left out.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Kind, Rule};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::{Geometry, State};

const MAGIC: [u8; 8] = *b"vuz-trac";
const VERSION: u32 = 1;

/// No sector, no zone.
const NONE_64: u64 = u64::MAX;
const NONE_32: u32 = u32::MAX;

/// How a trace begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    record_bytes: U32,
    size: U64,
    zone_size: U64,
    zone_capacity: U64,
    conventional_zones: U32,
    reserved: [u8; 20],
}

/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Bytes of a record.
pub const RECORD_BYTES: usize = size_of::<Record>();

/// Why a file is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// It begins otherwise.
    #[error("not a trace of vhost-user-zbd")]
    Magic,
    /// It was made by another version.
    #[error("a trace of version {0}: expected {VERSION}")]
    Version(u32),
    /// It is of a disk of another shape.
    #[error(
        "a trace of another disk, of {found} bytes in zones of {found_zone}: expected {expected} and {expected_zone}"
    )]
    OtherDisk {
        /// The size it says.
        found: Bytes,
        /// The zone size it says.
        found_zone: Bytes,
        /// The size of this disk.
        expected: Bytes,
        /// The zone size of this disk.
        expected_zone: Bytes,
    },
}

impl Header {
    /// The header of a disk's trace.
    pub fn new(geometry: &Geometry) -> Self {
        Self {
            magic: MAGIC,
            version: U32::new(VERSION),
            record_bytes: U32::new(RECORD_BYTES as u32),
            size: U64::new(geometry.size().0),
            zone_size: U64::new(geometry.zone_size().0),
            zone_capacity: U64::new(geometry.zone_capacity().0),
            conventional_zones: U32::new(geometry.conventional_zones()),
            reserved: [0; 20],
        }
    }

    /// The header that these bytes are.
    pub fn parse(bytes: &[u8]) -> Result<Self, TraceError> {
        let header = Self::read_from_bytes(bytes).map_err(|_| TraceError::Magic)?;
        if header.magic != MAGIC {
            return Err(TraceError::Magic);
        }
        if header.version.get() != VERSION || header.record_bytes.get() != RECORD_BYTES as u32 {
            return Err(TraceError::Version(header.version.get()));
        }
        Ok(header)
    }

    /// Checks that a trace can go on with the requests of this disk.
    pub fn check_same(&self, geometry: &Geometry) -> Result<(), TraceError> {
        if *self == Self::new(geometry) {
            return Ok(());
        }
        Err(TraceError::OtherDisk {
            found: Bytes(self.size.get()),
            found_zone: Bytes(self.zone_size.get()),
            expected: geometry.size(),
            expected_zone: geometry.zone_size(),
        })
    }
}

/// One answered request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Record {
    time_ns: U64,
    duration_ns: U64,
    sector: U64,
    position: U64,
    write_pointer: U64,
    len: U32,
    zone: U32,
    queue: U16,
    kind: u8,
    status: u8,
    rule: u8,
    state: u8,
    reserved: [u8; 2],
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// When it was taken from the ring: nanoseconds since 1970.
    pub time_ns: u64,
    /// From there until its answer: nanoseconds.
    pub duration_ns: u64,
    /// The queue.
    pub queue: u16,
    /// What was asked for.
    pub kind: Kind,
    /// The sector that it named.
    pub sector: Option<Sector>,
    /// Bytes of data.
    pub len: Bytes,
    /// The zone it begins in.
    pub zone: Option<ZoneIndex>,
    /// How it ended.
    pub status: Status,
    /// Of an append that succeeded: where its data is. Of a refused request: where it should have begun.
    pub position: Option<Sector>,
    /// Of a refused request: the rule, and the zone as it was right after.
    pub refused: Option<(Rule, Option<(State, Sector)>)>,
}

impl From<&Traced> for Record {
    fn from(traced: &Traced) -> Self {
        let sector = |sector: Option<Sector>| U64::new(sector.map_or(NONE_64, |sector| sector.0));
        let zone_state = traced.refused.and_then(|(_, zone)| zone);
        Self {
            time_ns: U64::new(traced.time_ns),
            duration_ns: U64::new(traced.duration_ns),
            sector: sector(traced.sector),
            position: sector(traced.position),
            write_pointer: sector(zone_state.map(|(_, pointer)| pointer)),
            // A request has fewer than 2^29 bytes.
            len: U32::new(u32::try_from(traced.len.0).unwrap_or(u32::MAX)),
            zone: U32::new(traced.zone.map_or(NONE_32, |zone| zone.0)),
            queue: U16::new(traced.queue),
            kind: traced.kind as u8,
            status: traced.status as u8,
            rule: traced.refused.map_or(0, |(rule, _)| rule as u8),
            state: zone_state.map_or(0, |(state, _)| state as u8),
            reserved: [0; 2],
        }
    }
}

impl Record {
    /// What the record says; none where that makes no sense.
    pub fn decode(&self) -> Option<Traced> {
        let sector = |value: U64| Some(value.get()).filter(|sector| *sector != NONE_64).map(Sector);
        let refused = match self.rule {
            0 => None,
            rule => {
                let zone = match sector(self.write_pointer) {
                    Some(pointer) => Some((State::from_number(self.state)?, pointer)),
                    None => None,
                };
                Some((Rule::from_number(rule)?, zone))
            }
        };
        Some(Traced {
            time_ns: self.time_ns.get(),
            duration_ns: self.duration_ns.get(),
            queue: self.queue.get(),
            kind: Kind::from_number(self.kind)?,
            sector: sector(self.sector),
            len: Bytes(self.len.get().into()),
            zone: Some(self.zone.get()).filter(|zone| *zone != NONE_32).map(ZoneIndex),
            status: Status::from_byte(self.status)?,
            position: sector(self.position),
            refused,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::zone::GeometryRequest;

    fn traced() -> Traced {
        Traced {
            time_ns: 1_790_000_000_123_456_789,
            duration_ns: 8_100,
            queue: 3,
            kind: Kind::Write,
            sector: Some(Sector(524_296)),
            len: Bytes(4096),
            zone: Some(ZoneIndex(1)),
            status: Status::ZoneUnalignedWrite,
            position: Some(Sector(524_288)),
            refused: Some((Rule::WritePointer, Some((State::ImplicitOpen, Sector(524_288))))),
        }
    }

    #[test]
    fn a_record_says_what_was_put_into_it() {
        let flush = Traced {
            kind: Kind::Flush,
            sector: None,
            len: Bytes(0),
            zone: None,
            status: Status::Ok,
            position: None,
            refused: None,
            ..traced()
        };
        let no_zone = Traced { zone: None, refused: Some((Rule::Range, None)), status: Status::IoErr, ..traced() };
        for traced in [traced(), flush, no_zone] {
            let record = Record::from(&traced);
            assert_eq!(record.as_bytes().len(), RECORD_BYTES);
            assert_eq!(record.decode(), Some(traced));
        }
    }

    #[test]
    fn numbers_that_mean_nothing_make_no_record() {
        let good = Record::from(&traced());
        assert!(good.decode().is_some());
        let wrong: [fn(&mut Record); 4] = [|r| r.kind = 99, |r| r.status = 99, |r| r.rule = 99, |r| r.state = 99];
        for spoil in wrong {
            let mut record = good;
            spoil(&mut record);
            assert_eq!(record.decode(), None, "{record:?}");
        }
    }

    #[test]
    fn a_header_is_known_by_its_magic_its_version_and_its_disk() {
        let geometry = |size| {
            let request = GeometryRequest {
                size: Bytes(size),
                zone_size: Bytes(1 << 20),
                zone_capacity: Bytes(1 << 20),
                conventional_zones: 0,
                max_open_zones: 0,
                max_active_zones: 0,
                max_append_bytes: Bytes(65536),
            };
            Geometry::new(&request).unwrap().0
        };
        let header = Header::new(&geometry(8 << 20));
        assert_eq!(Header::parse(header.as_bytes()), Ok(header));
        assert_eq!(header.check_same(&geometry(8 << 20)), Ok(()));
        assert!(matches!(header.check_same(&geometry(9 << 20)), Err(TraceError::OtherDisk { .. })));
        assert_eq!(Header::parse(&header.as_bytes()[1..]), Err(TraceError::Magic));
        let newer = Header { version: U32::new(2), ..header };
        assert_eq!(Header::parse(newer.as_bytes()), Err(TraceError::Version(2)));
        let other = Header { magic: *b"QFI\xfbQFI\xfb", ..header };
        assert_eq!(Header::parse(other.as_bytes()), Err(TraceError::Magic));
    }
}
