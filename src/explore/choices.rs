//! What a loss of power at one moment may leave of a disk, as far as an exploration goes: pure.

use std::collections::BTreeSet;

use crate::power::Losable;
use crate::power::rules::{Place, Step, Steps, chance};

/// The most states of one moment that are gone through whole.
const MOST_COMBINATIONS: u64 = 4096;
/// How many are chosen by numbers where there are more.
const SAMPLES: u64 = 256;

/// How far an exploration goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What is stable, at each flush.
    Flushes = 1,
    /// Besides, all that was answered, at each answer; and at each moment a zone alone lost, alone kept, torn in its last request.
    Zones = 2,
    /// Besides, all combinations of all zones, where these are not too many; samples of them where they are.
    All = 3,
}

impl Level {
    /// What a number stands for.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Flushes, Self::Zones, Self::All].into_iter().find(|level| *level as u8 == number)
    }
}

/// A choice: what is left of the zones and blocks that have anything to lose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice {
    /// How many operations and blocks are lost.
    pub lost: u64,
    /// Of each sequential zone, how many of its operations are there.
    pub places: Vec<Place>,
    /// Of each block, whether the old version is there.
    pub old: Vec<bool>,
}

/// What can be chosen among at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// The sequential zones.
    pub zones: &'a Losable,
    /// The zones of the blocks of conventional zones that have two versions.
    pub blocks: &'a [u32],
    /// The unit of writes, in bytes.
    pub granularity: u64,
}

impl Choices<'_> {
    /// The choices of a level, those that lose least first.
    pub fn of(&self, level: Level) -> Vec<Choice> {
        let mut all = BTreeSet::new();
        let mut add = |places: Vec<Place>, old: Vec<bool>| {
            all.insert(self.choice(places, old));
        };
        if level == Level::All
            && let Some(combinations) = self.combinations().filter(|count| *count <= MOST_COMBINATIONS)
        {
            (0..combinations).for_each(|number| {
                let (places, old) = self.combination(number);
                add(places, old);
            });
            return all.into_iter().collect();
        }
        let (kept, lost) = (self.all_kept(), self.all_lost());
        add(lost.0.clone(), lost.1.clone());
        if level >= Level::Zones {
            add(kept.0.clone(), kept.1.clone());
            for at in 0..kept.0.len() {
                for (from, to) in [(&kept, &lost), (&lost, &kept)] {
                    let mut places = from.0.clone();
                    places[at] = to.0[at];
                    add(places, from.1.clone());
                }
                if let Some(torn) = self.torn_last(at) {
                    let mut places = kept.0.clone();
                    places[at] = torn;
                    add(places, kept.1.clone());
                }
            }
            for zone in self.blocks.iter().copied().collect::<BTreeSet<_>>() {
                let is_there = |there: bool| self.blocks.iter().map(|of| (*of == zone) == there).collect();
                add(kept.0.clone(), is_there(true));
                add(lost.0.clone(), is_there(false));
            }
        }
        if level == Level::All {
            (0..SAMPLES).for_each(|sample| {
                let (places, old) = self.sample(sample);
                add(places, old);
            });
        }
        all.into_iter().collect()
    }

    /// Nothing is lost.
    pub fn kept(&self) -> Choice {
        let (places, old) = self.all_kept();
        self.choice(places, old)
    }

    /// A choice, mended where it has to be.
    pub fn choice(&self, mut places: Vec<Place>, old: Vec<bool>) -> Choice {
        self.zones.mend(&mut places);
        let gone = |((_, steps), place): (&(_, Steps), &Place)| steps.operations().saturating_sub(place.operations);
        let lost = self.zones.zones.iter().zip(&places).map(gone).sum::<u64>();
        Choice { lost: lost + old.iter().filter(|old| **old).count() as u64, places, old }
    }

    fn all_kept(&self) -> (Vec<Place>, Vec<bool>) {
        let end = |(_, steps): &(_, Steps)| Place { operations: steps.operations(), torn: 0 };
        (self.zones.zones.iter().map(end).collect(), vec![false; self.blocks.len()])
    }

    fn all_lost(&self) -> (Vec<Place>, Vec<bool>) {
        (vec![Place { operations: 0, torn: 0 }; self.zones.zones.len()], vec![true; self.blocks.len()])
    }

    /// Where the last operation of a zone is a write of some blocks: half of them.
    fn torn_last(&self, at: usize) -> Option<Place> {
        let (_, steps) = self.zones.zones.get(at)?;
        let Some(Step::Writes { len, .. }) = steps.steps.last() else { return None };
        let half = len / self.granularity.max(1) / 2;
        let operations = steps.operations().checked_sub(1)?;
        (half > 0).then(|| Place { operations, torn: half * self.granularity })
    }

    /// How many there are, if that is a number at all.
    fn combinations(&self) -> Option<u64> {
        let of_zones =
            self.zones.zones.iter().try_fold(1u64, |all, (_, steps)| all.checked_mul(self.cut_points(steps)));
        u32::try_from(self.blocks.len()).ok().and_then(|blocks| of_zones?.checked_mul(2u64.checked_pow(blocks)?))
    }

    /// The one of a number: the last of all keeps everything.
    fn combination(&self, mut number: u64) -> (Vec<Place>, Vec<bool>) {
        let mut digit = |base: u64| {
            let digit = number % base.max(1);
            number /= base.max(1);
            digit
        };
        let places =
            self.zones.zones.iter().map(|(_, steps)| self.place(steps, digit(self.cut_points(steps)))).collect();
        (places, self.blocks.iter().map(|_| digit(2) == 0).collect())
    }

    fn sample(&self, sample: u64) -> (Vec<Place>, Vec<bool>) {
        let chosen = |(zone, steps): &(crate::units::ZoneIndex, Steps)| {
            let number = |which| chance(sample, [zone.0.into(), steps.operations(), which]);
            steps.chosen(number(0), number(1), self.granularity)
        };
        let old = (0u64..).zip(self.blocks).map(|(at, zone)| chance(sample, [(*zone).into(), at, 2]) & 1 == 1);
        (self.zones.zones.iter().map(chosen).collect(), old.collect())
    }

    /// How many places there are in the operations of a zone, torn ones included.
    fn cut_points(&self, steps: &Steps) -> u64 {
        let of = |step: &Step| match step {
            Step::Writes { len, count, .. } => count.saturating_mul(self.blocks_of(*len)),
            Step::Finish { .. } | Step::Reset { .. } => 1,
        };
        steps.steps.iter().map(of).fold(1, u64::saturating_add)
    }

    /// The place of a number below that.
    fn place(&self, steps: &Steps, mut number: u64) -> Place {
        let mut operations = 0;
        for step in &steps.steps {
            let (len, count) = match step {
                Step::Writes { len, count, .. } => (self.blocks_of(*len), *count),
                Step::Finish { .. } | Step::Reset { .. } => (1, 1),
            };
            if number < len.saturating_mul(count) {
                return Place { operations: operations + number / len, torn: number % len * self.granularity };
            }
            number -= len * count;
            operations += count;
        }
        Place { operations, torn: 0 }
    }

    fn blocks_of(&self, len: u64) -> u64 {
        (len / self.granularity.max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::rules::Span;
    use crate::units::ZoneIndex;

    const SPAN: Span = Span { start: 0, end: 100 };

    fn losable(zones: &[&[Step]]) -> Losable {
        let zone =
            |(at, steps): (u32, &&[Step])| (ZoneIndex(at), Steps { span: SPAN, stable: 0, steps: steps.to_vec() });
        Losable { zones: (0..).zip(zones).map(zone).collect(), others: 0, most_active: 0 }
    }

    fn writes(len: u64, count: u64) -> Step {
        Step::Writes { len, count, fills: None }
    }

    /// The pointers of a level's choices, and the blocks that are old, in their order.
    fn left(zones: &Losable, blocks: &[u32], level: Level) -> Vec<(Vec<u64>, usize)> {
        let choices = Choices { zones, blocks, granularity: 10 };
        let pointers = |choice: &Choice| {
            let pointer = |((_, steps), place): (&(_, Steps), &Place)| steps.left(*place).pointer;
            zones.zones.iter().zip(&choice.places).map(pointer).collect()
        };
        let each = |choice: &Choice| (pointers(choice), choice.old.iter().filter(|old| **old).count());
        choices.of(level).iter().map(each).collect()
    }

    #[test]
    fn each_level_has_what_it_says_and_what_loses_least_comes_first() {
        let zones = losable(&[&[writes(20, 2)], &[writes(10, 1)]]);
        let levels = [
            (Level::Flushes, vec![vec![0, 0]]),
            (Level::Zones, vec![vec![40, 10], vec![30, 10], vec![40, 0], vec![0, 10], vec![0, 0]]),
            (
                Level::All,
                vec![
                    vec![40, 10],
                    vec![20, 10],
                    vec![30, 10],
                    vec![40, 0],
                    vec![0, 10],
                    vec![10, 10],
                    vec![20, 0],
                    vec![30, 0],
                    vec![0, 0],
                    vec![10, 0],
                ],
            ),
        ];
        for (level, expected) in levels {
            let found: Vec<_> = left(&zones, &[], level).into_iter().map(|(pointers, _)| pointers).collect();
            assert_eq!(found, expected, "{level:?}");
        }
    }

    #[test]
    fn a_reset_is_lost_or_kept_and_never_torn() {
        let zones = losable(&[&[writes(20, 1), Step::Reset { order: 0 }]]);
        let found: Vec<_> = left(&zones, &[], Level::All).into_iter().map(|(pointers, _)| pointers[0]).collect();
        assert_eq!(found, [0, 20, 0, 10], "reset kept; lost; nothing written; torn");
    }

    #[test]
    fn blocks_of_a_conventional_zone_are_lost_with_their_zone_or_each_for_itself() {
        let (zones, blocks) = (losable(&[]), [0, 0, 1]);
        let old = |level| left(&zones, &blocks, level).into_iter().map(|(_, old)| old).collect::<Vec<_>>();
        assert_eq!(old(Level::Zones), [0, 1, 2, 3]);
        assert_eq!(old(Level::All), [0, 1, 1, 1, 2, 2, 2, 3]);
    }

    #[test]
    fn where_there_are_too_many_some_are_chosen_and_the_same_each_time() {
        let steps: Vec<Step> = vec![writes(10, 9)];
        let zones = losable(&[&steps, &steps, &steps, &steps]);
        let found = left(&zones, &[], Level::All);
        assert!(found.len() > 200 && found.len() as u64 <= SAMPLES + 14, "{}", found.len());
        assert_eq!(found, left(&zones, &[], Level::All));
    }

    #[test]
    fn no_choice_has_more_active_zones_than_there_may_be() {
        // The first is reset and gives its place to the second.
        let mut zones = losable(&[&[Step::Reset { order: 1 }], &[writes(10, 1)]]);
        zones.zones[0].1.stable = 50;
        zones.most_active = 1;
        let found: Vec<_> = left(&zones, &[], Level::All).into_iter().map(|(pointers, _)| pointers).collect();
        assert_eq!(found, [vec![0, 10], vec![0, 0], vec![50, 0]]);
    }
}
