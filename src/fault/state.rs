//! What the layer remembers: its rules, the requests that they have acted on, the zones that they change. Pure: whoever has this
//! locked calls nothing below.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use super::rule::{Action, Corruption, Progress, Rule, Subject, ZoneChange};
use super::saved::{Saved, SavedZone};
use super::words::{RuleProgress, RuleWords};
use crate::store::{Event, Op, Outcome, Refusal, Tag};
use crate::units::ZoneIndex;

/// A rule, by what it is called and how far it has come.
#[derive(Clone, Debug)]
pub(super) struct Ruled {
    /// By which refused requests and notes know it.
    pub(super) number: u16,
    pub(super) words: RuleWords,
    pub(super) rule: Rule,
    pub(super) progress: Progress,
    /// The mark that it waits for has come, or there is none.
    pub(super) awake: bool,
    /// Bytes of the disk that are readable again.
    pub(super) healed: Vec<Range<u64>>,
}

impl Ruled {
    pub(super) fn new(number: u16, words: RuleWords, rule: Rule) -> Self {
        let awake = rule.after.is_none();
        Self { number, words, rule, progress: Progress::default(), awake, healed: Vec::new() }
    }

    /// Whether some of what the rule is about in a range of the disk is not healed.
    fn is_sick(&self, part: &Range<u64>) -> bool {
        let mut at = part.start;
        while let Some(healed) = self.healed.iter().find(|healed| healed.contains(&at)) {
            at = healed.end;
        }
        at < part.end
    }

    fn is_about(&self, subject: &Subject) -> bool {
        let about = self.awake && self.rule.is_about(subject);
        about && (self.rule.action != Action::Unreadable || self.is_sick(&self.rule.part(subject)))
    }
}

/// What a rule does to one request.
#[derive(Clone, Debug)]
pub(super) struct Act {
    /// The number of the rule.
    pub(super) rule: u16,
    /// The number of the request among those that the rule was about.
    pub(super) number: u64,
    pub(super) action: Action,
    pub(super) seed: u64,
    /// The bytes of the disk that the rule is about.
    pub(super) part: Range<u64>,
}

impl Act {
    fn of(ruled: &Ruled, number: u64, subject: &Subject) -> Self {
        let (rule, action) = (ruled.number, ruled.rule.action);
        Self { rule, number, action, seed: ruled.rule.seed(), part: ruled.rule.part(subject) }
    }

    /// How a successor of this process is told: never 0.
    pub(super) fn note(&self) -> u64 {
        u64::from(self.rule) << 48 | (self.number & NUMBER)
    }
}

/// Of a note, the number of the request.
const NUMBER: u64 = (1 << 48) - 1;

/// Where a request stands that the layer follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// With the device below.
    Under,
    /// Held back before it is done.
    Held,
    /// To be gone on with.
    Released,
    /// Done, and not answered yet.
    Ended(Outcome),
}

/// A request that the layer follows.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) op: Op,
    pub(super) bytes: Range<u64>,
    /// What a rule does to it; none where only what it heals is of interest.
    pub(super) act: Option<Act>,
    pub(super) stage: Stage,
}

/// Zones that requests wait for before they are looked at.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    zones: (ZoneIndex, ZoneIndex),
    /// The request that has to be done before; none where the zones are about to change.
    holder: Option<Tag>,
    waiters: Vec<Tag>,
}

/// A zone that was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) offline: bool,
    /// The zone comes back when the device is reset.
    pub(super) comes_back: bool,
}

/// A request that is late.
#[derive(Clone, Debug)]
struct Late {
    tag: Tag,
    by: Duration,
    /// When the wait is over; not known before somebody has looked at a clock.
    due: Option<Duration>,
}

/// Called when what was asked for is done.
pub type Done = Box<dyn FnOnce() + Send>;

/// Somebody who waits until zones have changed and all is written down.
struct Waiting {
    zones: Vec<ZoneIndex>,
    change: u64,
    done: Done,
}

/// What becomes of a request that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Passes,
    /// The request waits, and is looked at again.
    Waits,
    /// The request is followed: it is a case.
    Followed,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct State {
    pub(super) rules: Vec<Ruled>,
    last_number: u16,
    pub(super) cases: HashMap<Tag, Case>,
    /// What the last process has chosen for requests that are begun anew.
    recalled: HashMap<Tag, (u16, u64)>,
    /// Requests at a gate.
    at_gates: HashSet<Tag>,
    /// Those of them that rules have acted on already.
    looked_at: HashSet<Tag>,
    gates: Vec<Gate>,
    /// Writes that wait until what they overwrite is kept, and those for which it is.
    pub(super) overwrites: Vec<(Tag, Range<u64>)>,
    kept: HashSet<Tag>,
    /// Zones that are to be taken away, offline or not, as soon as nothing is in flight there.
    pub(super) changes: Vec<(ZoneIndex, bool)>,
    pub(super) taken: BTreeMap<ZoneIndex, Taken>,
    /// What the housekeeper hands on.
    pub(super) events: Vec<Event>,
    /// Flushes that the housekeeper does.
    pub(super) syncs: Vec<Tag>,
    late: Vec<Late>,
    draining: HashSet<u16>,
    /// Counts what is to be written down, and what is.
    change: u64,
    saved: u64,
    /// Somebody writes it down.
    pub(super) is_kept: bool,
    /// Answers that wait until what led to them is written down.
    unsaved: Vec<(u64, Tag, Outcome)>,
    waiting: Vec<Waiting>,
}

impl State {
    /// Whether requests have to be looked at.
    pub(super) fn is_busy(&self) -> bool {
        !(self.rules.is_empty()
            && self.cases.is_empty()
            && self.recalled.is_empty()
            && self.gates.is_empty()
            && self.at_gates.is_empty()
            && self.events.is_empty()
            && self.kept.is_empty()
            && self.syncs.is_empty())
    }

    /// What becomes of a request that comes, and, where that is news, what is noted of it.
    pub(super) fn choose(&mut self, tag: Tag, subject: &Subject) -> (Choice, Option<u64>) {
        if self.waits_at_gate(tag, subject) || self.waits_for_old(tag, subject) {
            return (Choice::Waits, None);
        }
        let act = match self.looked_at.remove(&tag) {
            true => None,
            false => self.act_on(tag, subject),
        };
        let note = act.as_ref().map(Act::note);
        if let Some(Act { action: Action::Zone(change), .. }) = act {
            let zones = subject.zones.into_iter().flat_map(|(first, last)| first.0..=last.0);
            if self.change_zones(zones.map(ZoneIndex), change) {
                self.looked_at.insert(tag);
                self.wait_at_last_gate(tag);
                return (Choice::Waits, note);
            }
        }
        let act = act.filter(|act| !matches!(act.action, Action::Zone(_)));
        if act.is_none() && !self.heals(&subject.op) {
            return (Choice::Passes, note);
        }
        let case = Case { op: subject.op, bytes: subject.bytes.clone(), act, stage: Stage::Under };
        self.cases.insert(tag, case);
        (Choice::Followed, note)
    }

    /// Whether a write has to wait until what it overwrites is kept, as a rule has reads bring that.
    fn waits_for_old(&mut self, tag: Tag, subject: &Subject) -> bool {
        let Op::Write { .. } = subject.op else { return false };
        let of_old = |ruled: &&Ruled| ruled.rule.action == Action::Corrupt(Corruption::Old);
        if !self.rules.iter().any(|ruled| of_old(&ruled)) || self.kept.remove(&tag) {
            return false;
        }
        self.overwrites.push((tag, subject.bytes.clone()));
        self.at_gates.insert(tag);
        true
    }

    /// What a write overwrites is kept, or is not to be.
    pub(super) fn was_kept(&mut self, tag: Tag) {
        self.kept.insert(tag);
        self.events.push(Event::Retry { tag });
    }

    /// Has all rules count a request. Returns what the first does that acts.
    fn act_on(&mut self, tag: Tag, subject: &Subject) -> Option<Act> {
        if let Some((rule, number)) = self.recalled.remove(&tag) {
            return self.ruled(rule).map(|ruled| Act::of(ruled, number, subject));
        }
        let mut act = None;
        for ruled in &mut self.rules {
            if ruled.is_about(subject)
                && let Some(number) = ruled.progress.count(&ruled.rule, subject)
                && act.is_none()
            {
                act = Some(Act::of(ruled, number, subject));
            }
        }
        if act.is_some() {
            self.changed();
        }
        act
    }

    fn ruled(&self, number: u16) -> Option<&Ruled> {
        self.rules.iter().find(|ruled| ruled.number == number)
    }

    /// What a rule is called.
    pub(super) fn name_of(&self, number: u16) -> Option<&str> {
        self.ruled(number).map(|ruled| ruled.words.name.as_str())
    }

    /// Whether a request may make something readable again.
    fn heals(&self, op: &Op) -> bool {
        let may = matches!(op, Op::Write { .. } | Op::Manage { .. } | Op::ResetAll);
        may && self.rules.iter().any(|ruled| ruled.rule.action == Action::Unreadable)
    }

    /// A range of the disk is readable again.
    pub(super) fn heal(&mut self, bytes: &Range<u64>) {
        for ruled in &mut self.rules {
            if ruled.rule.action == Action::Unreadable && ruled.is_sick(bytes) {
                ruled.healed.push(bytes.clone());
            }
        }
        self.changed();
    }

    // Gates.

    fn waits_at_gate(&mut self, tag: Tag, subject: &Subject) -> bool {
        let Some((first, last)) = subject.zones.filter(|_| self.draining.is_empty()) else { return false };
        if matches!(subject.op, Op::Read { .. } | Op::Report { .. }) {
            return false;
        }
        let before =
            |gate: &&mut Gate| gate.zones.0.0 <= last.0 && first.0 <= gate.zones.1.0 && gate.holder != Some(tag);
        let Some(gate) = self.gates.iter_mut().find(before) else { return false };
        gate.waiters.push(tag);
        self.at_gates.insert(tag);
        true
    }

    fn wait_at_last_gate(&mut self, tag: Tag) {
        if let Some(gate) = self.gates.last_mut() {
            gate.waiters.push(tag);
            self.at_gates.insert(tag);
        }
    }

    /// Has requests of zones wait for one of them.
    pub(super) fn close_gate(&mut self, zones: (ZoneIndex, ZoneIndex), holder: Option<Tag>) {
        self.gates.push(Gate { zones, holder, waiters: Vec::new() });
    }

    /// Lets on whoever waited for a request.
    fn open_gates_of(&mut self, tag: Tag) {
        self.open_gates(|gate| gate.holder == Some(tag));
    }

    fn open_gates(&mut self, which: impl Fn(&Gate) -> bool) {
        let events = &mut self.events;
        self.gates.retain(|gate| {
            let opens = which(gate);
            if opens {
                events.extend(gate.waiters.iter().map(|tag| Event::Retry { tag: *tag }));
            }
            !opens
        });
    }

    /// Whether a request that is gone on with has waited at a gate.
    pub(super) fn leaves_gate(&mut self, tag: Tag) -> bool {
        self.at_gates.remove(&tag)
    }

    // Lateness.

    /// Holds a request back, until `by` has passed where that is said. False where nothing is to be held back.
    pub(super) fn hold(&mut self, tag: Tag, stage: Stage, by: Option<Duration>) -> bool {
        if !self.draining.is_empty() {
            return false;
        }
        if let Some(case) = self.cases.get_mut(&tag) {
            case.stage = stage;
        }
        self.late.extend(by.map(|by| Late { tag, by, due: None }));
        true
    }

    /// Takes the time, from any moment on. Returns how long it is until somebody has to do so again.
    pub(super) fn time_is(&mut self, now: Duration) -> Option<Duration> {
        let mut over = Vec::new();
        self.late.retain_mut(|late| {
            let due = *late.due.get_or_insert(now.saturating_add(late.by));
            if due <= now {
                over.push(late.tag);
            }
            due > now
        });
        if !over.is_empty() {
            over.into_iter().for_each(|tag| self.let_go(tag));
            return Some(Duration::ZERO);
        }
        self.late.iter().filter_map(|late| late.due).min().map(|due| due.saturating_sub(now))
    }

    /// Goes on with a request that is held back.
    fn let_go(&mut self, tag: Tag) {
        self.late.retain(|late| late.tag != tag);
        let Some(case) = self.cases.get_mut(&tag) else { return };
        match &case.stage {
            Stage::Held => {
                case.stage = Stage::Released;
                self.events.push(Event::Retry { tag });
            }
            Stage::Ended(outcome) => {
                let outcome = *outcome;
                if let Some(outcome) = self.answer(tag, outcome) {
                    self.events.push(Event::Finished { tag, outcome });
                }
            }
            Stage::Under | Stage::Released => {}
        }
    }

    /// Goes on with all requests that rules hold back of which this says so.
    pub(super) fn let_go_all(&mut self, which: impl Fn(&Act) -> bool) {
        let held = |case: &Case| matches!(case.stage, Stage::Held | Stage::Ended(_));
        let chosen = |case: &Case| held(case) && case.act.as_ref().is_some_and(&which);
        let tags: Vec<Tag> = self.cases.iter().filter(|(_, case)| chosen(case)).map(|(tag, _)| *tag).collect();
        tags.into_iter().for_each(|tag| self.let_go(tag));
    }

    /// A queue is to become quiet: nothing is held back, of any queue, as requests wait for those of others.
    pub(super) fn drain(&mut self, queue: u16, drains: bool) {
        if !drains {
            self.draining.remove(&queue);
            // Of requests that were in the used ring already nobody has asked.
            self.recalled.retain(|tag, _| tag.queue != queue);
            return;
        }
        self.draining.insert(queue);
        self.let_go_all(|_| true);
        for gate in &mut self.gates {
            self.events.extend(gate.waiters.drain(..).map(|tag| Event::Retry { tag }));
        }
    }

    // Ends.

    /// A request has come to its end below. Returns its answer, where that is to be given now.
    pub(super) fn ended(&mut self, tag: Tag, outcome: Outcome) -> Option<Outcome> {
        self.open_gates_of(tag);
        let Some(case) = self.cases.get(&tag) else { return Some(outcome) };
        let (act, op, bytes) = (case.act.clone(), case.op, case.bytes.clone());
        if outcome.is_ok() && self.heals(&op) {
            self.heal(&bytes);
        }
        let outcome = match &act {
            Some(Act { action: Action::Fail { failure, .. }, rule, .. }) if outcome.is_ok() => {
                Err(Refusal::Injected { rule: *rule, failure: *failure })
            }
            _ => outcome,
        };
        if let Some(Act { action: Action::Delay { by, after: true }, number, seed, .. }) = act
            && self.hold(tag, Stage::Ended(outcome), Some(by.of(seed, number)))
        {
            return None;
        }
        self.answer(tag, outcome)
    }

    /// The answer of a request, where that is to be given now.
    pub(super) fn answer(&mut self, tag: Tag, outcome: Outcome) -> Option<Outcome> {
        let acted = self.cases.remove(&tag).is_some_and(|case| case.act.is_some());
        if !acted || !self.is_kept || self.saved == self.change {
            return Some(outcome);
        }
        // Where this process dies, the next one must not have the rule act once more for it.
        self.unsaved.push((self.change, tag, outcome));
        None
    }

    /// What a request fails as that is answered by a rule, where one does.
    pub(super) fn failure_of(&self, tag: Tag) -> Option<Refusal> {
        match self.cases.get(&tag)?.act.as_ref()? {
            Act { action: Action::Fail { failure, .. }, rule, .. } => {
                Some(Refusal::Injected { rule: *rule, failure: *failure })
            }
            _ => None,
        }
    }

    /// Forgets all requests: they have ended with the power, or with their device.
    pub(super) fn forget_requests(&mut self) {
        self.cases.clear();
        self.recalled.clear();
        self.at_gates.clear();
        self.looked_at.clear();
        self.overwrites.clear();
        self.kept.clear();
        self.gates.retain(|gate| gate.holder.is_none());
        self.gates.iter_mut().for_each(|gate| gate.waiters.clear());
        self.events.clear();
        self.syncs.clear();
        self.late.clear();
        self.unsaved.clear();
    }

    /// Forgets one.
    pub(super) fn forget(&mut self, tag: Tag) {
        self.open_gates_of(tag);
        self.cases.remove(&tag);
        self.recalled.remove(&tag);
    }

    /// Takes over what the last process has noted of a request.
    pub(super) fn recall(&mut self, tag: Tag, note: u64, settled: bool) {
        let (rule, number) = ((note >> 48) as u16, note & NUMBER);
        if let Some(ruled) = self.rules.iter_mut().find(|ruled| ruled.number == rule) {
            ruled.progress.catch_up(number);
            if !settled {
                self.recalled.insert(tag, (rule, number));
            }
            self.changed();
        }
    }

    /// A request that goes on where the last process has left it is followed again.
    pub(super) fn follow_recalled(&mut self, tag: Tag, subject: &Subject) {
        if let Some(act) = self.recalled.contains_key(&tag).then(|| self.act_on(tag, subject)).flatten() {
            let (op, bytes) = (subject.op, subject.bytes.clone());
            self.cases.insert(tag, Case { op, bytes, act: Some(act), stage: Stage::Under });
        }
    }

    // Rules.

    /// A number that no rule has.
    pub(super) fn new_number(&mut self) -> u16 {
        self.unused_number(&[])
    }

    /// A number that no rule has, and none of these is. There are fewer rules than numbers.
    pub(super) fn unused_number(&mut self, others: &[u16]) -> u16 {
        loop {
            self.last_number = self.last_number.wrapping_add(1);
            let number = self.last_number;
            if number != 0 && self.ruled(number).is_none() && !others.contains(&number) {
                return number;
            }
        }
    }

    /// Has zones change. Returns whether requests have to wait for that.
    pub(super) fn change_zones(&mut self, zones: impl Iterator<Item = ZoneIndex>, change: ZoneChange) -> bool {
        let mut waits = false;
        for zone in zones {
            let offline = match change {
                ZoneChange::Restore => {
                    if let Some(taken) = self.taken.get_mut(&zone) {
                        taken.comes_back = true;
                    }
                    continue;
                }
                ZoneChange::ReadOnly => false,
                ZoneChange::Offline => true,
            };
            let is_so = self.taken.get(&zone).is_some_and(|taken| taken.offline || !offline);
            if !is_so && !self.changes.contains(&(zone, offline)) {
                self.changes.push((zone, offline));
                self.close_gate((zone, zone), None);
                waits = true;
            }
        }
        self.changed();
        waits
    }

    /// A zone was taken away.
    pub(super) fn was_taken(&mut self, zone: ZoneIndex, offline: bool) {
        self.taken.insert(zone, Taken { offline, comes_back: false });
        self.open_gates(|gate| gate.holder.is_none() && gate.zones == (zone, zone));
        self.changed();
    }

    // What is written down.

    pub(super) fn changed(&mut self) {
        self.change += 1;
    }

    /// What is to be written down, and the change that this goes up to; none where all is.
    pub(super) fn unsaved(&self) -> Option<(u64, Saved)> {
        (self.is_kept && self.saved != self.change).then(|| (self.change, self.to_saved()))
    }

    /// All is written down up to a change. Returns who waited for that.
    pub(super) fn was_saved(&mut self, change: u64) -> Vec<Done> {
        self.saved = self.saved.max(change);
        let (saved, events) = (self.saved, &mut self.events);
        self.unsaved.retain(|(change, tag, outcome)| {
            if *change <= saved {
                events.push(Event::Finished { tag: *tag, outcome: *outcome });
            }
            *change > saved
        });
        self.who_waits_no_more()
    }

    /// Calls `done` when zones have changed and all of now is written down.
    pub(super) fn wait(&mut self, zones: Vec<ZoneIndex>, done: Done) {
        self.waiting.push(Waiting { zones, change: self.change, done });
    }

    /// Whose wait is over.
    pub(super) fn who_waits_no_more(&mut self) -> Vec<Done> {
        let mut over = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let written = !self.is_kept || self.saved >= waiting.change;
            let changing = self.changes.iter().any(|(zone, _)| waiting.zones.contains(zone));
            if written && !changing {
                over.push(waiting.done);
            } else {
                self.waiting.push(waiting);
            }
        }
        over
    }

    /// A rule as lists and files have it.
    fn told(&self, ruled: &Ruled) -> RuleWords {
        let of_this = |case: &&Case| case.act.as_ref().is_some_and(|act| act.rule == ruled.number);
        let held =
            self.cases.values().filter(of_this).filter(|case| matches!(case.stage, Stage::Held | Stage::Ended(_)));
        let progress = RuleProgress {
            number: ruled.number,
            matched: ruled.progress.matched,
            acted: ruled.progress.acted,
            held: held.count() as u64,
            awake: ruled.awake,
            in_zone: ruled.progress.in_zones(),
            healed: ruled.healed.iter().map(|healed| (healed.start, healed.end)).collect(),
        };
        RuleWords { progress: Some(progress), ..ruled.words.clone() }
    }

    pub(super) fn to_saved(&self) -> Saved {
        let zone = |(zone, taken): (&ZoneIndex, &Taken)| SavedZone {
            zone: zone.0,
            state: if taken.offline { "offline" } else { "read-only" }.to_owned(),
            comes_back: taken.comes_back,
        };
        Saved {
            schema_version: None,
            rules: self.rules.iter().map(|ruled| self.told(ruled)).collect(),
            zones: self.taken.iter().map(zone).collect(),
        }
    }
}
