//! virtio-blk requests as the guest's driver forms them, with any framing, and what came back.

use super::SECTOR;

/// Request types.
#[allow(missing_docs, reason = "the names are the specification's")]
pub mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const GET_LIFETIME: u32 = 10;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
    pub const SECURE_ERASE: u32 = 14;
    pub const ZONE_APPEND: u32 = 15;
    pub const ZONE_REPORT: u32 = 16;
    pub const ZONE_OPEN: u32 = 18;
    pub const ZONE_CLOSE: u32 = 20;
    pub const ZONE_FINISH: u32 = 22;
    pub const ZONE_RESET: u32 = 24;
    pub const ZONE_RESET_ALL: u32 = 26;
}

/// The four management requests that act on one zone.
pub const MANAGEMENT: [u32; 4] = [kind::ZONE_OPEN, kind::ZONE_CLOSE, kind::ZONE_FINISH, kind::ZONE_RESET];

/// What a status byte holds before the device writes it.
pub const UNTOUCHED: u8 = 0xee;

/// What the data a device should write holds before it does.
pub const POISON: u8 = 0xa5;

/// A status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done.
    Ok,
    /// Input or output error.
    IoErr,
    /// Not supported.
    Unsupp,
    /// ZONE_INVALID_CMD.
    InvalidCmd,
    /// ZONE_UNALIGNED_WP.
    UnalignedWp,
    /// ZONE_OPEN_RESOURCE.
    OpenResource,
    /// ZONE_ACTIVE_RESOURCE.
    ActiveResource,
    /// The device wrote no status.
    Untouched,
    /// A number that no specification has.
    Unknown(u8),
}

impl From<u8> for Status {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::IoErr,
            2 => Self::Unsupp,
            3 => Self::InvalidCmd,
            4 => Self::UnalignedWp,
            5 => Self::OpenResource,
            6 => Self::ActiveResource,
            UNTOUCHED => Self::Untouched,
            other => Self::Unknown(other),
        }
    }
}

/// Where the descriptors of a request begin and end. Lengths of pieces, in order; what is left over is the last piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// Pieces of the device-readable part.
    pub readable: Vec<usize>,
    /// Pieces of the device-writable part.
    pub writable: Vec<usize>,
    /// Bytes by which every piece is moved off its natural alignment.
    pub misalign: u64,
}

impl Framing {
    /// All that is readable in one descriptor, all that is writable in another.
    pub fn merged() -> Self {
        Self::default()
    }

    /// Pieces of these lengths.
    pub fn pieces(readable: &[usize], writable: &[usize]) -> Self {
        Self { readable: readable.to_vec(), writable: writable.to_vec(), misalign: 0 }
    }

    /// The same, `by` bytes off.
    pub fn misaligned(mut self, by: u64) -> Self {
        self.misalign = by;
        self
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Req {
    /// Its type.
    pub kind: u32,
    /// Its sector.
    pub sector: u64,
    /// What stands in the reserved field (once ioprio): to be ignored.
    pub reserved: u32,
    /// Data for the device.
    pub out: Vec<u8>,
    /// Bytes of data that the device writes, without the status.
    pub in_len: usize,
    /// `None`: header, data and status in descriptors of their own.
    pub framing: Option<Framing>,
    /// Whether the descriptors are in a table of their own.
    pub indirect: bool,
}

impl Req {
    /// A request without data.
    pub fn bare(kind: u32, sector: u64) -> Self {
        Self { kind, sector, reserved: 0, out: Vec::new(), in_len: 0, framing: None, indirect: false }
    }

    /// Reads `len` bytes.
    pub fn read(sector: u64, len: usize) -> Self {
        Self { in_len: len, ..Self::bare(kind::IN, sector) }
    }

    /// Writes `data`.
    pub fn write(sector: u64, data: impl Into<Vec<u8>>) -> Self {
        Self { out: data.into(), ..Self::bare(kind::OUT, sector) }
    }

    /// Appends `data` to the zone at `zone`.
    pub fn append(zone: u64, data: impl Into<Vec<u8>>) -> Self {
        Self { out: data.into(), in_len: 8, ..Self::bare(kind::ZONE_APPEND, zone) }
    }

    /// Reports into a buffer of `len` bytes.
    pub fn report(sector: u64, len: usize) -> Self {
        Self { in_len: len, ..Self::bare(kind::ZONE_REPORT, sector) }
    }

    /// Opens the zone at `zone`.
    pub fn open(zone: u64) -> Self {
        Self::bare(kind::ZONE_OPEN, zone)
    }

    /// Closes the zone at `zone`.
    pub fn close(zone: u64) -> Self {
        Self::bare(kind::ZONE_CLOSE, zone)
    }

    /// Finishes the zone at `zone`.
    pub fn finish(zone: u64) -> Self {
        Self::bare(kind::ZONE_FINISH, zone)
    }

    /// Resets the zone at `zone`.
    pub fn reset(zone: u64) -> Self {
        Self::bare(kind::ZONE_RESET, zone)
    }

    /// Resets all zones.
    pub fn reset_all() -> Self {
        Self::bare(kind::ZONE_RESET_ALL, 0)
    }

    /// Makes all stable.
    pub fn flush() -> Self {
        Self::bare(kind::FLUSH, 0)
    }

    /// Asks for the serial.
    pub fn get_id() -> Self {
        Self { in_len: 20, ..Self::bare(kind::GET_ID, 0) }
    }

    /// With another framing.
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = Some(framing);
        self
    }

    /// With its descriptors in a table of their own.
    pub fn indirect(mut self) -> Self {
        self.indirect = true;
        self
    }

    /// All that the device reads.
    pub fn readable_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.out.len());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.reserved.to_le_bytes());
        bytes.extend(self.sector.to_le_bytes());
        bytes.extend(&self.out);
        bytes
    }

    /// Lengths of the readable and the writable descriptors.
    pub fn lengths(&self) -> (Vec<usize>, Vec<usize>) {
        let natural = Framing::pieces(&[16], &[self.in_len]);
        let framing = self.framing.as_ref().unwrap_or(&natural);
        (cut(&framing.readable, 16 + self.out.len()), cut(&framing.writable, self.in_len + 1))
    }
}

fn cut(pieces: &[usize], total: usize) -> Vec<usize> {
    let mut left = total;
    let mut out = Vec::new();
    for piece in pieces {
        let len = (*piece).min(left);
        if len > 0 {
            out.push(len);
        }
        left -= len;
    }
    if left > 0 {
        out.push(left);
    }
    out
}

/// A request that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Its last writable byte.
    pub status: Status,
    /// The length in the used ring.
    pub used_len: u32,
    /// The device-writable data in front of the status.
    pub data: Vec<u8>,
}

impl Done {
    /// The number at the start of the data: where an append landed, how many zones a report has.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.data[..8].try_into().expect("eight bytes"))
    }

    /// The zones of a report.
    pub fn zones(&self) -> Vec<Zone> {
        assert_eq!(self.status, Status::Ok, "no zones in a report that failed");
        let count = self.number() as usize;
        assert!(self.data[8..64].iter().all(|b| *b == 0), "reserved bytes of the report header are not zero");
        self.data[64..].chunks(64).take(count).map(Zone::parse).collect()
    }
}

/// The state of a zone.
#[allow(missing_docs, reason = "the names are the specification's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    NotWp,
    Empty,
    ImplicitOpen,
    ExplicitOpen,
    Closed,
    ReadOnly,
    Full,
    Offline,
}

/// One zone of a report, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// How much can be written.
    pub cap: u64,
    /// Its first sector.
    pub start: u64,
    /// Where the next write goes.
    pub wp: u64,
    /// Whether it is conventional.
    pub conventional: bool,
    /// Its state.
    pub state: State,
}

impl Zone {
    fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert!(bytes[26..64].iter().all(|b| *b == 0), "reserved bytes of a zone descriptor are not zero");
        let conventional = match bytes[24] {
            1 => true,
            2 => false,
            other => panic!("zone type {other}"),
        };
        let state = match bytes[25] {
            0 => State::NotWp,
            1 => State::Empty,
            2 => State::ImplicitOpen,
            3 => State::ExplicitOpen,
            4 => State::Closed,
            13 => State::ReadOnly,
            14 => State::Full,
            15 => State::Offline,
            other => panic!("zone state {other}"),
        };
        Self { cap: number(0), start: number(8), wp: number(16), conventional, state }
    }

    /// Sectors written since the last reset.
    pub fn written(&self) -> u64 {
        self.wp - self.start
    }
}

/// Sectors in `bytes`.
pub fn sectors(bytes: u64) -> u64 {
    assert_eq!(bytes % SECTOR, 0, "not whole sectors");
    bytes / SECTOR
}
