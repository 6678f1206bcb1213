//! The device's meaning: the zone model and the image together, in the order that keeps what was acknowledged.
//!
//! | module | subject |
//! | --- | --- |
//! | [`request`] | the vocabulary: operations, steps, tickets, events, refusals |
//! | `write` | admission, placement and completion of writes and appends |
//! | `read` | where a read's bytes come from; zone reports |
//! | `manage` | open, close, finish, reset |
//! | `keeper` | the blocking metadata work: finding and mapping space |
//! | `clearing` | where a zone stands on its way to hold nothing beyond its pointer |
//! | `clear` | the steps of that |
//! | `set` | the zones that wait for a step of their clearing |
//! | `zones` | one zone: model, writes in flight, waiters |
//! | `map` | where a zone lies in the file |
//! | `rewind` | changing zones back to what they were, for layers |
//! | `saved` | copies of the image while it is in use, and the way back to one, for layers |
//! | `taken` | zones that the drive takes away and gives back, for layers |
//! | `fuse` | a failed flush stays failed |
//! | [`device`] | the device as a trait, and layers over it |
//! | [`journal`] | notes of requests in flight, for a successor of this process |
//!
//! # The order of things
//!
//! *Process death* (P1): a request is acknowledged only after its data, the mapping of its space and the write
//! pointer are in the file, in this order. Space is mapped before data is written to it; that shows nothing, since
//! reads stop at the write pointer and new space reads as zeros.
//!
//! *Power loss* (P3): space comes from a reservation whose refcounts and zeros are already durable, so a pointer or a
//! mapping that becomes durable before its data shows zeros. A reset writes the pointer, is acknowledged, and leaves
//! the zone to be *cleared*: the housekeeper makes the pointer durable, punches the zone's space, makes the hole durable, and
//! only then may the pointer move again. So an old pointer never meets a punched zone, nor a new pointer old data.
//!
//! *Bytes beyond a pointer*: a write whose pointer was lost with the power, or never stored as the process died or a
//! write before it failed, has left bytes that nobody can read and that no later pointer may show. After an end that was
//! not orderly (the image says so) every zone that holds data is in doubt, too, and is cleared from its pointer on before
//! its next write or finish; after a failure the zone that it was in is.
//!
//! A zone keeps its mapping over a reset: nothing is freed inside the image, so no cluster ever has a second owner.
//!
//! # Locks
//!
//! Taken in this order: keeper, then a zone's commit lock, then `resources`, then a zone's own lock, then `jobs`. At
//! most one commit lock and one zone lock are held at a time. The zone's own lock and `resources` are never held over
//! I/O; a commit lock is held over the eight-byte write of that zone's pointer; the keeper's lock is the
//! housekeeper's alone.

mod clear;
mod clearing;
pub mod device;
mod fuse;
pub mod journal;
mod keeper;
mod manage;
mod map;
mod read;
pub mod request;
mod rewind;
mod saved;
mod set;
mod taken;
mod write;
mod zones;

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

pub use device::ZonedDevice;
pub use journal::{Journal, Note, Recovered, Reserved};
pub use request::*;
pub use rewind::Rewind;
pub use saved::{Reversion, RevertError};

use crate::qcow2::{self, Access, Base, Image, PointerTable};
use crate::storage::{FileRange, Layered, Medium};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::zone::{Clamp, Geometry, Resources, State, Zone, ZoneKind};
use clearing::Clearing;
use fuse::{Fuse, Fused};
use keeper::{Job, Keeper};
use zones::{Zones, lock};

/// Most zones that are served: each takes memory from the beginning, used or not ([`zone_memory`]).
pub const MAX_ZONES: u32 = 1 << 24;

/// What a zone takes of memory, in bytes, as long as nothing is done to it.
pub fn zone_memory() -> Bytes {
    Bytes(Zones::WEIGHT)
}

/// How an image is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Refuse every change and never write to the file.
    pub read_only: bool,
    /// The unit of writes to sequential zones; every write pointer must be a multiple of it.
    pub write_granularity: Bytes,
    /// Keep the space of a reset zone until its reset is [let go](ZonedStore::let_go), or the zone is written again.
    pub hold_resets: bool,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The image is not good.
    #[error(transparent)]
    Image(#[from] qcow2::OpenError),
    /// A write pointer is not a multiple of the write granularity.
    #[error(
        "the write pointer of zone {zone} is {pointer}, not a multiple of the block size {granularity}: serve the image with --block-size 512"
    )]
    PointerOffGranularity {
        /// The zone.
        zone: ZoneIndex,
        /// Its pointer.
        pointer: Bytes,
        /// The granularity asked for.
        granularity: Bytes,
    },
    /// More zones than are served.
    #[error(
        "the image has {zones} zones, which would take {bytes} bytes of memory: expected at most {MAX_ZONES} zones; a disk \
         of this size needs larger ones"
    )]
    TooManyZones {
        /// How many.
        zones: u32,
        /// What they would take.
        bytes: Bytes,
    },
    /// Less memory than the zones take.
    #[error("there is no memory for the {zones} zones of the image, which take {bytes} bytes")]
    NoMemory {
        /// How many.
        zones: u32,
        /// What they take.
        bytes: Bytes,
    },
    /// A length of the geometry is not a multiple of the write granularity.
    #[error(
        "{field} is {value}, not a multiple of the block size {granularity}: serve the image with --block-size 512"
    )]
    GeometryOffGranularity {
        /// The field.
        field: &'static str,
        /// Its value.
        value: Bytes,
        /// The granularity asked for.
        granularity: Bytes,
    },
}

/// Called when the housekeeper has something to do. Must not call back into the store.
pub type Doorbell = Box<dyn Fn() + Send + Sync>;

/// Has the file system find blocks for a range of the file that will be written soon. Must not call back into the store.
pub type Allocator = Box<dyn Fn(FileRange) + Send + Sync>;

/// The device: zones and image together. Shared by all worker threads and one housekeeper.
pub struct ZonedStore<S> {
    storage: Arc<Fused<S>>,
    geometry: Geometry,
    clamps: Vec<Clamp>,
    granularity: Bytes,
    read_only: bool,
    hold_resets: bool,
    zones: Zones,
    resources: Mutex<Resources>,
    table: PointerTable<Fused<S>>,
    keeper: Mutex<Keeper<S>>,
    jobs: Mutex<Vec<Job>>,
    doorbell: OnceLock<Doorbell>,
    allocator: OnceLock<Allocator>,
    journal: OnceLock<Box<dyn Journal>>,
    /// Counts admitted writes, to know the least recently written zone.
    stamps: AtomicU64,
    /// The file holds no image any more.
    lost: AtomicBool,
}

impl<S: Medium> ZonedStore<S> {
    /// Opens the image in `storage`. Blocking; writes nothing before the whole image was checked.
    pub fn open(storage: Arc<S>, options: OpenOptions) -> Result<Self, OpenError> {
        Self::open_over(storage, None, options)
    }

    /// The same of an image that builds on another one.
    pub fn open_over(storage: Arc<S>, base: Option<Base>, options: OpenOptions) -> Result<Self, OpenError> {
        let access = if options.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let storage = Arc::new(Layered(Fuse::new(storage)));
        let image = Image::open_over(Arc::clone(&storage), access, base)?;
        let geometry = *image.geometry();
        check_granularity(&geometry, options.write_granularity)?;
        let (zones, resources) = read_zones(&image, options.write_granularity)?;
        let table = image.pointer_table();
        Ok(Self {
            storage,
            geometry,
            clamps: image.clamps().to_vec(),
            granularity: options.write_granularity,
            read_only: options.read_only,
            hold_resets: options.hold_resets,
            zones,
            resources: Mutex::new(resources),
            table,
            keeper: Mutex::new(Keeper::new(image)),
            jobs: Mutex::new(Vec::new()),
            doorbell: OnceLock::new(),
            allocator: OnceLock::new(),
            journal: OnceLock::new(),
            stamps: AtomicU64::new(1),
            lost: AtomicBool::new(false),
        })
    }

    /// Takes the image away that the closed one builds on.
    pub fn take_base(&self) -> Option<Base> {
        lock(&self.keeper).image.take_base()
    }

    /// The shape of the device.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Limits of the image that cannot be reached, with what is in force instead.
    pub fn clamps(&self) -> &[Clamp] {
        &self.clamps
    }

    /// Whether the image was opened read-only.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Sets, once, what is called when [`housekeep`](Self::housekeep) has something to do.
    pub fn set_doorbell(&self, bell: Doorbell) {
        if self.doorbell.set(bell).is_err() {
            log::error!("the store's doorbell was set twice; the first one stays");
        }
    }

    /// Sets, once, what finds blocks ahead of writes; without it they are found as the writes come.
    pub fn set_allocator(&self, allocator: Allocator) {
        if self.allocator.set(allocator).is_err() {
            log::error!("the store's allocator was set twice; the first one stays");
        }
    }

    /// Where the write pointers are in the file.
    pub fn pointer_table(&self) -> FileRange {
        self.table.range()
    }

    /// Starts a request. For [`Step::Io`] the pieces of its data are in `segments`, in order and together exactly as
    /// long as the request. `tag` names no other request in flight.
    pub fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        self.advance(tag, Work::Fresh(op), segments, batch)
    }

    /// A flush has come to a queue. Nothing here depends on when.
    pub fn flush_comes(&self, _queue: u16) {}

    /// A driver asks for a flush, which joins those that wait for the next sync.
    pub fn flush_asked(&self, _tag: Tag) -> Option<Step> {
        None
    }

    /// A queue is to become quiet, or is no longer. Nothing here is held back for long.
    pub fn drain(&self, _queue: u16, _drains: bool) {}

    /// What a layer has noted of a request is the layer's affair.
    pub fn recall(&self, _tag: Tag, _choice: u64, _settled: bool) {}

    /// Goes on with a parked request after its [`Event::Retry`]. A parked ticket whose request was
    /// [`Event::Finished`] instead is dropped.
    pub fn resume(&self, ticket: Ticket, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        self.advance(ticket.tag, ticket.work, segments, batch)
    }

    fn advance(&self, tag: Tag, work: Work, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        segments.clear();
        let step = match work {
            Work::Fresh(op) => self.start(tag, op, segments, batch),
            Work::Read { start, len } => self.plan_read(tag, start, len, segments),
            Work::Reserved { zone, start, len, append } => self.place(tag, zone, start, len, append, segments),
            Work::Conventional { start, len } => self.place_conventional(tag, start, len, segments),
            Work::ResetAll { next } => self.reset_all(tag, next, batch),
            Work::FinishCleared { zone } => self.finish_cleared(tag, zone, &mut batch.events),
            Work::Flush => self.flush(tag),
        };
        step.unwrap_or_else(|refusal| Step::Done(Err(refusal)))
    }

    fn start(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Result<Step, Refusal> {
        if self.read_only && !matches!(op, Op::Read { .. } | Op::Flush | Op::Report { .. }) {
            return Err(Refusal::ReadOnly);
        }
        match op {
            Op::Read { start, len } => {
                let (start, len) = self.range(start, len)?;
                if len == Bytes(0) {
                    return Ok(Step::Done(Ok(Reply::Done)));
                }
                self.check_read(start, len)?;
                self.plan_read(tag, start, len, segments)
            }
            Op::Write { start, len } => {
                let (start, len) = self.range(start, len)?;
                self.write(tag, op, start, len, segments)
            }
            Op::Append { zone, len } => self.append(tag, op, zone, len, segments),
            Op::Flush => self.flush(tag),
            Op::Report { .. } => Ok(Step::Done(Ok(Reply::Done))),
            Op::Manage { action, zone } => self.manage(tag, op, action, zone, batch),
            Op::ResetAll => self.reset_all(tag, ZoneIndex(self.geometry.conventional_zones()), batch),
        }
    }

    fn flush(&self, tag: Tag) -> Result<Step, Refusal> {
        if self.storage.0.is_blown() {
            return Err(Refusal::Io);
        }
        if self.read_only {
            return Ok(Step::Done(Ok(Reply::Done)));
        }
        Ok(Step::Io(Ticket { tag, work: Work::Flush }))
    }

    /// Takes the result of the I/O of a ticket. The outcome comes as an event: of this batch after
    /// [`commit`](Self::commit), or of a later one when earlier writes of the zone are still in flight.
    pub fn io_done(&self, ticket: Ticket, result: IoResult, batch: &mut Batch) {
        let ok = result == IoResult::Complete;
        match ticket.work {
            Work::Reserved { zone, start, .. } => {
                self.zones.inner(zone).traffic().landed(start, result, self.granularity);
                batch.mark_dirty(zone);
            }
            Work::Flush if !ok => {
                self.storage.0.blow();
                batch.finish(ticket.tag, Err(Refusal::Io));
            }
            _ => batch.finish(ticket.tag, if ok { Ok(Reply::Done) } else { Err(Refusal::Io) }),
        }
    }

    /// Stores the write pointers of what the batch has completed and appends the events that follow. Call it before
    /// looking at `batch.events`.
    pub fn commit(&self, batch: &mut Batch) {
        while let Some(zone) = batch.dirty.pop() {
            self.commit_zone(zone, &mut batch.events);
        }
    }

    /// Makes all that was acknowledged durable, as a flush of the guest's does. Blocking.
    pub fn make_durable(&self) -> Result<(), Refusal> {
        if self.read_only {
            return Ok(());
        }
        self.storage.flush().map_err(|error| {
            log::error!("the image file could not be made durable: {error}");
            Refusal::Io
        })
    }

    /// How much space of the image was taken since it was opened.
    pub fn drawn(&self) -> Bytes {
        lock(&self.keeper).drawn()
    }

    /// Has so much space reserved at a time, so that writers of a known rate seldom wait for it.
    pub fn keep_ahead(&self, ahead: Bytes) {
        lock(&self.keeper).keep_ahead(ahead);
    }

    /// Finishes what is pending, clears reset zones for a bounded number of steps, gives back the space reserved in
    /// advance and makes all durable. No request may be in flight.
    pub fn close(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        if self.lost.load(Ordering::Acquire) {
            return Err(io::Error::other("it was being reverted to a snapshot, and that has failed"));
        }
        let mut batch = Batch::default();
        self.wind_down(&mut batch);
        self.commit(&mut batch);
        self.storage.flush()?;
        let orderly = self.tails_in_doubt().next().is_none();
        lock(&self.keeper).release(orderly)
    }

    /// A range of whole sectors on the device, in bytes.
    fn range(&self, start: Sector, len: Bytes) -> Result<(Bytes, Bytes), Refusal> {
        let start = start.to_bytes().ok_or(Refusal::BadRange)?;
        let end = start.checked_add(len).ok_or(Refusal::BadRange)?;
        if end > self.geometry.size() || !len.is_multiple_of(crate::units::SECTOR_SIZE) {
            return Err(Refusal::BadRange);
        }
        Ok((start, len))
    }

    fn ask(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        jobs.push(job);
        let first = jobs.len() == 1;
        drop(jobs);
        if first && let Some(ring) = self.doorbell.get() {
            ring();
        }
    }
}

impl Batch {
    fn mark_dirty(&mut self, zone: ZoneIndex) {
        if !self.dirty.contains(&zone) {
            self.dirty.push(zone);
        }
    }

    fn finish(&mut self, tag: Tag, outcome: Outcome) {
        self.events.push(Event::Finished { tag, outcome });
    }
}

/// A zone of `kind` sequential; conventional zones have no write pointer to act on.
fn sequential(geometry: &Geometry, zone: ZoneIndex) -> bool {
    geometry.kind(zone) == ZoneKind::SequentialWriteRequired
}

/// All zones, as the image has them.
fn read_zones<S: Medium>(image: &Image<S>, granularity: Bytes) -> Result<(Zones, Resources), OpenError> {
    let geometry = image.geometry();
    let zones = geometry.nr_zones();
    let bytes = Bytes(u64::from(zones) * Zones::WEIGHT);
    if zones > MAX_ZONES {
        return Err(OpenError::TooManyZones { zones, bytes });
    }
    let mut all = Zones::with_room(zones).ok_or(OpenError::NoMemory { zones, bytes })?;
    let mut resources = Resources::new(geometry);
    let mut wrong = Ok(());
    image.each_write_pointer(0..zones, |index, pointer| {
        let zone = Zone::from_pointer(geometry, index, pointer);
        if zone.state() == State::Closed && !pointer.is_multiple_of(granularity.0) {
            wrong = Err(OpenError::PointerOffGranularity { zone: index, pointer, granularity });
            return ControlFlow::Break(());
        }
        resources.count(&zone);
        all.push(zone, Clearing::at_open(zone.state(), image.ended_orderly()));
        ControlFlow::Continue(())
    })?;
    wrong.map(|()| (all, resources))
}

fn check_granularity(geometry: &Geometry, granularity: Bytes) -> Result<(), OpenError> {
    let lengths = [
        ("the size of the device", geometry.size()),
        ("zone_size", geometry.zone_size()),
        ("zone_capacity", geometry.zone_capacity()),
    ];
    for (field, value) in lengths {
        if !value.is_multiple_of(granularity.0) {
            return Err(OpenError::GeometryOffGranularity { field, value, granularity });
        }
    }
    Ok(())
}
