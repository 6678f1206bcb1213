//! A recording gone through, record by record, on a disk of its own: the states that a loss of power may have left at its moments,
//! each of them once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::choices::{Choice, Choices, Level};
use super::identity::{AllLives, Identity};
use crate::observe::Kind;
use crate::power::{CutConventional, CutOutcome, Losable, Then};
use crate::record::{Entry, LosableBlock, Machine, Record, ReplayError};
use crate::storage::Medium;
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::status::Status;

/// A place in a recording where all is stable and nothing in flight: a disk can go on from there as from the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    /// The number of the record that follows.
    pub next: u64,
    /// Where this record begins in the file; 0 for the beginning of the recording.
    pub at: u64,
}

/// A state of the disk that a loss of power may have left.
#[derive(Clone, Debug)]
pub struct State {
    /// The same for the same state.
    pub identity: Identity,
    /// The power goes when this record has happened.
    pub record: u64,
    /// The last quiet place before that.
    pub quiet: Quiet,
    /// The stretch of the recording, counted from 0.
    pub stretch: u64,
    /// What had been promised by then.
    pub marks: Arc<[String]>,
    /// What could be lost then.
    pub moment: Arc<Moment>,
    /// What of it is.
    pub choice: Choice,
}

/// What could be lost at a moment.
#[derive(Debug)]
pub struct Moment {
    /// Of the sequential zones.
    pub zones: Losable,
    /// Of conventional ones: numbers of blocks.
    pub blocks: Vec<u64>,
    /// The zone of each of these.
    pub zones_of_blocks: Vec<u32>,
    /// The unit of writes, in bytes.
    pub granularity: u64,
    /// Each zone's life that a reset has ended which may be lost, and the one that it is in.
    lives: Vec<(u64, u64)>,
    /// What a zone and a block is where nothing of it is lost.
    kept: Identity,
    /// Of each block, its old and its new version.
    versions: Vec<(Identity, Identity)>,
}

impl Moment {
    /// What can be chosen among.
    pub fn choices(&self) -> Choices<'_> {
        Choices { zones: &self.zones, blocks: &self.zones_of_blocks, granularity: self.granularity }
    }

    /// Which state a choice leaves.
    pub fn identity(&self, choice: &Choice) -> Identity {
        let mut identity = self.kept;
        let end = self.choices().kept();
        for (((zone, steps), lives), (place, kept)) in
            self.zones.zones.iter().zip(&self.lives).zip(choice.places.iter().zip(&end.places))
        {
            let of = |place| {
                let left = steps.left(place);
                let life = if left.resets_lost > 0 { lives.0 } else { lives.1 };
                Identity::of_zone(*zone, Bytes(steps.span.start), life, left.pointer)
            };
            if place != kept {
                identity = identity.with(of(*kept)).with(of(*place));
            }
        }
        let lost = self.versions.iter().zip(&choice.old).filter(|(_, old)| **old);
        lost.fold(identity, |identity, ((old, new), _)| identity.with(*new).with(*old))
    }
}

impl State {
    /// The state in the words of a power cut: what `state=` takes.
    pub fn told(&self) -> CutOutcome {
        let moment = &self.moment;
        let mut conventional: Vec<CutConventional> = Vec::new();
        for ((block, zone), old) in moment.blocks.iter().zip(&moment.zones_of_blocks).zip(&self.choice.old) {
            if conventional.last().is_none_or(|last| last.zone != *zone) {
                conventional.push(CutConventional { zone: *zone, volatile: 0, kept: 0, new: Vec::new() });
            }
            conventional.iter_mut().next_back().into_iter().for_each(|zone| zone.add(*block, !*old));
        }
        let mended = vec![false; self.choice.places.len()];
        CutOutcome {
            digest: self.identity.text(),
            seed: None,
            then: Then::Dead,
            model: "prefix".to_owned(),
            mgmt: "volatile".to_owned(),
            requests: 0,
            zones: moment.zones.told(&self.choice.places, &mended),
            conventional,
        }
    }

    /// Another choice at the same moment.
    pub fn with(&self, choice: Choice) -> Self {
        Self { identity: self.moment.identity(&choice), choice, ..self.clone() }
    }
}

/// The recording so far.
pub struct Survey<M: Medium> {
    machine: Machine<M>,
    level: Level,
    undone: Arc<HashSet<u64>>,
    lives: AllLives,
    /// Flushes that were accepted and not answered.
    flushes: HashSet<u64>,
    /// Writes to conventional zones that were accepted and not answered: their blocks.
    writes: HashMap<u64, std::ops::Range<u64>>,
    /// The write pointers at the beginning, of the zones that were not empty, and the life that all zones were in.
    beginning: (HashMap<ZoneIndex, Bytes>, u64),
    /// Sequential zones that have ever had anything to lose, as they are where nothing is lost.
    zones: BTreeMap<ZoneIndex, Identity>,
    /// Zones that had anything to lose at the last look.
    losing: Vec<ZoneIndex>,
    /// Blocks of conventional zones that were ever written: what they are now, and what they were at the beginning.
    blocks: BTreeMap<u64, (Identity, Identity)>,
    kept: Identity,
    marks: Arc<[String]>,
    /// States that were found with the marks of now.
    seen: HashSet<Identity>,
    all_seen: HashSet<Identity>,
    quiet: Quiet,
    stretch: u64,
    found: u64,
}

impl<M: Medium + 'static> Survey<M> {
    /// Begins at the beginning of a recording. `undone` is what a [scan](crate::record::Scan::undone) has found.
    pub fn new(machine: Machine<M>, level: Level, undone: Arc<HashSet<u64>>) -> Self {
        Self {
            machine,
            level,
            undone,
            lives: AllLives::default(),
            flushes: HashSet::new(),
            writes: HashMap::new(),
            beginning: (HashMap::new(), 0),
            zones: BTreeMap::new(),
            losing: Vec::new(),
            blocks: BTreeMap::new(),
            kept: Identity::default(),
            marks: Arc::new([]),
            seen: HashSet::new(),
            all_seen: HashSet::new(),
            quiet: Quiet::default(),
            stretch: 0,
            found: 0,
        }
    }

    /// How many states differ, whatever was promised of them.
    pub fn distinct(&self) -> u64 {
        self.all_seen.len() as u64
    }

    /// How many stretches the recording has so far.
    pub fn stretches(&self) -> u64 {
        self.stretch + 1
    }

    /// How many states there are, one that may be left under several promises counted once for each.
    pub fn found(&self) -> u64 {
        self.found
    }

    /// Goes over a record, which ends at `end` in the file. States that are new go to `found`.
    pub fn take(&mut self, record: &Record, end: u64, found: &mut dyn FnMut(State)) -> Result<(), ReplayError> {
        if self.ends_stretch(record) && record.number > 0 {
            self.look(record.number - 1, self.level, found)?;
            self.stretch += 1;
        }
        let was_flush = matches!(&record.entry, Entry::Answer { of, .. } if self.flushes.remove(of));
        self.note(record);
        self.machine.take(record)?;
        match &record.entry {
            Entry::Mark(text) => {
                self.marks = self.marks.iter().cloned().chain([text.clone()]).collect();
                self.seen.clear();
            }
            Entry::Answer { .. } if self.level >= Level::Zones && !was_flush => self.keep(record.number, found)?,
            _ => {}
        }
        if was_flush && self.machine.is_quiet() {
            self.quiet = Quiet { next: record.number + 1, at: end };
        }
        Ok(())
    }

    /// Goes over the end of the recording, behind this record.
    pub fn end(&mut self, last: u64, found: &mut dyn FnMut(State)) -> Result<(), ReplayError> {
        self.look(last, self.level, found)
    }

    /// Whether something becomes stable with a record, or what could be left before it cannot be any more, or more is promised.
    fn ends_stretch(&self, record: &Record) -> bool {
        match &record.entry {
            Entry::Answer { of, status, .. } if *status == Status::Ok => self.flushes.contains(of),
            // From here on a version of these blocks that was never stable cannot be left any more.
            Entry::Data(data) => self.writes.get(&data.of).is_some_and(|blocks| self.may_lose(blocks.clone())),
            Entry::Accept(accepted) => !self.undone.contains(&record.number) && self.lives.keeps_reset(accepted),
            Entry::Mark(_) | Entry::DeviceReset | Entry::Session { .. } => true,
            // What a cut has left of conventional zones comes before it.
            Entry::Cut { .. } | Entry::Block { .. } => true,
            _ => false,
        }
    }

    fn may_lose(&self, mut blocks: std::ops::Range<u64>) -> bool {
        let mut volatile = HashSet::new();
        self.machine.each_old_block(|number| _ = volatile.insert(number));
        blocks.any(|block| volatile.contains(&block))
    }

    fn note(&mut self, record: &Record) {
        let is_done = !self.undone.contains(&record.number);
        self.lives.take(&record.entry, is_done);
        match &record.entry {
            Entry::Session { generation: 0, pointers } => {
                self.beginning = (pointers.iter().copied().collect(), self.lives.first());
            }
            Entry::Accept(accepted) if accepted.kind == Kind::Flush && is_done => {
                self.flushes.insert(record.number);
            }
            Entry::Accept(accepted)
                if accepted.kind == Kind::Write
                    && is_done
                    && !accepted.zone.is_some_and(|zone| self.machine.is_sequential(zone)) =>
            {
                let unit = self.machine.granularity().0.max(1);
                let end = accepted.place.0.saturating_add(accepted.len.into());
                self.writes.insert(record.number, accepted.place.0 / unit..end.div_ceil(unit));
            }
            Entry::Answer { of, .. } => _ = self.writes.remove(of),
            Entry::Cut { .. } | Entry::Session { .. } => {
                self.flushes.clear();
                self.writes.clear();
            }
            _ => {}
        }
    }

    /// The state where nothing is lost, when a record has happened.
    fn keep(&mut self, record: u64, found: &mut dyn FnMut(State)) -> Result<(), ReplayError> {
        let moment = Arc::new(self.moment()?);
        let choice = moment.choices().kept();
        self.offer(record, &moment, choice, found);
        Ok(())
    }

    /// The states of a level, when a record has happened.
    fn look(&mut self, record: u64, level: Level, found: &mut dyn FnMut(State)) -> Result<(), ReplayError> {
        let moment = Arc::new(self.moment()?);
        for choice in moment.choices().of(level) {
            self.offer(record, &moment, choice, found);
        }
        Ok(())
    }

    fn offer(&mut self, record: u64, moment: &Arc<Moment>, choice: Choice, found: &mut dyn FnMut(State)) {
        let identity = moment.identity(&choice);
        if !self.seen.insert(identity) {
            return;
        }
        self.all_seen.insert(identity);
        self.found += 1;
        let (marks, moment) = (Arc::clone(&self.marks), Arc::clone(moment));
        found(State { identity, record, quiet: self.quiet, stretch: self.stretch, marks, moment, choice });
    }

    /// What may be lost now.
    fn moment(&mut self) -> Result<Moment, ReplayError> {
        let zones = self.machine.losable();
        let of = |zone| (self.lives.of(zone, true), self.lives.of(zone, false));
        let lives: Vec<(u64, u64)> = zones.zones.iter().map(|(zone, _)| of(*zone)).collect();
        let now: BTreeMap<_, _> = zones
            .zones
            .iter()
            .zip(&lives)
            .map(|((zone, steps), (_, life))| (*zone, (steps.span.start, *life, steps.pointer())))
            .collect();
        for zone in std::mem::replace(&mut self.losing, now.keys().copied().collect()) {
            if !now.contains_key(&zone) {
                // All of it is stable by now.
                let start = self.machine.geometry().start(zone).0;
                let pointer = self.machine.pointer(zone).0;
                self.set_zone(zone, start, self.lives.of(zone, false), pointer);
            }
        }
        for (zone, (start, life, pointer)) in now {
            self.set_zone(zone, start, life, pointer);
        }
        let blocks = self.machine.losable_blocks()?;
        let versions = blocks.iter().map(|block| self.set_block(block)).collect();
        let unit = self.machine.granularity().0;
        let zone_of = |block: &LosableBlock| self.machine.geometry().zone_at(Bytes(block.number * unit));
        Ok(Moment {
            zones_of_blocks: blocks.iter().map(|block| zone_of(block).map_or(0, |zone| zone.0)).collect(),
            blocks: blocks.iter().map(|block| block.number).collect(),
            zones,
            granularity: unit,
            lives,
            kept: self.kept,
            versions,
        })
    }

    fn set_zone(&mut self, zone: ZoneIndex, start: u64, life: u64, pointer: u64) {
        let (pointers, first_life) = &self.beginning;
        let first = pointers.get(&zone).map_or(start, |pointer| pointer.0);
        // One that is what it was at the beginning counts for nothing.
        let first = Identity::of_zone(zone, Bytes(start), *first_life, first);
        let identity = Identity::of_zone(zone, Bytes(start), life, pointer).with(first);
        let before = self.zones.insert(zone, identity).unwrap_or_default();
        self.kept = self.kept.with(before).with(identity);
    }

    /// Takes in what a block is, and returns how its old version and its new one count.
    fn set_block(&mut self, block: &LosableBlock) -> (Identity, Identity) {
        let [old, new] = [&block.old, &block.new].map(|content| Identity::of_block(block.number, content));
        let (now, first) = self.blocks.entry(block.number).or_insert((old, old));
        // One that is what it was at the beginning counts for nothing.
        let counts = |version: Identity| version.with(*first);
        self.kept = self.kept.with(counts(*now)).with(counts(new));
        let versions = (counts(old), counts(new));
        *now = new;
        versions
    }
}
