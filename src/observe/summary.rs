//! The zones of a disk in as many cells as there is room for: what a map of them is drawn from.
//!
//! A cell stands for a run of consecutive zones, and all cells but the last for equally many, so a summary is as large as
//! its cells however many zones there are. In JSON:
//!
//! ```json
//! {"zones": 6, "cells": [{"first": 0, "zones": 4, "states": {"empty": 3, "full": 1}, "written": 4096,
//!   "capacity": 16384}], "totals": {"states": {"empty": 5, "full": 1}, "written": 4096, "capacity": 24576}}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::power::PowerStatus;
use crate::store::ZoneInfo;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::State;

/// All zones of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many zones there are.
    pub zones: u32,
    /// Runs of zones in order, which leave none out.
    pub cells: Vec<Cell>,
    /// All of them together.
    pub totals: Tally,
    /// How the volatile cache stands, where the disk is served with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerStatus>,
}

/// A run of zones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The number of its first zone.
    pub first: u32,
    /// How many zones it stands for.
    pub zones: u32,
    /// What they hold.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What some zones hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many of them are in each state.
    pub states: StateCounts,
    /// Bytes below the write pointers. Conventional zones have none and count for nothing here.
    pub written: u64,
    /// Bytes that can be written before a reset, conventional zones left out.
    pub capacity: u64,
    /// Of the bytes below the write pointers, what a power cut may take. None where there is no volatile cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volatile: Option<u64>,
}

/// How many zones are in each state. In JSON an object of the names of those that are not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BTreeMap<&'static str, u32>", try_from = "BTreeMap<String, u32>")]
pub struct StateCounts([u32; State::ALL.len()]);

impl Summary {
    /// Sums up `zones`, which are those of a disk with `nr_zones` zones, in at most `cells` cells, or one where that is
    /// 0. A zone that is not of this disk is left out.
    pub fn of(zones: impl Iterator<Item = ZoneInfo>, nr_zones: u32, cells: u32) -> Self {
        Self::sum(zones.map(|zone| (zone, None)), nr_zones, cells)
    }

    /// The same of a disk with a volatile cache: `stable` is how much of a zone a power cut cannot take, up to which pointer, where
    /// the zone has anything to lose.
    pub fn of_volatile(
        zones: impl Iterator<Item = ZoneInfo>,
        stable: impl Fn(ZoneIndex) -> Option<Bytes>,
        power: PowerStatus,
        nr_zones: u32,
        cells: u32,
    ) -> Self {
        let volatile = |zone: &ZoneInfo| stable(zone.index).map_or(0, |stable| unstable(zone, stable));
        let zones = zones.map(|zone| {
            let volatile = volatile(&zone);
            (zone, Some(volatile))
        });
        Self { power: Some(power), ..Self::sum(zones, nr_zones, cells) }
    }

    fn sum(zones: impl Iterator<Item = (ZoneInfo, Option<u64>)>, nr_zones: u32, cells: u32) -> Self {
        let run = nr_zones.div_ceil(cells.max(1)).max(1);
        let firsts = (0..nr_zones).step_by(run as usize);
        let cell = |first| Cell { first, zones: run.min(nr_zones - first), tally: Tally::default() };
        let mut cells: Vec<Cell> = firsts.map(cell).collect();
        let mut totals = Tally::default();
        for (zone, volatile) in zones {
            if let Some(cell) = cells.get_mut((zone.index.0 / run) as usize) {
                cell.tally.add(&zone, volatile);
                totals.add(&zone, volatile);
            }
        }
        Self { zones: nr_zones, cells, totals, power: None }
    }
}

/// Bytes below the write pointer. A conventional zone has none.
fn written(zone: &ZoneInfo) -> u64 {
    match zone.state {
        State::NotWp => 0,
        _ => zone.write_pointer.0.saturating_sub(zone.start.0).min(zone.capacity.0),
    }
}

/// Those of them that are not below `stable`. Where a reset may be lost that is beyond the pointer.
fn unstable(zone: &ZoneInfo, stable: Bytes) -> u64 {
    written(zone).saturating_sub(stable.0.saturating_sub(zone.start.0))
}

impl Tally {
    fn add(&mut self, zone: &ZoneInfo, volatile: Option<u64>) {
        self.states.add(zone.state);
        self.written += written(zone);
        self.capacity += if zone.state == State::NotWp { 0 } else { zone.capacity.0 };
        if let Some(bytes) = volatile {
            *self.volatile.get_or_insert_default() += bytes;
        }
    }
}

impl StateCounts {
    /// How many zones are in `state`.
    pub fn get(&self, state: State) -> u64 {
        self.sum(|one| one == state)
    }

    /// How many zones are in a state that `which` picks.
    pub fn sum(&self, which: impl Fn(State) -> bool) -> u64 {
        let counts = State::ALL.iter().zip(self.0);
        counts.filter(|(state, _)| which(**state)).map(|(_, count)| u64::from(count)).sum()
    }

    fn add(&mut self, state: State) {
        let counts = State::ALL.iter().zip(&mut self.0);
        counts.filter(|(one, _)| **one == state).for_each(|(_, count)| *count += 1);
    }
}

impl From<StateCounts> for BTreeMap<&'static str, u32> {
    fn from(counts: StateCounts) -> Self {
        let named = State::ALL.iter().zip(counts.0).map(|(state, count)| (state.name(), count));
        named.filter(|(_, count)| *count > 0).collect()
    }
}

impl TryFrom<BTreeMap<String, u32>> for StateCounts {
    type Error = String;

    fn try_from(named: BTreeMap<String, u32>) -> Result<Self, String> {
        let mut counts = Self::default();
        for (name, count) in named {
            let place = State::ALL.iter().zip(&mut counts.0).find(|(state, _)| state.name() == name);
            let (_, place) = place.ok_or_else(|| format!("'{name}' is no state of a zone"))?;
            *place = count;
        }
        Ok(counts)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::zone::ZoneKind;

    const CAPACITY: u64 = 1000;

    fn zone(index: u32, state: State, written: u64) -> ZoneInfo {
        let start = Bytes(u64::from(index) * 4096);
        let kind = if state == State::NotWp { ZoneKind::Conventional } else { ZoneKind::SequentialWriteRequired };
        let (len, capacity) = (Bytes(4096), Bytes(CAPACITY));
        ZoneInfo { index: ZoneIndex(index), kind, state, start, len, capacity, write_pointer: Bytes(start.0 + written) }
    }

    fn empty(zones: u32) -> impl Iterator<Item = ZoneInfo> {
        (0..zones).map(|index| zone(index, State::Empty, 0))
    }

    #[test]
    fn cells_cover_each_zone_once_in_equal_runs_but_the_last() {
        for zones in [1, 2, 7, 12, 64, 300] {
            for cells in [0, 1, 2, 3, 7, 12, 63, 64, 65, 1000, u32::MAX] {
                let summary = Summary::of(empty(zones), zones, cells);
                let runs: Vec<u32> = summary.cells.iter().map(|cell| cell.zones).collect();
                let what = format!("{zones} zones in {cells} cells: {runs:?}");
                assert!(runs.len() as u32 <= cells.max(1), "{what}");
                assert_eq!(runs.iter().sum::<u32>(), zones, "{what}");
                assert!(runs.iter().rev().skip(1).all(|run| *run == runs[0]) && runs.last() <= runs.first(), "{what}");
                let mut next = 0;
                for cell in &summary.cells {
                    assert_eq!(
                        (cell.first, cell.tally.states.get(State::Empty)),
                        (next, u64::from(cell.zones)),
                        "{what}"
                    );
                    next += cell.zones;
                }
            }
        }
    }

    #[test]
    fn the_totals_are_those_of_the_cells_together() {
        let states = [State::NotWp, State::Empty, State::ImplicitOpen, State::ExplicitOpen, State::Closed, State::Full];
        let zones = (0..1000).map(|index| {
            let state = states[index as usize % states.len()];
            zone(index, state, if state == State::Full { CAPACITY } else { u64::from(index) / 2 })
        });
        let summary = Summary::of(zones, 1000, 9);
        let together = |of: fn(&Tally) -> u64| summary.cells.iter().map(|cell| of(&cell.tally)).sum::<u64>();
        assert_eq!(together(|tally| tally.written), summary.totals.written);
        assert_eq!(together(|tally| tally.capacity), summary.totals.capacity);
        for state in State::ALL {
            let cells: u64 = summary.cells.iter().map(|cell| cell.tally.states.get(state)).sum();
            assert_eq!(cells, summary.totals.states.get(state), "{state:?}");
        }
        assert_eq!(summary.totals.states.sum(|_| true), 1000);
        assert_eq!(summary.totals.states.sum(State::is_open), 167 + 167);
    }

    #[test]
    fn written_bytes_leave_conventional_zones_out_and_stay_within_the_capacity() {
        let zones = [
            zone(0, State::NotWp, 0),
            zone(1, State::Closed, 300),
            zone(2, State::Full, CAPACITY),
            zone(3, State::Full, CAPACITY + 1),
        ];
        let totals = Summary::of(zones.into_iter(), 4, 4).totals;
        assert_eq!((totals.written, totals.capacity), (300 + 2 * CAPACITY, 3 * CAPACITY));
    }

    #[test]
    fn volatile_bytes_are_those_between_the_stable_pointer_and_the_pointer_and_none_of_a_reset_zone() {
        let zones = [
            zone(0, State::NotWp, 0),
            zone(1, State::Closed, 300),
            zone(2, State::Full, CAPACITY + 1),
            zone(3, State::Empty, 0),
            zone(4, State::ImplicitOpen, 700),
        ];
        let stable = |zone: ZoneIndex| match zone.0 {
            1 => Some(Bytes(4096 + 100)),
            2 => Some(Bytes(2 * 4096)),
            // A reset that may be lost.
            3 => Some(Bytes(3 * 4096 + 500)),
            _ => None,
        };
        let power = PowerStatus { state: "on".to_owned(), at: None, volatile_bytes: 0 };
        let summary = Summary::of_volatile(zones.into_iter(), stable, power.clone(), 5, 5);
        let volatile: Vec<_> = summary.cells.iter().map(|cell| cell.tally.volatile).collect();
        assert_eq!(volatile, [Some(0), Some(200), Some(CAPACITY), Some(0), Some(0)]);
        assert_eq!((summary.totals.volatile, summary.power), (Some(200 + CAPACITY), Some(power)));
        assert_eq!(Summary::of(empty(3), 3, 3).totals.volatile, None, "there is no volatile cache");
    }

    #[test]
    fn zones_that_are_not_of_the_disk_are_left_out() {
        assert_eq!(Summary::of(empty(9), 8, 4), Summary::of(empty(8), 8, 4));
    }

    #[test]
    fn a_million_zones_take_the_room_of_their_cells() {
        let summary = Summary::of(empty(1 << 20), 1 << 20, 100);
        assert!(summary.cells.capacity() <= 100, "room for {} cells", summary.cells.capacity());
        assert_eq!(summary.totals.states.get(State::Empty), 1 << 20);
    }

    #[test]
    fn as_json_it_names_only_states_that_occur_and_comes_back_the_same() {
        let zones = [zone(0, State::NotWp, 0), zone(1, State::ImplicitOpen, 512), zone(2, State::Full, CAPACITY)];
        let summary = Summary::of(zones.into_iter(), 3, 2);
        let json = serde_json::to_value(&summary).unwrap();
        let expected = serde_json::json!({
            "zones": 3,
            "cells": [
                {"first": 0, "zones": 2, "states": {"not-wp": 1, "implicit-open": 1}, "written": 512, "capacity": 1000},
                {"first": 2, "zones": 1, "states": {"full": 1}, "written": 1000, "capacity": 1000},
            ],
            "totals": {
                "states": {"not-wp": 1, "implicit-open": 1, "full": 1}, "written": 1512, "capacity": 2000,
            },
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), summary);
        let wrong = serde_json::from_value::<StateCounts>(serde_json::json!({"ajar": 1})).unwrap_err();
        assert!(wrong.to_string().contains("'ajar'"), "{wrong}");
    }
}
