//! The layer over a device: looks at each request that comes, and at how each ends.
//!
//! Without rules a request costs one relaxed load more. With rules each is looked at under one lock, which is never held while
//! the device below is called; the device calls back with its own locks held (notes), so that this lock comes last.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::old::OldBlocks;
use super::patches::{Change, Patch};
use super::rule::{Action, Corruption, Landed, Subject, flips};
use super::saved::Saved;
use super::shared::{Noting, Shared};
use super::state::{Act, Choice, Stage, State};
use crate::store::device::Layer;
use crate::store::{
    Batch, Doorbell, Event, Failure, Journal, Note, Op, Outcome, Recovered, Refusal, Reply, Segment, Step, Tag, Ticket,
    ZonedDevice,
};
use crate::units::{Bytes, FileOffset, Sector, ZoneIndex};
use crate::zone::ZoneKind;

/// Writes down the rules and what became of zones. Blocking, by the housekeeper's thread.
pub type Keep = Box<dyn Fn(&Saved) -> io::Result<()> + Send + Sync>;

/// The layer. See the module's documentation.
pub struct Faults {
    pub(super) below: Arc<dyn ZonedDevice>,
    pub(super) shared: Arc<Shared>,
    /// The unit of writes.
    block: u64,
    keep: OnceLock<Keep>,
    pub(super) old: OldBlocks,
}

impl Faults {
    /// The layer over a device that is written in units of `block`. There are no rules.
    pub fn over(below: Arc<dyn ZonedDevice>, block: Bytes) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        below.set_journal(Box::new(Noting(Arc::clone(&shared))));
        Arc::new(Self { below, shared, block: block.0.max(1), keep: OnceLock::new(), old: OldBlocks::default() })
    }

    /// Sets, once, who writes down the rules.
    pub fn set_keep(&self, keep: Keep) {
        if self.keep.set(keep).is_err() {
            log::error!("who keeps the rules was set twice; the first stays");
        }
        self.shared.with(|state| state.is_kept = true);
    }

    /// Takes the time, from any moment on, and lets go what is late enough. Returns how long it is until somebody has to do so
    /// again. [`housekeep`](ZonedDevice::housekeep) follows.
    pub fn time_is(&self, now: Duration) -> Option<Duration> {
        if !self.shared.is_busy() {
            return None;
        }
        self.shared.with(|state| state.time_is(now))
    }

    fn subject(&self, queue: u16, op: Op) -> Subject {
        let geometry = self.below.geometry();
        let byte = |sector: Sector| sector.to_bytes().unwrap_or(Bytes(u64::MAX));
        let zone_at = |at: u64| geometry.zone_at(Bytes(at)).map(|zone| (zone, zone));
        let whole = |zone: ZoneIndex| geometry.start(zone).0..geometry.start(zone).0 + geometry.len(zone).0;
        let (zones, bytes) = match op {
            Op::Flush => (None, 0..0),
            Op::Read { start, len } | Op::Write { start, len } => {
                let start = byte(start).0;
                let end = start.saturating_add(len.0);
                let last = geometry.zone_at(Bytes(end.saturating_sub(1).max(start)));
                let first = geometry.zone_at(Bytes(start));
                (first.map(|first| (first, last.unwrap_or(first))), start..end)
            }
            Op::Report { start } => (zone_at(byte(start).0), byte(start).0..byte(start).0.saturating_add(512)),
            Op::Append { zone, len } => {
                let at = self.below.zone_now(zone).map_or(byte(zone), |now| now.next_write).0;
                (zone_at(byte(zone).0), at..at.saturating_add(len.0))
            }
            Op::Manage { zone, .. } => {
                let zones = zone_at(byte(zone).0);
                (zones, zones.map_or(0..0, |(zone, _)| whole(zone)))
            }
            Op::ResetAll => {
                let first = ZoneIndex(geometry.conventional_zones());
                let last = ZoneIndex(geometry.nr_zones().saturating_sub(1));
                ((first.0 <= last.0).then_some((first, last)), geometry.start(first).0..geometry.size().0)
            }
        };
        Subject { op, queue, zones, bytes }
    }

    /// Begins a request that rules may be about.
    fn look_at(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let subject = self.subject(tag.queue, op);
        let (choice, note) = self.shared.with(|state| state.choose(tag, &subject));
        if let Some(note) = note {
            self.shared.journal(|journal| journal.chosen(tag, note));
            self.shared.ring();
        }
        match choice {
            Choice::Passes => self.below.begin(tag, op, segments, batch),
            Choice::Waits => {
                self.shared.ring();
                Step::Parked(Ticket::fresh(tag, op))
            }
            Choice::Followed => self.start(tag, &subject, segments, batch),
        }
    }

    /// Begins a request that is followed.
    fn start(&self, tag: Tag, subject: &Subject, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let op = subject.op;
        let act = self.shared.with(|state| state.cases.get(&tag).and_then(|case| case.act.clone()));
        match act.as_ref().map(|act| act.action) {
            Some(Action::Fail { failure, landed }) => {
                let rule = act.as_ref().map_or(0, |act| act.rule);
                let seed = act.as_ref().map_or(0, |act| act.seed);
                self.fail_in_part(tag, subject, (rule, failure), (landed, seed), segments, batch)
            }
            Some(Action::Unreadable) => {
                let rule = act.map_or(0, |act| act.rule);
                self.end(tag, op, Err(Refusal::Injected { rule, failure: Failure::Io }))
            }
            Some(Action::Delay { after: false, .. } | Action::Hang) if !has_io(&op) => self.hold_back(tag, subject),
            _ => self.pass(tag, op, segments, batch),
        }
    }

    /// Has a request done below, all of it.
    fn pass(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let step = self.below.begin(tag, op, segments, batch);
        self.follow(tag, op, step, segments)
    }

    /// Has as much of a request done below as lands of it.
    fn fail_in_part(
        &self,
        tag: Tag,
        subject: &Subject,
        (rule, failure): (u16, Failure),
        (landed, seed): (Landed, u64),
        segments: &mut Vec<Segment>,
        batch: &mut Batch,
    ) -> Step {
        let len = subject.bytes.end - subject.bytes.start;
        let landed = match subject.op {
            Op::Write { .. } | Op::Append { .. } => landed.of(len, self.block, seed, subject.bytes.start),
            _ if landed == Landed::All => len,
            _ => 0,
        };
        let short = match subject.op {
            Op::Write { start, .. } => Op::Write { start, len: Bytes(landed) },
            Op::Append { zone, .. } => Op::Append { zone, len: Bytes(landed) },
            op => op,
        };
        let all = landed == len && (landed != 0 || subject.op == Op::ResetAll);
        if all || (landed != 0 && !self.would_take(subject)) {
            // What breaks a rule of the device is refused by the device: nothing of it lands.
            return self.pass(tag, subject.op, segments, batch);
        }
        if landed == 0 {
            return self.end(tag, subject.op, Err(Refusal::Injected { rule, failure }));
        }
        self.pass(tag, short, segments, batch)
    }

    /// Whether the device would take a write or an append of this length.
    fn would_take(&self, subject: &Subject) -> bool {
        let Range { start, end } = subject.bytes;
        let Some((first, last)) = subject.zones else { return false };
        let geometry = self.below.geometry();
        if geometry.kind(first) == ZoneKind::Conventional {
            return geometry.kind(last) == ZoneKind::Conventional && end <= geometry.size().0;
        }
        let Some(now) = self.below.zone_now(Bytes(start).to_sector()) else { return false };
        now.next_write.0 == start && end <= geometry.writable_end(first).0
    }

    /// Ends a request that is not begun below.
    fn end(&self, tag: Tag, op: Op, outcome: Outcome) -> Step {
        self.shared.journal(|journal| journal.settled(tag, &outcome));
        match self.shared.with(|state| state.answer(tag, outcome)) {
            Some(outcome) => Step::Done(outcome),
            None => Step::Parked(Ticket::fresh(tag, op)),
        }
    }

    /// Holds back a request that has no I/O, in its place among those of its zones.
    fn hold_back(&self, tag: Tag, subject: &Subject) -> Step {
        let held = self.shared.with(|state| {
            let by = state.cases.get(&tag).and_then(|case| case.act.as_ref()).and_then(lateness);
            let held = state.hold(tag, Stage::Held, by);
            if let Some(zones) = subject.zones.filter(|_| held && !matches!(subject.op, Op::Report { .. })) {
                state.close_gate(zones, Some(tag));
            }
            if !held && let Some(case) = state.cases.get_mut(&tag) {
                case.stage = Stage::Released;
                state.events.push(Event::Retry { tag });
            }
            held
        });
        log::debug!("request {} of queue {} is held back: {held}", tag.slot, tag.queue);
        self.shared.ring();
        Step::Parked(Ticket::fresh(tag, subject.op))
    }

    fn set_stage(&self, tag: Tag, stage: Stage) {
        self.shared.with(|state| {
            if let Some(case) = state.cases.get_mut(&tag) {
                case.stage = stage;
            }
        });
    }

    /// Looks at what the device below does with a request.
    fn follow(&self, tag: Tag, op: Op, step: Step, segments: &mut Vec<Segment>) -> Step {
        match step {
            Step::Parked(ticket) => Step::Parked(ticket),
            Step::Done(outcome) => match self.shared.with(|state| state.ended(tag, outcome)) {
                Some(outcome) => Step::Done(outcome),
                None => {
                    self.shared.ring();
                    Step::Parked(Ticket::fresh(tag, op))
                }
            },
            Step::Io(ticket) => {
                let Some(case) = self.shared.with(|state| state.cases.get(&tag).cloned()) else {
                    return Step::Io(ticket);
                };
                let Some(act) = case.act else { return Step::Io(ticket) };
                match act.action {
                    Action::Delay { after: false, .. } | Action::Hang if case.stage == Stage::Under => {
                        let by = lateness(&act);
                        if self.shared.with(|state| state.hold(tag, Stage::Held, by)) {
                            self.shared.ring();
                            return Step::Parked(ticket);
                        }
                    }
                    Action::Corrupt(corruption) => {
                        self.corrupt(tag, corruption, act.seed, &case.bytes, &act.part, segments);
                    }
                    // The rest of a write that is to fail in part.
                    Action::Fail { .. } if matches!(op, Op::Write { .. } | Op::Append { .. }) => {
                        segments.push(Segment::Lost);
                    }
                    _ => {}
                }
                Step::Io(ticket)
            }
        }
    }

    /// Has a part of what a read brings be wrong.
    fn corrupt(
        &self,
        tag: Tag,
        how: Corruption,
        seed: u64,
        read: &Range<u64>,
        part: &Range<u64>,
        segments: &mut Vec<Segment>,
    ) {
        match how {
            Corruption::Zero => *segments = zeroed(segments, read.start, part),
            Corruption::Old if !self.is_conventional(read.start) => *segments = zeroed(segments, read.start, part),
            Corruption::Old | Corruption::Flip(_) => {
                let changed: Vec<Patch> = match how {
                    Corruption::Flip(bits) => {
                        let flip = |(at, mask)| Patch { at, change: Change::Flip(mask) };
                        flips(part, bits, seed).into_iter().map(flip).collect()
                    }
                    _ => self.old.within(part),
                };
                let mut patches = Vec::new();
                let mut at = read.start;
                for segment in segments.iter() {
                    let end = at + length(segment);
                    if let Segment::File { depth, offset, .. } = segment {
                        let here = changed.iter().filter_map(|patch| patch.within(at, end));
                        patches.extend(here.map(|patch| (*depth, Patch { at: offset.0 + (patch.at - at), ..patch })));
                    }
                    at = end;
                }
                self.shared.patches.set(tag, patches);
            }
        }
    }

    fn is_conventional(&self, at: u64) -> bool {
        let geometry = self.below.geometry();
        geometry.zone_at(Bytes(at)).is_some_and(|zone| geometry.kind(zone) == ZoneKind::Conventional)
    }

    /// Keeps what writes to conventional zones are about to overwrite.
    fn keep_old(&self) -> bool {
        let overwrites = self.shared.with(|state| std::mem::take(&mut state.overwrites));
        for (tag, bytes) in &overwrites {
            let mut at = bytes.start / self.block * self.block;
            while at < bytes.end && self.is_conventional(at) {
                let mut content = vec![0; self.block as usize];
                if self.below.peek(Bytes(at), &mut content).is_ok() {
                    self.old.keep(at, content);
                }
                at += self.block;
            }
            self.shared.with(|state| state.was_kept(*tag));
        }
        !overwrites.is_empty()
    }

    /// Takes a look at the requests that a batch says are over.
    fn look_through(&self, events: &mut Vec<Event>) {
        if events.is_empty() || !self.shared.is_busy() {
            return;
        }
        let before = events.len();
        let waited_for = self.shared.with(|state| {
            events.retain_mut(|event| match event {
                Event::Finished { tag, outcome } => {
                    self.shared.patches.clear(*tag);
                    let answer = state.ended(*tag, *outcome);
                    *outcome = answer.unwrap_or(*outcome);
                    answer.is_some()
                }
                Event::Retry { .. } => true,
            });
            !state.changes.is_empty()
        });
        if waited_for || events.len() < before {
            self.shared.ring();
        }
    }

    /// Changes the zones that are to change and have nothing in flight.
    fn change_zones(&self) -> bool {
        let changes = self.shared.with(|state| std::mem::take(&mut state.changes));
        let mut changed = false;
        for (zone, offline) in changes {
            let taken = self.below.take_away(zone, offline);
            changed |= taken;
            self.shared.with(|state| match taken {
                true => state.was_taken(zone, offline),
                false => state.changes.push((zone, offline)),
            });
        }
        changed
    }

    /// Writes down what is to be, and tells whoever waits for that.
    fn save(&self) -> bool {
        let unsaved = self.shared.with(|state| state.unsaved());
        let over = match &unsaved {
            Some((change, saved)) => {
                if let Some(keep) = self.keep.get()
                    && let Err(error) = keep(saved)
                {
                    log::error!("the rules for faults could not be written down: {error}");
                }
                self.shared.with(|state| state.was_saved(*change))
            }
            None => self.shared.with(State::who_waits_no_more),
        };
        over.into_iter().for_each(|done| done());
        unsaved.is_some()
    }

    /// Does the flushes that rules are about: what they make stable is known when they are over.
    fn do_flushes(&self) -> bool {
        let syncs = self.shared.with(|state| std::mem::take(&mut state.syncs));
        for tag in &syncs {
            let outcome = self.below.make_durable().map(|()| Reply::Done);
            self.shared.with(|state| {
                if let Some(outcome) = state.ended(*tag, outcome) {
                    state.events.push(Event::Finished { tag: *tag, outcome });
                }
            });
        }
        !syncs.is_empty()
    }
}

/// Whether a request has data I/O, and so its place in its zone before that.
fn has_io(op: &Op) -> bool {
    matches!(op, Op::Read { .. } | Op::Write { .. } | Op::Append { .. })
}

/// How late a request is, where that has an end.
fn lateness(act: &Act) -> Option<Duration> {
    match act.action {
        Action::Delay { by, .. } => Some(by.of(act.seed, act.number)),
        _ => None,
    }
}

fn length(segment: &Segment) -> u64 {
    match segment {
        Segment::File { len, .. } | Segment::Zero { len } => len.0,
        Segment::Lost => 0,
    }
}

/// The same pieces, with zeros in place of a part of the disk. The first piece begins at `at`.
fn zeroed(segments: &[Segment], mut at: u64, part: &Range<u64>) -> Vec<Segment> {
    let mut out = Vec::new();
    for segment in segments {
        let end = at + length(segment);
        let (from, to) = (part.start.clamp(at, end), part.end.clamp(at, end));
        let mut piece = |from: u64, to: u64, zeros: bool| {
            let len = Bytes(to - from);
            match segment {
                _ if from == to => {}
                Segment::File { depth, offset, .. } if !zeros => {
                    let offset = FileOffset(offset.0 + (from - at));
                    out.push(Segment::File { depth: *depth, offset, len });
                }
                _ => out.push(Segment::Zero { len }),
            }
        };
        piece(at, from, false);
        piece(from, to, true);
        piece(to, end, false);
        at = end;
    }
    out
}

impl Layer for Arc<Faults> {
    fn below(&self) -> &dyn ZonedDevice {
        &*self.below
    }

    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        // A sync that a queue has done for those that wait for one is no request of a driver.
        if !self.shared.is_busy() || op == Op::Flush {
            return self.below.begin(tag, op, segments, batch);
        }
        self.look_at(tag, op, segments, batch)
    }

    fn flush_asked(&self, tag: Tag) -> Option<Step> {
        if !self.shared.is_busy() {
            return self.below.flush_asked(tag);
        }
        let released = self.shared.with(|state| match state.cases.get(&tag).map(|case| &case.stage) {
            Some(Stage::Released) => state.cases.remove(&tag).is_some(),
            _ => false,
        });
        if released {
            return self.below.flush_asked(tag);
        }
        let subject = self.subject(tag.queue, Op::Flush);
        let (choice, note) = self.shared.with(|state| state.choose(tag, &subject));
        if let Some(note) = note {
            self.shared.journal(|journal| journal.chosen(tag, note));
            self.shared.ring();
        }
        if choice != Choice::Followed {
            return self.below.flush_asked(tag);
        }
        let act = self.shared.with(|state| state.cases.get(&tag).and_then(|case| case.act.clone()))?;
        let by_housekeeper = || {
            self.shared.with(|state| state.syncs.push(tag));
            self.shared.ring();
            Step::Parked(Ticket::fresh(tag, Op::Flush))
        };
        Some(match act.action {
            Action::Fail { failure, landed } if landed != Landed::All => {
                self.end(tag, Op::Flush, Err(Refusal::Injected { rule: act.rule, failure }))
            }
            Action::Fail { .. } | Action::Delay { after: true, .. } => by_housekeeper(),
            Action::Delay { after: false, .. } | Action::Hang => self.hold_back(tag, &subject),
            Action::Lie => self.end(tag, Op::Flush, Ok(Reply::Done)),
            Action::Unreadable | Action::Corrupt(_) | Action::Zone(_) => return self.below.flush_asked(tag),
        })
    }

    fn drain(&self, queue: u16, drains: bool) {
        self.shared.with(|state| state.drain(queue, drains));
        if drains {
            self.shared.ring();
        }
        self.below.drain(queue, drains);
    }

    fn resume(&self, ticket: Ticket, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let (tag, op) = (ticket.tag(), ticket.op());
        if !self.shared.is_busy() {
            return self.below.resume(ticket, segments, batch);
        }
        let (from_gate, stage) = self.shared.with(|state| {
            let from_gate = state.leaves_gate(tag);
            let case = state.cases.get_mut(&tag);
            (from_gate, case.map(|case| std::mem::replace(&mut case.stage, Stage::Released)))
        });
        match (from_gate, op, stage) {
            (true, Some(op), _) => self.look_at(tag, op, segments, batch),
            (_, Some(op), Some(Stage::Released)) if !has_io(&op) => {
                self.set_stage(tag, Stage::Under);
                self.pass(tag, op, segments, batch)
            }
            (_, _, None) => self.below.resume(ticket, segments, batch),
            (_, op, Some(stage)) => {
                // What was never held back may still be.
                if stage != Stage::Released {
                    self.set_stage(tag, stage);
                }
                let op = self.shared.with(|state| state.cases.get(&tag).map(|case| case.op)).or(op);
                let step = self.below.resume(ticket, segments, batch);
                self.follow(tag, op.unwrap_or(Op::Flush), step, segments)
            }
        }
    }

    fn commit(&self, batch: &mut Batch) {
        self.below.commit(batch);
        self.look_through(&mut batch.events);
    }

    fn housekeep(&self, batch: &mut Batch) -> bool {
        let mut worked = self.keep_old() | self.change_zones() | self.do_flushes() | self.save();
        let events = self.shared.with(|state| std::mem::take(&mut state.events));
        worked |= !events.is_empty();
        batch.events.extend(events);
        let from = batch.events.len();
        let more = self.below.housekeep(batch);
        let mut events = batch.events.split_off(from);
        self.look_through(&mut events);
        batch.events.append(&mut events);
        worked | more
    }

    fn set_doorbell(&self, bell: Doorbell) {
        if self.shared.bell.set(bell).is_ok() {
            let shared = Arc::clone(&self.shared);
            self.below.set_doorbell(Box::new(move || shared.ring()));
        }
    }

    fn set_journal(&self, journal: Box<dyn Journal>) {
        if self.shared.journal.set(journal).is_err() {
            log::error!("the journal above the rules for faults was set twice; the first one stays");
        }
    }

    fn recall(&self, tag: Tag, choice: u64, settled: bool) {
        self.shared.with(|state| state.recall(tag, choice, settled));
        self.below.recall(tag, choice, settled);
    }

    fn recover(&self, tag: Tag, note: Note) -> Recovered {
        let recovered = self.below.recover(tag, note);
        if !self.shared.is_busy() {
            return recovered;
        }
        let op = match note {
            Note::Reserved(reserved) => {
                let (start, len) = (reserved.start.to_sector(), Bytes(reserved.end.0.saturating_sub(reserved.start.0)));
                Op::Write { start, len }
            }
            Note::Resets(_) | Note::Finishes(_) | Note::ResetUpTo(_) => Op::ResetAll,
        };
        let subject = self.subject(tag.queue, op);
        match recovered {
            Recovered::Anew => Recovered::Anew,
            Recovered::Resumes(ticket) => {
                self.shared.with(|state| state.follow_recalled(tag, &subject));
                Recovered::Resumes(ticket)
            }
            Recovered::Settled(outcome) => {
                let outcome = self.shared.with(|state| {
                    state.follow_recalled(tag, &subject);
                    let failure = state.failure_of(tag);
                    state.forget(tag);
                    failure.filter(|_| outcome.is_ok()).map_or(outcome, Err)
                });
                Recovered::Settled(outcome)
            }
        }
    }

    fn abandon(&self, ticket: Ticket) {
        self.shared.with(|state| state.forget(ticket.tag()));
        self.below.abandon(ticket);
    }
}
