//! What was asked of a disk and what was answered, and what a cut may make of it: rules R1 to R11, by the frontend's
//! own log. Nothing of the program is asked here.
//!
//! The order in which a zone's operations were accepted is known: writes, resets and finishes go to one queue one
//! behind the other, or one by one; of several appends at once the answers say where they landed, and what has no
//! answer lies where it is found. Answers are looked at in *sweeps*, which are numbered: what was seen in one before a
//! flush was submitted is covered by it.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::block::{BLOCK, Label, SECTORS, Seen, look_at_all};
use crate::common::cli::Geo;
use crate::common::request::{State, Zone};

/// A request, by its turn since the power came on.
pub(crate) type Number = usize;

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Blocks at a place of a zone of either kind.
    Write { zone: usize, at: u32, label: Label, len: u32 },
    /// Blocks at the end of a zone.
    Append { zone: usize, label: Label, len: u32 },
    /// A zone emptied.
    Reset { zone: usize },
    /// All zones emptied.
    ResetAll,
    /// A zone made full.
    Finish { zone: usize },
    /// What was answered before made stable.
    Flush,
    /// Nothing that changes what a zone holds.
    Other,
}

/// The shape of the disk, in blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Zones.
    pub(crate) zones: usize,
    /// Those of them, from the first on, that are conventional.
    pub(crate) conv: usize,
    /// Blocks in a zone.
    pub(crate) len: u32,
    /// Blocks of a sequential zone that can be written.
    pub(crate) cap: u32,
    /// Limit of active zones, or 0.
    pub(crate) active: usize,
    /// Limit of open zones, or 0.
    pub(crate) open: usize,
}

impl Shape {
    /// Of disks with whole zones.
    pub(crate) fn new(geo: &Geo) -> Self {
        assert_eq!(geo.size % geo.zone, 0, "a last zone that is shorter");
        Self {
            zones: geo.zones(),
            conv: geo.conv as usize,
            len: (geo.zone / BLOCK as u64) as u32,
            cap: (geo.cap / BLOCK as u64) as u32,
            active: geo.active as usize,
            open: geo.open as usize,
        }
    }

    /// The sequential zones.
    pub(crate) fn sequential(&self) -> std::ops::Range<usize> {
        self.conv..self.zones
    }

    /// The first sector of a block.
    pub(crate) fn sector(&self, zone: usize, at: u32) -> u64 {
        (zone as u64 * u64::from(self.len) + u64::from(at)) * SECTORS
    }
}

/// What a sequential zone holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its blocks from the first on.
    pub(crate) blocks: Vec<Label>,
    /// Whether it takes no more.
    pub(crate) full: bool,
}

impl Held {
    /// Blocks from the first on.
    pub(crate) fn written(&self) -> u32 {
        self.blocks.len() as u32
    }

    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && !self.full
    }

    fn told(&self) -> String {
        let mut text = format!("{} blocks{}", self.written(), if self.full { ", full" } else { "" });
        let mut at = 0;
        for run in self.blocks.chunk_by(|a, b| a.plus(1) == *b) {
            let first = run[0];
            let _ = write!(text, "; at {at} life {} request {} from its block {}", first.life, first.serial, first.at);
            at += run.len();
        }
        text
    }
}

/// How a zone was found.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// Its state.
    pub(crate) state: State,
    /// Sectors below its pointer.
    pub(crate) written: u64,
    /// All its blocks, where they were read.
    pub(crate) blocks: Option<Vec<Seen>>,
}

impl Sight {
    /// Of a zone of a report, and the bytes that were read of it.
    pub(crate) fn new(zone: &Zone, bytes: Option<&[u8]>) -> Self {
        Self { state: zone.state, written: zone.written(), blocks: bytes.map(look_at_all) }
    }
}

/// What a cut was told to do with a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Keep any prefix.
    Any,
    /// Keep all that was accepted.
    Keep,
    /// Keep what is stable and no more.
    Lose,
}

/// A kind of loss, or of keeping, that a campaign must have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    TornWrite,
    LostReset,
    LostFinish,
    KeptInFlight,
    LimitMended,
    VersionsMixed,
    FullZoneLoses,
    NeverFlushedLoses,
}

impl Class {
    /// All there are.
    pub(crate) const ALL: [Self; 8] = [
        Self::TornWrite,
        Self::LostReset,
        Self::LostFinish,
        Self::KeptInFlight,
        Self::LimitMended,
        Self::VersionsMixed,
        Self::FullZoneLoses,
        Self::NeverFlushedLoses,
    ];
}

#[derive(Clone, Debug, Default)]
struct Asked {
    /// The last sweep before it was submitted.
    submitted: u64,
    /// The sweep that has seen its OK.
    answered: Option<u64>,
    refused: bool,
    /// Where an append landed, in blocks of its zone.
    landed: Option<u32>,
    is_flush: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write { at: u32, label: Label, len: u32 },
    Append { label: Label, len: u32 },
    Reset,
    Finish,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    number: Number,
    op: Op,
}

impl Turn {
    fn data(&self) -> Option<(Label, u32)> {
        match self.op {
            Op::Write { label, len, .. } | Op::Append { label, len } => Some((label, len)),
            Op::Reset | Op::Finish => None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Sequential {
    base: Held,
    turns: Vec<Turn>,
}

#[derive(Clone, Debug)]
struct Conventional {
    base: Vec<Option<Label>>,
    versions: BTreeMap<u32, Vec<(Label, Number)>>,
}

/// The log of one time that the power was on, and what there was when it came on.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The disk.
    pub(crate) shape: Shape,
    /// Each answered request is stable.
    pub(crate) write_through: bool,
    /// The cache has no room for all old versions of conventional blocks, so that more becomes stable than was flushed.
    pub(crate) small_cache: bool,
    /// The cut was told that answered resets and finishes are stable.
    pub(crate) stable_management: bool,
    sweep: u64,
    /// What was seen answered up to this sweep is stable.
    stable: u64,
    /// The sweep that has seen the last flush answered.
    flushed: u64,
    asked: Vec<Asked>,
    sequential: Vec<Sequential>,
    conventional: Vec<Conventional>,
}

/// What a cut has left where it was allowed to.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    sequential: Vec<Held>,
    conventional: Vec<Vec<Option<Label>>>,
    /// What it is an example of; each at most once a zone.
    pub(crate) classes: Vec<Class>,
}

/// A zone that fits, and of what it is an example.
struct Fit {
    held: Held,
    classes: Vec<Class>,
}

/// Operations in their order. Of those behind `line` only some have a known place.
struct Order {
    line: Vec<Turn>,
    appends: Vec<Turn>,
}

impl Rules {
    /// An empty disk.
    pub(crate) fn new(shape: Shape) -> Self {
        let conventional = Conventional { base: vec![None; shape.len as usize], versions: BTreeMap::new() };
        Self {
            shape,
            write_through: false,
            small_cache: false,
            stable_management: false,
            sweep: 1,
            stable: 0,
            flushed: 0,
            asked: Vec::new(),
            sequential: vec![Sequential::default(); shape.zones - shape.conv],
            conventional: vec![conventional; shape.conv],
        }
    }

    /// Notes a request that is about to be submitted. In a sequential zone it comes behind all before it.
    pub(crate) fn submit(&mut self, what: &What) -> Number {
        let number = self.asked.len();
        let mut asked = Asked { submitted: self.sweep, ..Asked::default() };
        match *what {
            What::Write { zone, at, label, len } if zone < self.shape.conv => {
                for (at, label) in (at..).zip(label.row(len)) {
                    self.conventional[zone].versions.entry(at).or_default().push((label, number));
                }
            }
            What::Write { zone, at, label, len } => self.turn(zone, number, Op::Write { at, label, len }),
            What::Append { zone, label, len } => self.turn(zone, number, Op::Append { label, len }),
            What::Reset { zone } => self.turn(zone, number, Op::Reset),
            What::ResetAll => self.shape.sequential().for_each(|zone| self.turn(zone, number, Op::Reset)),
            What::Finish { zone } => self.turn(zone, number, Op::Finish),
            What::Flush => asked.is_flush = true,
            What::Other => {}
        }
        self.asked.push(asked);
        number
    }

    fn turn(&mut self, zone: usize, number: Number, op: Op) {
        self.sequential[zone - self.shape.conv].turns.push(Turn { number, op });
    }

    /// Begins another look at the answers.
    pub(crate) fn begin_sweep(&mut self) {
        self.sweep += 1;
    }

    /// Notes an OK. `landed`: of an append, in blocks of the zone.
    pub(crate) fn answered(&mut self, number: Number, landed: Option<u32>) {
        let asked = &mut self.asked[number];
        (asked.answered, asked.landed) = (Some(self.sweep), landed);
        if asked.is_flush {
            self.stable = self.stable.max(asked.submitted);
            self.flushed = self.sweep;
        }
    }

    /// Notes a refusal: nothing has happened.
    pub(crate) fn refused(&mut self, number: Number) {
        self.asked[number].refused = true;
    }

    fn is_answered(&self, number: Number) -> bool {
        self.asked[number].answered.is_some()
    }

    /// Whether a cut that spares `fate` must leave it.
    fn is_required(&self, number: Number, management: bool, fate: Fate) -> bool {
        let everything = self.write_through || fate == Fate::Keep || management && self.stable_management;
        self.asked[number].answered.is_some_and(|sweep| everything || sweep <= self.stable)
    }

    /// Whether a device may think that it is stable: a flush may cover more than what was answered before it, and one
    /// that has no answer may have been done all the same.
    fn may_be_stable(&self, number: Number, management: bool) -> bool {
        let Asked { submitted, answered, .. } = self.asked[number];
        let in_flight = |asked: &Asked| asked.is_flush && !asked.refused && asked.answered.is_none();
        // With write-through what has no answer yet may be stable already.
        self.write_through
            || management && self.stable_management && answered.is_some()
            || submitted < self.flushed
            || self.asked.iter().any(in_flight)
    }

    fn order(&self, zone: usize) -> Order {
        let zone = &self.sequential[zone - self.shape.conv];
        let (mut line, mut appends): (Vec<Turn>, Vec<Turn>) = (Vec::new(), Vec::new());
        let landed = |turn: &Turn| self.asked[turn.number].landed;
        for turn in zone.turns.iter().filter(|turn| !self.asked[turn.number].refused) {
            if matches!(turn.op, Op::Append { .. }) {
                appends.push(*turn);
                continue;
            }
            assert!(appends.iter().all(|turn| landed(turn).is_some()), "behind appends whose places are not known");
            appends.sort_by_key(landed);
            line.append(&mut appends);
            line.push(*turn);
        }
        if appends.iter().all(|turn| landed(turn).is_some()) {
            appends.sort_by_key(landed);
            line.append(&mut appends);
        }
        Order { line, appends }
    }

    fn apply(&self, held: &mut Held, turn: &Turn) -> Result<(), String> {
        let place = match turn.op {
            Op::Write { at, .. } => at,
            Op::Append { .. } => self.asked[turn.number].landed.unwrap_or(held.written()),
            Op::Reset => {
                *held = Held::default();
                return Ok(());
            }
            Op::Finish => {
                held.full = true;
                return Ok(());
            }
        };
        let (label, len) = turn.data().expect("a write or an append");
        if place != held.written() || held.full {
            let told = held.told();
            return match self.is_answered(turn.number) {
                true => Err(format!("{turn:?} was answered OK at block {place} of a zone with {told}")),
                false => Ok(()),
            };
        }
        held.blocks.extend(label.row(len));
        held.full = held.written() >= self.shape.cap;
        Ok(())
    }

    /// What a sequential zone holds by all that was answered.
    pub(crate) fn held(&self, zone: usize) -> Held {
        let mut held = self.sequential[zone - self.shape.conv].base.clone();
        let Order { line, appends } = self.order(zone);
        for turn in line.iter().chain(&appends).filter(|turn| self.is_answered(turn.number)) {
            self.apply(&mut held, turn).unwrap_or_else(|error| panic!("zone {zone}: {error}{}", self.story(zone)));
        }
        held
    }

    /// What a conventional block holds by all that was answered.
    pub(crate) fn version(&self, zone: usize, at: u32) -> Option<Label> {
        let zone = &self.conventional[zone];
        let versions = zone.versions.get(&at).map_or(&[][..], Vec::as_slice);
        let last = versions.iter().rev().find(|(_, number)| self.is_answered(*number));
        last.map_or(zone.base[at as usize], |(label, _)| Some(*label))
    }

    /// Whether anything was asked of a zone that changes it.
    pub(crate) fn is_touched(&self, zone: usize) -> bool {
        if zone < self.shape.conv {
            return !self.conventional[zone].versions.is_empty();
        }
        !self.sequential[zone - self.shape.conv].turns.is_empty()
    }

    /// What a cut has left, or each rule that is broken. `fates` has one for each zone.
    pub(crate) fn judge(&self, sights: &[Sight], fates: &[Fate]) -> Result<Left, String> {
        let mut left = Left { sequential: Vec::new(), conventional: Vec::new(), classes: Vec::new() };
        let mut broken = String::new();
        for (zone, (sight, fate)) in sights.iter().zip(fates).enumerate() {
            let result = if zone < self.shape.conv {
                self.judge_conventional(zone, sight, *fate).map(|(blocks, class)| {
                    left.conventional.push(blocks);
                    left.classes.extend(class);
                })
            } else {
                self.judge_sequential(zone, sight, *fate).map(|fit| {
                    left.sequential.push(fit.held);
                    left.classes.extend(fit.classes);
                })
            };
            if let Err(error) = result {
                let _ = write!(broken, "\nzone {zone}, {fate:?}: {error}{}", self.story(zone));
            }
        }
        assert_eq!(sights.len(), self.shape.zones, "zones that were looked at");
        let active = sights.iter().filter(|sight| sight.state == State::Closed).count();
        if self.shape.active != 0 && active > self.shape.active {
            let states: Vec<State> = sights.iter().map(|sight| sight.state).collect();
            let _ = write!(broken, "\nR9: {active} zones are active, at most {} may be: {states:?}", self.shape.active);
        }
        if broken.is_empty() { Ok(left) } else { Err(broken) }
    }

    /// The power is on again: what was left is stable, and nothing was asked yet.
    pub(crate) fn go_on_from(&mut self, left: &Left) {
        (self.sweep, self.stable, self.flushed) = (1, 0, 0);
        self.asked.clear();
        for (zone, held) in self.sequential.iter_mut().zip(&left.sequential) {
            *zone = Sequential { base: held.clone(), turns: Vec::new() };
        }
        for (zone, blocks) in self.conventional.iter_mut().zip(&left.conventional) {
            *zone = Conventional { base: blocks.clone(), versions: BTreeMap::new() };
        }
    }

    fn judge_conventional(
        &self,
        zone: usize,
        sight: &Sight,
        fate: Fate,
    ) -> Result<(Vec<Option<Label>>, Option<Class>), String> {
        let conventional = &self.conventional[zone];
        if sight.state != State::NotWp {
            return Err(format!("{:?}, a conventional zone", sight.state));
        }
        let Some(seen) = &sight.blocks else {
            assert!(conventional.versions.is_empty(), "zone {zone} was not read");
            return Ok((conventional.base.clone(), None));
        };
        let (mut old, mut new, mut found) = (0, 0, Vec::new());
        for (at, seen) in (0..).zip(seen) {
            let label = match seen {
                Seen::Zeros => None,
                Seen::Whole(label) => Some(*label),
                Seen::Torn(sectors) => return Err(format!("R7: block {at} is torn inside: {sectors}")),
            };
            let (index, floor, last) = self.version_of(zone, at, label, fate)?;
            old += usize::from(index == floor && floor < last);
            new += usize::from(index > floor);
            found.push(label);
        }
        Ok((found, (old > 0 && new > 0).then_some(Class::VersionsMixed)))
    }

    /// Which version a block is, which is the last stable one, and which the last answered one: 0 is what the power
    /// came on with.
    fn version_of(
        &self,
        zone: usize,
        at: u32,
        label: Option<Label>,
        fate: Fate,
    ) -> Result<(usize, usize, usize), String> {
        let base = self.conventional[zone].base[at as usize];
        let all = self.conventional[zone].versions.get(&at).map_or(&[][..], Vec::as_slice);
        let versions: Vec<_> = all.iter().filter(|(_, number)| !self.asked[*number].refused).collect();
        let last_of = |which: &dyn Fn(Number) -> bool| {
            versions.iter().rposition(|(_, number)| which(*number)).map_or(0, |index| index + 1)
        };
        let floor = last_of(&|number| self.is_required(number, false, fate));
        let ceiling = match fate {
            Fate::Lose if !self.small_cache => last_of(&|number| self.may_be_stable(number, false)),
            _ => versions.len(),
        };
        let index = match versions.iter().rposition(|(version, _)| Some(*version) == label) {
            Some(index) => index + 1,
            None if label == base => 0,
            None => {
                return Err(format!("R7: block {at} is {label:?}, which is no version of it: {base:?}, {versions:?}"));
            }
        };
        if index < floor || index > ceiling {
            let rule = format!("one of versions {floor} to {ceiling} of {base:?}, {versions:?}");
            return Err(format!("R7: block {at} is version {index}, expected {rule}"));
        }
        Ok((index, floor, last_of(&|number| self.is_answered(number))))
    }

    fn seen(&self, sight: &Sight, blocks: &[Seen]) -> Result<Held, String> {
        let written = sight.written / SECTORS;
        let labels: Vec<Label> =
            blocks.iter().map_while(|seen| if let Seen::Whole(label) = seen { Some(*label) } else { None }).collect();
        let behind = &blocks[labels.len()..];
        let held = Held { blocks: labels, full: sight.state == State::Full };
        for (at, seen) in (held.blocks.len()..).zip(behind) {
            match seen {
                Seen::Zeros => {}
                Seen::Torn(sectors) => return Err(format!("R1: block {at} is torn inside: {sectors}")),
                Seen::Whole(label) => {
                    let told = held.told();
                    return Err(format!("R2: block {at} is {label:?} behind zeros; before them {told}"));
                }
            }
        }
        let mut lives = held.blocks.iter().map(|label| label.life);
        let life = lives.next();
        if lives.any(|other| Some(other) != life) {
            return Err(format!("R3: bytes of two lives: {}", held.told()));
        }
        if !held.full && u64::from(held.written()) != written {
            return Err(format!("R2: the pointer is at block {written}, the data: {}", held.told()));
        }
        Ok(held)
    }

    fn judge_sequential(&self, zone: usize, sight: &Sight, fate: Fate) -> Result<Fit, String> {
        let base = &self.sequential[zone - self.shape.conv].base;
        let written = sight.written / SECTORS;
        if sight.state != State::Full && !sight.written.is_multiple_of(SECTORS) {
            return Err(format!(
                "R1: the pointer is in the midst of a block, {} sectors from the start",
                sight.written
            ));
        }
        let state_is_right = match sight.state {
            State::Empty => written == 0,
            State::Closed => written > 0 && written < u64::from(self.shape.cap),
            State::Full => true,
            _ => false,
        };
        if !state_is_right {
            return Err(format!("R4, R5: {:?} with {written} blocks below the pointer", sight.state));
        }
        let Some(blocks) = &sight.blocks else {
            assert!(!self.is_touched(zone), "zone {zone} was not read");
            let is_same =
                base.full == (sight.state == State::Full) && (base.full || u64::from(base.written()) == written);
            let text = || format!("{:?} with {written} blocks, and nothing was asked of it", sight.state);
            return is_same.then(|| Fit { held: base.clone(), classes: Vec::new() }).ok_or_else(text);
        };
        let found = self.seen(sight, blocks)?;
        let order = self.order(zone);
        self.fit(base, &order, found, fate)
    }

    /// Finds the prefixes of which `found` is what they leave.
    fn fit(&self, base: &Held, order: &Order, found: Held, fate: Fate) -> Result<Fit, String> {
        let Order { line, appends } = order;
        let is_management = |turn: &Turn| turn.data().is_none();
        let required = |turn: &Turn| self.is_required(turn.number, is_management(turn), fate);
        let floor = line.iter().rposition(required).map_or(0, |index| index + 1);
        let ceiling = if fate == Fate::Lose { self.ceiling(order) } else { line.len() };
        let pinned = appends.iter().any(required);
        let answered = line.iter().rposition(|turn| self.is_answered(turn.number)).map_or(0, |index| index + 1);

        let mut states = vec![base.clone()];
        for turn in line {
            let mut next = states.last().expect("one at least").clone();
            self.apply(&mut next, turn)?;
            states.push(next);
        }
        // Prefixes whose state it is, and how many blocks of the next operation.
        let mut fits: Vec<(usize, u32)> = Vec::new();
        for (count, state) in states.iter().enumerate() {
            let last = count == line.len() && !appends.is_empty();
            if count < floor || count > ceiling || pinned || last {
                continue;
            }
            if *state == found {
                fits.push((count, 0));
            } else if let Some(torn) = line.get(count).and_then(|turn| self.torn(state, turn, &found))
                && fate != Fate::Lose
            {
                fits.push((count, torn));
            }
        }
        let mut classes = Vec::new();
        if !appends.is_empty() {
            let last = states.last().expect("one at least");
            match self.fit_appends(last, appends, &found, fate, &required) {
                Ok(_) if line.len() > ceiling => {}
                Ok(tail) => {
                    classes.extend(tail);
                    fits.push((line.len(), 0));
                }
                Err(error) if fits.is_empty() => return Err(error),
                Err(_) => {}
            }
        }
        let (Some((least, _)), Some((most, torn))) = (fits.first(), fits.last()) else {
            let told = found.told();
            return Err(format!("R1: {told}: no state behind {floor} to {ceiling} of its {} operations", line.len()));
        };
        let lost = &line[*most..answered.max(*most)];
        for (state, turn) in states[*most..].iter().zip(lost) {
            match turn.op {
                Op::Reset if !state.is_empty() => classes.push(Class::LostReset),
                Op::Finish if !state.full => classes.push(Class::LostFinish),
                _ => {}
            }
        }
        if *torn > 0 {
            classes.push(Class::TornWrite);
        }
        let kept = &line[..*least + usize::from(*torn > 0 && least == most)];
        if kept.iter().any(|turn| turn.data().is_some() && !self.is_answered(turn.number)) {
            classes.push(Class::KeptInFlight);
        }
        if *most < answered && found != states[answered] {
            if states[answered].full {
                classes.push(Class::FullZoneLoses);
            }
            if base.is_empty() && floor == 0 && !states[answered].blocks.is_empty() {
                classes.push(Class::NeverFlushedLoses);
            }
        }
        classes.sort_unstable();
        classes.dedup();
        Ok(Fit { held: found, classes })
    }

    /// How many operations may be stable. A reset may become so when the zone is written again.
    fn ceiling(&self, order: &Order) -> usize {
        let Order { line, appends } = order;
        let stable = |turn: &Turn| self.may_be_stable(turn.number, turn.data().is_none());
        if appends.iter().any(stable) {
            return line.len();
        }
        let behind = |index: usize| index + 1 < line.len() || !appends.is_empty();
        let reset = line.iter().enumerate().rposition(|(at, turn)| matches!(turn.op, Op::Reset) && behind(at));
        let last = line.iter().rposition(stable).max(reset);
        last.map_or(0, |index| index + 1)
    }

    /// How many blocks of the next operation `found` has beyond `state`, if it has some of them and no more.
    fn torn(&self, state: &Held, turn: &Turn, found: &Held) -> Option<u32> {
        let (label, len) = turn.data()?;
        let there = found.written().checked_sub(state.written())?;
        let in_place = !matches!(turn.op, Op::Write { at, .. } if at != state.written());
        let fits = in_place && !state.full && !found.full && there > 0 && there < len;
        let (before, part) = found.blocks.split_at(state.blocks.len());
        (fits && before == state.blocks && part.iter().copied().eq(label.row(there))).then_some(there)
    }

    /// Whether `found` is what some of these appends leave, in any order that their answers allow, behind `before`.
    fn fit_appends(
        &self,
        before: &Held,
        appends: &[Turn],
        found: &Held,
        fate: Fate,
        required: &dyn Fn(&Turn) -> bool,
    ) -> Result<Vec<Class>, String> {
        let mut classes = Vec::new();
        let mut left = appends.to_vec();
        let mut at = before.blocks.len();
        let told = || format!("{}; appends in flight behind {}", found.told(), before.told());
        if !found.blocks.starts_with(&before.blocks) || before.full {
            return Err(format!("R1: {}", told()));
        }
        let (mut kept, mut torn) = (Vec::new(), false);
        while at < found.blocks.len() {
            let is_next = |turn: &Turn| turn.data().is_some_and(|(label, _)| label == found.blocks[at]);
            let Some(next) = left.iter().position(is_next) else {
                return Err(format!("R1: block {at} is not the first of an append: {}", told()));
            };
            let turn = left.remove(next);
            let (label, len) = turn.data().expect("an append");
            let there = (found.blocks.len() - at).min(len as usize);
            if !found.blocks[at..at + there].iter().copied().eq(label.row(there as u32)) {
                return Err(format!("R11: the append at block {at} is not whole: {}", told()));
            }
            if self.asked[turn.number].landed.is_some_and(|landed| landed as usize != at) {
                return Err(format!("R1: {turn:?} was answered with another place than block {at}: {}", told()));
            }
            torn = there < len as usize;
            if torn && (required(&turn) || fate == Fate::Lose) {
                return Err(format!("R1: {turn:?} must not be torn: {}", told()));
            }
            at += len as usize;
            kept.push(turn);
        }
        let misses =
            |turn: &Turn| required(turn) || self.asked[turn.number].landed.is_some_and(|to| (to as usize) < at);
        if let Some(turn) = left.iter().find(|turn| misses(turn)) {
            return Err(format!("R1: {turn:?} is missing: {}", told()));
        }
        if at > self.shape.cap as usize || found.full != (found.written() == self.shape.cap) {
            return Err(format!("R4: {}", told()));
        }
        if fate == Fate::Lose && kept.last().is_some_and(|turn| !self.may_be_stable(turn.number, false)) {
            return Err(format!("more than what is stable: {}", told()));
        }
        if torn {
            classes.push(Class::TornWrite);
        }
        if kept.iter().any(|turn| !self.is_answered(turn.number)) {
            classes.push(Class::KeptInFlight);
        }
        Ok(classes)
    }

    /// What was asked of a zone, for whoever reads of a failure.
    pub(crate) fn story(&self, zone: usize) -> String {
        let mut text = String::new();
        if zone < self.shape.conv {
            return text;
        }
        let zone = &self.sequential[zone - self.shape.conv];
        let _ = write!(text, "\n    at first: {}", zone.base.told());
        for turn in &zone.turns {
            let asked = &self.asked[turn.number];
            let fate = match asked.answered {
                _ if asked.refused => "refused".to_owned(),
                None => "in flight".to_owned(),
                Some(sweep) if sweep <= self.stable => format!("stable, answered in sweep {sweep}"),
                Some(sweep) => format!("answered in sweep {sweep}"),
            };
            let landed = asked.landed.map_or(String::new(), |at| format!(", landed at {at}"));
            let _ = write!(text, "\n    {}: {:?}: {fate}{landed}", turn.number, turn.op);
        }
        let _ = write!(text, "\n    stable up to sweep {}, last flush seen in {}", self.stable, self.flushed);
        text
    }
}

/// Bytes of a whole zone.
pub(crate) fn zone_bytes(shape: &Shape) -> usize {
    shape.len as usize * BLOCK
}
