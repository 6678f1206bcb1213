//! The store's notes about requests in flight, kept in the in-flight region of the frontend, and what they say to the
//! next process.
//!
//! One record a descriptor: a word that says what it is, two positions, and what a layer has chosen to do with the request. That word is written last, and a record
//! that replaces another of the same request has the same positions or none, so that what is found is always one or
//! the other. Notes come from any thread; each queue has a lock of its own, which only events for another queue's
//! requests ever contend for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inflight::{CHOICE, Inflight, RECORD};
use super::options::MAX_QUEUES;
use crate::device::recovery::{LeftBehind, Recovery};
use crate::store::{Journal, Note, Outcome, Recovered, Reply, Reserved, Tag, ZonedDevice};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::virtio::status::{RequestError, Status};

/// What a record is: the low byte of its first word.
const WRITE: u64 = 1;
const APPEND: u64 = 2;
const RESETS: u64 = 3;
const FINISHES: u64 = 4;
const RESET_UP_TO: u64 = 5;
const SETTLED: u64 = 6;
const APPENDED: u64 = 7;

/// The record of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    UnderWay(Note),
    Settled { status: Status, appended: Option<Sector> },
}

impl Noted {
    fn what(&self) -> u64 {
        match self {
            Noted::UnderWay(Note::Reserved(Reserved { zone, append, .. })) => {
                (if *append { APPEND } else { WRITE }) | u64::from(zone.0) << 32
            }
            Noted::UnderWay(Note::Resets(zone)) => RESETS | u64::from(zone.0) << 32,
            Noted::UnderWay(Note::Finishes(zone)) => FINISHES | u64::from(zone.0) << 32,
            Noted::UnderWay(Note::ResetUpTo(next)) => RESET_UP_TO | u64::from(next.0) << 32,
            Noted::Settled { status, appended: None } => SETTLED | (*status as u64) << 8,
            Noted::Settled { status, appended: Some(_) } => APPENDED | (*status as u64) << 8,
        }
    }

    fn store(&self, region: &Inflight, at: usize) {
        const { assert!(RECORD >= CHOICE + 8) }
        match self {
            Noted::UnderWay(Note::Reserved(Reserved { start, end, .. })) => {
                region.store(at + 8, start.0);
                region.store(at + 16, end.0);
            }
            // Where the append was given its range: no other value than there is.
            Noted::Settled { appended: Some(sector), .. } => {
                region.store(at + 8, sector.to_bytes().map_or(0, |at| at.0))
            }
            Noted::Settled { appended: None, .. }
            | Noted::UnderWay(Note::Resets(_) | Note::Finishes(_) | Note::ResetUpTo(_)) => {}
        }
        region.store(at, self.what());
    }

    /// None where nothing was noted, or nonsense.
    fn load(region: &Inflight, at: usize) -> Option<Self> {
        let what: u64 = region.load(at);
        let (start, end) = (Bytes(region.load(at + 8)), Bytes(region.load(at + 16)));
        let zone = ZoneIndex((what >> 32) as u32);
        let status = Status::from_byte((what >> 8) as u8);
        match what & 0xff {
            WRITE => Some(Noted::UnderWay(Note::Reserved(Reserved { zone, start, end, append: false }))),
            APPEND => Some(Noted::UnderWay(Note::Reserved(Reserved { zone, start, end, append: true }))),
            RESETS => Some(Noted::UnderWay(Note::Resets(zone))),
            FINISHES => Some(Noted::UnderWay(Note::Finishes(zone))),
            RESET_UP_TO => Some(Noted::UnderWay(Note::ResetUpTo(zone))),
            SETTLED => Some(Noted::Settled { status: status?, appended: None }),
            APPENDED => Some(Noted::Settled { status: status?, appended: Some(start.to_sector()) }),
            _ => None,
        }
    }
}

impl From<&Outcome> for Noted {
    fn from(outcome: &Outcome) -> Self {
        let (status, appended) = match outcome {
            Ok(Reply::Done) => (Status::Ok, None),
            Ok(Reply::Appended(sector)) => (Status::Ok, Some(*sector)),
            Err(refusal) => (RequestError::from(*refusal).status(), None),
        };
        Noted::Settled { status, appended }
    }
}

/// Where notes go: the region of the present frontend, if it keeps one.
pub(super) struct Journals {
    queues: Vec<Mutex<Option<Arc<Inflight>>>>,
    zones: Mutex<Option<Arc<Inflight>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic is done while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journals {
    pub(super) fn new() -> Self {
        Self { queues: (0..MAX_QUEUES).map(|_| Mutex::default()).collect(), zones: Mutex::default() }
    }

    /// Notes go to this region from now on, or nowhere. No request is in flight.
    pub(super) fn attach(&self, region: Option<&Arc<Inflight>>) {
        for queue in &self.queues {
            *lock(queue) = region.cloned();
        }
        *lock(&self.zones) = region.cloned();
    }

    fn record(&self, tag: Tag, record: &Noted) {
        let Some(queue) = self.queues.get(usize::from(tag.queue)) else { return };
        let region = lock(queue);
        if let Some(region) = region.as_ref()
            && let Some(at) = region.record(tag.queue, tag.slot)
        {
            record.store(region, at);
        }
    }
}

impl Journal for Arc<Journals> {
    fn note(&self, tag: Tag, note: Note) {
        self.record(tag, &Noted::UnderWay(note));
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        self.record(tag, &Noted::from(outcome));
    }

    fn chosen(&self, tag: Tag, choice: u64) {
        let Some(queue) = self.queues.get(usize::from(tag.queue)) else { return };
        let region = lock(queue);
        if let Some(region) = region.as_ref()
            && let Some(at) = region.record(tag.queue, tag.slot)
        {
            region.store(at + CHOICE, choice);
        }
    }

    fn emptied(&self, _: ZoneIndex, _: Bytes) {}

    fn filled(&self, _: ZoneIndex, _: Bytes) {}

    fn power_lost(&self, fails: bool) {
        if let Some(region) = lock(&self.zones).as_ref() {
            region.lose_power(fails);
        }
    }

    fn explicitly_open(&self, zone: ZoneIndex, open: bool) {
        if let Some(region) = lock(&self.zones).as_ref() {
            region.set_open_zone(zone, open);
        }
    }
}

/// Makes the disk what the notes in a region say: zones explicitly open, writes in their places. Gives what was left
/// behind of each queue. The region is attached, and no queue runs.
pub(super) fn recover(disk: &Arc<dyn ZonedDevice>, region: &Inflight, journals: &Journals) -> Vec<LeftBehind> {
    region.open_zones().for_each(|zone| {
        disk.reopen(zone);
        region.set_open_zone(zone, false);
    });
    disk.explicitly_open_zones().into_iter().for_each(|zone| region.set_open_zone(zone, true));

    recall(disk, region);
    let mut left: Vec<_> = (0..MAX_QUEUES).map(|_| LeftBehind::none(disk)).collect();
    let mut records = records(region);
    // Of one zone the lowest range first.
    records.sort_by_key(|(_, _, record)| match record {
        Noted::UnderWay(Note::Reserved(reserved)) => reserved.start,
        _ => Bytes(0),
    });
    for (queue, head, record) in records {
        let recovery = match record {
            Noted::Settled { status, appended } => Recovery::Settled { status, appended },
            Noted::UnderWay(note) => {
                let tag = Tag { queue, slot: head };
                match disk.recover(tag, note) {
                    Recovered::Anew => continue,
                    Recovered::Resumes(ticket) => Recovery::Resumes(ticket),
                    Recovered::Settled(outcome) => {
                        let record = Noted::from(&outcome);
                        // Before anything is begun by which the zone would tell another story.
                        journals.record(tag, &record);
                        match record {
                            Noted::Settled { status, appended } => Recovery::Settled { status, appended },
                            Noted::UnderWay(_) => continue,
                        }
                    }
                }
            }
        };
        if let Some(left) = left.get_mut(usize::from(queue)) {
            left.add(head, recovery);
        }
    }
    left
}

/// Has the disk know what its layers had chosen for requests.
fn recall(disk: &Arc<dyn ZonedDevice>, region: &Inflight) {
    for queue in 0..region.queues() {
        for head in (0..region.entries()).filter(|head| region.is_taken(queue, *head)) {
            let Some(at) = region.record(queue, head) else { continue };
            let choice: u64 = region.load(at + CHOICE);
            let settled = matches!(Noted::load(region, at), Some(Noted::Settled { .. }));
            if choice != 0 {
                disk.recall(Tag { queue, slot: head }, choice, settled);
            }
        }
    }
}

/// The records of all requests that are marked as taken.
fn records(region: &Inflight) -> Vec<(u16, u16, Noted)> {
    let mut found = Vec::new();
    for queue in 0..region.queues() {
        for head in (0..region.entries()).filter(|head| region.is_taken(queue, *head)) {
            let record = region.record(queue, head).and_then(|at| Noted::load(region, at));
            found.extend(record.map(|record| (queue, head, record)));
        }
    }
    found
}
