//! Writes and appends: admission, placement, completion.
//!
//! A write to a sequential zone is *admitted* under the zone's lock: checked, its range reserved at the end of those
//! in flight. Then it is *placed*: its range of the zone is mapped to the file, new space being asked of the
//! housekeeper. After its I/O it has *landed*; landed writes without a gap before them are *committed*: the pointer
//! is stored and only then are they acknowledged. A failed write fails all behind it, and the zone admits no other
//! until all are back.

use std::sync::atomic::Ordering;

use super::clearing::Clearing;
use super::keeper::{Job, run_at};
use super::zones::{Inner, lock};
use super::{
    Batch, Event, Note, Op, Refusal, Reply, Reserved, Segment, Step, Tag, Ticket, Work, ZonedStore, sequential,
};
use crate::storage::Medium;
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::zone::{Refusal as ZoneRefusal, State};

/// A write that asks its zone for admission.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) tag: Tag,
    pub(super) zone: ZoneIndex,
    /// Where the guest wants it; `None` for an append.
    pub(super) at: Option<Bytes>,
    pub(super) len: Bytes,
}

enum Admitted {
    /// The range begins here and is reserved.
    At(Bytes),
    /// Nothing to write.
    Empty(Bytes),
    /// The request is retried later.
    Waits,
    /// The zone has to be opened first.
    NeedsOpen,
}

impl<S: Medium> ZonedStore<S> {
    pub(super) fn write(
        &self,
        tag: Tag,
        op: Op,
        start: Bytes,
        len: Bytes,
        segments: &mut Vec<Segment>,
    ) -> Result<Step, Refusal> {
        let Some(zone) = self.geometry.zone_at(start) else {
            // Only an empty write at the very end of the device starts in no zone.
            return Ok(Step::Done(Ok(Reply::Done)));
        };
        if sequential(&self.geometry, zone) {
            return self.write_sequential(Candidate { tag, zone, at: Some(start), len }, op, segments);
        }
        match self.zones_of(start, len) {
            None => Ok(Step::Done(Ok(Reply::Done))),
            Some((_, last)) if sequential(&self.geometry, last) => Err(ZoneRefusal::InvalidCommand.into()),
            Some(_) => self.place_conventional(tag, start, len, segments),
        }
    }

    pub(super) fn append(
        &self,
        tag: Tag,
        op: Op,
        zone: Sector,
        len: Bytes,
        segments: &mut Vec<Segment>,
    ) -> Result<Step, Refusal> {
        let zone = zone.to_bytes().and_then(|start| self.geometry.zone_starting_at(start));
        let zone = zone.ok_or(ZoneRefusal::InvalidCommand)?;
        self.write_sequential(Candidate { tag, zone, at: None, len }, op, segments)
    }

    fn write_sequential(&self, candidate: Candidate, op: Op, segments: &mut Vec<Segment>) -> Result<Step, Refusal> {
        let append = candidate.at.is_none();
        match self.admit(candidate)? {
            Admitted::At(start) => self.place(candidate.tag, candidate.zone, start, candidate.len, append, segments),
            Admitted::Empty(start) if append => Ok(Step::Done(Ok(Reply::Appended(start.to_sector())))),
            Admitted::Empty(_) => Ok(Step::Done(Ok(Reply::Done))),
            Admitted::Waits | Admitted::NeedsOpen => {
                Ok(Step::Parked(Ticket { tag: candidate.tag, work: Work::Fresh(op) }))
            }
        }
    }

    /// Checks a write against its zone and reserves its range, opening the zone where needed. The fast path takes
    /// the zone's own lock only.
    fn admit(&self, candidate: Candidate) -> Result<Admitted, ZoneRefusal> {
        let admitted = self.try_admit(&mut self.zones.inner(candidate.zone), candidate)?;
        if !matches!(admitted, Admitted::NeedsOpen) {
            return Ok(admitted);
        }
        // The state cannot change between the opening and the reservation while `resources` is held.
        let mut resources = lock(&self.resources);
        resources.open_for_write(&self.zones, &self.geometry, candidate.zone)?;
        self.try_admit(&mut self.zones.inner(candidate.zone), candidate)
    }

    fn try_admit(&self, inner: &mut Inner, candidate: Candidate) -> Result<Admitted, ZoneRefusal> {
        let Candidate { tag, zone: index, at, len } = candidate;
        let admission = match at {
            Some(start) => inner.zone.check_write(&self.geometry, index, start, len, self.granularity)?,
            None => inner.zone.check_append(&self.geometry, index, len, self.granularity)?,
        };
        if len == Bytes(0) {
            return Ok(Admitted::Empty(admission.start));
        }
        if inner.gated() {
            inner.traffic().wait(tag);
            return Ok(Admitted::Waits);
        }
        if admission.needs_open {
            return Ok(Admitted::NeedsOpen);
        }
        let stamp = match self.geometry.max_open_zones() {
            0 => 0,
            _ => self.stamps.fetch_add(1, Ordering::Relaxed),
        };
        let (start, end, append) = (admission.start, Bytes(admission.start.0 + len.0), at.is_none());
        inner.zone.reserve(len, stamp);
        inner.traffic().admit(tag, start, end, append);
        self.note(tag, Note::Reserved(Reserved { zone: index, start, end, append }));
        Ok(Admitted::At(start))
    }

    /// Gives a write the range that it had in the last process. False where it cannot have it.
    pub(super) fn admit_again(&self, candidate: Candidate) -> bool {
        matches!(self.admit(candidate), Ok(Admitted::At(_)))
    }

    /// Finds where a reserved write goes in the file, or asks for the space.
    pub(super) fn place(
        &self,
        tag: Tag,
        zone: ZoneIndex,
        start: Bytes,
        len: Bytes,
        append: bool,
        segments: &mut Vec<Segment>,
    ) -> Result<Step, Refusal> {
        let ticket = Ticket { tag, work: Work::Reserved { zone, start, len, append } };
        let end = Bytes(start.0 + len.0);
        if self.wait_for_clearing(&mut self.zones.inner(zone), zone, tag) {
            return Ok(Step::Parked(ticket));
        }
        if self.mapped(zone, start, end, segments) {
            self.map_ahead(zone, end, len);
            return Ok(Step::Io(ticket));
        }
        self.ask(Job::Map { zone, from: start, to: end, waiter: tag, reserved: true });
        Ok(Step::Parked(ticket))
    }

    /// Has space mapped for the writes behind one that ends at `end`, before they come, where there is little left. `write` is
    /// its length.
    fn map_ahead(&self, zone: ZoneIndex, end: Bytes, write: Bytes) {
        let want = Bytes(end.0 + run_at(&self.geometry, zone, end) / 2).min(self.geometry.writable_end(zone));
        let short = self.zones.inner(zone).map.as_mut().and_then(|map| map.short_of(end, want));
        if let Some(from) = short {
            self.ask(Job::Ahead { zone, from, write });
        }
    }

    /// Finds where a write to conventional zones goes in the file, or asks for the space.
    pub(super) fn place_conventional(
        &self,
        tag: Tag,
        start: Bytes,
        len: Bytes,
        segments: &mut Vec<Segment>,
    ) -> Result<Step, Refusal> {
        let ticket = Ticket { tag, work: Work::Conventional { start, len } };
        let end = start.0 + len.0;
        let mut at = start.0;
        while let Some(zone) = self.geometry.zone_at(Bytes(at)).filter(|_| at < end) {
            let until = end.min(self.geometry.writable_end(zone).0);
            if !self.mapped(zone, Bytes(at), Bytes(until), segments) {
                self.ask(Job::Map { zone, from: Bytes(at), to: Bytes(until), waiter: tag, reserved: false });
                return Ok(Step::Parked(ticket));
            }
            at = until;
        }
        Ok(Step::Io(ticket))
    }

    /// Appends the file's pieces of a range of one zone; false where some of it is not mapped or not known.
    fn mapped(&self, zone: ZoneIndex, start: Bytes, end: Bytes, segments: &mut Vec<Segment>) -> bool {
        let inner = self.zones.inner(zone);
        match inner.map.as_ref().filter(|map| map.covers(start, end)) {
            Some(map) => !map.segments(start, end, segments),
            None => false,
        }
    }

    /// Stores the pointer of a zone as far as its writes have landed and answers them.
    pub(super) fn commit_zone(&self, index: ZoneIndex, events: &mut Vec<Event>) {
        let commit = self.zones.commit(index);
        let landed = self.zones.inner(index).traffic().landed_end();
        let stored = landed.map(|end| self.table.store(index, end));
        let mut inner = self.zones.inner(index);
        match (landed, stored) {
            (Some(end), Some(Ok(()))) => inner.zone.commit(end),
            (_, Some(Err(error))) => {
                log::error!("the write pointer of zone {index} could not be stored: {error}");
                let pointer = inner.zone.write_pointer();
                inner.traffic().fail_from(pointer);
            }
            _ => {}
        }
        let pointer = inner.zone.write_pointer();
        let before = events.len();
        let drained = inner.traffic().settle(pointer, events);
        for event in events.iter().skip(before) {
            if let Event::Finished { tag, outcome } = event {
                self.journal(|journal| journal.settled(*tag, outcome));
            }
        }
        let rolled_back = drained && inner.traffic().take_failure();
        if rolled_back {
            inner.zone.roll_back();
            // What landed behind the failure stands beyond the pointer now.
            inner.clearing = Clearing::InDoubt;
        }
        if drained {
            inner.traffic().drained(events);
        }
        let full = pointer == self.geometry.writable_end(index) && inner.zone.state() != State::Full;
        inner.drop_idle_traffic();
        drop(inner);
        if full {
            lock(&self.resources).fill(&self.zones, &self.geometry, index);
            self.note_open(index);
        } else if rolled_back {
            lock(&self.resources).settle(&self.zones, &self.geometry, index);
        }
        drop(commit);
    }

    /// A write that was admitted cannot be placed: fails it and what is behind it.
    pub(super) fn fail_reserved(&self, zone: ZoneIndex, start: Bytes, batch: &mut Batch) {
        let failed = super::IoResult::Failed { good: Bytes(0) };
        self.zones.inner(zone).traffic().landed(start, failed, self.granularity);
        batch.mark_dirty(zone);
    }
}
