//! The requests of a queue: from their chains to the disk, through their I/O, to their answers. Rings and waiting are the
//! transport's affair. This is the one place that drives a [`ZonedDevice`](crate::store::ZonedDevice) and a [`DataPath`].
//!
//! Whatever happened in a round is answered at its end, after the disk has committed the round's batch. A flush, and
//! under write-through an answer that reports a change, waits for an fdatasync that began after it (`flushes`).

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use virtio_queue::DescriptorChain;

use super::counts::Answered;
use super::flushes::{Answer, FlushGroup};
use super::recovery::{LeftBehind, Recovery};
use super::router::queue_of;
use super::shared::Device;
use super::slots::Slots;
use crate::io::pieces::Progress;
use crate::io::{Completion, DataPath, error_of};
use crate::observe::trace::Record;
use crate::store::{Batch, Event, IoKind, IoResult, Op, Outcome, Refusal, Reply, Segment, Step, Tag, Ticket};
use crate::units::{Bytes, Sector};
use crate::virtio::memory::Memory;
use crate::virtio::report::{self, write_report};
use crate::virtio::request::{Buffers, Direction, Request};
use crate::virtio::status::{Malformed, RequestError, Status};

/// The low half of the token of a sync; pieces are numbered from 0.
const SYNC_PIECE: u32 = u32::MAX;

/// How often what follows from events is followed before the ring is looked at again. Only a reset of all zones, which
/// asks to be gone on with time and again, comes to that.
const FOLLOWED: usize = 8;

/// Zeros for reads of what was never written.
static ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

fn token(head: u16, piece: u32) -> u64 {
    u64::from(head) << 32 | u64::from(piece)
}

/// The memory that requests are carried out with; all of it is empty between uses.
#[derive(Default)]
struct Scratch {
    segments: Vec<Segment>,
    guest: Vec<libc::iovec>,
    report: report::Scratch,
    events: Vec<Event>,
    foreign: Vec<Event>,
    records: Vec<Record>,
    completions: Vec<Completion>,
}

/// A chain that the last process left behind: its head and its request.
pub type Resumed = (u16, Result<Request, RequestError>);

/// The requests of one queue, from when they are taken until they are answered.
pub struct Requests<I: ?Sized = dyn DataPath> {
    device: Arc<Device>,
    queue: u16,
    batch: Batch,
    answers: Vec<Answer>,
    flushes: FlushGroup,
    scratch: Scratch,
    /// Before memory and slots: it is dropped first, and with it the kernel is done with them.
    path: Box<I>,
    mem: Arc<Memory>,
    slots: Slots,
    /// Requests that the data path has.
    in_io: usize,
}

// SAFETY: what is not `Send` by itself are iovecs, in `slots` and `scratch`. They are addresses in the mappings of `mem`, which
// belong to no thread, and are used by the path alone, which goes along.
unsafe impl<I: DataPath + Send + ?Sized> Send for Requests<I> {}

impl<I: DataPath + ?Sized> Requests<I> {
    /// The requests of a ring of so many descriptors.
    pub fn new(path: Box<I>, device: Arc<Device>, queue: u16, mem: Arc<Memory>, ring_size: u16) -> Self {
        Self {
            device,
            queue,
            batch: Batch::default(),
            answers: Vec::new(),
            flushes: FlushGroup::default(),
            scratch: Scratch::default(),
            path,
            mem,
            slots: Slots::new(ring_size),
            in_io: 0,
        }
    }

    /// Whether nothing is in flight.
    pub fn is_quiet(&self) -> bool {
        self.slots.in_use() == 0
    }

    /// How many requests the data path has.
    pub fn in_io(&self) -> usize {
        self.in_io
    }

    /// The power is gone, and with it whatever was to become of the requests in flight, of which the data path has none. Where
    /// requests `fail` they are answered so, otherwise never.
    pub fn lose_power(&mut self, fail: bool) {
        self.read_mail();
        self.batch = Batch::default();
        self.answers.clear();
        self.flushes = FlushGroup::default();
        for head in self.slots.taken() {
            if fail {
                if let Some(slot) = self.slots.get(head) {
                    slot.parked = None;
                }
                self.refuse(head, Refusal::NoPower.into());
            } else {
                self.slots.give_back(head);
            }
        }
    }

    /// Goes on in other memory. Nothing is in flight.
    pub fn set_memory(&mut self, mem: Arc<Memory>) {
        self.mem = mem;
    }

    /// The data path.
    pub fn path(&mut self) -> &mut I {
        &mut self.path
    }

    /// What is readable when I/O is over; none while there is none.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.path.descriptor()
    }

    /// Takes what other threads have left for this queue.
    pub fn read_mail(&mut self) {
        self.device.router.collect(self.queue, &mut self.batch.events);
    }

    /// Begins the request of a chain, at this moment or the one that `now` has; the moment stays there. `mark` is called
    /// before anything is done for the request. False where the chain's head is in flight already, or is none.
    pub fn take(&mut self, chain: DescriptorChain<&Memory>, now: &mut Option<Instant>, mark: impl FnOnce(u16)) -> bool {
        let head = chain.head_index();
        let Some(slot) = self.slots.take(head) else { return false };
        slot.observed.began = Some(*now.get_or_insert_with(Instant::now));
        let parsed = slot.buffers.parse(&self.mem, chain);
        mark(head);
        self.execute(head, parsed);
        true
    }

    /// Starts new I/O and takes what is done; false when that is nothing.
    pub fn collect(&mut self) -> io::Result<bool> {
        let mut completions = std::mem::take(&mut self.scratch.completions);
        let polled = self.path.poll(&mut completions);
        let found = !completions.is_empty();
        for Completion { token, result } in completions.drain(..) {
            self.io_completed(token, result);
        }
        self.scratch.completions = completions;
        polled.map(|()| found)
    }

    /// Starts the request that was parsed into a slot.
    fn execute(&mut self, head: u16, parsed: Result<Request, RequestError>) {
        if let (Ok(request), Some(slot)) = (&parsed, self.slots.get(head)) {
            slot.request = Some(*request);
        }
        let checked = match parsed {
            // Which request it is comes before what is wrong with it.
            Err(RequestError::Malformed(Malformed::NoAppendSector)) if !self.device.zoned() => {
                Err(RequestError::ZoneRequestNotNegotiated)
            }
            parsed => parsed.and_then(|request| self.check(request)),
        };
        match checked.and_then(|request| self.start(head, request)) {
            Ok(()) => {}
            Err(error) => self.refuse(head, error),
        }
    }

    /// Takes a chain that the last process left behind; [`resume`](Self::resume) begins it, after those before it were taken.
    pub fn take_left_behind(&mut self, chain: DescriptorChain<&Memory>, parsed: &mut Vec<Resumed>) {
        let head = chain.head_index();
        if let Some(slot) = self.slots.take(head) {
            slot.observed.began = Some(Instant::now());
            parsed.push((head, slot.buffers.parse(&self.mem, chain)));
        }
    }

    /// Goes on with the requests that the last process left behind, before any that came later.
    pub fn resume(&mut self, parsed: Vec<Resumed>, mut left: LeftBehind) {
        for (head, request) in parsed {
            match (left.take(head), request) {
                (Some(Recovery::Settled { status, appended }), Ok(request)) => {
                    if let Some(slot) = self.slots.get(head) {
                        slot.request = Some(request);
                    }
                    match status {
                        Status::Ok => self.finished(head, Ok(appended.map_or(Reply::Done, Reply::Appended))),
                        status => self.answer_now(head, status, 1),
                    }
                }
                (Some(Recovery::Resumes(ticket)), Ok(request)) if self.device.zoned() => {
                    if let Some(slot) = self.slots.get(head) {
                        slot.request = Some(request);
                        slot.parked = Some(ticket);
                    }
                    self.retry(head);
                }
                (Some(Recovery::Resumes(ticket)), request) => {
                    self.device.disk.abandon(ticket);
                    self.execute(head, request);
                }
                (Some(Recovery::Settled { .. }) | None, request) => self.execute(head, request),
            }
        }
    }

    /// The rules that are not the store's.
    fn check(&self, request: Request) -> Result<Request, RequestError> {
        if self.device.switch.power().is_off() {
            return Err(Refusal::NoPower.into());
        }
        if !self.device.zoned() || (self.device.is_ordinary && request.is_zone_request()) {
            return Err(match request.is_zone_request() {
                true => RequestError::ZoneRequestNotNegotiated,
                false => RequestError::NotNegotiated,
            });
        }
        if let Request::Append { len, .. } = request
            && len > self.device.identity.max_append
        {
            return Err(match self.device.disk.read_only() {
                true => Refusal::ReadOnly.into(),
                false => RequestError::AppendTooLong(len),
            });
        }
        Ok(request)
    }

    fn start(&mut self, head: u16, request: Request) -> Result<(), RequestError> {
        let op = match request {
            Request::In { start, len } => Op::Read { start, len },
            Request::Out { start, len } => Op::Write { start, len },
            Request::Append { zone, len } => Op::Append { zone, len },
            Request::Flush => {
                self.ask_for_flush(head);
                return Ok(());
            }
            Request::Manage { action, zone } => Op::Manage { action, zone },
            Request::ResetAll => Op::ResetAll,
            Request::GetId => return self.get_id(head),
            Request::Report { start, .. } => Op::Report { start },
        };
        // Where the data lies is checked before the store reserves anything for it.
        if let Some(direction) = direction_of(&request) {
            self.resolve(head, direction)?;
        }
        let tag = Tag { queue: self.queue, slot: head };
        let step = self.device.disk.begin(tag, op, &mut self.scratch.segments, &mut self.batch);
        self.take_step(head, step);
        Ok(())
    }

    /// Has a flush wait for the next sync, unless the disk says otherwise.
    fn ask_for_flush(&mut self, head: u16) {
        match self.device.disk.flush_asked(Tag { queue: self.queue, slot: head }) {
            Some(step) => self.take_step(head, step),
            None => {
                if !self.device.write_through() {
                    self.device.disk.flush_comes(self.queue);
                }
                self.flushes.wait(Answer::new(head, Status::Ok, 1));
            }
        }
    }

    /// Writes the report that a request is for.
    fn report(&mut self, head: u16, start: Sector, len: Bytes) -> Result<(), RequestError> {
        let (device, mem) = (&self.device, &self.mem);
        let buffers = self.slots.get(head).map(|slot| &slot.buffers);
        let written = write_report(
            device.disk.geometry(),
            start,
            len,
            &mut self.scratch.report,
            |start, max, out| device.disk.report(start, max, out),
            |offset, bytes| buffers.map_or(Ok(0), |buffers| buffers.write(mem, offset, bytes)),
        )?;
        self.answer_now(head, Status::Ok, written.0.saturating_add(1));
        Ok(())
    }

    fn resolve(&mut self, head: u16, direction: Direction) -> Result<(), Malformed> {
        match self.slots.get(head) {
            Some(slot) => slot.buffers.resolve(&self.mem, direction, &mut self.scratch.guest),
            None => Ok(()),
        }
    }

    fn get_id(&mut self, head: u16) -> Result<(), RequestError> {
        let mut written = 0;
        if let Some(slot) = self.slots.get(head) {
            written = slot.buffers.write(&self.mem, Bytes(0), &self.device.identity.serial)?;
        }
        self.answer_now(head, Status::Ok, written as u64 + 1);
        Ok(())
    }

    /// Goes on with what the store says. For I/O of data, `scratch.guest` is where the request's data lies.
    fn take_step(&mut self, head: u16, step: Step) {
        match step {
            Step::Done(outcome) => self.finished(head, outcome),
            Step::Io(ticket) => self.start_io(head, ticket),
            Step::Parked(ticket) => {
                if let Some(slot) = self.slots.get(head) {
                    slot.parked = Some(ticket);
                }
            }
        }
    }

    fn start_io(&mut self, head: u16, ticket: Ticket) {
        let Some(slot) = self.slots.get(head) else { return };
        let kind = ticket.io_kind();
        slot.in_io = Some(ticket);
        self.in_io += 1;
        if kind == IoKind::Sync {
            slot.io.plan_sync();
            self.path.sync(token(head, SYNC_PIECE));
            return;
        }
        let (buffers, mem) = (&slot.buffers, &self.mem);
        let (segments, guest) = (&self.scratch.segments, &mut self.scratch.guest);
        match slot.io.plan(kind == IoKind::Write, segments, guest, |at, len| zero(buffers, mem, at, len)) {
            Ok(0) => self.io_over(head),
            Ok(pieces) => (0..pieces).for_each(|piece| self.submit(head, piece)),
            Err(_) => {
                log::error!("queue {}: the store's segments do not match {:?}", self.queue, slot.request);
                let ticket = slot.in_io.take();
                self.in_io -= 1;
                self.give_result(ticket, IoResult::Failed { good: Bytes(0) });
            }
        }
    }

    fn submit(&mut self, head: u16, piece: usize) {
        let Some(slot) = self.slots.get(head) else { return };
        // A request has fewer than 2^28 bytes, and so pieces.
        let Some(transfer) = slot.io.transfer(piece, token(head, piece as u32)) else { return };
        // SAFETY: the iovecs belong to the slot's pieces, which are changed only by `completed` for this piece, and
        // recycled only after all pieces are over. The memory they name is mapped by `self.mem`, which is replaced
        // only while no slot is in use, and dropped after the path.
        unsafe { self.path.submit(transfer) };
    }

    /// Takes a completion of the data path.
    fn io_completed(&mut self, token: u64, result: i32) {
        let (head, piece) = ((token >> 32) as u16, token as u32);
        let Some(slot) = self.slots.get(head) else { return };
        if piece == SYNC_PIECE {
            slot.io.synced(result);
        } else {
            match slot.io.completed(piece as usize, result) {
                Progress::Again => return self.submit(head, piece as usize),
                Progress::PastEnd { at, len } => {
                    zero(&slot.buffers, &self.mem, at, len);
                    return self.io_over(head);
                }
                Progress::Over => {}
            }
        }
        let failed = result < 0 || (result == 0 && piece != SYNC_PIECE);
        if failed && self.device.lines.of_queue(self.queue).allow() {
            let error = error_of(result);
            log::error!("queue {}: the image file failed: {error} ({:?})", self.queue, slot.request);
        }
        self.io_over(head);
    }

    /// Tells the store, when nothing of a request is outstanding any more.
    fn io_over(&mut self, head: u16) {
        let Some(slot) = self.slots.get(head).filter(|slot| slot.io.is_done()) else { return };
        let (ticket, result) = (slot.in_io.take(), slot.io.result());
        self.in_io -= usize::from(ticket.is_some());
        self.give_result(ticket, result);
    }

    fn give_result(&mut self, ticket: Option<Ticket>, result: IoResult) {
        if let Some(ticket) = ticket {
            self.device.disk.io_done(ticket, result, &mut self.batch);
        }
    }

    /// Has the store commit what was done in this round, and does what follows. True when more is left to be done, so
    /// that one request does not keep the others of its queue waiting.
    pub fn settle(&mut self) -> bool {
        for _ in 0..FOLLOWED {
            self.device.disk.commit(&mut self.batch);
            if self.batch.events.is_empty() && !self.start_sync() {
                return false;
            }
            let mut events = std::mem::take(&mut self.scratch.events);
            std::mem::swap(&mut events, &mut self.batch.events);
            for event in events.drain(..) {
                if queue_of(&event) == self.queue {
                    self.take_event(event);
                } else {
                    self.scratch.foreign.push(event);
                }
            }
            self.scratch.events = events;
            self.device.router.deliver(self.scratch.foreign.drain(..));
        }
        true
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Finished { tag, outcome } => self.finished(tag.slot, outcome),
            Event::Retry { tag } => self.retry(tag.slot),
        }
    }

    fn retry(&mut self, head: u16) {
        let Some(slot) = self.slots.get(head) else { return };
        let Some(ticket) = slot.parked.take() else {
            log::error!("queue {}: the store retries request {head}, which is not parked", self.queue);
            return;
        };
        if slot.request == Some(Request::Flush) && !self.flushes.is_led_by(head) {
            return self.ask_for_flush(head);
        }
        let direction = slot.request.as_ref().and_then(direction_of);
        if let Some(direction) = direction
            && self.resolve(head, direction).is_err()
        {
            // Cannot be: it was resolved in the same memory before the request was parked.
            return self.give_result(Some(ticket), IoResult::Failed { good: Bytes(0) });
        }
        let step = self.device.disk.resume(ticket, &mut self.scratch.segments, &mut self.batch);
        self.take_step(head, step);
    }

    /// Takes the outcome of a request, or of the sync that it has had done.
    fn finished(&mut self, head: u16, outcome: Outcome) {
        let Some(slot) = self.slots.get(head) else { return };
        if slot.in_io.is_some() {
            // The kernel may still be using the slot, whatever the store says.
            log::error!("queue {}: the store finishes request {head}, whose I/O is not over", self.queue);
            return;
        }
        if self.flushes.is_led_by(head) {
            return self.sync_over(outcome);
        }
        // A parked request may be finished without a retry.
        slot.parked = None;
        let Some(request) = slot.request else {
            log::error!("queue {}: the store finishes request {head}, which is not in flight", self.queue);
            return;
        };
        let reply = match outcome {
            Ok(reply) => reply,
            Err(refusal) => return self.refuse(head, refusal.into()),
        };
        if let Request::Report { start, len } = request {
            return self.report(head, start, len).unwrap_or_else(|error| self.refuse(head, error));
        }
        let mut written = 1;
        if let Reply::Appended(sector) = reply {
            slot.observed.position = Some(sector);
            written += slot.buffers.write(&self.mem, Bytes(0), &sector.0.to_le_bytes()).unwrap_or(0) as u64;
        }
        if let Request::In { len, .. } = request {
            written += len.0;
        }
        if changes(&request) && self.device.write_through() {
            self.flushes.wait(Answer::new(head, Status::Ok, written));
        } else {
            self.answer_now(head, Status::Ok, written);
        }
    }

    fn refuse(&mut self, head: u16, error: RequestError) {
        let request = self.slots.get(head).and_then(|slot| slot.request);
        let refused = self.device.look_into(self.queue, request, error);
        let fault = refused.fault_number();
        let fault = fault.and_then(|number| self.device.counts.trace_fault(number, refused.fault.as_deref()));
        if let Some(slot) = self.slots.get(head) {
            slot.observed.position = refused.expected();
            let zone = refused.zone.as_ref().map(|now| (now.info.state, now.info.write_pointer.to_sector()));
            slot.observed.refused = Some((refused.rule(), zone));
            slot.observed.fault = fault;
        }
        let level = error.log_level();
        if log::log_enabled!(level) && self.device.lines.of_queue(self.queue).allow() {
            log::log!(level, "queue {}: {refused}", self.queue);
        }
        self.answer_now(head, error.status(), 1);
    }

    fn answer_now(&mut self, head: u16, status: Status, written: u64) {
        self.answers.push(Answer::new(head, status, written));
    }

    /// Begins a sync for the answers that wait for one. False when none does, or one is under way.
    fn start_sync(&mut self) -> bool {
        let Some(head) = self.flushes.begin() else { return false };
        let tag = Tag { queue: self.queue, slot: head };
        let step = self.device.disk.begin(tag, Op::Flush, &mut self.scratch.segments, &mut self.batch);
        self.take_step(head, step);
        true
    }

    fn sync_over(&mut self, outcome: Outcome) {
        let status = outcome.map_or_else(|refusal| RequestError::from(refusal).status(), |_| Status::Ok);
        self.flushes.end(status, &mut self.answers);
    }

    /// Gives all answered chains back: `push` takes the head of each and how much was written into the chain.
    pub fn give_back(&mut self, mut push: impl FnMut(u16, u32)) {
        let mut answers = std::mem::take(&mut self.answers);
        if !answers.is_empty() {
            let slots = &self.slots;
            let answered = answers.iter().filter_map(|answer| {
                let slot = slots.look(answer.head)?;
                Some(Answered { request: slot.request, status: answer.status, observed: slot.observed })
            });
            let geometry = self.device.disk.geometry();
            self.device.counts.note_answers(geometry, self.queue, answered, &mut self.scratch.records);
        }
        for Answer { head, status, written } in answers.drain(..) {
            let Some(slot) = self.slots.get(head) else { continue };
            let written = if slot.buffers.put_status(&self.mem, status) { written } else { 0 };
            push(head, written);
            self.slots.give_back(head);
        }
        self.answers = answers;
        self.device.counts.in_flight_are(self.queue, self.slots.in_use());
    }
}

/// Which way the data of a request goes that the worker carries.
fn direction_of(request: &Request) -> Option<Direction> {
    match request {
        Request::In { .. } => Some(Direction::Writable),
        Request::Out { .. } | Request::Append { .. } => Some(Direction::Readable),
        Request::Flush | Request::GetId | Request::Report { .. } | Request::Manage { .. } | Request::ResetAll => None,
    }
}

/// Whether the success of a request means that something has changed.
fn changes(request: &Request) -> bool {
    match request {
        Request::Out { .. } | Request::Append { .. } | Request::Manage { .. } | Request::ResetAll => true,
        Request::In { .. } | Request::Flush | Request::GetId | Request::Report { .. } => false,
    }
}

/// Fills a run of a read's data with zeros. The buffers were resolved, so that they lie in memory.
fn zero(buffers: &Buffers, mem: &Memory, at: Bytes, len: Bytes) {
    let (mut at, end) = (at.0, at.0.saturating_add(len.0));
    while at < end {
        let part = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        match buffers.write(mem, Bytes(at), &ZEROS[..part]) {
            Ok(written) if written != 0 => at += written as u64,
            _ => return,
        }
    }
}
