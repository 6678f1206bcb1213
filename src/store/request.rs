//! What goes into the store and what comes out of it: the vocabulary between the device and the worker threads.
//!
//! A request is begun once with [`ZonedStore::begin`](super::ZonedStore::begin) and moves through [`Step`]s until an
//! outcome is known. The store does no data I/O itself: it hands out [`Segment`]s of the file and is told the result.

use crate::units::{Bytes, Depth, FileOffset, Sector, ZoneIndex};
use crate::zone::{Geometry, State, Zone, ZoneKind};

/// Names one request in flight: the queue it came from and the slot its worker keeps it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The queue, and so the worker that answers.
    pub queue: u16,
    /// The worker's slot; free for another request after the outcome was given.
    pub slot: u16,
}

/// A request as the device understands it. Lengths are those of the guest's data buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read `len` bytes from `start`.
    Read {
        /// The first sector.
        start: Sector,
        /// Length of the data.
        len: Bytes,
    },
    /// Write `len` bytes at `start`.
    Write {
        /// The first sector.
        start: Sector,
        /// Length of the data.
        len: Bytes,
    },
    /// Write `len` bytes at the write pointer of a zone.
    Append {
        /// The first sector of the zone.
        zone: Sector,
        /// Length of the data.
        len: Bytes,
    },
    /// Make everything acknowledged so far durable.
    Flush,
    /// Report zones: whether that may be done, as the caller asks for the zones itself.
    Report {
        /// A sector of the first zone.
        start: Sector,
    },
    /// Open, close, finish or reset a zone.
    Manage {
        /// What to do.
        action: Action,
        /// The first sector of the zone.
        zone: Sector,
    },
    /// Reset every sequential zone.
    ResetAll,
}

/// The zone management operations on one zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To explicitly open.
    Open,
    /// To closed, or empty when nothing is written.
    Close,
    /// To full.
    Finish,
    /// To empty.
    Reset,
}

/// A piece of a request's data, in the order of the guest's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A piece of the file. Writes have those of the image itself only.
    File {
        /// Which file of the chain.
        depth: Depth,
        /// Where it begins.
        offset: FileOffset,
        /// How long it is.
        len: Bytes,
    },
    /// Zeros (reads only).
    Zero {
        /// How many.
        len: Bytes,
    },
    /// Whatever data is left goes nowhere (writes only).
    Lost,
}

/// The I/O that a ticket in [`Step::Io`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Fill the guest's buffers from the segments.
    Read,
    /// Write the guest's buffers to the segments.
    Write,
    /// fdatasync of the file; no segments.
    Sync,
}

/// The result of the I/O of one ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoResult {
    /// All segments were transferred, or the file synced.
    Complete,
    /// It failed; this many bytes from the start of the request are known to have been transferred.
    Failed {
        /// Bytes from the start of the request, without a gap.
        good: Bytes,
    },
}

/// Where a request stands.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// Answered: nothing more will come for its tag.
    Done(Outcome),
    /// The caller performs the I/O and gives the ticket back with its result to `io_done`.
    Io(Ticket),
    /// The caller keeps the ticket and gives it to `resume` when [`Event::Retry`] names its tag.
    Parked(Ticket),
}

/// How a request ended.
pub type Outcome = Result<Reply, Refusal>;

/// A success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// An append was done; its data starts here.
    Appended(Sector),
}

/// What happened to a request that was in flight or parked. Each names its tag; events are for the worker of
/// `tag.queue`, whoever received them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request has its outcome.
    Finished {
        /// The request.
        tag: Tag,
        /// Its outcome.
        outcome: Outcome,
    },
    /// What the request waited for has come: call `resume` with its ticket.
    Retry {
        /// The request.
        tag: Tag,
    },
}

/// A request between two steps. Not to be dropped before its outcome is known: its zone range is reserved.
#[derive(Debug)]
pub struct Ticket {
    pub(super) tag: Tag,
    pub(super) work: Work,
}

/// What a ticket is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Not yet admitted by its zone.
    Fresh(Op),
    /// A read whose range was checked.
    Read { start: Bytes, len: Bytes },
    /// A write whose range is reserved in its sequential zone.
    Reserved { zone: ZoneIndex, start: Bytes, len: Bytes, append: bool },
    /// A write to conventional zones.
    Conventional { start: Bytes, len: Bytes },
    /// A reset of all zones that has come as far as `next`.
    ResetAll { next: ZoneIndex },
    /// A finish whose unwritten tail has been cleared.
    FinishCleared { zone: ZoneIndex },
    /// A flush.
    Flush,
}

impl Ticket {
    /// The request this ticket belongs to.
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// The ticket of a request that was not begun.
    pub fn fresh(tag: Tag, op: Op) -> Self {
        Self { tag, work: Work::Fresh(op) }
    }

    /// What is to be begun, where the request was not.
    pub fn op(&self) -> Option<Op> {
        match self.work {
            Work::Fresh(op) => Some(op),
            _ => None,
        }
    }

    /// The I/O to perform when this ticket came in [`Step::Io`].
    pub fn io_kind(&self) -> IoKind {
        match self.work {
            Work::Read { .. } => IoKind::Read,
            Work::Flush => IoKind::Sync,
            _ => IoKind::Write,
        }
    }
}

/// One zone of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneInfo {
    /// Its number.
    pub index: ZoneIndex,
    /// Conventional or sequential.
    pub kind: ZoneKind,
    /// Its state.
    pub state: State,
    /// Its first byte on the device.
    pub start: Bytes,
    /// Its length; shorter than the others only for the last zone.
    pub len: Bytes,
    /// How much of it can be written.
    pub capacity: Bytes,
    /// Where the next write goes; the end of what can be written for a full zone; the start for a conventional one.
    pub write_pointer: Bytes,
}

impl ZoneInfo {
    /// What a report says of `zone`, which is number `index` of this geometry.
    pub fn of(geometry: &Geometry, index: ZoneIndex, zone: &Zone) -> Self {
        Self {
            index,
            kind: geometry.kind(index),
            state: zone.state(),
            start: geometry.start(index),
            len: geometry.len(index),
            capacity: geometry.capacity(index),
            write_pointer: zone.write_pointer(),
        }
    }

    /// Where the next zone begins.
    pub fn end(&self) -> Bytes {
        Bytes(self.start.0 + self.len.0)
    }
}

/// A zone at this moment, writes in flight included.
#[derive(Clone, Debug)]
pub struct ZoneNow {
    /// As a report shows it.
    pub info: ZoneInfo,
    /// Where the next write has to begin: behind those in flight.
    pub next_write: Bytes,
}

/// The zones that use resources, and how many may; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Zones that are open.
    pub open: u32,
    /// Zones that may be open.
    pub max_open: u32,
    /// Zones that are active.
    pub active: u32,
    /// Zones that may be active.
    pub max_active: u32,
}

/// As what a request fails that has broken no rule of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An input/output error.
    Io,
    /// A request that the device does not know.
    Unsupported,
    /// A zone rule was broken that has no code of its own.
    InvalidCommand,
    /// A write off the write pointer.
    UnalignedWrite,
    /// Too many open zones.
    OpenResource,
    /// Too many active zones.
    ActiveResource,
}

/// Why a request was refused. The virtio layer gives each its status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The range leaves the device or is not whole sectors.
    #[error("range outside the device or not whole sectors")]
    BadRange,
    /// The device is read-only.
    #[error("the device is read-only")]
    ReadOnly,
    /// The power was cut, and the device not reset since.
    #[error("the power is off")]
    NoPower,
    /// The file below failed.
    #[error("input/output error of the image file")]
    Io,
    /// A rule that the user has made fails it.
    #[error("rule {rule} fails it")]
    Injected {
        /// The number of the rule.
        rule: u16,
        /// As what it fails.
        failure: Failure,
    },
    /// A zone rule was broken.
    #[error(transparent)]
    Zone(#[from] crate::zone::Refusal),
}

/// Work a thread has collected and not yet passed on: events to route, zones whose pointers are to be persisted.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events in the order they happened; the caller drains them after `commit`.
    pub events: Vec<Event>,
    pub(super) dirty: Vec<ZoneIndex>,
}
