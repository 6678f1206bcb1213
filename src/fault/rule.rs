//! A rule: which requests, which of these, and what becomes of them. Pure: which request is the victim follows from the rule's own
//! counts, and what is random about a request from the rule's seed and the place that the request names.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use crate::power::rules::chance;
use crate::store::{Action as Management, Failure, Op};
use crate::units::{Bytes, ZoneIndex};

/// A kind of requests that a rule can be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Appends.
    Append,
    /// Flushes.
    Flush,
    /// Zone reports.
    Report,
    /// Opens.
    Open,
    /// Closes.
    Close,
    /// Finishes.
    Finish,
    /// Resets of one zone.
    Reset,
    /// Resets of all zones.
    ResetAll,
    /// All of these.
    Any,
}

impl On {
    /// All there are, with their names.
    pub(super) const NAMES: [(&'static str, Self); 11] = [
        ("read", Self::Read),
        ("write", Self::Write),
        ("append", Self::Append),
        ("flush", Self::Flush),
        ("report", Self::Report),
        ("open", Self::Open),
        ("close", Self::Close),
        ("finish", Self::Finish),
        ("reset", Self::Reset),
        ("reset-all", Self::ResetAll),
        ("any", Self::Any),
    ];

    fn covers(self, op: &Op) -> bool {
        let of = match op {
            Op::Read { .. } => Self::Read,
            Op::Write { .. } => Self::Write,
            Op::Append { .. } => Self::Append,
            Op::Flush => Self::Flush,
            Op::Report { .. } => Self::Report,
            Op::Manage { action: Management::Open, .. } => Self::Open,
            Op::Manage { action: Management::Close, .. } => Self::Close,
            Op::Manage { action: Management::Finish, .. } => Self::Finish,
            Op::Manage { action: Management::Reset, .. } => Self::Reset,
            Op::ResetAll => Self::ResetAll,
        };
        self == Self::Any || self == of
    }
}

/// Which of the requests that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    /// Each.
    All,
    /// The nth alone.
    Nth(u64),
    /// Each nth.
    Every(u64),
    /// Each with this chance, by a seed, the zone, and the number of the request in the zone.
    Chance {
        /// From 0 to 1.
        probability: f64,
        /// The seed.
        seed: u64,
    },
}

/// How much of a request is done that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// All of the request: only the answer is lost.
    All,
    /// Half of a write's blocks, rounded down.
    Half,
    /// So many blocks of a write, at most all.
    Blocks(u64),
    /// From none to all of a write's blocks.
    Random,
}

/// How the bytes of a read are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// So many bits are flipped, always the same of one range.
    Flip(u32),
    /// Zeros.
    Zero,
    /// What was there before the last write: of a sequential zone zeros, of a conventional one its old blocks.
    Old,
}

/// How long a request is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// So long.
    Fixed(Duration),
    /// From the one to the other, each as likely.
    Uniform(Duration, Duration),
    /// Exponentially distributed about a mean.
    Exponential(Duration),
}

/// What a zone becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneChange {
    /// Read-only.
    ReadOnly,
    /// Offline.
    Offline,
    /// What the zone was before it was taken away.
    Restore,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request fails.
    Fail {
        /// As what.
        failure: Failure,
        /// How much of the request is done all the same.
        landed: Landed,
    },
    /// A read fails, as long as the place is not written or reset.
    Unreadable,
    /// A read is answered with wrong bytes.
    Corrupt(Corruption),
    /// The answer is late.
    Delay {
        /// By how much.
        by: Lateness,
        /// The request is done at once, and its answer late; otherwise the request has its place, and is done late.
        after: bool,
    },
    /// The request waits until the rule is released or removed, or its queue is stopped.
    Hang,
    /// A flush is answered, and nothing is made stable.
    Lie,
    /// The zone of the request changes before the request is looked at.
    Zone(ZoneChange),
}

/// Where requests are to begin or reach for a rule to be about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Zones, the first and the last.
    pub zones: Option<(ZoneIndex, ZoneIndex)>,
    /// Bytes of the disk, from the first to behind the last.
    pub bytes: Option<(Bytes, Bytes)>,
    /// The queue that the request came by.
    pub queue: Option<u16>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The kinds of requests.
    pub on: Vec<On>,
    /// Where they are.
    pub place: Place,
    /// Which of them.
    pub which: Which,
    /// How often the rule acts, at most.
    pub count: Option<u64>,
    /// The mark from which on the rule counts.
    pub after: Option<String>,
    /// What becomes of them.
    pub action: Action,
}

/// A request as rules see it.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) op: Op,
    pub(super) queue: u16,
    /// The zones that the request touches, the first and the last; none of a flush.
    pub(super) zones: Option<(ZoneIndex, ZoneIndex)>,
    /// The bytes of the disk that the request touches.
    pub(super) bytes: Range<u64>,
}

impl Rule {
    /// Whether the rule is about a request, whichever of them it then takes.
    pub(super) fn is_about(&self, subject: &Subject) -> bool {
        let Place { zones, bytes, queue } = self.place;
        let in_zones = zones
            .is_none_or(|(first, last)| subject.zones.is_some_and(|(low, high)| low.0 <= last.0 && first.0 <= high.0));
        let in_bytes = bytes.is_none_or(|(first, end)| {
            subject.zones.is_some() && subject.bytes.start < end.0 && first.0 < subject.bytes.end
        });
        self.on.iter().any(|on| on.covers(&subject.op))
            && queue.is_none_or(|queue| queue == subject.queue)
            && in_zones
            && in_bytes
    }

    /// What of a request's bytes the rule is about.
    pub(super) fn part(&self, subject: &Subject) -> Range<u64> {
        let Some((first, end)) = self.place.bytes else { return subject.bytes.clone() };
        let start = subject.bytes.start.max(first.0);
        start..subject.bytes.end.min(end.0).max(start)
    }

    /// The seed of what is random about the rule's requests.
    pub(super) fn seed(&self) -> u64 {
        match self.which {
            Which::Chance { seed, .. } => seed,
            Which::All | Which::Nth(_) | Which::Every(_) => 0,
        }
    }
}

/// How far a rule has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Requests that the rule was about, since its mark.
    pub(super) matched: u64,
    /// Those that it has acted on.
    pub(super) acted: u64,
    /// Of each zone the requests that the rule was about, where which is a matter of chance.
    in_zone: HashMap<u32, u64>,
    /// How far the rule had come when it was read from a file: numbers beyond may be in notes of requests in flight.
    written: u64,
    /// Numbers beyond that were found in such notes.
    found: BTreeSet<u64>,
    /// From where on this process has counted.
    counts_from: Option<u64>,
}

impl Progress {
    /// Where an earlier process has left off.
    pub(super) fn at(matched: u64, acted: u64, in_zone: &[(u32, u64)]) -> Self {
        Self { matched, acted, in_zone: in_zone.iter().copied().collect(), written: matched, ..Self::default() }
    }

    /// Of each zone the requests that the rule was about, where which is a matter of chance; in order.
    pub(super) fn in_zones(&self) -> Vec<(u32, u64)> {
        let mut all: Vec<_> = self.in_zone.iter().map(|(zone, number)| (*zone, *number)).collect();
        all.sort_unstable();
        all
    }

    /// Counts a request that the rule is about. Returns its number where the rule acts on the request.
    pub(super) fn count(&mut self, rule: &Rule, subject: &Subject) -> Option<u64> {
        self.counts_from.get_or_insert(self.matched);
        self.matched += 1;
        let is_victim = match rule.which {
            Which::All => true,
            Which::Nth(nth) => self.matched == nth,
            Which::Every(nth) => self.matched.is_multiple_of(nth),
            Which::Chance { probability, seed } => {
                let zone = subject.zones.map_or(u32::MAX, |(zone, _)| zone.0);
                let number = self.in_zone.entry(zone).or_default();
                *number += 1;
                is_below(chance(seed, [zone.into(), *number, 0]), probability)
            }
        };
        if !is_victim || rule.count.is_some_and(|count| self.acted >= count) {
            return None;
        }
        self.acted += 1;
        Some(self.matched)
    }

    /// Takes over what an earlier process has noted of a request that the rule has acted on: its number. Numbers come in any order,
    /// and may come again.
    pub(super) fn catch_up(&mut self, number: u64) {
        let counted_here = self.counts_from.is_some_and(|from| number > from);
        if number > self.written && !counted_here && self.found.insert(number) {
            self.matched = self.matched.max(number);
            self.acted += 1;
        }
    }
}

/// Whether a random number is in the lower part, of this size, of all numbers.
fn is_below(random: u64, probability: f64) -> bool {
    // 53 bits are what a double holds exactly.
    ((random >> 11) as f64) < probability * (1u64 << 53) as f64
}

/// A number of at most `most`, by a seed and a place.
fn at_most(most: u64, seed: u64, place: u64) -> u64 {
    let random = u128::from(chance(seed, [place, 1, 0]));
    ((random * (u128::from(most) + 1)) >> 64) as u64
}

impl Landed {
    /// How many bytes of a write of `len` bytes in blocks of `block` are done.
    pub(super) fn of(self, len: u64, block: u64, seed: u64, place: u64) -> u64 {
        let blocks = len / block.max(1);
        match self {
            Self::All => len,
            Self::Half => blocks / 2 * block,
            Self::Blocks(most) if most >= blocks => len,
            Self::Blocks(most) => most * block,
            Self::Random => match at_most(blocks, seed, place) {
                most if most == blocks => len,
                most => most * block,
            },
        }
    }
}

impl Lateness {
    /// How late the request with this number is.
    pub(super) fn of(self, seed: u64, number: u64) -> Duration {
        let fraction = || (chance(seed, [number, 2, 0]) >> 11) as f64 / (1u64 << 53) as f64;
        match self {
            Self::Fixed(by) => by,
            Self::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(fraction()),
            Self::Exponential(mean) => {
                // Of the unlikely longest ones the end: a thousand times the mean.
                Duration::try_from_secs_f64(mean.as_secs_f64() * -(1.0 - fraction()).ln()).unwrap_or(mean * 1000)
            }
        }
    }
}

/// The bits that are flipped in a range of the disk: the byte, and a mask. Of one range and seed always the same, and all of them
/// different.
pub(super) fn flips(range: &Range<u64>, bits: u32, seed: u64) -> Vec<(u64, u8)> {
    let all = range.end.saturating_sub(range.start).saturating_mul(8);
    let mut flipped: Vec<u64> = Vec::new();
    for draw in 0u64.. {
        if flipped.len() as u64 >= u64::from(bits).min(all) {
            break;
        }
        let bit = at_most(all - 1, seed ^ draw, range.start);
        if !flipped.contains(&bit) {
            flipped.push(bit);
        }
    }
    flipped.into_iter().map(|bit| (range.start + bit / 8, 1 << (bit % 8))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Sector;

    fn subject(op: Op, zone: u32, bytes: Range<u64>) -> Subject {
        Subject { op, queue: 0, zones: Some((ZoneIndex(zone), ZoneIndex(zone))), bytes }
    }

    fn write(zone: u32) -> Subject {
        let op = Op::Write { start: Sector(0), len: Bytes(4096) };
        subject(op, zone, 0..4096)
    }

    fn rule(on: On, which: Which, count: Option<u64>) -> Rule {
        let action = Action::Hang;
        Rule { on: vec![on], place: Place::default(), which, count, after: None, action }
    }

    /// The numbers of the requests that a rule acts on, of the first `all`.
    fn victims(rule: &Rule, all: u64) -> Vec<u64> {
        let mut progress = Progress::default();
        (1..=all).filter(|_| rule.is_about(&write(3))).filter_map(|_| progress.count(rule, &write(3))).collect()
    }

    #[test]
    fn which_requests_a_rule_acts_on_follows_from_their_numbers() {
        assert_eq!(victims(&rule(On::Write, Which::All, None), 3), [1, 2, 3]);
        assert_eq!(victims(&rule(On::Any, Which::Nth(2), None), 5), [2]);
        assert_eq!(victims(&rule(On::Any, Which::Every(3), None), 10), [3, 6, 9]);
        assert_eq!(victims(&rule(On::Any, Which::Every(3), Some(2)), 10), [3, 6]);
        assert_eq!(victims(&rule(On::Read, Which::All, None), 5), [0u64; 0]);
        let chance = |probability| Which::Chance { probability, seed: 7 };
        assert_eq!(victims(&rule(On::Any, chance(1.0), None), 4), [1, 2, 3, 4]);
        assert_eq!(victims(&rule(On::Any, chance(0.0), None), 4), [0u64; 0]);
        let half = victims(&rule(On::Any, chance(0.5), None), 10_000);
        assert!((4800..5200).contains(&half.len()), "{}", half.len());
        assert_eq!(half, victims(&rule(On::Any, chance(0.5), None), 10_000));
    }

    #[test]
    fn victims_of_chance_are_those_of_their_zone_whatever_comes_between() {
        let rule = rule(On::Write, Which::Chance { probability: 0.3, seed: 11 }, None);
        let in_order = |zones: &[u32]| {
            let mut progress = Progress::default();
            let mut number = HashMap::new();
            let mut victims = Vec::new();
            for zone in zones {
                let number: &mut u64 = number.entry(*zone).or_default();
                *number += 1;
                if progress.count(&rule, &write(*zone)).is_some() {
                    victims.push((*zone, *number));
                }
            }
            victims.sort_unstable();
            victims
        };
        let one_by_one: Vec<u32> = [[1; 50], [2; 50]].concat();
        let in_turns: Vec<u32> = [1, 2].repeat(50);
        assert_eq!(in_order(&one_by_one), in_order(&in_turns));
        assert!(in_order(&in_turns).len() > 10);
    }

    #[test]
    fn what_notes_of_requests_in_flight_say_is_counted_once_in_any_order() {
        let mut progress = Progress::at(7, 3, &[]);
        [10, 8, 7, 2, 10].into_iter().for_each(|number| progress.catch_up(number));
        assert_eq!((progress.matched, progress.acted), (10, 5));
        let rule = rule(On::Write, Which::All, None);
        assert_eq!(progress.count(&rule, &write(3)), Some(11));
        [8, 11].into_iter().for_each(|number| progress.catch_up(number));
        assert_eq!((progress.matched, progress.acted), (11, 6), "counted by this process");
    }

    #[test]
    fn a_rule_is_about_what_touches_its_place() {
        let at = |place| Rule { place, ..rule(On::Any, Which::All, None) };
        let zones = |first, last| at(Place { zones: Some((ZoneIndex(first), ZoneIndex(last))), ..Place::default() });
        assert!(zones(3, 5).is_about(&write(3)) && zones(3, 5).is_about(&write(5)));
        assert!(!zones(3, 5).is_about(&write(2)) && !zones(3, 5).is_about(&write(6)));
        let bytes = |first, end| at(Place { bytes: Some((Bytes(first), Bytes(end))), ..Place::default() });
        assert!(bytes(4095, 4096).is_about(&write(0)) && bytes(0, 1).is_about(&write(0)));
        assert!(!bytes(4096, 8192).is_about(&write(0)));
        assert_eq!(bytes(512, 1024).part(&write(0)), 512..1024);
        let flush = Subject { op: Op::Flush, queue: 2, zones: None, bytes: 0..0 };
        assert!(!zones(0, 9).is_about(&flush) && !bytes(0, 9).is_about(&flush));
        assert!(at(Place { queue: Some(2), ..Place::default() }).is_about(&flush));
        assert!(!at(Place { queue: Some(1), ..Place::default() }).is_about(&flush));
    }

    #[test]
    fn what_lands_is_whole_blocks_or_all() {
        let table = [
            (Landed::All, 10 * 512, 10 * 512),
            (Landed::Half, 10 * 512, 5 * 512),
            (Landed::Half, 512, 0),
            (Landed::Half, 3 * 512, 512),
            (Landed::Blocks(0), 10 * 512, 0),
            (Landed::Blocks(3), 10 * 512, 3 * 512),
            (Landed::Blocks(11), 10 * 512, 10 * 512),
        ];
        for (landed, len, expected) in table {
            assert_eq!(landed.of(len, 512, 1, 2), expected, "{landed:?} of {len}");
        }
        let random: std::collections::BTreeSet<u64> =
            (0..200).map(|place| Landed::Random.of(4 * 512, 512, 5, place)).collect();
        assert!(random.into_iter().eq((0..=4).map(|blocks| blocks * 512)), "each from none to all");
    }

    #[test]
    fn lateness_is_within_its_bounds_and_the_same_for_a_number() {
        let millis = Duration::from_millis;
        assert_eq!(Lateness::Fixed(millis(3)).of(1, 2), millis(3));
        let uniform = Lateness::Uniform(millis(2), millis(4));
        assert!((0..100).all(|n| (millis(2)..=millis(4)).contains(&uniform.of(9, n))));
        let exponential = Lateness::Exponential(millis(10));
        let mean = (0..2000).map(|n| exponential.of(9, n)).sum::<Duration>() / 2000;
        assert!((millis(9)..millis(11)).contains(&mean), "{mean:?}");
        assert_eq!(exponential.of(9, 5), exponential.of(9, 5));
    }

    #[test]
    fn so_many_different_bits_are_flipped_and_always_the_same() {
        let range = 4096..4608;
        let flipped = flips(&range, 100, 3);
        let different: std::collections::BTreeSet<_> = flipped.iter().copied().collect();
        assert_eq!(different.len(), 100);
        assert!(flipped.iter().all(|(byte, mask)| range.contains(byte) && mask.count_ones() == 1));
        assert_eq!(flipped, flips(&range, 100, 3));
        assert_eq!(flips(&(0..2), 100, 3).len(), 16, "no more than there are");
        assert_eq!(flips(&(5..5), 4, 3), []);
    }
}
