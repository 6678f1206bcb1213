//! The rules of a loss of power, pure: what each zone may be afterwards, and which of it a choice takes.
//!
//! A sequential zone is in the state after a prefix of its operations since its stable state; the next one, where it is a
//! write, may have left its first blocks (R1 to R4). Zones choose for themselves (R8), except that the result keeps the
//! device's own limit of active zones (R9). Blocks of conventional zones are each what they were at the last flush, or what they
//! are (R7).

use std::borrow::Borrow;

/// The writable part of a zone: absolute positions in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: u64,
    /// Where what can be written ends.
    pub end: u64,
}

/// What was done to a zone, in the order of its acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes one behind the other.
    Writes {
        /// Bytes of each.
        len: u64,
        /// How many.
        count: u64,
        /// Of the write that fills the zone, when that was among what frees active zones.
        fills: Option<u64>,
    },
    /// The rest of the zone became zeros.
    Finish {
        /// When, among what frees active zones.
        order: u64,
    },
    /// The zone became empty; always the last.
    Reset {
        /// When, among what frees active zones.
        order: u64,
    },
}

/// A zone's stable state and what was done to it since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// The zone.
    pub span: Span,
    /// The stable write pointer.
    pub stable: u64,
    /// What followed.
    pub steps: Vec<Step>,
}

/// A place in the steps of a zone: so many whole operations, and bytes of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Whole operations.
    pub operations: u64,
    /// Bytes of the one after them.
    pub torn: u64,
}

/// A zone at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The write pointer.
    pub pointer: u64,
    /// Whether the last operation was torn.
    pub torn: bool,
    /// Resets that did not happen.
    pub resets_lost: u32,
    /// Finishes that did not happen.
    pub finishes_lost: u32,
}

impl Steps {
    /// How many operations there are.
    pub fn operations(&self) -> u64 {
        self.steps.iter().map(count_of).sum()
    }

    /// Where the pointer stands after all.
    pub fn pointer(&self) -> u64 {
        self.left(Place { operations: self.operations(), torn: 0 }).pointer
    }

    /// The furthest that the pointer came, in whichever life.
    pub fn furthest(&self) -> u64 {
        let before_reset = self.steps.iter().filter(|step| !matches!(step, Step::Reset { .. })).map(count_of).sum();
        self.left(Place { operations: before_reset, torn: 0 }).pointer
    }

    /// The place behind the last finish or reset.
    pub fn behind_management(&self) -> Place {
        let last = self.steps.iter().rposition(|step| !matches!(step, Step::Writes { .. }));
        let operations = self.steps.iter().take(last.map_or(0, |last| last + 1)).map(count_of).sum();
        Place { operations, torn: 0 }
    }

    /// The zone at a place. One beyond the end is the end.
    pub fn left(&self, place: Place) -> Left {
        let mut left = Left { pointer: self.stable, torn: false, resets_lost: 0, finishes_lost: 0 };
        let mut operations = place.operations;
        let mut over = false;
        for step in &self.steps {
            match *step {
                Step::Writes { .. } if over => {}
                Step::Writes { len, count, .. } => {
                    let whole = operations.min(count);
                    operations -= whole;
                    left.pointer += whole * len;
                    if whole < count {
                        over = true;
                        let torn = place.torn.min(len.saturating_sub(1));
                        left.pointer += torn;
                        left.torn = torn != 0;
                    }
                }
                Step::Finish { .. } if over || operations == 0 => {
                    over = true;
                    left.finishes_lost += 1;
                }
                Step::Finish { .. } => {
                    operations -= 1;
                    left.pointer = self.span.end;
                }
                Step::Reset { .. } if over || operations == 0 => {
                    over = true;
                    left.resets_lost += 1;
                }
                Step::Reset { .. } => {
                    operations -= 1;
                    left.pointer = self.span.start;
                }
            }
        }
        left
    }

    /// A place that a number chooses, the tear that another does, in units of `block`.
    pub fn chosen(&self, first: u64, second: u64, block: u64) -> Place {
        let operations = first % (self.operations() + 1);
        let mut before = operations;
        for step in &self.steps {
            let count = count_of(step);
            match step {
                Step::Writes { len, .. } if before < count => {
                    let blocks = (len / block.max(1)).max(1);
                    return Place { operations, torn: second % blocks * block };
                }
                _ if before < count => break,
                _ => before -= count,
            }
        }
        Place { operations, torn: 0 }
    }

    /// The place that leaves this, if there is one.
    pub fn place_of(&self, pointer: u64, resets_lost: u32, finishes_lost: u32) -> Option<Place> {
        let mut operations = 0;
        let fits = |place: &Place| {
            let left = self.left(*place);
            (left.pointer, left.resets_lost, left.finishes_lost) == (pointer, resets_lost, finishes_lost)
        };
        for step in &self.steps {
            let at = Place { operations, torn: 0 };
            if fits(&at) {
                return Some(at);
            }
            if let Step::Writes { len, count, .. } = step
                && let Some(into) = pointer.checked_sub(self.left(at).pointer)
            {
                let within = Place { operations: operations + into / (*len).max(1), torn: into % (*len).max(1) };
                if into / (*len).max(1) < *count && fits(&within) {
                    return Some(within);
                }
            }
            operations += count_of(step);
        }
        Some(Place { operations, torn: 0 }).filter(fits)
    }

    /// The earliest operation behind a place that made an active zone one that is not: when it was, and the place behind it.
    fn first_freed_behind(&self, place: Place) -> Option<(u64, Place)> {
        let mut operations = 0;
        for step in &self.steps {
            let before = self.left(Place { operations, torn: 0 }).pointer;
            operations += count_of(step);
            let active = before > self.span.start && before < self.span.end;
            let order = match step {
                Step::Writes { fills, .. } => *fills,
                Step::Finish { order } | Step::Reset { order } => Some(*order).filter(|_| active),
            };
            if let Some(order) = order.filter(|_| operations > place.operations) {
                return Some((order, Place { operations, torn: 0 }));
            }
        }
        None
    }

    fn is_active(&self, place: Place) -> bool {
        let pointer = self.left(place).pointer;
        pointer > self.span.start && pointer < self.span.end
    }
}

fn count_of(step: &Step) -> u64 {
    match step {
        Step::Writes { count, .. } => *count,
        Step::Finish { .. } | Step::Reset { .. } => 1,
    }
}

/// Mends choices that would leave more active zones than there may be (R9): keeps, in the order of acceptance, the earliest lost
/// operation that freed one, with its prefix, until they fit. `others` are active zones without a choice; a `limit` of 0 is
/// none. Returns which zones were mended.
pub fn mend(zones: &[impl Borrow<Steps>], places: &mut [Place], others: u64, limit: u64) -> Vec<bool> {
    let mut mended = vec![false; zones.len()];
    if limit == 0 {
        return mended;
    }
    loop {
        let zones = || zones.iter().map(Borrow::borrow);
        let active = zones().zip(&*places).filter(|(zone, place)| zone.is_active(**place)).count() as u64;
        if active + others <= limit {
            return mended;
        }
        let lost = zones().zip(&*places).enumerate();
        let lost = lost.filter_map(|(at, (zone, place))| Some((zone.first_freed_behind(*place)?, at)));
        let Some(((_, place), at)) = lost.min_by_key(|((order, _), _)| *order) else { return mended };
        places[at] = place;
        mended[at] = true;
    }
}

/// A number from a seed and what it is for: the same on every machine and in every version.
pub fn chance(seed: u64, of: [u64; 3]) -> u64 {
    // SplitMix64's finalizer over a running sum: each input bit reaches each output bit.
    of.into_iter().fold(mix(seed), |state, word| mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word))
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { start: 100, end: 200 };

    fn zone(stable: u64, steps: &[Step]) -> Steps {
        Steps { span: SPAN, stable, steps: steps.to_vec() }
    }

    fn writes(len: u64, count: u64) -> Step {
        Step::Writes { len, count, fills: None }
    }

    fn left(zone: &Steps, operations: u64, torn: u64) -> (u64, bool, u32, u32) {
        let left = zone.left(Place { operations, torn });
        (left.pointer, left.torn, left.resets_lost, left.finishes_lost)
    }

    #[test]
    fn a_zone_is_what_a_prefix_of_its_operations_leaves() {
        let zone = zone(110, &[writes(10, 3), writes(20, 1), Step::Finish { order: 0 }, Step::Reset { order: 1 }]);
        assert_eq!(zone.operations(), 6);
        let all: Vec<_> = (0..=7).map(|operations| left(&zone, operations, 0)).collect();
        let expected = [
            (110, false, 1, 1),
            (120, false, 1, 1),
            (130, false, 1, 1),
            (140, false, 1, 1),
            (160, false, 1, 1),
            (200, false, 1, 0),
            (100, false, 0, 0),
            (100, false, 0, 0),
        ];
        assert_eq!(all, expected);
        assert_eq!(left(&zone, 1, 5), (125, true, 1, 1));
        assert_eq!(left(&zone, 3, 19), (159, true, 1, 1));
        assert_eq!(left(&zone, 4, 9), (160, false, 1, 1), "a finish is not torn");
        assert_eq!((zone.pointer(), zone.furthest()), (100, 200));
        assert_eq!(zone.behind_management().operations, 6);
    }

    #[test]
    fn what_was_left_is_found_again() {
        let zone = zone(110, &[writes(10, 3), Step::Finish { order: 0 }, Step::Reset { order: 1 }]);
        for operations in 0..=5 {
            for torn in [0, 4] {
                let left = zone.left(Place { operations, torn });
                let place = zone.place_of(left.pointer, left.resets_lost, left.finishes_lost);
                assert_eq!(place.map(|place| zone.left(place)), Some(left));
            }
        }
        assert_eq!(zone.place_of(105, 1, 1), None);
        assert_eq!(zone.place_of(150, 1, 1), None);
    }

    #[test]
    fn a_number_chooses_each_place_and_tears_only_between_blocks() {
        let zone = zone(100, &[writes(40, 2), Step::Reset { order: 0 }]);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..400 {
            let left = zone.left(zone.chosen(number, number / 4, 10));
            assert!(left.pointer.is_multiple_of(10));
            seen.insert((left.pointer, left.resets_lost));
        }
        let writes = (100..=180).step_by(10).map(|pointer| (pointer, 1));
        assert!([(100, 0)].into_iter().chain(writes).eq(seen), "every state that is legal, and no other");
    }

    #[test]
    fn the_earliest_operation_that_freed_an_active_zone_is_kept_until_they_fit() {
        // A is reset and gives its place to B, B is finished and gives it to C.
        let zones = [
            zone(150, &[Step::Reset { order: 7 }]),
            zone(100, &[writes(10, 1), Step::Finish { order: 9 }]),
            zone(100, &[writes(10, 2)]),
        ];
        let mut places = [(0, 0), (1, 0), (2, 0)].map(|(operations, torn)| Place { operations, torn });
        assert_eq!(mend(&zones, &mut places.clone(), 0, 0), [false; 3], "no limit");
        assert_eq!(mend(&zones, &mut places.clone(), 0, 3), [false; 3], "they fit");
        let mut two = places;
        assert_eq!(mend(&zones, &mut two, 0, 2), [true, false, false]);
        assert_eq!(mend(&zones, &mut places, 0, 1), [true, true, false]);
        assert_eq!(
            zones.iter().zip(places).map(|(zone, place)| zone.left(place).pointer).collect::<Vec<_>>(),
            [100, 200, 120]
        );
    }

    #[test]
    fn a_reset_of_a_full_zone_frees_no_active_one() {
        let zones = [zone(200, &[Step::Reset { order: 0 }]), zone(150, &[Step::Reset { order: 1 }])];
        let mut places = [Place { operations: 0, torn: 0 }; 2];
        assert_eq!(mend(&zones, &mut places, 1, 1), [false, true]);
    }

    #[test]
    fn chance_is_the_same_everywhere() {
        assert_eq!(chance(1, [2, 3, 4]), chance(1, [2, 3, 4]));
        let all: std::collections::BTreeSet<u64> =
            (0..1000).map(|n| chance(n % 10, [n / 10 % 10, n / 100, 0])).collect();
        assert_eq!(all.len(), 1000);
    }
}
