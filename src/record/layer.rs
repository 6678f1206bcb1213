//! The layer over the device at the bottom: what is accepted, what its answers are.
//!
//! A sequential zone's requests are accepted and answered where the device notes them ([`Journal`]), under the zone's lock, so that
//! the log has them in the order in which the zone has. What is not noted, flushes and writes to conventional zones, is
//! accepted as it begins and answered as its outcome comes up.

use std::sync::{Arc, OnceLock};

use super::entry::{Accepted, Ended, Entry};
use super::writer::{Log, answer};
use crate::observe::Kind;
use crate::store::device::Layer;
use crate::store::{
    Action, Batch, Event, IoKind, IoResult, Journal, Note, Op, Outcome, Recovered, Refusal, Reply, Reserved, Rewind,
    Segment, Step, Tag, Ticket, ZonedDevice,
};
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Records what passes a device.
pub struct Recorder {
    below: Arc<dyn ZonedDevice>,
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<Log>,
    geometry: Geometry,
    above: OnceLock<Box<dyn Journal>>,
}

impl Recorder {
    /// The layer over the device at the bottom, which writes to a log that is [begun](super::Session).
    pub fn over(below: Arc<dyn ZonedDevice>, log: Arc<Log>) -> Self {
        let shared = Arc::new(Shared { log, geometry: *below.geometry(), above: OnceLock::new() });
        below.set_journal(Box::new(Noting(Arc::clone(&shared))));
        Self { below, shared }
    }

    fn log(&self) -> &Log {
        &self.shared.log
    }

    /// Takes note of what becomes of a request. A step that is its end is in the file before anybody hears of it.
    fn follow(&self, tag: Tag, step: Step, segments: &[Segment]) -> Step {
        match &step {
            Step::Io(ticket) if ticket.io_kind() == IoKind::Write => self.log().placed(tag, segments),
            Step::Done(outcome) => {
                self.log().answer(tag, outcome);
                self.log().write_out();
            }
            Step::Io(_) | Step::Parked(_) => {}
        }
        step
    }

    /// A write to conventional zones is accepted once it is begun.
    fn accept_conventional(&self, tag: Tag, op: Op, step: &Step) {
        let Op::Write { start, len } = op else { return };
        let place = start.to_bytes().unwrap_or_default();
        let Some(zone) = self.shared.conventional(place).filter(|_| !matches!(step, Step::Done(_))) else { return };
        self.log().accept(Accepted {
            tag: Some(tag),
            kind: Kind::Write,
            zone: Some(zone),
            place,
            len: u32::try_from(len.0).unwrap_or(u32::MAX),
        });
    }

    /// Opening and closing change nothing that is noted.
    fn accept_open(&self, op: Op, step: &Step) {
        let Op::Manage { action, zone } = op else { return };
        let kind = match action {
            Action::Open => Kind::Open,
            Action::Close => Kind::Close,
            Action::Finish | Action::Reset => return,
        };
        if matches!(step, Step::Done(Ok(_))) {
            self.log().done_at_once(self.shared.of_zone(None, kind, self.shared.zone_at(zone)));
        }
    }

    fn look_through(&self, events: &[Event]) {
        for event in events {
            if let Event::Finished { tag, outcome } = event {
                self.log().answer(*tag, outcome);
            }
        }
        self.log().write_out();
    }
}

impl Shared {
    fn zone_at(&self, sector: Sector) -> Option<ZoneIndex> {
        sector.to_bytes().and_then(|at| self.geometry.zone_at(at))
    }

    fn conventional(&self, at: Bytes) -> Option<ZoneIndex> {
        self.geometry.zone_at(at).filter(|zone| self.geometry.kind(*zone) == ZoneKind::Conventional)
    }

    /// A request that has a zone and no data.
    fn of_zone(&self, tag: Option<Tag>, kind: Kind, zone: Option<ZoneIndex>) -> Accepted {
        let place = zone.map_or(Bytes(0), |zone| self.geometry.start(zone));
        Accepted { tag, kind, zone, place, len: 0 }
    }

    fn pass(&self, with: impl FnOnce(&dyn Journal)) {
        if let Some(above) = self.above.get() {
            with(above.as_ref());
        }
    }
}

impl Layer for Recorder {
    fn below(&self) -> &dyn ZonedDevice {
        &*self.below
    }

    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        if op == Op::Flush {
            self.log().accept(self.shared.of_zone(Some(tag), Kind::Flush, None));
        }
        let step = self.below.begin(tag, op, segments, batch);
        self.accept_conventional(tag, op, &step);
        self.accept_open(op, &step);
        self.follow(tag, step, segments)
    }

    fn flush_comes(&self, queue: u16) {
        self.log().append(&Entry::Flush { queue });
        self.below.flush_comes(queue);
    }

    fn resume(&self, ticket: Ticket, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let tag = ticket.tag();
        let step = self.below.resume(ticket, segments, batch);
        self.follow(tag, step, segments)
    }

    fn io_done(&self, ticket: Ticket, result: IoResult, batch: &mut Batch) {
        if let IoResult::Failed { good } = result
            && ticket.io_kind() == IoKind::Write
        {
            self.log().failed(ticket.tag(), good);
        }
        self.below.io_done(ticket, result, batch);
    }

    fn commit(&self, batch: &mut Batch) {
        self.below.commit(batch);
        self.look_through(&batch.events);
    }

    fn housekeep(&self, batch: &mut Batch) -> bool {
        let worked = self.below.housekeep(batch);
        self.look_through(&batch.events);
        worked
    }

    fn make_durable(&self) -> Result<(), Refusal> {
        let of = self.log().accept(self.shared.of_zone(None, Kind::Flush, None));
        let done = self.below.make_durable();
        let outcome = done.map(|()| Reply::Done);
        self.log().append_and_write(&answer(of, &outcome));
        done
    }

    fn poke(&self, at: Bytes, content: &[u8]) -> Result<(), Refusal> {
        self.below.poke(at, content)?;
        self.log().append_and_write(&Entry::Poked { at, content: content.to_vec() });
        Ok(())
    }

    fn rewind(&self, to: &Rewind, fails: bool) -> Result<(), Refusal> {
        self.below.rewind(to, fails)?;
        for (at, content) in &to.blocks {
            self.log().append(&Entry::Block { at: *at, content: content.clone() });
        }
        self.log().append_and_write(&Entry::Cut { fails, pointers: to.pointers.clone() });
        Ok(())
    }

    fn set_journal(&self, journal: Box<dyn Journal>) {
        if self.shared.above.set(journal).is_err() {
            log::error!("the journal above the recording was set twice; the first one stays");
        }
    }

    fn recover(&self, tag: Tag, note: Note) -> Recovered {
        let recovered = self.below.recover(tag, note);
        if let Recovered::Settled(outcome) = &recovered {
            self.log().answer_left_behind(tag, outcome);
        }
        recovered
    }
}

/// The notes of the device below, on their way to whoever keeps them.
struct Noting(Arc<Shared>);

impl Journal for Noting {
    fn note(&self, tag: Tag, note: Note) {
        let Shared { log, .. } = &*self.0;
        match note {
            Note::Reserved(Reserved { zone, start, end, append }) => {
                let kind = if append { Kind::Append } else { Kind::Write };
                let len = u32::try_from(end.0.saturating_sub(start.0)).unwrap_or(u32::MAX);
                log.accept(Accepted { tag: Some(tag), kind, zone: Some(zone), place: start, len });
            }
            Note::Resets(zone) => _ = log.accept(self.0.of_zone(Some(tag), Kind::Reset, Some(zone))),
            Note::Finishes(zone) => _ = log.accept(self.0.of_zone(Some(tag), Kind::Finish, Some(zone))),
            Note::ResetUpTo(zone) => log.comes_to(self.0.of_zone(Some(tag), Kind::ResetAll, Some(zone))),
        }
        if !matches!(note, Note::Reserved(_)) {
            // Its pointer is stored next, which is not to run ahead of the log. No lock of the device is held over this one.
            log.write_out();
        }
        self.0.pass(|journal| journal.note(tag, note));
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        self.0.log.answer(tag, outcome);
        self.0.pass(|journal| journal.settled(tag, outcome));
    }

    fn chosen(&self, tag: Tag, choice: u64) {
        self.0.pass(|journal| journal.chosen(tag, choice));
    }

    fn emptied(&self, zone: ZoneIndex, from: Bytes) {
        self.0.pass(|journal| journal.emptied(zone, from));
    }

    fn filled(&self, zone: ZoneIndex, from: Bytes) {
        // A finish of a full zone is noted by nothing else.
        if from == self.0.geometry.writable_end(zone) && !self.0.log.finishes(zone) {
            self.0.log.done_at_once(self.0.of_zone(None, Kind::Finish, Some(zone)));
        }
        self.0.pass(|journal| journal.filled(zone, from));
    }

    fn explicitly_open(&self, zone: ZoneIndex, open: bool) {
        self.0.pass(|journal| journal.explicitly_open(zone, open));
    }

    fn power_lost(&self, fails: bool) {
        self.0.log.forget_requests();
        self.0.pass(|journal| journal.power_lost(fails));
    }
}

/// What happens beside the device's own requests.
impl Log {
    /// A mark is set: it is in the file when this returns.
    pub fn mark(&self, text: &str) {
        self.append_and_write(&Entry::Mark(text.to_owned()));
    }

    /// The disk is closed in order.
    pub fn end(&self) {
        self.append_and_write(&Entry::End(Ended::Orderly));
    }
}

/// Notes of the layers above, of which those are recorded that say that a rule for faults has failed a request.
pub struct Faulted<J> {
    log: Arc<Log>,
    above: J,
}

impl<J: Journal> Faulted<J> {
    /// The notes on their way to whoever keeps them.
    pub fn new(log: Arc<Log>, above: J) -> Self {
        Self { log, above }
    }
}

impl<J: Journal> Journal for Faulted<J> {
    fn note(&self, tag: Tag, note: Note) {
        self.above.note(tag, note);
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        if let Err(refusal @ Refusal::Injected { .. }) = outcome {
            self.log.append(&Entry::Fault { of: self.log.accepted(tag), text: refusal.to_string() });
        }
        self.above.settled(tag, outcome);
    }

    fn chosen(&self, tag: Tag, choice: u64) {
        self.above.chosen(tag, choice);
    }

    fn emptied(&self, zone: ZoneIndex, from: Bytes) {
        self.above.emptied(zone, from);
    }

    fn filled(&self, zone: ZoneIndex, from: Bytes) {
        self.above.filled(zone, from);
    }

    fn explicitly_open(&self, zone: ZoneIndex, open: bool) {
        self.above.explicitly_open(zone, open);
    }

    fn power_lost(&self, fails: bool) {
        self.above.power_lost(fails);
    }
}
