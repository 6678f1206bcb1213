//! What a record of a log says.

use crate::observe::Kind;
use crate::store::Tag;
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::status::Status;

/// What a record says. Numbers are those of records; places and pointers are in bytes of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A request was accepted: it has its place.
    Accept(Accepted),
    /// Data of a write, as it went to the image.
    Data(Data),
    /// The I/O of a write failed.
    Failed {
        /// What accepted it.
        of: u64,
        /// Bytes of it that landed, without a gap.
        good: Bytes,
    },
    /// The disk has answered a request.
    Answer {
        /// What accepted it.
        of: u64,
        /// How.
        status: Status,
        /// Where an append is.
        appended: Option<Bytes>,
    },
    /// A flush has come to a queue: the next sync of this queue makes stable at least what was answered by now.
    Flush {
        /// The queue.
        queue: u16,
    },
    /// A mark was set.
    Mark(String),
    /// A rule for faults has done something.
    Fault {
        /// What accepted the request, where one was.
        of: Option<u64>,
        /// What it did.
        text: String,
    },
    /// The driver has reset the device.
    DeviceReset,
    /// A block of a conventional zone as the cut that follows leaves it.
    Block {
        /// Where.
        at: Bytes,
        /// What.
        content: Vec<u8>,
    },
    /// The power was cut. All that is left is stable.
    Cut {
        /// Requests fail until the device is reset.
        fails: bool,
        /// The zones whose pointers it says.
        pointers: Vec<(ZoneIndex, Bytes)>,
    },
    /// Bytes were changed that no request has written.
    Poked {
        /// Where.
        at: Bytes,
        /// To what.
        content: Vec<u8>,
    },
    /// A daemon has begun to record.
    Session {
        /// How many had before.
        generation: u64,
        /// The write pointers then: of all sequential zones that are not empty.
        pointers: Vec<(ZoneIndex, Bytes)>,
    },
    /// A recording has ended.
    End(Ended),
}

/// A request that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Where it was in flight; none of what the daemon did itself.
    pub tag: Option<Tag>,
    /// What it is.
    pub kind: Kind,
    /// The zone it begins in, if it has one.
    pub zone: Option<ZoneIndex>,
    /// Where its data is, or its zone begins; 0 of a flush.
    pub place: Bytes,
    /// Bytes of data.
    pub len: u32,
}

/// Data of a write. What no run holds is zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// What accepted the write.
    pub of: u64,
    /// Where it begins in the request's data.
    pub at: u64,
    /// How long it is.
    pub len: u32,
    /// What of it is not zeros.
    pub runs: Vec<Run>,
}

/// Bytes of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where they begin in the data of the record.
    pub at: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Why a recording has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// The daemon has ended in order.
    Orderly = 1,
    /// The log could not be written any more: the disk went on without it.
    NotWritten = 2,
}

impl Ended {
    /// What a number stands for.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Orderly, Self::NotWritten].into_iter().find(|ended| *ended as u8 == number)
    }
}

impl Entry {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accept(_) => "accept",
            Self::Data(_) => "data",
            Self::Failed { .. } => "failed",
            Self::Answer { .. } => "answer",
            Self::Flush { .. } => "flush",
            Self::Mark(_) => "mark",
            Self::Fault { .. } => "fault",
            Self::DeviceReset => "device-reset",
            Self::Block { .. } => "block",
            Self::Cut { .. } => "cut",
            Self::Poked { .. } => "poked",
            Self::Session { .. } => "session",
            Self::End(_) => "end",
        }
    }
}
