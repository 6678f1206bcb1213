//! What users tell the layer: rules added, listed, cleared and released; marks; zones given back; the device reset.

use super::layer::Faults;
use super::rule::{Action, Corruption, Progress, Rule, ZoneChange};
use super::saved::Saved;
use super::state::{Done, Ruled, State};
use super::words::RuleWords;
use crate::store::Refusal;
use crate::units::ZoneIndex;

/// Rules at a time: each request is held against all of them.
const MAX_RULES: usize = 1000;

impl Faults {
    /// Adds a rule, or changes zones at once where the words say so. `done` is called when that is in force, and written down
    /// where somebody does that. An error is one line.
    pub fn add(&self, words: RuleWords, done: Done) -> Result<(), String> {
        let rule = words.read(self.below.geometry())?;
        if words.is_at_once() {
            let zones = zones_of(&rule);
            self.check_changeable()?;
            self.shared.with(|state| {
                if let Action::Zone(change) = rule.action {
                    state.change_zones(zones.iter().copied(), change);
                }
                state.wait(zones, done);
            });
        } else {
            self.shared.with(|state| {
                let is_there = state.rules.iter().any(|ruled| ruled.words.name == words.name);
                if is_there {
                    return Err(format!("name is '{}': expected one that no rule has", words.name));
                }
                if state.rules.len() >= MAX_RULES {
                    return Err(format!("there are {MAX_RULES} rules: expected some to be cleared first"));
                }
                let number = state.new_number();
                state.rules.push(Ruled::new(number, RuleWords { progress: None, ..words }, rule));
                state.changed();
                state.wait(Vec::new(), done);
                Ok(())
            })?;
        }
        self.shared.ring();
        Ok(())
    }

    fn check_changeable(&self) -> Result<(), String> {
        if self.below.read_only() { Err("the disk is served read-only".to_owned()) } else { Ok(()) }
    }

    /// The rules, with how far they have come, and the zones that were taken away.
    pub fn list(&self) -> Saved {
        self.shared.with(|state| state.to_saved())
    }

    /// What a rule is called that requests are refused by.
    pub fn name_of(&self, number: u16) -> Option<String> {
        self.shared.with(|state| state.name_of(number).map(str::to_owned))
    }

    /// Removes a rule, or all; requests that it holds back go on. Zones that were taken away stay so.
    pub fn clear(&self, name: Option<&str>, done: Done) -> Result<(), String> {
        self.with_rules(name, done, |state, numbers| {
            state.let_go_all(|act| numbers.contains(&act.rule));
            state.rules.retain(|ruled| !numbers.contains(&ruled.number));
            if state.rules.iter().all(|ruled| ruled.rule.action != Action::Corrupt(Corruption::Old)) {
                self.old.clear();
            }
        })
    }

    /// Lets the requests go on that a rule holds back now.
    pub fn release(&self, name: &str, done: Done) -> Result<(), String> {
        self.with_rules(Some(name), done, |state, numbers| state.let_go_all(|act| numbers.contains(&act.rule)))
    }

    fn with_rules(&self, name: Option<&str>, done: Done, with: impl FnOnce(&mut State, &[u16])) -> Result<(), String> {
        self.shared.with(|state| {
            let named = state.rules.iter().filter(|ruled| name.is_none_or(|name| ruled.words.name == name));
            let numbers: Vec<u16> = named.map(|ruled| ruled.number).collect();
            if let Some(name) = name.filter(|_| numbers.is_empty()) {
                return Err(format!("there is no rule '{name}'"));
            }
            with(state, &numbers);
            state.changed();
            state.wait(Vec::new(), done);
            Ok(())
        })?;
        self.shared.ring();
        Ok(())
    }

    /// Sets a mark, which rules may wait for.
    pub fn mark(&self, name: &str) {
        self.shared.with(|state| {
            for ruled in &mut state.rules {
                ruled.awake |= ruled.rule.after.as_deref() == Some(name);
            }
            state.changed();
        });
        self.shared.ring();
    }

    /// Gives zones back at once, which a drive does not do: the driver is not told.
    pub fn restore_now(&self, words: &RuleWords, done: Done) -> Result<(), String> {
        let rule = words.read(self.below.geometry())?;
        if rule.action != Action::Zone(ZoneChange::Restore) || !words.is_at_once() {
            return Err(format!("do is '{}': expected zone-state=restore alone, to be done now", words.action));
        }
        self.check_changeable()?;
        for zone in zones_of(&rule) {
            self.give_back(zone).map_err(|refusal| format!("zone {zone} cannot be restored: {refusal}"))?;
        }
        self.shared.with(|state| state.wait(Vec::new(), done));
        self.shared.ring();
        Ok(())
    }

    fn give_back(&self, zone: ZoneIndex) -> Result<(), Refusal> {
        let is_taken = self.shared.with(|state| state.taken.contains_key(&zone));
        if is_taken {
            self.below.give_back(zone)?;
            self.shared.with(|state| {
                state.taken.remove(&zone);
                state.changed();
            });
        }
        Ok(())
    }

    /// The driver has reset the device: no request is in flight, and zones come back of which that was said.
    pub fn device_reset(&self) {
        let back: Vec<ZoneIndex> = self.shared.with(|state| {
            state.forget_requests();
            state.taken.iter().filter(|(_, taken)| taken.comes_back).map(|(zone, _)| *zone).collect()
        });
        for zone in back {
            match self.give_back(zone) {
                Ok(()) => log::info!("zone {zone} is back"),
                Err(refusal) => log::warn!("zone {zone} cannot be restored yet: {refusal}"),
            }
        }
        self.shared.ring();
    }

    /// Takes over rules and zones that were written down. Before the first request. An error is one line.
    pub fn take_over(&self, saved: Saved) -> Result<(), String> {
        if let Some(version) = saved.schema_version.filter(|version| *version != 1) {
            return Err(format!("schema_version is {version}: expected 1"));
        }
        let geometry = self.below.geometry();
        let mut ruled = Vec::new();
        for words in saved.rules {
            let rule = words.read(geometry).map_err(|error| format!("rule '{}': {error}", words.name))?;
            if words.is_at_once() {
                return Err(format!("rule '{}': expected its zones among \"zones\"", words.name));
            }
            if ruled.iter().any(|(known, _): &(RuleWords, Rule)| known.name == words.name) {
                return Err(format!("rule '{}' is there twice", words.name));
            }
            ruled.push((words, rule));
        }
        let mut zones = Vec::new();
        for zone in saved.zones {
            let offline = match zone.state.as_str() {
                "offline" => true,
                "read-only" => false,
                other => return Err(format!("zone {} is '{other}': expected read-only or offline", zone.zone)),
            };
            if !(geometry.conventional_zones()..geometry.nr_zones()).contains(&zone.zone) {
                return Err(format!("zone is '{}': expected a zone with a write pointer", zone.zone));
            }
            zones.push((ZoneIndex(zone.zone), offline, zone.comes_back));
        }
        for (zone, offline, comes_back) in zones {
            self.below.take_away(zone, offline);
            self.shared.with(|state| {
                state.was_taken(zone, offline);
                if let Some(taken) = state.taken.get_mut(&zone) {
                    taken.comes_back = comes_back;
                }
            });
        }
        self.shared.with(|state| {
            // Those that have a number first, as notes know them by it.
            let numbers: Vec<u16> = ruled.iter().map(|(words, _)| number_of(words)).collect();
            for ((words, rule), number) in ruled.into_iter().zip(&numbers) {
                let number = if *number == 0 { state.unused_number(&numbers) } else { *number };
                state.rules.push(restored(number, words, rule));
            }
        });
        Ok(())
    }
}

fn number_of(words: &RuleWords) -> u16 {
    words.progress.as_ref().map_or(0, |progress| progress.number)
}

/// A rule as it was written down.
fn restored(number: u16, mut words: RuleWords, rule: Rule) -> Ruled {
    let progress = words.progress.take();
    let mut ruled = Ruled::new(number, words, rule);
    if let Some(progress) = progress {
        ruled.progress = Progress::at(progress.matched, progress.acted, &progress.in_zone);
        ruled.awake |= progress.awake;
        ruled.healed = progress.healed.into_iter().map(|(from, to)| from..to).collect();
    }
    ruled
}

fn zones_of(rule: &Rule) -> Vec<ZoneIndex> {
    let zones = rule.place.zones.into_iter().flat_map(|(first, last)| first.0..=last.0);
    zones.map(ZoneIndex).collect()
}
