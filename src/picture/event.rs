//! What happened to a disk, and when.

use crate::observe::Kind;
use crate::units::{Bytes, ZoneIndex};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When: nanoseconds since 1970 in a trace; in a recording, which has its own order, how many requests had been answered.
    pub at: u64,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A request was answered.
    Request(Request),
    /// A daemon began to record.
    Session {
        /// Another one had before.
        again: bool,
        /// The write pointers then: of all sequential zones that are not empty.
        pointers: Vec<(ZoneIndex, Bytes)>,
    },
    /// A mark was set.
    Mark(String),
    /// The power was cut, which left these pointers as far as they are told.
    PowerCut(Vec<(ZoneIndex, Bytes)>),
    /// The power came back.
    PowerBack,
    /// The driver has reset the device.
    DeviceReset,
    /// A rule for faults did something.
    Fault(String),
    /// The recording ended, for this reason.
    End(&'static str),
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What was asked for.
    pub kind: Kind,
    /// The zone it begins in, if it has one.
    pub zone: Option<ZoneIndex>,
    /// Where its data is on the disk; of an append, where it was put.
    pub place: Option<Bytes>,
    /// Bytes of data.
    pub len: Bytes,
    /// Why it was answered with an error, if it was.
    pub refused: Option<&'static str>,
    /// Where the zone's write pointer stood right after, where that was noted.
    pub pointer: Option<Bytes>,
}
