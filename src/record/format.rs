//! The bytes of a log: one header, then records behind one another, little-endian. Encoding and decoding, no I/O.
//!
//! The header says whose requests they are. Each record has a head of [`HEAD_BYTES`] and a body: the head has a check of its own,
//! so that a length is known to be right before anything is read by it, and the check of the body. Records are numbered
//! without a gap, so that none can be missing. A byte that changed changes a check: each step of [`check_of`] is reversible.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::entry::{Accepted, Data, Ended, Entry, Run};
use crate::observe::Kind;
use crate::store::Tag;
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::{Geometry, GeometryError, GeometryRequest};

/// How the file begins.
pub const MAGIC: [u8; 8] = *b"vuz-zlog";
const VERSION: u32 = 1;

/// No place, no record.
const NONE_64: u64 = u64::MAX;
/// No zone.
const NONE_32: u32 = u32::MAX;
/// No queue.
const NONE_16: u16 = u16::MAX;

/// Bytes of the header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Bytes of a record before its body.
pub const HEAD_BYTES: usize = size_of::<Head>();

/// Blocks of zeros of this many bytes are left out of the data of a write.
pub const ZERO_BLOCK: usize = 4096;

/// How a log begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 8],
    version: U32,
    head_bytes: U32,
    size: U64,
    zone_size: U64,
    zone_capacity: U64,
    conventional_zones: U32,
    max_open_zones: U32,
    max_active_zones: U32,
    block: U32,
    pointers: U64,
    reserved: [u8; 24],
    check: U64,
}

/// Why a file is no log, or none of this disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins otherwise.
    #[error("not a recording of vhost-user-zbd")]
    Magic,
    /// It was made by another version.
    #[error("a recording of version {0}: expected {VERSION}")]
    Version(u32),
    /// Its header is not what was written.
    #[error("the header of the recording is damaged")]
    Damaged,
    /// It is of a disk of another shape.
    #[error("a recording of another disk, whose {field} is {found}: expected {expected}")]
    OtherDisk {
        /// What differs.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What this disk has.
        expected: u64,
    },
}

impl Header {
    /// The header of a log of a disk, written in units of `block`, whose pointers have this [digest](pointers_digest).
    pub fn new(geometry: &Geometry, block: Bytes, pointers: u64) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: U32::new(VERSION),
            head_bytes: U32::new(HEAD_BYTES as u32),
            size: U64::new(geometry.size().0),
            zone_size: U64::new(geometry.zone_size().0),
            zone_capacity: U64::new(geometry.zone_capacity().0),
            conventional_zones: U32::new(geometry.conventional_zones()),
            max_open_zones: U32::new(geometry.max_open_zones()),
            max_active_zones: U32::new(geometry.max_active_zones()),
            block: U32::new(u32::try_from(block.0).unwrap_or(0)),
            pointers: U64::new(pointers),
            reserved: [0; 24],
            check: U64::ZERO,
        };
        header.check = U64::new(header.checked());
        header
    }

    fn checked(&self) -> u64 {
        let bytes = self.as_bytes();
        check_of(bytes.get(..bytes.len() - size_of::<U64>()).unwrap_or_default())
    }

    /// The header that these bytes are.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::read_from_bytes(bytes).map_err(|_| HeaderError::Magic)?;
        if header.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        if header.version.get() != VERSION {
            return Err(HeaderError::Version(header.version.get()));
        }
        if header.check.get() != header.checked() || header.head_bytes.get() != HEAD_BYTES as u32 {
            return Err(HeaderError::Damaged);
        }
        Ok(header)
    }

    /// The shape of the disk.
    pub fn geometry(&self) -> Result<Geometry, GeometryError> {
        let (geometry, _) = Geometry::new(&GeometryRequest {
            size: Bytes(self.size.get()),
            zone_size: Bytes(self.zone_size.get()),
            zone_capacity: Bytes(self.zone_capacity.get()),
            conventional_zones: self.conventional_zones.get(),
            max_open_zones: self.max_open_zones.get(),
            max_active_zones: self.max_active_zones.get(),
            max_append_bytes: Bytes(0),
        })?;
        Ok(geometry)
    }

    /// Checks that the log is one of a disk of this shape, written in units of `block`.
    pub fn check_same(&self, geometry: &Geometry, block: Bytes) -> Result<(), HeaderError> {
        let other = Self::new(geometry, block, 0);
        let of = |header: &Self| {
            [
                ("size", header.size.get()),
                ("zone_size", header.zone_size.get()),
                ("zone_capacity", header.zone_capacity.get()),
                ("conventional_zones", header.conventional_zones.get().into()),
                ("max_open_zones", header.max_open_zones.get().into()),
                ("max_active_zones", header.max_active_zones.get().into()),
                ("block size", header.block.get().into()),
            ]
        };
        let pairs = of(self).into_iter().zip(of(&other));
        match pairs.map(|((field, found), (_, expected))| (field, found, expected)).find(|(_, a, b)| a != b) {
            Some((field, found, expected)) => Err(HeaderError::OtherDisk { field, found, expected }),
            None => Ok(()),
        }
    }

    /// The unit of writes.
    pub fn block(&self) -> Bytes {
        Bytes(self.block.get().into())
    }

    /// The digest of the write pointers when the recording began.
    pub fn pointers(&self) -> u64 {
        self.pointers.get()
    }
}

/// A digest of the write pointers of the sequential zones, in any order; those of empty zones are left out.
pub fn pointers_digest(pointers: impl IntoIterator<Item = (ZoneIndex, Bytes)>) -> u64 {
    let each = |(zone, pointer): (ZoneIndex, Bytes)| check_of([u64::from(zone.0), pointer.0].as_bytes());
    pointers.into_iter().map(each).fold(0, u64::wrapping_add)
}

/// How a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Head {
    check: U64,
    body_check: U64,
    number: U64,
    time_ns: U64,
    about: U64,
    place: U64,
    len: U32,
    extent: U32,
    queue: U16,
    slot: U16,
    kind: u8,
    detail: u8,
    reserved: [u8; 2],
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is not what was written.
    #[error("its check is wrong")]
    Check,
    /// Another one was to come.
    #[error("it is number {found}: expected {expected}")]
    Number {
        /// What it says.
        found: u64,
        /// What comes here.
        expected: u64,
    },
    /// It says what makes no sense.
    #[error("what it says makes no sense")]
    Meaning,
}

const ACCEPT: u8 = 1;
const DATA: u8 = 2;
const FAILED: u8 = 3;
const ANSWER: u8 = 4;
const FLUSH: u8 = 5;
const MARK: u8 = 6;
const FAULT: u8 = 7;
const DEVICE_RESET: u8 = 8;
const BLOCK: u8 = 9;
const CUT: u8 = 10;
const POKED: u8 = 11;
const SESSION: u8 = 12;
const END: u8 = 13;

/// A record but for its number, its time and its body.
#[derive(Clone, Copy)]
struct Plain {
    kind: u8,
    detail: u8,
    about: u64,
    place: u64,
    extent: u32,
    tag: Option<Tag>,
}

impl Plain {
    fn new(kind: u8) -> Self {
        Self { kind, detail: 0, about: NONE_64, place: NONE_64, extent: 0, tag: None }
    }

    fn put(self, number: u64, time_ns: u64, body: &[u8], body_check: u64, out: &mut Vec<u8>) {
        let tag = self.tag.unwrap_or(Tag { queue: NONE_16, slot: NONE_16 });
        let mut head = Head {
            check: U64::ZERO,
            body_check: U64::new(body_check),
            number: U64::new(number),
            time_ns: U64::new(time_ns),
            about: U64::new(self.about),
            place: U64::new(self.place),
            // A request has fewer than 2^29 bytes, and 2^24 pointers have fewer than 2^28.
            len: U32::new(u32::try_from(body.len()).unwrap_or(u32::MAX)),
            extent: U32::new(self.extent),
            queue: U16::new(tag.queue),
            slot: U16::new(tag.slot),
            kind: self.kind,
            detail: self.detail,
            reserved: [0; 2],
        };
        head.check = U64::new(head.checked());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }
}

/// The data of a write on its way into a record: what is not zeros, and its check, both found without any lock.
#[derive(Debug, Default)]
pub struct Packed {
    body: Vec<u8>,
    /// Where the body is put together of data that has blocks of zeros.
    spare: Vec<u8>,
    check: u64,
    len: u32,
}

/// Bytes before each run of data: where it begins in the data, and how long it is.
const RUN_BYTES: usize = 8;

impl Packed {
    /// Packs what `fill` appends, in place of what was packed before. Most data has no block of zeros, and is not moved again.
    pub fn pack(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        self.body.clear();
        self.body.extend_from_slice(&[0; RUN_BYTES]);
        fill(&mut self.body);
        let data = self.body.get(RUN_BYTES..).unwrap_or_default();
        let len = data.len();
        self.len = u32::try_from(len).unwrap_or(u32::MAX);
        if len == 0 {
            self.body.clear();
        } else if data.chunks(ZERO_BLOCK).any(is_zero) {
            self.spare.clear();
            put_runs(data, &mut self.spare);
            std::mem::swap(&mut self.body, &mut self.spare);
        } else if let Some((head, _)) = self.body.split_first_chunk_mut() {
            *head = run_head(0, len);
        }
        self.check = check_of(&self.body);
    }

    /// Gives back the memory of an unusually long write.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.body.shrink_to(bytes);
        self.spare.shrink_to(bytes);
    }

    /// Appends the record with this data, which is at `at` in the request that was accepted by record `of`.
    pub fn encode(&self, of: u64, at: u64, number: u64, time_ns: u64, out: &mut Vec<u8>) {
        let plain = Plain { about: of, place: at, extent: self.len, ..Plain::new(DATA) };
        plain.put(number, time_ns, &self.body, self.check, out);
    }
}

fn run_head(at: usize, len: usize) -> [u8; RUN_BYTES] {
    let [a, b, c, d] = u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes();
    let [e, f, g, h] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// Appends the runs of data that are not blocks of zeros.
fn put_runs(data: &[u8], body: &mut Vec<u8>) {
    let mut from = 0;
    while from < data.len() {
        let rest = data.get(from..).unwrap_or_default();
        let zeros = rest.chunks(ZERO_BLOCK).take_while(|block| is_zero(block)).map(<[u8]>::len).sum::<usize>();
        let rest = rest.get(zeros..).unwrap_or_default();
        let run = rest.chunks(ZERO_BLOCK).take_while(|block| !is_zero(block)).map(<[u8]>::len).sum::<usize>();
        if run != 0 {
            body.extend_from_slice(&run_head(from + zeros, run));
            body.extend_from_slice(rest.get(..run).unwrap_or_default());
        }
        from += zeros + run;
    }
}

fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}

/// Appends a record.
pub fn encode(entry: &Entry, number: u64, time_ns: u64, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let plain = match entry {
        Entry::Accept(Accepted { tag, kind, zone, place, len }) => Plain {
            detail: *kind as u8,
            about: zone.map_or(NONE_64, |zone| zone.0.into()),
            place: place.0,
            extent: *len,
            tag: *tag,
            ..Plain::new(ACCEPT)
        },
        Entry::Data(Data { of, at, len, runs }) => {
            for Run { at, bytes } in runs {
                body.extend_from_slice(&run_head(*at as usize, bytes.len()));
                body.extend_from_slice(bytes);
            }
            Plain { about: *of, place: *at, extent: *len, ..Plain::new(DATA) }
        }
        Entry::Failed { of, good } => Plain { about: *of, place: good.0, ..Plain::new(FAILED) },
        Entry::Answer { of, status, appended } => Plain {
            detail: *status as u8,
            about: *of,
            place: appended.map_or(NONE_64, |place| place.0),
            ..Plain::new(ANSWER)
        },
        Entry::Flush { queue } => Plain { tag: Some(Tag { queue: *queue, slot: NONE_16 }), ..Plain::new(FLUSH) },
        Entry::Mark(text) => {
            body.extend_from_slice(text.as_bytes());
            Plain::new(MARK)
        }
        Entry::Fault { of, text } => {
            body.extend_from_slice(text.as_bytes());
            Plain { about: of.unwrap_or(NONE_64), ..Plain::new(FAULT) }
        }
        Entry::DeviceReset => Plain::new(DEVICE_RESET),
        Entry::Block { at, content } | Entry::Poked { at, content } => {
            body.extend_from_slice(content);
            let kind = if matches!(entry, Entry::Block { .. }) { BLOCK } else { POKED };
            Plain { place: at.0, ..Plain::new(kind) }
        }
        Entry::Cut { fails, pointers } => {
            put_pointers(pointers, &mut body);
            Plain { detail: u8::from(*fails), ..Plain::new(CUT) }
        }
        Entry::Session { generation, pointers } => {
            put_pointers(pointers, &mut body);
            Plain { about: *generation, ..Plain::new(SESSION) }
        }
        Entry::End(why) => Plain { detail: *why as u8, ..Plain::new(END) },
    };
    plain.put(number, time_ns, &body, check_of(&body), out);
}

impl Head {
    fn checked(&self) -> u64 {
        check_of(self.as_bytes().get(size_of::<U64>()..).unwrap_or_default())
    }

    /// The head that these bytes are, of the record with this number.
    pub fn parse(bytes: &[u8; HEAD_BYTES], expected: u64) -> Result<Self, Damage> {
        let head: Self = zerocopy::transmute!(*bytes);
        if head.check.get() != head.checked() {
            return Err(Damage::Check);
        }
        let found = head.number.get();
        if found != expected {
            return Err(Damage::Number { found, expected });
        }
        Ok(head)
    }

    /// Bytes of the body that follows.
    pub fn body_len(&self) -> u64 {
        self.len.get().into()
    }

    /// When it was written: nanoseconds since the recording's own beginning.
    pub fn time_ns(&self) -> u64 {
        self.time_ns.get()
    }

    /// What the record says, whose body this is.
    pub fn entry(&self, body: &[u8]) -> Result<Entry, Damage> {
        if self.body_check.get() != check_of(body) {
            return Err(Damage::Check);
        }
        self.meaning(body).ok_or(Damage::Meaning)
    }

    fn meaning(&self, body: &[u8]) -> Option<Entry> {
        let some = |value: U64| Some(value.get()).filter(|value| *value != NONE_64);
        let place = || some(self.place).map(Bytes);
        let tag = Some(Tag { queue: self.queue.get(), slot: self.slot.get() }).filter(|tag| tag.queue != NONE_16);
        let empty = |entry: Entry| body.is_empty().then_some(entry);
        match self.kind {
            ACCEPT => empty(Entry::Accept(Accepted {
                tag,
                kind: Kind::from_number(self.detail)?,
                zone: some(self.about).map(u32::try_from).transpose().ok()?.filter(|z| *z != NONE_32).map(ZoneIndex),
                place: place()?,
                len: self.extent.get(),
            })),
            DATA => {
                let (of, at, len) = (some(self.about)?, some(self.place)?, self.extent.get());
                Some(Entry::Data(Data { of, at, len, runs: runs(body, len)? }))
            }
            FAILED => empty(Entry::Failed { of: some(self.about)?, good: place()? }),
            ANSWER => empty(Entry::Answer {
                of: some(self.about)?,
                status: Status::from_byte(self.detail)?,
                appended: place(),
            }),
            FLUSH => empty(Entry::Flush { queue: self.queue.get() }),
            MARK => Some(Entry::Mark(text(body)?)),
            FAULT => Some(Entry::Fault { of: some(self.about), text: text(body)? }),
            DEVICE_RESET => empty(Entry::DeviceReset),
            BLOCK => Some(Entry::Block { at: place()?, content: body.to_vec() }),
            POKED => Some(Entry::Poked { at: place()?, content: body.to_vec() }),
            CUT => Some(Entry::Cut { fails: self.detail != 0, pointers: pointers(body)? }),
            SESSION => Some(Entry::Session { generation: some(self.about)?, pointers: pointers(body)? }),
            END => empty(Entry::End(Ended::from_number(self.detail)?)),
            _ => None,
        }
    }
}

/// The number of the first of these records.
pub fn first_number(records: &[u8]) -> Option<u64> {
    Head::ref_from_prefix(records).ok().map(|(head, _)| head.number.get())
}

fn text(body: &[u8]) -> Option<String> {
    String::from_utf8(body.to_vec()).ok()
}

fn runs(mut body: &[u8], len: u32) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_first_chunk::<RUN_BYTES>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        let (at, run) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let (bytes, rest) = rest.split_at_checked(usize::try_from(run).ok()?)?;
        if at.checked_add(run)? > len || run == 0 {
            return None;
        }
        runs.push(Run { at, bytes: bytes.to_vec() });
        body = rest;
    }
    Some(runs)
}

/// A write pointer in a body.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Pointer {
    zone: U32,
    pointer: U64,
}

fn put_pointers(pointers: &[(ZoneIndex, Bytes)], body: &mut Vec<u8>) {
    for (zone, pointer) in pointers {
        let pointer = Pointer { zone: U32::new(zone.0), pointer: U64::new(pointer.0) };
        body.extend_from_slice(pointer.as_bytes());
    }
}

fn pointers(body: &[u8]) -> Option<Vec<(ZoneIndex, Bytes)>> {
    let pointers = <[Pointer]>::ref_from_bytes(body).ok()?;
    Some(pointers.iter().map(|one| (ZoneIndex(one.zone.get()), Bytes(one.pointer.get()))).collect())
}

/// A check of bytes. Each step can be undone, so that another value of any eight bytes is another check for certain.
pub fn check_of(bytes: &[u8]) -> u64 {
    let mut lanes = [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0xd6e8_feb8_6659_fd93u64];
    let step = |lane: u64, word: [u8; 8]| {
        (lane ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let (fours, last) = words.as_chunks::<4>();
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = step(*lane, *word);
        }
    }
    let mut end = [0; 8];
    end.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    for (lane, word) in lanes.iter_mut().zip(last.iter().chain([&end])) {
        *lane = step(*lane, *word);
    }
    lanes.into_iter().fold(bytes.len() as u64, |sum, lane| {
        let mixed = (sum ^ lane).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 32)
    })
}
