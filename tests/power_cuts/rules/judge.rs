//! What a cut may make of what was asked: rules R1 to R11, zone by zone.

use std::fmt::Write;

use super::{Class, Fate, Held, Left, Number, Op, Order, Rules, Sight, Turn};
use crate::block::{Label, SECTORS, Seen};
use crate::common::request::State;

/// A zone that fits, and of what it is an example.
struct Fit {
    held: Held,
    classes: Vec<Class>,
}

impl Rules {
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
}
