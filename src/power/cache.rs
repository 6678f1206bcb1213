//! The volatile cache: the layer that knows what is not stable, and loses it.
//!
//! What was accepted comes from the store's notes ([`Journal`]), which are made under the zones' locks, so that the order is that
//! of the disk; what is stable comes from the flushes that pass. A flush makes stable what had been done when it began, which
//! is at least what had been answered. Flushes of a queue that come while one is under way are one; the last that came counts.
//!
//! Lock order: the gates of the queues, then the store's own, then `histories`; `blocks` and the rest are held alone, but for
//! `pending`, which is held while the trigger is looked at. The histories are never locked while the store is called.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::blocks::{Admission, Blocks};
use super::history::Mark;
use super::notes::{Notes, Noting, lock};
use super::outcome::{CutOutcome, PowerStatus};
use super::switch::{Power, Switch};
use super::trigger::{Passed, Trigger};
use super::words::{Cut, Words};
use crate::store::device::Layer;
use crate::store::{
    Batch, Doorbell, Event, Journal, Op, Outcome, Refusal, Reversion, RevertError, Segment, Step, Tag, Ticket,
    ZonedDevice,
};
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// Old versions of blocks of conventional zones that are kept where nothing is said.
pub const DEFAULT_SIZE: Bytes = Bytes(64 << 20);

/// Why there was no cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// A word makes no sense.
    #[error("{0}")]
    Words(String),
    /// There is no power.
    #[error("the power is off already: it is back when the device is reset")]
    Off,
    /// The state asked for cannot be.
    #[error("{0}")]
    State(String),
    /// The image could not be changed; the power is on.
    #[error("the power was not cut: {0}")]
    Store(Refusal),
}

/// Called with what a cut has left, or why there was none.
pub type Done = Box<dyn FnOnce(Result<CutOutcome, CutError>) + Send>;

/// Called when a cut is done: with what that has left, or with nothing where the power stays on. Has all queues look again.
pub type AfterCut = Box<dyn Fn(Option<&CutOutcome>) + Send + Sync>;

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commanded {
    /// The cut has begun, or is waited for: the one who has commanded it is told when it is over.
    Begun,
    /// It waits for this moment.
    Waits(String),
    /// The cut that has waited for this moment, where one has, does not come.
    CalledOff(Option<String>),
}

/// A cut that is under way.
struct Pending {
    cut: Cut,
    done: Option<Done>,
    /// Those who have come too late for it, and wait for its end.
    late: Vec<Done>,
}

/// What a flush covers once it is done.
struct Covered {
    zones: Vec<(ZoneIndex, Mark)>,
    epoch: u64,
}

/// A request that waits for the old versions of blocks.
struct Lacking {
    tag: Tag,
    blocks: std::ops::Range<u64>,
}

/// Requests that are held back, in the order in which they go on.
#[derive(Default)]
struct Held {
    /// Those that had been begun before.
    resumed: Vec<Tag>,
    /// Those that came since.
    fresh: Vec<Tag>,
}

impl Held {
    fn take(&mut self) -> impl Iterator<Item = Event> + use<> {
        let Self { resumed, fresh } = std::mem::take(self);
        resumed.into_iter().chain(fresh).map(|tag| Event::Retry { tag })
    }
}

/// The layer. See the module's documentation.
pub struct VolatileCache {
    pub(super) below: Arc<dyn ZonedDevice>,
    pub(super) switch: Arc<Switch>,
    pub(super) notes: Arc<Notes>,
    pub(super) block: u64,
    /// Where conventional zones end.
    pub(super) conventional: u64,
    pub(super) blocks: Mutex<Blocks>,
    lacking: Mutex<Vec<Lacking>>,
    flushes: Mutex<HashMap<Tag, Covered>>,
    /// By queue, what its next flush covers.
    coming: Mutex<HashMap<u16, Covered>>,
    trigger: Trigger,
    pending: Mutex<Option<Pending>>,
    /// Requests that were held back while nothing was begun.
    held: Mutex<Held>,
    pub(super) requests: AtomicU64,
    /// Flushes and writes to conventional zones that are under way.
    watched: AtomicUsize,
    last: Mutex<Option<CutOutcome>>,
    bell: Arc<OnceLock<Doorbell>>,
    after_cut: OnceLock<AfterCut>,
}

impl VolatileCache {
    /// A cache before a device that is written in units of `block`, with room for `size` bytes of old versions. The device keeps
    /// what was reset until it is [let go](ZonedDevice::let_go).
    pub fn new(below: Arc<dyn ZonedDevice>, switch: Arc<Switch>, block: Bytes, size: Bytes) -> Self {
        let geometry = below.geometry();
        let conventional =
            (0..geometry.nr_zones()).map(ZoneIndex).take(geometry.conventional_zones() as usize).next_back();
        let conventional = conventional.map_or(0, |last| geometry.start(last).0 + geometry.len(last).0);
        let notes = Arc::new(Notes::new(*geometry));
        below.set_journal(Box::new(Noting(Arc::clone(&notes))));
        Self {
            switch,
            notes,
            block: block.0,
            conventional,
            blocks: Mutex::new(Blocks::new(size.0)),
            lacking: Mutex::default(),
            flushes: Mutex::default(),
            coming: Mutex::default(),
            trigger: Trigger::default(),
            pending: Mutex::default(),
            held: Mutex::default(),
            requests: AtomicU64::new(0),
            watched: AtomicUsize::new(0),
            last: Mutex::default(),
            bell: Arc::default(),
            after_cut: OnceLock::new(),
            below,
        }
    }

    /// The shape of the device.
    pub fn geometry(&self) -> &Geometry {
        self.below.geometry()
    }

    /// Whether all is stable.
    pub fn has_nothing_to_lose(&self) -> bool {
        self.notes.is_empty() && lock(&self.blocks).bytes() == 0
    }

    /// Whether there is power, for those who run the queues.
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// Sets, once, what is called when a cut is done.
    pub fn set_after_cut(&self, after_cut: AfterCut) {
        if self.after_cut.set(after_cut).is_err() {
            log::error!("what follows a power cut was set twice; the first stays");
        }
    }

    /// Cuts the power as the words say, at once or later, or calls off the cut that waits. `done` is called when a cut that has
    /// [begun](Commanded::Begun) is over.
    pub fn command(&self, words: Words, done: Done) -> Result<Commanded, CutError> {
        if words.call_off().map_err(CutError::Words)? {
            return self.call_off(done);
        }
        let text = words.at.clone();
        let mut cut = words.read(self.below.geometry()).map_err(CutError::Words)?;
        match (cut.at.take(), text) {
            (Some(at), Some(text)) => {
                if self.switch.power().is_off() {
                    return Err(CutError::Off);
                }
                self.trigger.arm(cut, at, text.clone());
                Ok(Commanded::Waits(text))
            }
            _ => {
                match self.begin_cut(lock(&self.pending), cut, Some(done)) {
                    Ok(()) => Ok(Commanded::Begun),
                    // One that is under way comes first.
                    Err(done) => self.wait_for_cut(done.ok_or(CutError::Off)?),
                }
            }
        }
    }

    /// Has the cut that waits never come. One that has begun cannot be called off: `done` is told so when it is over.
    fn call_off(&self, done: Done) -> Result<Commanded, CutError> {
        // No cut begins while this is held.
        let pending = lock(&self.pending);
        if pending.is_none() && !self.switch.power().is_off() {
            return Ok(Commanded::CalledOff(self.trigger.disarm()));
        }
        drop(pending);
        self.wait_for_cut(done)
    }

    /// Sets a mark. Where a cut waits for it, `done` is called when that is over; returns whether one does.
    pub fn mark(&self, name: &str, done: Done) -> bool {
        self.begin_at(Passed::Mark(name), Some(done))
    }

    /// Calls `done`, when the cut that is under way is over, with that the power is off.
    fn wait_for_cut(&self, done: Done) -> Result<Commanded, CutError> {
        match &mut *lock(&self.pending) {
            Some(pending) => pending.late.push(done),
            None => return Err(CutError::Off),
        }
        Ok(Commanded::Begun)
    }

    /// How it stands.
    pub fn status(&self) -> PowerStatus {
        let state = match (self.switch.power().is_off(), self.trigger.is_armed()) {
            (true, _) => "off",
            (false, true) => "armed",
            (false, false) => "on",
        };
        PowerStatus { state: state.to_owned(), at: self.trigger.waits_for(), volatile_bytes: self.volatile_bytes() }
    }

    /// What the last cut has left.
    pub fn last_cut(&self) -> Option<CutOutcome> {
        lock(&self.last).clone()
    }

    /// Bytes that a cut may take.
    pub fn volatile_bytes(&self) -> u64 {
        self.notes.volatile() + lock(&self.blocks).bytes()
    }

    /// The stable write pointer of a zone that has anything to lose.
    pub fn stable_pointer(&self, zone: ZoneIndex) -> Option<Bytes> {
        lock(self.notes.shard(zone)).get(&zone).map(|history| Bytes(history.steps().stable))
    }

    fn pass(&self, passed: Passed) {
        if self.trigger.is_armed() {
            self.begin_at(passed, None);
        }
    }

    /// Begins the cut that waits, where its moment is what passes. Returns whether it has begun.
    fn begin_at(&self, passed: Passed, done: Option<Done>) -> bool {
        // Held from the moment to the cut, so that whoever calls it off knows whether that was in time.
        let pending = lock(&self.pending);
        self.trigger.passes(passed).is_some_and(|cut| self.begin_cut(pending, cut, done).is_ok())
    }

    /// Has the power go: nothing is begun any more. The housekeeper does the rest. Gives `done` back where it goes already, or
    /// is gone.
    fn begin_cut(
        &self,
        mut pending: MutexGuard<'_, Option<Pending>>,
        cut: Cut,
        done: Option<Done>,
    ) -> Result<(), Option<Done>> {
        // Where all is still for somebody else's sake, it goes behind that.
        if pending.is_some() || !(self.switch.freeze() || matches!(self.switch.power(), Power::Frozen | Power::Still)) {
            return Err(done);
        }
        *pending = Some(Pending { cut, done, late: Vec::new() });
        drop(pending);
        self.trigger.disarm();
        self.ring();
        Ok(())
    }

    /// Wakes the housekeeper. Called by a queue that has nothing in flight any more while the power is about to go.
    pub fn ring(&self) {
        if let Some(ring) = self.bell.get() {
            ring();
        }
    }

    /// A request that is not begun now. It is never gone on with where the power goes.
    fn hold(&self, tag: Tag, op: Op) -> Step {
        lock(&self.held).fresh.push(tag);
        Step::Parked(Ticket::fresh(tag, op))
    }

    fn start(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        if let Some(blocks) = self.conventional_blocks(op) {
            match self.admit(tag, blocks) {
                Admission::Goes => _ = self.watched.fetch_add(1, Ordering::Relaxed),
                Admission::NeedsOld | Admission::Waits => return Step::Parked(Ticket::fresh(tag, op)),
            }
        }
        if op == Op::Flush {
            let coming = lock(&self.coming).remove(&tag.queue);
            let covered = coming.unwrap_or_else(|| self.covered());
            lock(&self.flushes).insert(tag, covered);
            self.watched.fetch_add(1, Ordering::Relaxed);
        }
        let step = self.below.begin(tag, op, segments, batch);
        self.look_at(tag, &step, batch);
        step
    }

    /// The blocks that a write to conventional zones touches.
    fn conventional_blocks(&self, op: Op) -> Option<std::ops::Range<u64>> {
        let Op::Write { start, len } = op else { return None };
        let start = start.to_bytes().filter(|start| start.0 < self.conventional)?;
        let end = start.checked_add(len)?.0.min(self.conventional);
        Some(start.0 / self.block..end.div_ceil(self.block)).filter(|blocks| !blocks.is_empty())
    }

    fn admit(&self, tag: Tag, blocks: std::ops::Range<u64>) -> Admission {
        let admission = lock(&self.blocks).admit(tag, blocks.clone());
        if admission == Admission::NeedsOld {
            lock(&self.lacking).push(Lacking { tag, blocks });
            self.ring();
        }
        admission
    }

    /// A request that is over at once has no I/O that would say so.
    fn look_at(&self, tag: Tag, step: &Step, batch: &mut Batch) {
        if let Step::Done(outcome) = step {
            self.over(tag, outcome, &mut batch.events);
        }
    }

    /// What a flush that begins now covers.
    fn covered(&self) -> Covered {
        let epoch = lock(&self.blocks).flush_begins();
        let now = |zone| self.below.zone_now(self.below.geometry().start(zone).to_sector());
        let zones = self.notes.marks(|zone| now(zone).map(|now| now.info.write_pointer));
        Covered { zones, epoch }
    }

    /// A flush is done: what it covers is stable.
    fn make_stable(&self, covered: Covered) {
        lock(&self.blocks).flush_done(covered.epoch);
        for (zone, mark) in covered.zones {
            if self.notes.stable_up_to(zone, mark) {
                self.below.let_go(zone);
            }
        }
        self.pass(Passed::Flush);
    }

    /// Takes note of a request that is over.
    fn over(&self, tag: Tag, outcome: &Outcome, events: &mut Vec<Event>) {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        let covered = lock(&self.flushes).remove(&tag);
        if let Some(covered) = covered {
            self.watched.fetch_sub(1, Ordering::Relaxed);
            if outcome.is_ok() {
                self.make_stable(covered);
            }
        }
        let waiting = lock(&self.blocks).done(tag);
        if let Some(waiting) = waiting {
            self.watched.fetch_sub(1, Ordering::Relaxed);
            events.extend(waiting.into_iter().map(|tag| Event::Retry { tag }));
        }
    }

    /// Takes note of the requests that a batch says are over.
    fn look_through(&self, events: &mut Vec<Event>) {
        if self.watched.load(Ordering::Relaxed) == 0 {
            return;
        }
        for at in 0..events.len() {
            if let Some(Event::Finished { tag, outcome }) = events.get(at).copied() {
                self.over(tag, &outcome, events);
            }
        }
    }

    /// Reads the old versions of blocks that requests wait for. Returns whether any did.
    fn read_old(&self, batch: &mut Batch) -> bool {
        let lacking = std::mem::take(&mut *lock(&self.lacking));
        for Lacking { tag, blocks } in &lacking {
            let missing: Vec<u64> = lock(&self.blocks).missing(blocks.clone()).collect();
            let mut read = Ok(());
            for block in missing {
                let mut content = vec![0; self.block.min(self.conventional - block * self.block) as usize];
                read = self.below.peek(Bytes(block * self.block), &mut content);
                if read.is_err() {
                    break;
                }
                lock(&self.blocks).keep(block, content);
            }
            batch.events.push(match read {
                Ok(()) => Event::Retry { tag: *tag },
                Err(refusal) => Event::Finished { tag: *tag, outcome: Err(refusal) },
            });
        }
        !lacking.is_empty()
    }

    /// Forgets the requests in flight, none of which comes to an end.
    fn forget_requests(&self) {
        lock(&self.lacking).clear();
        lock(&self.flushes).clear();
        lock(&self.coming).clear();
        *lock(&self.held) = Held::default();
        self.watched.store(0, Ordering::Relaxed);
    }

    /// The image is nobody's own any more: requests that were held back go on, unless a cut waits.
    /// `deliver` has the queues find these before they begin anything else.
    pub fn vacate(&self, deliver: impl FnOnce(&mut dyn Iterator<Item = Event>)) {
        // No cut begins while this is held.
        let pending = lock(&self.pending);
        if pending.is_none() {
            let mut held = lock(&self.held).take();
            deliver(&mut held);
        }
        self.switch.vacate(pending.is_some());
        drop(pending);
        self.ring();
    }

    /// Does the cut that is pending, where nothing is in flight. Returns whether it has.
    fn cut_if_quiet(&self, batch: &mut Batch) -> bool {
        if lock(&self.pending).is_none() {
            return false;
        }
        let Some(gates) = self.switch.stop_rounds() else { return false };
        let Some(cut) = lock(&self.pending).as_ref().map(|pending| pending.cut.clone()) else { return false };
        let result = self.cut(&cut);
        match &result {
            Ok(outcome) => {
                *lock(&self.last) = Some(outcome.clone());
                self.forget_requests();
                batch.events.clear();
                self.switch.cut(cut.then);
                log::info!("the power is cut: {} zones touched, state {}", outcome.zones.len(), outcome.digest);
            }
            Err(error) => {
                log::error!("{error}");
                self.switch.thaw();
                batch.events.extend(lock(&self.held).take());
            }
        }
        // With the gates closed, so that what is noted of the cut comes before what any queue does without power.
        if let Some(after_cut) = self.after_cut.get() {
            after_cut(result.as_ref().ok());
        }
        drop(gates);
        if let Some(Pending { done, late, .. }) = lock(&self.pending).take() {
            done.into_iter().for_each(|done| done(result.clone()));
            let late_result = result.map_or_else(Err, |_| Err(CutError::Off));
            late.into_iter().for_each(|done| done(late_result.clone()));
        }
        true
    }
}

impl Layer for Arc<VolatileCache> {
    fn below(&self) -> &dyn ZonedDevice {
        &*self.below
    }

    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        match self.switch.power() {
            power if power.is_off() => return Step::Done(Err(Refusal::NoPower)),
            Power::Frozen => return self.hold(tag, op),
            _ => {}
        }
        if matches!(op, Op::Report { .. }) {
            return self.below.begin(tag, op, segments, batch);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let step = self.start(tag, op, segments, batch);
        if self.trigger.is_armed() {
            self.pass(Passed::Request);
            if let Op::Write { len, .. } | Op::Append { len, .. } = op
                && !matches!(step, Step::Done(Err(_)))
            {
                self.pass(Passed::Write(len.0, self.reach(op)));
            }
        }
        step
    }

    fn flush_comes(&self, queue: u16) {
        if self.switch.power() == Power::On {
            let covered = self.covered();
            lock(&self.coming).insert(queue, covered);
        }
    }

    fn resume(&self, ticket: Ticket, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        if self.switch.power() != Power::On {
            let resumed = &mut lock(&self.held).resumed;
            if !resumed.contains(&ticket.tag()) {
                resumed.push(ticket.tag());
            }
            return Step::Parked(ticket);
        }
        match ticket.op() {
            // This layer may have held it back, and has to see it again.
            Some(op) if self.conventional_blocks(op).is_some() || op == Op::Flush => {
                self.start(ticket.tag(), op, segments, batch)
            }
            _ => {
                let tag = ticket.tag();
                let step = self.below.resume(ticket, segments, batch);
                self.look_at(tag, &step, batch);
                step
            }
        }
    }

    fn commit(&self, batch: &mut Batch) {
        self.below.commit(batch);
        self.look_through(&mut batch.events);
    }

    fn housekeep(&self, batch: &mut Batch) -> bool {
        if self.cut_if_quiet(batch) {
            return true;
        }
        let read = self.read_old(batch);
        let more = self.below.housekeep(batch);
        self.look_through(&mut batch.events);
        read || more
    }

    fn revert(&self, to: &Reversion<'_>) -> Result<(), RevertError> {
        self.below.revert(to)?;
        // What the image is now is stable.
        self.notes.clear();
        lock(&self.blocks).clear();
        self.forget_requests();
        self.trigger.disarm();
        if let Some(Pending { done, late, .. }) = lock(&self.pending).take() {
            done.into_iter().chain(late).for_each(|done| done(Err(CutError::Off)));
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<(), Refusal> {
        let covered = self.covered();
        self.below.make_durable()?;
        self.make_stable(covered);
        Ok(())
    }

    fn set_doorbell(&self, bell: Doorbell) {
        if self.bell.set(bell).is_ok() {
            let bell = Arc::clone(&self.bell);
            self.below.set_doorbell(Box::new(move || {
                if let Some(ring) = bell.get() {
                    ring();
                }
            }));
        }
    }

    fn set_journal(&self, journal: Box<dyn Journal>) {
        if self.notes.journal.set(journal).is_err() {
            log::error!("the cache's journal was set twice; the first one stays");
        }
    }
}

impl VolatileCache {
    /// How far a write brings its zone, from the zone's start.
    fn reach(&self, op: Op) -> Option<(ZoneIndex, u64)> {
        let (Op::Write { start, .. } | Op::Append { zone: start, .. }) = op else { return None };
        let now = self.below.zone_now(start).filter(|now| now.info.kind != ZoneKind::Conventional)?;
        Some((now.info.index, now.next_write.0.saturating_sub(now.info.start.0)))
    }
}
