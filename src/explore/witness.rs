//! A state that has failed: what it has lost, and the least loss with which it still fails.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::choices::Choice;
use super::identity::Identity;
use super::maker::{MakeError, Recording};
use super::survey::{Quiet, State};
use crate::observe::Kind;
use crate::power::rules::Place;
use crate::record::{Accepted, Entry};
use crate::units::ZoneIndex;

/// A request that a state has lost, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The record that accepted it.
    pub record: u64,
    /// The request.
    pub request: Accepted,
    /// How many bytes of a write are there all the same.
    pub torn: u64,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Accepted { kind, zone, place, len, .. } = &self.request;
        write!(f, "record {}: {}", self.record, kind.name())?;
        if let Some(zone) = zone {
            write!(f, " in zone {zone}")?;
        }
        if matches!(kind, Kind::Write | Kind::Append) {
            write!(f, ", {len} bytes at {place}")?;
        }
        if self.torn > 0 { write!(f, ", but for its first {} bytes", self.torn) } else { Ok(()) }
    }
}

/// The requests to sequential zones that a state has lost, in the order of their acceptance.
pub fn lost(recording: &Recording, state: &State) -> Result<Vec<Lost>, MakeError> {
    let mut zones: HashMap<ZoneIndex, Vec<(u64, Accepted)>> = HashMap::new();
    let mut records = recording.records(Quiet::default())?;
    while let Some(record) = records.read()?.filter(|record| record.number <= state.record) {
        match record.entry {
            Entry::Accept(accepted) if !recording.undone.contains(&record.number) => {
                if let Some(zone) = accepted.zone.filter(|_| changes(accepted.kind)) {
                    zones.entry(zone).or_default().push((record.number, accepted));
                }
            }
            Entry::Cut { .. } | Entry::Session { .. } => zones.clear(),
            _ => {}
        }
    }
    let mut all = BTreeMap::new();
    for ((zone, steps), place) in state.moment.zones.zones.iter().zip(&state.choice.places) {
        let requests = zones.remove(zone).unwrap_or_default();
        // What has not landed by then is behind all that could be kept.
        let reach = steps.furthest();
        let done = |(_, request): &&(u64, Accepted)| {
            !matches!(request.kind, Kind::Write | Kind::Append) || request.place.0 < reach
        };
        let done: Vec<_> = requests.iter().filter(done).collect();
        let gone = usize::try_from(steps.operations().saturating_sub(place.operations)).unwrap_or(usize::MAX);
        for (at, (record, request)) in done.into_iter().rev().take(gone).rev().enumerate() {
            let torn = if at == 0 { place.torn } else { 0 };
            all.insert(*record, Lost { record: *record, request: *request, torn });
        }
    }
    Ok(all.into_values().collect())
}

fn changes(kind: Kind) -> bool {
    matches!(kind, Kind::Write | Kind::Append | Kind::Reset | Kind::ResetAll | Kind::Finish)
}

/// Looks for the least loss, at the moment of a state that fails, that fails too: one zone after another is kept whole, or as far as
/// that goes, and each block of a conventional zone. `fails` tells of a state whether it does; those of a kind are asked once.
pub fn minimise<E>(state: &State, mut fails: impl FnMut(&State) -> Result<bool, E>) -> Result<State, E> {
    let mut known: HashMap<Identity, bool> = HashMap::from([(state.identity, true)]);
    let mut best = state.clone();
    let mut still = |choice: Choice, best: &mut State| -> Result<bool, E> {
        let next = best.with(choice);
        if next.choice.lost > best.choice.lost || next.identity == best.identity {
            return Ok(false);
        }
        let failed = match known.get(&next.identity) {
            Some(failed) => *failed,
            None => *known.entry(next.identity).or_insert(fails(&next)?),
        };
        if failed {
            *best = next;
        }
        Ok(failed)
    };
    loop {
        let before = (best.choice.lost, best.identity);
        for at in 0..best.choice.places.len() {
            keep_zone(&mut best, at, &mut still)?;
        }
        keep_blocks(&mut best, &mut still)?;
        if (best.choice.lost, best.identity) == before {
            return Ok(best);
        }
    }
}

type Still<'a, E> = dyn FnMut(Choice, &mut State) -> Result<bool, E> + 'a;

/// Keeps as many operations of a zone as there can be: all; else half of those that are lost, while that goes, and one by one.
fn keep_zone<E>(best: &mut State, at: usize, still: &mut Still<'_, E>) -> Result<(), E> {
    let all = best.moment.zones.zones.get(at).map_or(0, |(_, steps)| steps.operations());
    let mut step = u64::MAX;
    loop {
        let Some(place) = best.choice.places.get(at).copied() else { return Ok(()) };
        let gone = all.saturating_sub(place.operations);
        if gone == 0 {
            return Ok(());
        }
        step = step.min(gone);
        let mut places = best.choice.places.clone();
        places[at] = Place { operations: place.operations + step, torn: 0 };
        let choice = best.moment.choices().choice(places, best.choice.old.clone());
        if !still(choice, best)? {
            if step == 1 {
                break;
            }
            step /= 2;
        }
    }
    // A write that is torn may as well be lost whole, which is easier to read.
    let place = best.choice.places[at];
    if place.torn > 0 {
        let mut places = best.choice.places.clone();
        places[at] = Place { torn: 0, ..place };
        let choice = best.moment.choices().choice(places, best.choice.old.clone());
        still(choice, best)?;
    }
    Ok(())
}

fn keep_blocks<E>(best: &mut State, still: &mut Still<'_, E>) -> Result<(), E> {
    let mut size = best.choice.old.len();
    while size > 0 {
        for from in (0..best.choice.old.len()).step_by(size) {
            let mut old = best.choice.old.clone();
            let Some(part) = old.get_mut(from..(from + size).min(best.choice.old.len())) else { continue };
            if part.iter().any(|old| *old) {
                part.fill(false);
                let choice = best.moment.choices().choice(best.choice.places.clone(), old);
                still(choice, best)?;
            }
        }
        size /= 2;
    }
    Ok(())
}
