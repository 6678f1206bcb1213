//! Doing again what a log says, on a copy of the image as it was when the recording began: the real store behind the real cache,
//! driven by the records in their order, without threads.
//!
//! * A write to a sequential zone is begun where it was accepted, and has landed where it was answered.
//! * A reset or a finish is done where it was accepted: what makes use of the active zone that it freed was accepted after it, and its
//!   answer may be behind that. Where the disk has failed it, or not answered it, it is not done.
//! * A write to conventional zones is done where it was answered. Those in flight at the same time have no order.
//! * A flush is begun and answered where it was, so that what is stable here is what was stable then.
//! * Opening and closing leave no trace in an image, and are left out.
//!
//! Where a killed daemon's log goes on, the requests that were in flight are as far as the pointers of then say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::entry::{Accepted, Data, Ended, Entry};
use super::error::ReplayError;
use super::reader::Record;
use super::session::pointers_of;
use crate::observe::Kind;
use crate::power::{CutError, CutOutcome, Switch, VolatileCache, Words};
use crate::qcow2::Base;
use crate::storage::{self, FileRange, Medium};
use crate::store::device::Layered;
use crate::store::{
    Action, Batch, Event, IoResult, Op, OpenOptions, Outcome, Rewind, Segment, Step, Tag, Ticket, ZonedDevice,
    ZonedStore,
};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Old versions of blocks of conventional zones that are kept in one epoch; the oldest beyond that count as stable.
const OLD_BLOCKS: Bytes = Bytes(1 << 30);

/// Queues of requests of this program's own, which no log has.
const OWN_QUEUES: u16 = 0x8000;

/// A medium whose syncs are put off to the end: what is made is of use only when it is whole.
pub struct Unsynced<M>(pub Arc<M>);

impl<M: Medium> storage::Layer for Unsynced<M> {
    type Below = M;

    fn below(&self) -> &M {
        &self.0
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_ranges(&self, _: &[FileRange]) -> io::Result<()> {
        Ok(())
    }
}

pub(super) type Store<M> = ZonedStore<storage::Layered<Unsynced<M>>>;

/// A write that was accepted.
pub(super) struct Flight {
    pub(super) accepted: Accepted,
    tag: Tag,
    pub(super) data: Vec<u8>,
    /// What of the data has been recorded: ranges by their starts.
    known: BTreeMap<u64, u64>,
    /// Where its data goes, once the store has said so.
    io: Option<(Ticket, Vec<Segment>)>,
    parked: Option<Ticket>,
}

impl Flight {
    /// Whether all of its data is.
    pub(super) fn is_known(&self) -> bool {
        let mut until = 0;
        for (from, to) in &self.known {
            if *from > until {
                return false;
            }
            until = until.max(*to);
        }
        until >= self.data.len() as u64
    }
}

/// A disk that goes through what a log says.
pub struct Machine<M: Medium> {
    medium: Arc<M>,
    pub(super) granularity: Bytes,
    pub(super) store: Arc<Store<M>>,
    pub(super) cache: Arc<VolatileCache>,
    device: Layered<Arc<VolatileCache>>,
    work: Arc<AtomicBool>,
    batch: Batch,
    /// Writes in flight, by what accepted them: in each zone in their order.
    pub(super) flights: BTreeMap<u64, Flight>,
    by_tag: HashMap<Tag, u64>,
    /// Flushes in flight, by what accepted them.
    pub(super) flushes: HashMap<u64, (Tag, Option<Ticket>)>,
    /// Requests without data that wait for their outcome.
    pub(super) waiting: HashMap<Tag, Option<Ticket>>,
    outcomes: HashMap<Tag, Outcome>,
    /// What accepted requests that the disk failed, and resets and finishes that it has not answered.
    pub(super) undone: Arc<HashSet<u64>>,
    /// Resets and finishes that were not done here, since a daemon has begun: by their zones, with what accepted them.
    pub(super) left_out: BTreeMap<ZoneIndex, (u64, Op)>,
    pub(super) blocks: Vec<(Bytes, Vec<u8>)>,
    next: u32,
    began: bool,
    ended_orderly: bool,
}

impl<M: Medium + 'static> Machine<M> {
    /// A disk on a copy of the image that the recording began with, or on a fork of that over `base`, written in units of `block`.
    /// `undone` is what a [scan](super::Scan::undone) has found.
    pub fn new(
        medium: Arc<M>,
        base: Option<Base>,
        block: Bytes,
        undone: Arc<HashSet<u64>>,
    ) -> Result<Self, ReplayError> {
        let work = Arc::new(AtomicBool::new(true));
        let (store, cache) = open(&medium, base, block, &work)?;
        Ok(Self {
            medium,
            granularity: block,
            store,
            device: Layered(Arc::clone(&cache)),
            cache,
            work,
            batch: Batch::default(),
            flights: BTreeMap::new(),
            by_tag: HashMap::new(),
            flushes: HashMap::new(),
            waiting: HashMap::new(),
            outcomes: HashMap::new(),
            undone,
            left_out: BTreeMap::new(),
            blocks: Vec::new(),
            next: 0,
            began: false,
            ended_orderly: false,
        })
    }

    /// The shape of the disk.
    pub fn geometry(&self) -> &Geometry {
        self.cache.geometry()
    }

    /// Does what a record says.
    pub fn take(&mut self, record: &Record) -> Result<(), ReplayError> {
        let number = record.number;
        match &record.entry {
            Entry::Accept(accepted) => self.accept(number, *accepted),
            Entry::Data(data) => self.data(number, data),
            Entry::Failed { of, good } => self.fail(*of, *good),
            Entry::Answer { of, .. } => self.answer(number, *of),
            Entry::Flush { queue } => {
                self.device.flush_comes(*queue);
                Ok(())
            }
            Entry::Block { at, content } => {
                self.blocks.push((*at, content.clone()));
                Ok(())
            }
            Entry::Cut { pointers, .. } => self.cut_again(number, pointers),
            Entry::Poked { at, content } => {
                let refused = |why| ReplayError::Refused { record: number, why };
                self.store.poke(*at, content).map_err(refused)
            }
            Entry::Session { pointers, .. } => self.session(number, pointers),
            Entry::End(ended) => {
                self.ended_orderly = *ended == Ended::Orderly;
                Ok(())
            }
            Entry::Mark(_) | Entry::Fault { .. } | Entry::DeviceReset => Ok(()),
        }
    }

    /// Loses power as the words say, what is in flight included as far as its data is known.
    pub fn cut(&mut self, words: Words) -> Result<CutOutcome, ReplayError> {
        self.land_all_known()?;
        let outcome = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&outcome);
        let done = Box::new(move |result| *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(result));
        self.cache.command(words, done)?;
        while self.device.housekeep(&mut self.batch) {}
        self.forget_requests();
        let told = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(told.unwrap_or(Err(CutError::Off))?)
    }

    /// Ends: what is in flight has not landed, and the image is whole and durable.
    pub fn finish(mut self) -> Result<(), ReplayError> {
        for (_, mut flight) in std::mem::take(&mut self.flights) {
            if let Some((ticket, _)) = flight.io.take() {
                self.device.io_done(ticket, IoResult::Failed { good: Bytes(0) }, &mut self.batch);
            }
        }
        self.settle();
        self.store.close()?;
        Ok(self.medium.flush()?)
    }

    fn accept(&mut self, number: u64, accepted: Accepted) -> Result<(), ReplayError> {
        let Some(op) = self.op_of(&accepted) else { return Ok(()) };
        let is_sequential = accepted.zone.is_some_and(|zone| self.is_sequential(zone));
        match op {
            Op::Write { .. } => {
                let tag = self.own_tag();
                let len = usize::try_from(accepted.len).map_err(|_| ReplayError::Senseless { record: number })?;
                let flight =
                    Flight { accepted, tag, data: vec![0; len], known: BTreeMap::new(), io: None, parked: None };
                self.flights.insert(number, flight);
                self.by_tag.insert(tag, number);
                if is_sequential { self.begin_write(number, op) } else { Ok(()) }
            }
            _ if self.undone.contains(&number) => {
                self.left_out.extend(accepted.zone.map(|zone| (zone, (number, op))));
                Ok(())
            }
            Op::Flush => {
                let queue = accepted.tag.map_or(u16::MAX, |tag| tag.queue);
                let tag = Tag { queue, ..self.own_tag() };
                let mut segments = Vec::new();
                let step = self.device.begin(tag, op, &mut segments, &mut self.batch);
                let ticket = if let Step::Io(ticket) = step { Some(ticket) } else { None };
                self.flushes.insert(number, (tag, ticket));
                Ok(())
            }
            op => self.do_whole(number, op),
        }
    }

    /// What an accepted request asks for; none where that leaves no trace.
    fn op_of(&self, accepted: &Accepted) -> Option<Op> {
        let sector = accepted.place.to_sector();
        let manage = |action| Op::Manage { action, zone: sector };
        match accepted.kind {
            Kind::Write | Kind::Append => Some(Op::Write { start: sector, len: Bytes(accepted.len.into()) }),
            Kind::Flush => Some(Op::Flush),
            Kind::Reset | Kind::ResetAll => Some(manage(Action::Reset)),
            Kind::Finish => Some(manage(Action::Finish)),
            Kind::Open | Kind::Close => None,
            Kind::Other | Kind::Read | Kind::Report | Kind::GetId => None,
        }
    }

    /// Whether a zone has a write pointer.
    pub fn is_sequential(&self, zone: ZoneIndex) -> bool {
        let geometry = self.geometry();
        zone.0 < geometry.nr_zones() && geometry.kind(zone) != ZoneKind::Conventional
    }

    fn own_tag(&mut self) -> Tag {
        self.next = self.next.wrapping_add(1);
        let [high, low] = [self.next >> 16, self.next & 0xffff].map(|half| half as u16);
        Tag { queue: OWN_QUEUES | (high & (OWN_QUEUES - 1)), slot: low }
    }

    fn begin_write(&mut self, number: u64, op: Op) -> Result<(), ReplayError> {
        let Some(flight) = self.flights.get_mut(&number) else { return Ok(()) };
        let tag = flight.tag;
        let mut segments = Vec::new();
        match self.device.begin(tag, op, &mut segments, &mut self.batch) {
            Step::Io(ticket) => flight.io = Some((ticket, segments)),
            Step::Parked(ticket) => flight.parked = Some(ticket),
            Step::Done(Err(why)) => return Err(ReplayError::Refused { record: number, why }),
            Step::Done(Ok(_)) => _ = self.flights.remove(&number),
        }
        self.settle();
        match self.outcomes.remove(&tag) {
            Some(Err(why)) => Err(ReplayError::Refused { record: number, why }),
            _ => Ok(()),
        }
    }

    /// Has a request without data done at once.
    fn do_whole(&mut self, number: u64, op: Op) -> Result<(), ReplayError> {
        let tag = self.own_tag();
        let mut segments = Vec::new();
        let outcome = match self.device.begin(tag, op, &mut segments, &mut self.batch) {
            Step::Done(outcome) => Some(outcome),
            Step::Parked(ticket) | Step::Io(ticket) => {
                self.waiting.insert(tag, Some(ticket));
                None
            }
        };
        self.settle();
        self.waiting.remove(&tag);
        match outcome.or_else(|| self.outcomes.remove(&tag)) {
            Some(Ok(_)) => Ok(()),
            Some(Err(why)) => Err(ReplayError::Refused { record: number, why }),
            None => Err(ReplayError::Stuck { record: number }),
        }
    }

    fn data(&mut self, number: u64, data: &Data) -> Result<(), ReplayError> {
        let senseless = ReplayError::Senseless { record: number };
        // Of a write that has failed by now, for another part of it.
        let Some(flight) = self.flights.get_mut(&data.of) else { return Ok(()) };
        let from = usize::try_from(data.at).unwrap_or(usize::MAX);
        let part = from.checked_add(data.len as usize).and_then(|to| flight.data.get_mut(from..to));
        let Some(part) = part else { return Err(senseless) };
        part.fill(0);
        for run in &data.runs {
            let at = run.at as usize;
            match at.checked_add(run.bytes.len()).and_then(|end| part.get_mut(at..end)) {
                Some(into) => into.copy_from_slice(&run.bytes),
                None => return Err(senseless),
            }
        }
        let until = flight.known.entry(data.at).or_default();
        *until = (*until).max(data.at + u64::from(data.len));
        Ok(())
    }

    /// The I/O of a write has failed, so many bytes of which have landed.
    fn fail(&mut self, of: u64, good: Bytes) -> Result<(), ReplayError> {
        let Some(mut flight) = self.remove(of) else { return Ok(()) };
        if flight.io.is_none() && flight.parked.is_none() && good != Bytes(0) {
            // A part of a write to conventional zones is there.
            flight.data.truncate(usize::try_from(good.0).unwrap_or(usize::MAX));
            flight.accepted.len = flight.data.len() as u32;
            return self.write_conventional(of, flight);
        }
        if let Some((ticket, segments)) = flight.io {
            put(&*self.medium, &segments, &flight.data, good.0)?;
            self.device.io_done(ticket, IoResult::Failed { good }, &mut self.batch);
        }
        self.settle();
        Ok(())
    }

    fn answer(&mut self, number: u64, of: u64) -> Result<(), ReplayError> {
        if let Some((tag, ticket)) = self.flushes.remove(&of) {
            if let Some(ticket) = ticket {
                self.device.io_done(ticket, IoResult::Complete, &mut self.batch);
            }
            self.settle();
            self.outcomes.remove(&tag);
            return Ok(());
        }
        match self.undone.contains(&of) {
            true => self.fail(of, Bytes(0)),
            false => self.land(number, of),
        }
    }

    fn remove(&mut self, of: u64) -> Option<Flight> {
        let flight = self.flights.remove(&of)?;
        self.by_tag.remove(&flight.tag);
        Some(flight)
    }

    /// A write has landed: `number` says so.
    fn land(&mut self, number: u64, of: u64) -> Result<(), ReplayError> {
        let Some(flight) = self.remove(of) else { return Ok(()) };
        if !flight.accepted.zone.is_some_and(|zone| self.is_sequential(zone)) {
            return self.write_conventional(of, flight);
        }
        let (tag, Some((ticket, segments))) = (flight.tag, flight.io) else {
            return Err(ReplayError::Stuck { record: number });
        };
        put(&*self.medium, &segments, &flight.data, flight.data.len() as u64)?;
        self.device.io_done(ticket, IoResult::Complete, &mut self.batch);
        self.settle();
        match self.outcomes.remove(&tag) {
            Some(Ok(_)) => Ok(()),
            Some(Err(why)) => Err(ReplayError::Refused { record: of, why }),
            None => Err(ReplayError::Stuck { record: number }),
        }
    }

    fn write_conventional(&mut self, of: u64, flight: Flight) -> Result<(), ReplayError> {
        let Some(op) = self.op_of(&flight.accepted) else { return Ok(()) };
        let tag = flight.tag;
        self.by_tag.insert(tag, of);
        self.flights.insert(of, flight);
        self.begin_write(of, op)?;
        let Some(flight) = self.remove(of) else { return Ok(()) };
        let Some((ticket, segments)) = flight.io else { return Err(ReplayError::Stuck { record: of }) };
        put(&*self.medium, &segments, &flight.data, flight.data.len() as u64)?;
        self.device.io_done(ticket, IoResult::Complete, &mut self.batch);
        self.settle();
        match self.outcomes.remove(&tag) {
            Some(Err(why)) => Err(ReplayError::Refused { record: of, why }),
            _ => Ok(()),
        }
    }

    /// Lands what is in flight and known, in each zone up to the first that is not.
    fn land_all_known(&mut self) -> Result<(), ReplayError> {
        let mut stopped: HashSet<ZoneIndex> = HashSet::new();
        for of in self.flights.keys().copied().collect::<Vec<_>>() {
            let Some(flight) = self.flights.get(&of) else { continue };
            let zone = flight.accepted.zone.filter(|zone| self.is_sequential(*zone));
            if zone.is_some_and(|zone| stopped.contains(&zone)) || self.undone.contains(&of) {
                continue;
            }
            match flight.is_known() {
                true => self.land(of, of)?,
                false => stopped.extend(zone),
            }
        }
        Ok(())
    }

    /// The power was cut then, which has left this.
    fn cut_again(&mut self, number: u64, pointers: &[(ZoneIndex, Bytes)]) -> Result<(), ReplayError> {
        self.land_all_known()?;
        let (geometry, there) = (*self.geometry(), |zone: &ZoneIndex| self.is_sequential(*zone));
        let inside =
            |zone: ZoneIndex, pointer: Bytes| (geometry.start(zone)..=geometry.writable_end(zone)).contains(&pointer);
        if !pointers.iter().all(|(zone, pointer)| there(zone) && inside(*zone, *pointer)) {
            return Err(ReplayError::Senseless { record: number });
        }
        let mut pointers = pointers.to_vec();
        pointers.sort_unstable();
        let rewind = Rewind { pointers, blocks: std::mem::take(&mut self.blocks) };
        self.store.rewind(&rewind, false).map_err(|why| ReplayError::Refused { record: number, why })?;
        self.forget_requests();
        // What is left is stable, and a store that is opened knows of nothing else.
        self.store.close()?;
        let base = self.store.take_base();
        self.work.store(true, Ordering::Relaxed);
        let (store, cache) = open(&self.medium, base, self.granularity, &self.work)?;
        (self.store, self.device, self.cache) = (store, Layered(Arc::clone(&cache)), cache);
        Ok(())
    }

    /// A daemon begins to record, and says where the zones are.
    fn session(&mut self, number: u64, pointers: &[(ZoneIndex, Bytes)]) -> Result<(), ReplayError> {
        if self.ended_orderly {
            // Closing the image has made all of it durable.
            self.device.make_durable().map_err(|why| ReplayError::Refused { record: number, why })?;
        }
        let expected: BTreeMap<_, _> = pointers.iter().copied().collect();
        let of = |zone: ZoneIndex, geometry: &Geometry| expected.get(&zone).copied().unwrap_or(geometry.start(zone));
        for (accepted_by, zone, place, len) in self.in_flight() {
            let Some(zone) = zone.filter(|zone| self.is_sequential(*zone)) else {
                // It may be there or not, and in part; whoever asked for it asks again.
                if self.flights.get(&accepted_by).is_some_and(Flight::is_known) {
                    self.land(number, accepted_by)?;
                }
                continue;
            };
            let landed = of(zone, self.geometry()).0.saturating_sub(place).min(len);
            match landed == len {
                true => self.land(number, accepted_by)?,
                false => self.fail(accepted_by, Bytes(landed))?,
            }
        }
        self.forget_requests();
        for (zone, (accepted_by, op)) in std::mem::take(&mut self.left_out) {
            let (geometry, expected) = (*self.geometry(), of(zone, self.geometry()));
            let done = match op {
                Op::Manage { action: Action::Reset, .. } => geometry.start(zone),
                _ => geometry.writable_end(zone),
            };
            // Its daemon died before it could answer.
            if self.is_sequential(zone) && expected == done {
                self.do_whole(accepted_by, op)?;
            }
        }
        let found: BTreeMap<_, _> = pointers_of(&self.device).into_iter().collect();
        for zone in expected.keys().chain(found.keys()).copied() {
            if !self.is_sequential(zone) {
                return Err(ReplayError::Senseless { record: number });
            }
            let expected = of(zone, self.geometry());
            let found = found.get(&zone).copied().unwrap_or(self.geometry().start(zone));
            if found != expected && self.began {
                return Err(ReplayError::Diverged { record: number, zone, found, expected });
            } else if found != expected {
                return Err(ReplayError::OtherBase { zone, found, expected });
            }
        }
        self.began = true;
        Ok(())
    }

    fn in_flight(&self) -> Vec<(u64, Option<ZoneIndex>, u64, u64)> {
        let each = |(of, flight): (&u64, &Flight)| {
            (*of, flight.accepted.zone, flight.accepted.place.0, u64::from(flight.accepted.len))
        };
        self.flights.iter().map(each).collect()
    }

    fn forget_requests(&mut self) {
        self.flights.clear();
        self.by_tag.clear();
        self.flushes.clear();
        self.waiting.clear();
        self.outcomes.clear();
        self.batch = Batch::default();
    }

    /// Does what follows, the housekeeper's work included, until nothing is left.
    fn settle(&mut self) {
        loop {
            self.device.commit(&mut self.batch);
            let events = std::mem::take(&mut self.batch.events);
            let quiet = events.is_empty();
            for event in events {
                match event {
                    Event::Finished { tag, outcome } => _ = self.outcomes.insert(tag, outcome),
                    Event::Retry { tag } => self.retry(tag),
                }
            }
            let worked = self.work.swap(false, Ordering::Relaxed) && self.housekeep();
            if quiet && !worked && self.batch.events.is_empty() {
                return;
            }
        }
    }

    fn housekeep(&mut self) -> bool {
        let mut worked = false;
        while self.device.housekeep(&mut self.batch) {
            worked = true;
        }
        worked
    }

    fn retry(&mut self, tag: Tag) {
        let mut segments = Vec::new();
        if let Some(ticket) = self.waiting.get_mut(&tag).and_then(Option::take) {
            match self.device.resume(ticket, &mut segments, &mut self.batch) {
                Step::Done(outcome) => _ = self.outcomes.insert(tag, outcome),
                Step::Parked(ticket) | Step::Io(ticket) => _ = self.waiting.insert(tag, Some(ticket)),
            }
            return;
        }
        let flight = self.by_tag.get(&tag).and_then(|of| self.flights.get_mut(of));
        let Some((flight, ticket)) = flight.and_then(|flight| flight.parked.take().map(|ticket| (flight, ticket)))
        else {
            return;
        };
        match self.device.resume(ticket, &mut segments, &mut self.batch) {
            Step::Done(outcome) => _ = self.outcomes.insert(tag, outcome),
            Step::Io(ticket) => flight.io = Some((ticket, segments)),
            Step::Parked(ticket) => flight.parked = Some(ticket),
        }
    }
}

/// Opens the store on a medium, and the cache over it.
fn open<M: Medium + 'static>(
    medium: &Arc<M>,
    base: Option<Base>,
    block: Bytes,
    work: &Arc<AtomicBool>,
) -> Result<(Arc<Store<M>>, Arc<VolatileCache>), ReplayError> {
    let options = OpenOptions { read_only: false, write_granularity: block, hold_resets: true };
    let unsynced = Arc::new(storage::Layered(Unsynced(Arc::clone(medium))));
    let store = Arc::new(ZonedStore::open_over(unsynced, base, options).map_err(Box::new)?);
    let bottom = Arc::clone(&store) as Arc<dyn ZonedDevice>;
    let cache = Arc::new(VolatileCache::new(bottom, Arc::new(Switch::new(1)), block, OLD_BLOCKS));
    let rung = Arc::clone(work);
    Layered(Arc::clone(&cache)).set_doorbell(Box::new(move || rung.store(true, Ordering::Relaxed)));
    Ok((store, cache))
}

/// Writes the first `len` bytes of data where its segments say.
fn put(medium: &impl Medium, segments: &[Segment], data: &[u8], len: u64) -> io::Result<()> {
    let mut rest = data.get(..usize::try_from(len).unwrap_or(usize::MAX).min(data.len())).unwrap_or_default();
    for segment in segments {
        let Segment::File { offset, len, .. } = segment else { continue };
        let (now, later) = rest.split_at(usize::try_from(len.0).unwrap_or(usize::MAX).min(rest.len()));
        if !now.is_empty() {
            medium.write_at(FileOffset(offset.0), now)?;
        }
        rest = later;
    }
    Ok(())
}
