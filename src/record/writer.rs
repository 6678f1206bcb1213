//! The log as it is written: numbers are taken and records appended under one lock, which gives all queues one order; they reach
//! the file before any answer that follows from them goes out.
//!
//! That lock is taken with locks of the disk held, so nothing that may wait is done under it: the file is written under another
//! one, by whoever needs it first, for all that has come by then.
//!
//! Where the file cannot be written any more the recording ends, and the disk goes on: that is logged, and said by a last record
//! where there is room for one. What is in the file then is whole up to there.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::{Accepted, Ended, Entry};
use super::format::{Packed, encode, first_number};
use crate::observe::Kind;
use crate::storage::Medium;
use crate::store::{Outcome, Reply, Segment, Tag};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::virtio::status::{RequestError, Status};

/// Bytes kept allocated from one writing to the next.
const KEPT: usize = 1 << 20;

/// Takes a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // In the daemon a panic ends the process, so poison exists only in tests that caught one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says when it is, in nanoseconds.
pub type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// Where a log goes on.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The end of what is in the file.
    pub at: u64,
    /// The number of the next record.
    pub number: u64,
    /// The requests that the last session has left in flight, with what accepted each.
    pub left: Vec<(Tag, u64)>,
}

/// A request that was accepted and has no answer yet.
#[derive(Debug)]
struct Open {
    accepted: u64,
    kind: Kind,
    zone: Option<ZoneIndex>,
    /// Where its data is in the file, in the order of the data.
    segments: Vec<(u64, u64)>,
}

#[derive(Default)]
struct State {
    /// Records that are not in the file.
    pending: Vec<u8>,
    next: u64,
    open: HashMap<Tag, Open>,
    left: HashMap<Tag, u64>,
    /// Something was appended since the session began, or the device was reset.
    used: bool,
}

/// What writes to the file.
struct Out {
    file: Arc<dyn Medium>,
    at: u64,
    spare: Vec<u8>,
}

/// The log that is written.
pub struct Log {
    state: Mutex<State>,
    out: Mutex<Out>,
    /// Bytes that were appended, and those of them that are in the file.
    appended: AtomicU64,
    written: AtomicU64,
    is_over: AtomicBool,
    clock: Clock,
}

impl Log {
    /// Goes on with a log in a file.
    pub fn new(file: Arc<dyn Medium>, place: Place, clock: Clock) -> Self {
        let Place { at, number, left } = place;
        Self {
            state: Mutex::new(State { next: number, left: left.into_iter().collect(), ..State::default() }),
            out: Mutex::new(Out { file, at, spare: Vec::new() }),
            appended: AtomicU64::new(0),
            written: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            clock,
        }
    }

    /// Whether the recording has ended because the file could not be written.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Appends a record, which [`write_out`](Self::write_out) brings to the file. Returns its number.
    pub fn append(&self, entry: &Entry) -> u64 {
        self.put(&mut lock(&self.state), |number, time, out| encode(entry, number, time, out))
    }

    fn put(&self, state: &mut State, encode: impl FnOnce(u64, u64, &mut Vec<u8>)) -> u64 {
        let number = state.next;
        state.next += 1;
        state.used = true;
        if !self.is_over() {
            let before = state.pending.len();
            encode(number, (self.clock)(), &mut state.pending);
            self.appended.fetch_add((state.pending.len() - before) as u64, Ordering::Release);
        }
        number
    }

    fn put_entry(&self, state: &mut State, entry: &Entry) -> u64 {
        self.put(state, |number, time, out| encode(entry, number, time, out))
    }

    /// A daemon begins to record.
    pub(super) fn begin_session(&self, generation: u64, pointers: Vec<(ZoneIndex, Bytes)>) {
        self.append_and_write(&Entry::Session { generation, pointers });
        lock(&self.state).used = false;
    }

    /// The driver has reset the device; where nothing was asked for since the last time, that is nothing new.
    pub fn device_reset(&self) {
        let mut state = lock(&self.state);
        if state.used {
            self.put_entry(&mut state, &Entry::DeviceReset);
            state.used = false;
        }
        drop(state);
        self.write_out();
    }

    /// Appends a record and has it in the file.
    pub fn append_and_write(&self, entry: &Entry) {
        self.append(entry);
        self.write_out();
    }

    /// Has everything in the file that was appended before.
    pub fn write_out(&self) {
        if self.written.load(Ordering::Acquire) == self.appended.load(Ordering::Acquire) || self.is_over() {
            return;
        }
        let mut out = lock(&self.out);
        let spare = std::mem::take(&mut out.spare);
        let mut pending = std::mem::replace(&mut lock(&self.state).pending, spare);
        if !self.is_over() && !pending.is_empty() {
            match out.file.write_at(FileOffset(out.at), &pending) {
                Ok(()) => out.at += pending.len() as u64,
                Err(error) => self.end_without_file(&out, &pending, &error),
            }
        }
        self.written.fetch_add(pending.len() as u64, Ordering::Release);
        pending.clear();
        pending.shrink_to(KEPT);
        out.spare = pending;
    }

    /// Ends the recording. A part of what was to be written may be there; it is written over by a record that says so, which
    /// needs no more room than that where the file had any left.
    fn end_without_file(&self, out: &Out, pending: &[u8], error: &io::Error) {
        self.is_over.store(true, Ordering::Relaxed);
        log::error!("the recording has ended: its file cannot be written: {error}; the disk is served on without it");
        let Some(number) = first_number(pending) else { return };
        let mut end = Vec::new();
        encode(&Entry::End(Ended::NotWritten), number, (self.clock)(), &mut end);
        // Where there is no room for it either, the log ends with a record that is cut short.
        let _ = out.file.write_at(FileOffset(out.at), &end);
    }

    /// A request was accepted. Returns its number.
    pub(super) fn accept(&self, accepted: Accepted) -> u64 {
        let mut state = lock(&self.state);
        let number = self.put_entry(&mut state, &Entry::Accept(accepted));
        if let Some(tag) = accepted.tag {
            let open = Open { accepted: number, kind: accepted.kind, zone: accepted.zone, segments: Vec::new() };
            state.open.insert(tag, open);
        }
        number
    }

    /// A reset of all zones has come to a zone: is about to reset it, or where it was about to, has done so.
    pub(super) fn comes_to(&self, accepted: Accepted) {
        let about = accepted.tag.is_some_and(|tag| lock(&self.state).open.contains_key(&tag));
        match accepted.tag {
            Some(tag) if about => self.answer(tag, &Ok(Reply::Done)),
            _ => _ = self.accept(accepted),
        }
    }

    /// A request was done in one step, and nothing was noted of it.
    pub(super) fn done_at_once(&self, accepted: Accepted) {
        let mut state = lock(&self.state);
        let of = self.put_entry(&mut state, &Entry::Accept(accepted));
        self.put_entry(&mut state, &Entry::Answer { of, status: Status::Ok, appended: None });
    }

    /// Whether a finish of this zone is in flight.
    pub(super) fn finishes(&self, zone: ZoneIndex) -> bool {
        lock(&self.state).open.values().any(|open| open.kind == Kind::Finish && open.zone == Some(zone))
    }

    /// Notes where the data of a write goes.
    pub(super) fn placed(&self, tag: Tag, segments: &[Segment]) {
        if let Some(open) = lock(&self.state).open.get_mut(&tag) {
            open.segments.clear();
            open.segments.extend(segments.iter().filter_map(|segment| match segment {
                Segment::File { offset, len, .. } => Some((offset.0, len.0)),
                Segment::Zero { .. } | Segment::Lost => None,
            }));
        }
    }

    /// Data of a write goes to the file, at `offset` of the image.
    pub(super) fn data(&self, tag: Tag, offset: u64, packed: &Packed) {
        let mut state = lock(&self.state);
        let Some(open) = state.open.get(&tag) else { return };
        let (of, mut before) = (open.accepted, 0);
        for (start, len) in &open.segments {
            if let Some(inside) = offset.checked_sub(*start).filter(|inside| inside < len) {
                let at = before + inside;
                self.put(&mut state, |number, time, out| packed.encode(of, at, number, time, out));
                return;
            }
            before += len;
        }
        log::error!("data at byte {offset} of the image belongs to no write that is in flight");
    }

    /// The I/O of a write has failed.
    pub(super) fn failed(&self, tag: Tag, good: Bytes) {
        let mut state = lock(&self.state);
        if let Some(of) = state.open.get(&tag).map(|open| open.accepted) {
            self.put_entry(&mut state, &Entry::Failed { of, good });
        }
    }

    /// A request has its outcome. Does nothing for one that was not accepted, or has it already.
    pub(super) fn answer(&self, tag: Tag, outcome: &Outcome) {
        let mut state = lock(&self.state);
        if let Some(open) = state.open.remove(&tag) {
            self.put_entry(&mut state, &answer(open.accepted, outcome));
        }
    }

    /// A request that the last session has left behind has its outcome.
    pub(super) fn answer_left_behind(&self, tag: Tag, outcome: &Outcome) {
        let mut state = lock(&self.state);
        if let Some(of) = state.left.remove(&tag) {
            self.put_entry(&mut state, &answer(of, outcome));
        }
    }

    /// What is in flight is lost.
    pub(super) fn forget_requests(&self) {
        let mut state = lock(&self.state);
        state.open.clear();
        state.left.clear();
    }

    /// What accepted a request that is in flight.
    pub(super) fn accepted(&self, tag: Tag) -> Option<u64> {
        lock(&self.state).open.get(&tag).map(|open| open.accepted)
    }
}

/// The answer to what a record has accepted.
pub(super) fn answer(of: u64, outcome: &Outcome) -> Entry {
    let (status, appended) = match *outcome {
        Ok(Reply::Done) => (Status::Ok, None),
        Ok(Reply::Appended(sector)) => (Status::Ok, sector.to_bytes()),
        Err(refusal) => (RequestError::from(refusal).status(), None),
    };
    Entry::Answer { of, status, appended }
}
