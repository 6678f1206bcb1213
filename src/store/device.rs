//! The device as a trait, so that a power is a layer over it: something that notes, withholds, refuses or changes requests
//! is another [`ZonedDevice`] with one below.
//!
//! [`ZonedStore`] is the device at the bottom. A layer implements [`Layer`], which hands everything on, and says only what it
//! does otherwise; [`Layered`] makes a device of it.

use std::io;
use std::sync::Arc;

use super::{
    Batch, Doorbell, Geometry, IoResult, Journal, Note, Op, Recovered, Refusal, Reversion, RevertError, Rewind,
    Segment, Step, Tag, Ticket, Usage, ZoneInfo, ZoneNow, ZonedStore,
};
use crate::storage::Medium;
use crate::units::{Bytes, Sector, ZoneIndex};

/// Declares [`ZonedDevice`], [`Layer`] and what makes a device of a layer from one list of methods, so that none can be
/// forgotten in one of them.
macro_rules! device {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $type:ty)*) $(-> $result:ty)?;)*) => {
        /// A zoned disk that is asked by requests: [`begin`](Self::begin), then whatever its steps and events say. Shared by the
        /// threads of all queues and one housekeeper.
        pub trait ZonedDevice: Send + Sync {
            $($(#[$doc])* fn $name(&self $(, $arg: $type)*) $(-> $result)?;)*
        }

        /// What a layer does otherwise than the device below it. A method that is left out hands on.
        pub trait Layer: Send + Sync {
            /// The device below.
            fn below(&self) -> &dyn ZonedDevice;
            $($(#[$doc])* fn $name(&self $(, $arg: $type)*) $(-> $result)? { self.below().$name($($arg),*) })*
        }

        impl<L: Layer> ZonedDevice for Layered<L> {
            $(fn $name(&self $(, $arg: $type)*) $(-> $result)? { self.0.$name($($arg),*) })*
        }

        impl<S: Medium> ZonedDevice for ZonedStore<S> {
            $(fn $name(&self $(, $arg: $type)*) $(-> $result)? { ZonedStore::$name(self $(, $arg)*) })*
        }
    };
}

/// A layer as a device.
#[derive(Debug)]
pub struct Layered<L>(pub L);

device! {
    /// The shape of the device.
    fn geometry(&self) -> &Geometry;
    /// Whether every change is refused.
    fn read_only(&self) -> bool;
    /// Starts a request. For [`Step::Io`] the pieces of its data are in `segments`, in order and together exactly as
    /// long as the request. `tag` names no other request in flight.
    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step;
    /// A flush has come to a queue: the next one that this queue [begins](Self::begin) has to make stable what was answered by now,
    /// and need not more.
    fn flush_comes(&self, queue: u16);
    /// A driver asks for a flush. `None` lets the flush join those that wait for the next sync; otherwise this is what becomes of
    /// it, and after an [`Event::Retry`](super::Event::Retry) it is asked for again.
    fn flush_asked(&self, tag: Tag) -> Option<Step>;
    /// A queue is to become quiet, so that whatever is held back of its requests goes on; or is to be so no longer.
    fn drain(&self, queue: u16, drains: bool);
    /// Goes on with a parked request after its [`Event::Retry`](super::Event::Retry). A parked ticket whose request was
    /// [`Event::Finished`](super::Event::Finished) instead is dropped.
    fn resume(&self, ticket: Ticket, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step;
    /// Takes the result of the I/O of a ticket. The outcome comes as an event: of this batch after
    /// [`commit`](Self::commit), or of a later one when earlier writes of the zone are still in flight.
    fn io_done(&self, ticket: Ticket, result: IoResult, batch: &mut Batch);
    /// Stores the write pointers of what the batch has completed and appends the events that follow. Call it before
    /// looking at `batch.events`.
    fn commit(&self, batch: &mut Batch);
    /// Does what was asked for; returns whether there was anything to do. One thread calls it, when the doorbell
    /// rings and then until it returns false. Blocking.
    fn housekeep(&self, batch: &mut Batch) -> bool;
    /// Appends up to `max` zones from the one that holds `start`.
    fn report(&self, start: Sector, max: usize, out: &mut Vec<ZoneInfo>) -> Result<(), Refusal>;
    /// The zone that holds a sector, if one does.
    fn zone_now(&self, at: Sector) -> Option<ZoneNow>;
    /// The zones in use now.
    fn usage(&self) -> Usage;
    /// Makes all that was acknowledged durable, as a flush of the guest's does. Blocking.
    fn make_durable(&self) -> Result<(), Refusal>;
    /// Whether the reset that made a zone empty can be taken back: nothing of its space was given up.
    fn can_take_back(&self, zone: ZoneIndex) -> bool;
    /// The reset that made a zone empty is not taken back any more: its space may be given up.
    fn let_go(&self, zone: ZoneIndex);
    /// Reads what a range holds in the file, whatever the write pointers say. Blocking, by the housekeeper's thread.
    fn peek(&self, at: Bytes, into: &mut [u8]) -> Result<(), Refusal>;
    /// Writes a range where the file holds it. Blocking, by the housekeeper's thread.
    fn poke(&self, at: Bytes, content: &[u8]) -> Result<(), Refusal>;
    /// Changes zones back, all at once, as a loss of power does: what was in flight never ends. Nothing is in the hands of a
    /// data path. `fails` is noted for a successor. After an error nothing is changed. Blocking, by the housekeeper's thread.
    fn rewind(&self, to: &Rewind, fails: bool) -> Result<(), Refusal>;
    /// Has the file copied as it is now: whole, and without space that is counted and unused. Nothing is in the hands of a data
    /// path. Blocking, by the housekeeper's thread.
    fn save_copy(&self, copy: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
    /// Why an image cannot take the place of this one; none where it can. Reads all of its write pointers. Blocking.
    fn cannot_become(&self, saved: &Arc<dyn Medium>) -> Option<String>;
    /// Becomes what was saved, with all zones as after a start; what was in flight never ends. Nothing is in the hands of a data
    /// path. Blocking, by the housekeeper's thread.
    fn revert(&self, to: &Reversion<'_>) -> Result<(), RevertError>;
    /// How much space of the image was taken since it was opened.
    fn drawn(&self) -> Bytes;
    /// Has so much space reserved at a time, so that writers of a known rate seldom wait for it.
    fn keep_ahead(&self, ahead: Bytes);
    /// Sets, once, what is called when [`housekeep`](Self::housekeep) has something to do.
    fn set_doorbell(&self, bell: Doorbell);
    /// Sets, once, where notes of requests in flight go.
    fn set_journal(&self, journal: Box<dyn Journal>);
    /// Says what becomes of a request by the note that was found of it. Of one zone the lowest range comes first; no
    /// request of its zone has been begun yet. Notes are not trusted.
    fn recover(&self, tag: Tag, note: Note) -> Recovered;
    /// Says what a layer has [noted](Journal::chosen) of a request that the last process left behind, before it is recovered; or is
    /// not, as its outcome is settled.
    fn recall(&self, tag: Tag, choice: u64, settled: bool);
    /// Takes a sequential zone away, read-only or offline, as a drive does. False while requests of the zone are in flight.
    fn take_away(&self, zone: ZoneIndex, offline: bool) -> bool;
    /// Gives a zone back that was taken away: closed, or empty or full as it was. Fails where no active zone is free.
    fn give_back(&self, zone: ZoneIndex) -> Result<(), Refusal>;
    /// Gives up a recovered request that nobody will resume. Its range is free again.
    fn abandon(&self, ticket: Ticket);
    /// Opens a zone that was explicitly open before this process was started. The limits hold as ever.
    fn reopen(&self, zone: ZoneIndex);
    /// The explicitly open zones.
    fn explicitly_open_zones(&self) -> Vec<ZoneIndex>;
}
