//! A trace: each request as a record of fixed length, little-endian, behind one header; and among them when the power of the disk
//! was cut, and when it came back, and what the rules for faults are called that have refused requests.
//!
//! The header says whose requests they are, so that a trace can be read without the image. A record is written when its
//! request was answered; several queues write to one file, each record with one system call together with others of its
//! queue, so that records are whole and those of one queue in the order of their answers. A file that was cut short ends
//! with part of a record, which is left out.
//!
//! A request that was refused by a rule for faults has the rule's number. The name is in records before it: once, and again where
//! the number has become that of another rule. So a record stays as long as it is, whatever a rule is called.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fault_names::{MAX_PARTS, NamePart, PART_BYTES};
use super::{Kind, Rule};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::{Geometry, GeometryError, GeometryRequest, State};

/// How the file begins.
pub const MAGIC: [u8; 8] = *b"vuz-trac";
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

    /// The shape of the disk. Its limits are not in a trace.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        let (geometry, _) = Geometry::new(&GeometryRequest {
            size: Bytes(self.size.get()),
            zone_size: Bytes(self.zone_size.get()),
            zone_capacity: Bytes(self.zone_capacity.get()),
            conventional_zones: self.conventional_zones.get(),
            max_open_zones: 0,
            max_active_zones: 0,
            max_append_bytes: Bytes(0),
        })?;
        Ok(geometry)
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

/// One answered request, or what has become of the power.
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
    /// The number of the rule for faults; 0 is none.
    fault: U16,
}

/// What a rule for faults is called: a record with text in place of a request. The first, the kind and the last field are where all
/// records have them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NameRecord {
    time_ns: U64,
    text: [u8; PART_BYTES],
    kind: u8,
    part: u8,
    parts: u8,
    len: u8,
    fault: U16,
}

/// What a record is about. The numbers up to 127 are those of [`Kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A request of this kind.
    Request(Kind),
    /// The power was cut.
    PowerCut,
    /// The power is back.
    PowerBack,
    /// What a rule for faults is called.
    FaultRule,
}

const POWER_CUT: u8 = 128;
const POWER_BACK: u8 = 129;
const FAULT_RULE: u8 = 130;

impl About {
    /// All there are.
    pub const ALL: [Self; Kind::ALL.len() + 3] = {
        let mut all = [Self::PowerCut; Kind::ALL.len() + 3];
        let mut at = 0;
        while at < Kind::ALL.len() {
            all[at] = Self::Request(Kind::ALL[at]);
            at += 1;
        }
        all[at + 1] = Self::PowerBack;
        all[at + 2] = Self::FaultRule;
        all
    };

    /// Its name, for people, filters and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request(kind) => kind.name(),
            Self::PowerCut => "power-cut",
            Self::PowerBack => "power-back",
            Self::FaultRule => "fault-rule",
        }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A request was answered.
    Request(Traced),
    /// The power was cut.
    PowerCut(TracedCut),
    /// The power is back.
    PowerBack {
        /// When: nanoseconds since 1970.
        time_ns: u64,
    },
    /// What a rule for faults is called from here on, or a part of that: see [`FaultNames`](super::fault_names::FaultNames).
    FaultRule(NamePart),
}

/// A power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedCut {
    /// When: nanoseconds since 1970.
    pub time_ns: u64,
    /// The digest of what it has left.
    pub digest: u64,
    /// How many zones had anything to lose.
    pub touched_zones: u32,
}

/// An answered request.
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
    /// The number of the rule for faults that refused it, where records before this say its name.
    pub fault: Option<u16>,
}

/// The records that say what the rule for faults of this number is called. They have to be written behind one another.
pub fn name_records(time_ns: u64, number: u16, name: &str) -> Vec<Record> {
    NamePart::all(time_ns, number, name).iter().map(Record::from).collect()
}

impl From<&NamePart> for Record {
    fn from(part: &NamePart) -> Self {
        let mut text = [0; PART_BYTES];
        let len = part.text.len().min(PART_BYTES);
        text[..len].copy_from_slice(&part.text.as_bytes()[..len]);
        zerocopy::transmute!(NameRecord {
            time_ns: U64::new(part.time_ns),
            text,
            kind: FAULT_RULE,
            part: part.part,
            parts: part.parts,
            len: len as u8,
            fault: U16::new(part.number),
        })
    }
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
            fault: U16::new(traced.fault.unwrap_or(0)),
        }
    }
}

impl Entry {
    /// What it is about.
    pub fn about(&self) -> About {
        match self {
            Self::Request(traced) => About::Request(traced.kind),
            Self::PowerCut(_) => About::PowerCut,
            Self::PowerBack { .. } => About::PowerBack,
            Self::FaultRule(_) => About::FaultRule,
        }
    }

    /// When it was: nanoseconds since 1970; of a request, when it was taken from the ring.
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Request(traced) => traced.time_ns,
            Self::PowerCut(cut) => cut.time_ns,
            Self::PowerBack { time_ns } => *time_ns,
            Self::FaultRule(part) => part.time_ns,
        }
    }
}

impl From<&Entry> for Record {
    fn from(entry: &Entry) -> Self {
        let (kind, digest, zones) = match entry {
            Entry::Request(traced) => return traced.into(),
            Entry::FaultRule(part) => return part.into(),
            Entry::PowerCut(cut) => (POWER_CUT, cut.digest, cut.touched_zones),
            Entry::PowerBack { .. } => (POWER_BACK, 0, 0),
        };
        Self {
            time_ns: U64::new(entry.time_ns()),
            duration_ns: U64::new(0),
            sector: U64::new(NONE_64),
            position: U64::new(digest),
            write_pointer: U64::new(NONE_64),
            len: U32::new(zones),
            zone: U32::new(NONE_32),
            queue: U16::new(0),
            kind,
            status: 0,
            rule: 0,
            state: 0,
            fault: U16::new(0),
        }
    }
}

impl Record {
    /// What the record says; none where that makes no sense.
    pub fn decode(&self) -> Option<Entry> {
        let time_ns = self.time_ns.get();
        match self.kind {
            POWER_CUT => {
                Some(Entry::PowerCut(TracedCut { time_ns, digest: self.position.get(), touched_zones: self.len.get() }))
            }
            POWER_BACK => Some(Entry::PowerBack { time_ns }),
            FAULT_RULE => self.decode_name().map(Entry::FaultRule),
            _ => self.decode_request().map(Entry::Request),
        }
    }

    fn decode_name(&self) -> Option<NamePart> {
        let record: &NameRecord = zerocopy::transmute_ref!(self);
        let text = std::str::from_utf8(record.text.get(..usize::from(record.len))?).ok()?;
        let makes_sense = record.part < record.parts && record.parts <= MAX_PARTS && !text.contains(char::is_control);
        makes_sense.then(|| NamePart {
            time_ns: record.time_ns.get(),
            number: record.fault.get(),
            part: record.part,
            parts: record.parts,
            text: text.to_owned(),
        })
    }

    fn decode_request(&self) -> Option<Traced> {
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
            fault: Some(self.fault.get()).filter(|number| *number != 0),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::observe::fault_names::{FaultNames, LONGEST_NAME};
    use crate::zone::testing::geometry;

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
            fault: None,
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
        let by_fault = Traced { refused: Some((Rule::Fault, None)), fault: Some(u16::MAX), ..traced() };
        for traced in [traced(), flush, no_zone, by_fault] {
            let entry = Entry::Request(traced);
            let record = Record::from(&entry);
            assert_eq!(record.as_bytes().len(), RECORD_BYTES);
            assert_eq!((entry.about(), entry.time_ns()), (About::Request(traced.kind), traced.time_ns));
            assert_eq!(record.decode(), Some(entry));
        }
    }

    #[test]
    fn what_becomes_of_the_power_is_a_record_as_well() {
        let cut = TracedCut { time_ns: 17, digest: u64::MAX, touched_zones: 3 };
        let entries = [(Entry::PowerCut(cut), About::PowerCut), (Entry::PowerBack { time_ns: 18 }, About::PowerBack)];
        for (entry, about) in entries {
            assert_eq!(entry.about(), about);
            assert_eq!(Record::from(&entry).decode(), Some(entry));
        }
    }

    #[test]
    fn the_name_of_a_rule_for_faults_is_as_many_records_as_it_takes() {
        let name = |name: &str| {
            let records = name_records(17, 300, name);
            let mut names = FaultNames::default();
            let mut whole = Vec::new();
            for record in &records {
                assert_eq!(record.as_bytes().len(), RECORD_BYTES);
                let entry = record.decode().unwrap();
                assert_eq!((entry.about(), entry.time_ns()), (About::FaultRule, 17));
                let Entry::FaultRule(part) = entry else { panic!("{entry:?}") };
                whole.push(names.take(&part));
            }
            assert!(whole.pop().unwrap() && !whole.contains(&true), "whole with the last record");
            assert_eq!(names.get(300), Some(name));
            records.len()
        };
        for (text, records) in [
            ("x".to_owned(), 1),
            ("my rule".to_owned(), 1),
            ("n".repeat(PART_BYTES), 1),
            ("n".repeat(PART_BYTES + 1), 2),
            ("n".repeat(LONGEST_NAME), 2),
            ("\u{1f4a5}".repeat(LONGEST_NAME / 4), 2),
            (format!("{}\u{1f4a5}{}", "n".repeat(PART_BYTES - 3), "m".repeat(LONGEST_NAME - PART_BYTES - 1)), 2),
        ] {
            assert_eq!(name(&text), records, "{text}");
        }
    }

    #[test]
    fn all_that_a_record_can_be_about_has_a_name_of_its_own() {
        let mut names = About::ALL.map(About::name).to_vec();
        assert_eq!(names.len(), Kind::ALL.len() + 3);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), About::ALL.len());
        assert_eq!(About::ALL[Kind::ALL.len()..], [About::PowerCut, About::PowerBack, About::FaultRule]);
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
        let good = name_records(17, 3, "my rule")[0];
        assert!(good.decode().is_some());
        let wrong: [fn(&mut NameRecord); 6] = [
            |r| r.len = PART_BYTES as u8 + 1,
            |r| r.part = r.parts,
            |r| r.parts = 0,
            |r| r.parts = MAX_PARTS + 1,
            |r| r.text[2] = 0x1b,
            |r| r.text[2] = 0xff,
        ];
        for spoil in wrong {
            let mut record: NameRecord = zerocopy::transmute!(good);
            spoil(&mut record);
            let record: Record = zerocopy::transmute!(record);
            assert_eq!(record.decode(), None, "{record:?}");
        }
    }

    #[test]
    fn a_record_of_before_rules_for_faults_had_numbers_is_of_none() {
        let mut bytes = [0; RECORD_BYTES];
        bytes[50..54].copy_from_slice(&[Kind::Flush as u8, Status::IoErr as u8, Rule::Fault as u8, 0]);
        bytes[16..40].fill(0xff);
        let Some(Entry::Request(traced)) = Record::read_from_bytes(&bytes).unwrap().decode() else { panic!() };
        assert_eq!((traced.kind, traced.refused, traced.fault), (Kind::Flush, Some((Rule::Fault, None)), None));
    }

    #[test]
    fn a_header_is_known_by_its_magic_its_version_and_its_disk() {
        let header = Header::new(&geometry(8, 0));
        assert_eq!(Header::parse(header.as_bytes()), Ok(header));
        assert_eq!(header.check_same(&geometry(8, 0)), Ok(()));
        assert!(matches!(header.check_same(&geometry(9, 0)), Err(TraceError::OtherDisk { .. })));
        assert_eq!(Header::parse(&header.as_bytes()[1..]), Err(TraceError::Magic));
        let newer = Header { version: U32::new(2), ..header };
        assert_eq!(Header::parse(newer.as_bytes()), Err(TraceError::Version(2)));
        let other = Header { magic: *b"QFI\xfbQFI\xfb", ..header };
        assert_eq!(Header::parse(other.as_bytes()), Err(TraceError::Magic));
    }
}
