//! Zone management: open, close, finish, reset, and the reset of all zones.
//!
//! Finish and reset need their zone alone: they wait until the writes in flight are back, and writes that come
//! meanwhile wait for them. Whoever has a zone alone gives it up on every way out.

use super::clearing::Clearing;
use super::keeper::Job;
use super::zones::lock;
use super::{Action, Batch, Event, Note, Op, Refusal, Reply, Step, Tag, Ticket, Work, ZonedStore, sequential};
use crate::storage::Medium;
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::zone::{Refusal as ZoneRefusal, Resources, State};

/// How many zones a reset of all does before other requests of the same queue get their turn.
const RESET_ALL_ROUND: u32 = 128;

impl<S: Medium> ZonedStore<S> {
    pub(super) fn manage(
        &self,
        tag: Tag,
        op: Op,
        action: Action,
        zone: Sector,
        batch: &mut Batch,
    ) -> Result<Step, Refusal> {
        let zone = zone.to_bytes().and_then(|start| self.geometry.zone_starting_at(start));
        let zone = zone.filter(|zone| sequential(&self.geometry, *zone)).ok_or(ZoneRefusal::InvalidCommand)?;
        let parked = Ok(Step::Parked(Ticket { tag, work: Work::Fresh(op) }));
        match action {
            Action::Open => {
                lock(&self.resources).open_explicitly(&self.zones, &self.geometry, zone)?;
                self.note_open(zone);
                self.note_done(tag);
            }
            Action::Close => {
                lock(&self.resources).close(&self.zones, &self.geometry, zone)?;
                self.note_open(zone);
                self.note_done(tag);
                self.zones.inner(zone).drop_idle_traffic();
            }
            Action::Reset => {
                if !self.reset(tag, zone, false, &mut batch.events)? {
                    return parked;
                }
            }
            Action::Finish => return self.finish(tag, op, zone, &mut batch.events),
        }
        Ok(Step::Done(Ok(Reply::Done)))
    }

    /// Resets one zone, for its own sake or as one of all; false where the request waits to have it alone.
    fn reset(&self, tag: Tag, zone: ZoneIndex, of_all: bool, events: &mut Vec<Event>) -> Result<bool, Refusal> {
        let alone = {
            let mut inner = self.zones.inner(zone);
            // The housekeeper's steps are those of one clearing; that of the reset comes behind them.
            let waits = inner.is_clearing_tail(&self.geometry, zone) && self.wait_for_clearing(&mut inner, zone, tag);
            Resources::check_reset(&inner.zone).map(|()| !waits && inner.traffic().take_exclusive(tag))
        };
        let done = match alone {
            Ok(false) => return Ok(false),
            Ok(true) => {
                self.note(tag, if of_all { Note::ResetUpTo(zone) } else { Note::Resets(zone) });
                self.reset_alone(zone)
            }
            Err(refusal) => Err(refusal.into()),
        };
        match (&done, of_all) {
            (Ok(()), true) => self.note(tag, Note::ResetUpTo(ZoneIndex(zone.0 + 1))),
            (Ok(()), false) => self.note_done(tag),
            (Err(_), _) => {}
        }
        self.give_up(tag, zone, events);
        done.map(|()| true)
    }

    fn reset_alone(&self, zone: ZoneIndex) -> Result<(), Refusal> {
        let start = self.geometry.start(zone);
        let commit = self.zones.commit(zone);
        let pointer = self.zones.inner(zone).zone.write_pointer();
        let written = pointer > start;
        if written {
            self.store_pointer(zone, start)?;
            // Where resets are held, a write, or whoever holds them, asks for the clearing.
            self.zones.inner(zone).clearing = if self.hold_resets { Clearing::InDoubt } else { Clearing::Asked };
        }
        drop(commit);
        lock(&self.resources).reset(&self.zones, &self.geometry, zone)?;
        self.note_open(zone);
        if written {
            self.journal(|journal| journal.emptied(zone, pointer));
            if !self.hold_resets {
                self.ask(Job::Clear { zone, reset: true });
            }
        }
        Ok(())
    }

    /// Resets every sequential zone from `next` on, a round at a time.
    pub(super) fn reset_all(&self, tag: Tag, next: ZoneIndex, batch: &mut Batch) -> Result<Step, Refusal> {
        let mut round = RESET_ALL_ROUND;
        for zone in (next.0..self.geometry.nr_zones()).map(ZoneIndex) {
            let parked = Ok(Step::Parked(Ticket { tag, work: Work::ResetAll { next: zone } }));
            let state = self.zones.inner(zone).zone.state();
            match state {
                State::NotWp | State::Empty | State::ReadOnly | State::Offline => {
                    // The zone this waited for may be empty by now: its writes have failed.
                    if zone == next {
                        self.give_up(tag, zone, &mut batch.events);
                    }
                    continue;
                }
                State::ImplicitOpen | State::ExplicitOpen | State::Closed | State::Full => {}
            }
            if round == 0 {
                batch.events.push(Event::Retry { tag });
                return parked;
            }
            round -= 1;
            if !self.reset(tag, zone, true, &mut batch.events)? {
                return parked;
            }
        }
        self.note_done(tag);
        Ok(Step::Done(Ok(Reply::Done)))
    }

    fn finish(&self, tag: Tag, op: Op, zone: ZoneIndex, events: &mut Vec<Event>) -> Result<Step, Refusal> {
        let parked = Ok(Step::Parked(Ticket { tag, work: Work::Fresh(op) }));
        let mut inner = self.zones.inner(zone);
        let outcome = match inner.zone.state() {
            State::Full => {
                self.journal(|journal| journal.filled(zone, self.geometry.writable_end(zone)));
                Ok(Reply::Done)
            }
            State::NotWp | State::ReadOnly | State::Offline => Err(ZoneRefusal::InvalidCommand),
            State::Empty | State::ImplicitOpen | State::ExplicitOpen | State::Closed => {
                if self.wait_for_clearing(&mut inner, zone, tag) || !inner.traffic().take_exclusive(tag) {
                    return parked;
                }
                drop(inner);
                self.ask(Job::Finish { zone, waiter: tag });
                return Ok(Step::Parked(Ticket { tag, work: Work::FinishCleared { zone } }));
            }
        };
        drop(inner);
        self.give_up(tag, zone, events);
        Ok(Step::Done(outcome.map_err(Refusal::from)))
    }

    /// Goes on with a finish whose unwritten part has been cleared.
    pub(super) fn finish_cleared(&self, tag: Tag, zone: ZoneIndex, events: &mut Vec<Event>) -> Result<Step, Refusal> {
        self.note(tag, Note::Finishes(zone));
        let done = self.finish_alone(zone);
        if done.is_ok() {
            self.note_done(tag);
        }
        self.give_up(tag, zone, events);
        done.map(|()| Step::Done(Ok(Reply::Done)))
    }

    fn finish_alone(&self, zone: ZoneIndex) -> Result<(), Refusal> {
        // The limits are checked, and what they allow is taken, before the pointer is stored: afterwards it is full
        // whatever happens.
        lock(&self.resources).open_for_write(&self.zones, &self.geometry, zone)?;
        let commit = self.zones.commit(zone);
        let pointer = self.zones.inner(zone).zone.write_pointer();
        let stored = self.store_pointer(zone, self.table.full_pointer(zone));
        drop(commit);
        let mut resources = lock(&self.resources);
        match stored {
            Ok(()) => resources.fill(&self.zones, &self.geometry, zone),
            Err(_) => resources.settle(&self.zones, &self.geometry, zone),
        }
        drop(resources);
        self.note_open(zone);
        if stored.is_ok() {
            self.journal(|journal| journal.filled(zone, pointer));
        }
        stored
    }

    fn store_pointer(&self, zone: ZoneIndex, pointer: Bytes) -> Result<(), Refusal> {
        self.table.store(zone, pointer).map_err(|error| {
            log::error!("the write pointer of zone {zone} could not be stored: {error}");
            Refusal::Io
        })
    }

    /// Ends the time a request has a zone alone, where it had it.
    pub(super) fn give_up(&self, tag: Tag, zone: ZoneIndex, events: &mut Vec<Event>) {
        let mut inner = self.zones.inner(zone);
        inner.traffic().release_exclusive(tag, events);
        inner.drop_idle_traffic();
    }
}
