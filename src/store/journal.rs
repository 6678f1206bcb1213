//! What is noted of requests in flight, so that a successor of this process can answer each of them exactly once (P2).
//!
//! A request that changes a zone must not simply be done again after this process died: a write that has landed would
//! be answered with "unaligned", an append would land twice, a reset would run over what was written after it. So
//! the store notes three things, each before anything can follow from it:
//!
//! * the range that a write or an append was given, under the lock of its zone, so that ranges are noted in the order
//!   in which they were given;
//! * which zone a reset or a finish is about to change, and how far a reset of all zones has come;
//! * the outcome of a request that changed a zone or failed after a range was given to it, before the zone is let go.
//!
//! The successor asks [`ZonedStore::recover`] for each note, lowest range first and before any request is begun: what
//! lies below the zone's pointer has landed, what goes on from the pointer keeps its range, and what has left no
//! trace is done anew. A zone that stands where a reset or a finish was to bring it counts as brought there: had the
//! request not come to it, it need not any more. Requests without a note have changed nothing that doing them again
//! would not change likewise.

use std::cmp::Ordering;

use super::write::Candidate;
use super::zones::lock;
use super::{Batch, IoResult, Outcome, Refusal, Reply, Tag, Ticket, Work, ZonedStore, sequential};
use crate::storage::Medium;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, State};

/// The range of a sequential zone that a write or an append was given, as absolute positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// The zone.
    pub zone: ZoneIndex,
    /// Where its data begins.
    pub start: Bytes,
    /// Where it ends.
    pub end: Bytes,
    /// Whether the answer names the place.
    pub append: bool,
}

/// What the last process noted of a request that changes zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It was given a range.
    Reserved(Reserved),
    /// It resets this zone.
    Resets(ZoneIndex),
    /// It finishes this zone.
    Finishes(ZoneIndex),
    /// It resets all zones: those before this one are done, and this one is next.
    ResetUpTo(ZoneIndex),
}

/// Where the notes go. Called with locks of the store held: quick, and never back into the store.
pub trait Journal: Send + Sync {
    /// Notes what a request has come to. A later note replaces an earlier one.
    fn note(&self, tag: Tag, note: Note);
    /// Notes the outcome of a request that changes zones.
    fn settled(&self, tag: Tag, outcome: &Outcome);
    /// Notes what a layer has chosen to do with a request, in words of its own that are not 0, before anything is done for it.
    fn chosen(&self, tag: Tag, choice: u64);
    /// Notes that a zone was made empty, whose pointer stood at `from`. The request has the zone alone.
    fn emptied(&self, zone: ZoneIndex, from: Bytes);
    /// Notes that a zone was made full, whose pointer stood at `from`, or was full already. The request has the zone alone.
    fn filled(&self, zone: ZoneIndex, from: Bytes);
    /// Notes whether a zone is explicitly open.
    fn explicitly_open(&self, zone: ZoneIndex, open: bool);
    /// Notes that all requests in flight are lost with the power: until the device is reset requests fail, or are not answered.
    fn power_lost(&self, fails: bool);
}

/// What becomes of a request that the last process left behind.
#[derive(Debug)]
pub enum Recovered {
    /// It was done, or has failed.
    Settled(Outcome),
    /// It keeps what it was given: `resume` its ticket, or `abandon` it.
    Resumes(Ticket),
    /// It is to be begun anew.
    Anew,
}

impl<S: Medium> ZonedStore<S> {
    /// Sets, once, where notes go.
    pub fn set_journal(&self, journal: Box<dyn Journal>) {
        if self.journal.set(journal).is_err() {
            log::error!("the store's journal was set twice; the first one stays");
        }
    }

    pub(super) fn journal(&self, with: impl FnOnce(&dyn Journal)) {
        if let Some(journal) = self.journal.get() {
            with(journal.as_ref());
        }
    }

    /// Says what becomes of a request by the note that was found of it. Of one zone the lowest range comes first; no
    /// request of its zone has been begun yet. Notes are not trusted.
    pub fn recover(&self, tag: Tag, note: Note) -> Recovered {
        match note {
            Note::Reserved(reserved) => self.recover_write(tag, reserved),
            Note::Resets(zone) if self.stands_at(zone, |geometry| geometry.start(zone)) => {
                Recovered::Settled(Ok(Reply::Done))
            }
            Note::Finishes(zone) if self.stands_at(zone, |geometry| geometry.writable_end(zone)) => {
                Recovered::Settled(Ok(Reply::Done))
            }
            Note::Resets(_) | Note::Finishes(_) => Recovered::Anew,
            Note::ResetUpTo(next) => {
                let done = self.stands_at(next, |geometry| geometry.start(next));
                let next = if done { ZoneIndex(next.0 + 1) } else { next };
                Recovered::Resumes(Ticket { tag, work: Work::ResetAll { next } })
            }
        }
    }

    /// Whether this is a sequential zone whose pointer stands there.
    fn stands_at(&self, zone: ZoneIndex, place: impl FnOnce(&Geometry) -> Bytes) -> bool {
        self.is_sequential(zone) && self.zones.inner(zone).zone.write_pointer() == place(&self.geometry)
    }

    /// Whether a zone that is named from outside is there and sequential.
    fn is_sequential(&self, zone: ZoneIndex) -> bool {
        zone.0 < self.geometry.nr_zones() && sequential(&self.geometry, zone)
    }

    fn recover_write(&self, tag: Tag, reserved: Reserved) -> Recovered {
        let Reserved { zone, start, end, append } = reserved;
        if !self.is_sequential(zone)
            || start < self.geometry.start(zone)
            || end > self.geometry.writable_end(zone)
            || start >= end
        {
            return Recovered::Anew;
        }
        let (pointer, next) = {
            let inner = self.zones.inner(zone);
            (inner.zone.write_pointer(), inner.zone.reserved())
        };
        if end <= pointer {
            return Recovered::Settled(Ok(if append { Reply::Appended(start.to_sector()) } else { Reply::Done }));
        }
        match start.cmp(&pointer) {
            // Its first part has landed and the rest was lost with the process.
            Ordering::Less => Recovered::Settled(Err(Refusal::Io)),
            _ if start == next => {
                let candidate = Candidate { tag, zone, at: (!append).then_some(start), len: Bytes(end.0 - start.0) };
                match self.admit_again(candidate) {
                    true => Recovered::Resumes(Ticket {
                        tag,
                        work: Work::Reserved { zone, start, len: candidate.len, append },
                    }),
                    false => Recovered::Anew,
                }
            }
            _ => Recovered::Anew,
        }
    }

    /// Gives up a recovered request that nobody will resume. Its range is free again.
    pub fn abandon(&self, ticket: Ticket) {
        let mut batch = Batch::default();
        if matches!(ticket.work, Work::Reserved { .. }) {
            self.io_done(ticket, IoResult::Failed { good: Bytes(0) }, &mut batch);
            self.commit(&mut batch);
        }
    }

    /// Opens a zone that was explicitly open before this process was started. The limits hold as ever.
    pub fn reopen(&self, zone: ZoneIndex) {
        if self.is_sequential(zone)
            && let Err(refusal) = lock(&self.resources).open_explicitly(&self.zones, &self.geometry, zone)
        {
            log::warn!("zone {zone} was explicitly open and cannot be opened again: {refusal}");
        }
    }

    /// The explicitly open zones.
    pub fn explicitly_open_zones(&self) -> Vec<ZoneIndex> {
        let zones = (self.geometry.conventional_zones()..self.geometry.nr_zones()).map(ZoneIndex);
        zones.filter(|zone| self.zones.inner(*zone).zone.state() == State::ExplicitOpen).collect()
    }

    /// Notes whether a zone whose state has changed is explicitly open now.
    pub(super) fn note_open(&self, zone: ZoneIndex) {
        self.journal(|journal| {
            journal.explicitly_open(zone, self.zones.inner(zone).zone.state() == State::ExplicitOpen);
        });
    }

    /// Notes what a request has come to.
    pub(super) fn note(&self, tag: Tag, note: Note) {
        self.journal(|journal| journal.note(tag, note));
    }

    /// Notes that a request that changes zones is done.
    pub(super) fn note_done(&self, tag: Tag) {
        self.journal(|journal| journal.settled(tag, &Ok(Reply::Done)));
    }
}
