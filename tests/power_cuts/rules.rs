//! What was asked of a disk and what was answered, by the frontend's own log; [`judge`] has what a cut may make of it. Nothing
//! of the program is asked here.
//!
//! The order in which a zone's operations were accepted is known: writes, resets and finishes go to one queue one
//! behind the other, or one by one; of several appends at once the answers say where they landed, and what has no
//! answer lies where it is found. Answers are looked at in *sweeps*, which are numbered: what was seen in one before a
//! flush was submitted is covered by it.

mod judge;

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
