//! One zone: its state, its write pointer, and the part already promised to writes in flight.
//!
//! A zone has two pointers. `write_pointer` is what the guest sees: everything below it is written. `reserved` is
//! where the next write has to begin: it runs ahead by the writes that were admitted and have not yet landed, so
//! that sequential writes can be pipelined. They are equal when nothing is in flight. `start <= write_pointer <=
//! reserved <= writable end` always holds.
//!
//! The checks follow the virtio specification, block device, "Zoned Block Device Operation".

use super::{Geometry, Refusal, ZoneKind};
use crate::units::{Bytes, ZoneIndex};

/// The state of a zone; the numbers are those of a virtio zone descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A conventional zone: no write pointer.
    NotWp = 0,
    /// Nothing written.
    Empty = 1,
    /// Opened by a write.
    ImplicitOpen = 2,
    /// Opened by the guest.
    ExplicitOpen = 3,
    /// Partly written and not open.
    Closed = 4,
    /// Readable only.
    ReadOnly = 13,
    /// Written to its capacity or finished.
    Full = 14,
    /// Gone.
    Offline = 15,
}

impl State {
    /// Every state, by its number.
    pub const ALL: [State; 8] = [
        State::NotWp,
        State::Empty,
        State::ImplicitOpen,
        State::ExplicitOpen,
        State::Closed,
        State::ReadOnly,
        State::Full,
        State::Offline,
    ];

    /// The state of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// Its name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            State::NotWp => "not-wp",
            State::Empty => "empty",
            State::ImplicitOpen => "implicit-open",
            State::ExplicitOpen => "explicit-open",
            State::Closed => "closed",
            State::ReadOnly => "read-only",
            State::Full => "full",
            State::Offline => "offline",
        }
    }

    /// Whether a zone in this state uses one of the open resources.
    pub fn is_open(self) -> bool {
        matches!(self, State::ImplicitOpen | State::ExplicitOpen)
    }

    /// Whether a zone in this state uses one of the active resources.
    pub fn is_active(self) -> bool {
        self.is_open() || self == State::Closed
    }
}

/// A write that its zone would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where its data goes.
    pub start: Bytes,
    /// The zone has to become open before the range can be reserved.
    pub needs_open: bool,
}

/// One zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    state: State,
    write_pointer: u64,
    reserved: u64,
    last_write: u64,
}

impl Zone {
    /// The zone as a stored write pointer describes it: open states do not survive, partly written is closed.
    /// `pointer` is the absolute position from the image's table, already validated; for a conventional zone it is
    /// ignored.
    pub fn from_pointer(geometry: &Geometry, index: ZoneIndex, pointer: Bytes) -> Self {
        let start = geometry.start(index);
        let end = geometry.writable_end(index);
        let (state, write_pointer) = match geometry.kind(index) {
            ZoneKind::Conventional => (State::NotWp, start),
            ZoneKind::SequentialWriteRequired if pointer <= start => (State::Empty, start),
            ZoneKind::SequentialWriteRequired if pointer >= end => (State::Full, end),
            ZoneKind::SequentialWriteRequired => (State::Closed, pointer),
        };
        Self { state, write_pointer: write_pointer.0, reserved: write_pointer.0, last_write: 0 }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Where the written part ends; the end of the writable part for a full zone, the start for a conventional one.
    pub fn write_pointer(&self) -> Bytes {
        Bytes(self.write_pointer)
    }

    /// Where the next write has to begin.
    pub fn reserved(&self) -> Bytes {
        Bytes(self.reserved)
    }

    /// The stamp of the last write admitted, for choosing the least recently written zone.
    pub fn last_write(&self) -> u64 {
        self.last_write
    }

    /// Whether this sequential zone would take a write of `len` bytes at `start`. Changes nothing.
    pub fn check_write(
        &self,
        geometry: &Geometry,
        index: ZoneIndex,
        start: Bytes,
        len: Bytes,
        granularity: Bytes,
    ) -> Result<Admission, Refusal> {
        let end = start.checked_add(len).ok_or(Refusal::InvalidCommand)?;
        if end.0 > geometry.start(index).0 + geometry.len(index).0 {
            return Err(Refusal::InvalidCommand);
        }
        self.check_writable()?;
        if start.0 != self.reserved || !end.is_multiple_of(granularity.0) {
            return Err(Refusal::UnalignedWrite);
        }
        self.check_room(geometry, index, len)
    }

    /// Whether this zone would take an append of `len` bytes, and where. Changes nothing.
    pub fn check_append(
        &self,
        geometry: &Geometry,
        index: ZoneIndex,
        len: Bytes,
        granularity: Bytes,
    ) -> Result<Admission, Refusal> {
        let too_long = geometry.max_append().is_some_and(|most| len > most);
        if geometry.kind(index) == ZoneKind::Conventional || too_long {
            return Err(Refusal::InvalidCommand);
        }
        self.check_writable()?;
        if !len.is_multiple_of(granularity.0) {
            return Err(Refusal::UnalignedWrite);
        }
        self.check_room(geometry, index, len)
    }

    fn check_writable(&self) -> Result<(), Refusal> {
        match self.state {
            State::Full | State::ReadOnly | State::Offline => Err(Refusal::InvalidCommand),
            State::NotWp | State::Empty | State::ImplicitOpen | State::ExplicitOpen | State::Closed => Ok(()),
        }
    }

    fn check_room(&self, geometry: &Geometry, index: ZoneIndex, len: Bytes) -> Result<Admission, Refusal> {
        if len.0 > geometry.writable_end(index).0.saturating_sub(self.reserved) {
            return Err(Refusal::InvalidCommand);
        }
        Ok(Admission { start: Bytes(self.reserved), needs_open: len.0 > 0 && !self.state.is_open() })
    }

    /// Promises the next `len` bytes to a write that was checked and whose zone is open.
    pub fn reserve(&mut self, len: Bytes, stamp: u64) {
        self.reserved += len.0;
        self.last_write = stamp;
    }

    /// Everything below `end` has landed and its pointer is stored.
    pub fn commit(&mut self, end: Bytes) {
        debug_assert!(end.0 >= self.write_pointer && end.0 <= self.reserved);
        self.write_pointer = end.0;
    }

    /// Takes back what was promised beyond the written part: writes in flight failed.
    pub fn roll_back(&mut self) {
        self.reserved = self.write_pointer;
    }

    /// The bytes of this zone that may be read from the file: from its start to here. All else reads as zeros.
    pub fn readable_end(&self, geometry: &Geometry, index: ZoneIndex) -> Bytes {
        match self.state {
            State::NotWp => geometry.writable_end(index),
            _ => Bytes(self.write_pointer),
        }
    }

    /// The same zone, closed at another pointer; taken away, where it is.
    pub fn moved_to(self, geometry: &Geometry, index: ZoneIndex, pointer: Bytes) -> Self {
        let moved = Self::from_pointer(geometry, index, pointer);
        match self.state {
            State::ReadOnly | State::Offline => Self { state: self.state, ..moved },
            _ => moved,
        }
    }

    pub(super) fn enter(&mut self, state: State, pointer: Bytes) {
        self.state = state;
        self.write_pointer = pointer.0;
        if matches!(state, State::Empty | State::Full) {
            self.reserved = pointer.0;
        }
    }
}
