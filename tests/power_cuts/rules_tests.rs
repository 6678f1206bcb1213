//! The rules against disks that break them: each kind of wrong state is found, and what is legal is not.

use super::block::{BLOCK, Label, SECTORS, Seen, contents, look};
use super::rules::{Class, Fate, Left, Number, Rules, Shape, Sight, What};
use crate::common::request::State;

/// One conventional zone and three sequential ones of eight blocks, of which six can be written.
const SHAPE: Shape = Shape { zones: 4, conv: 1, len: 8, cap: 6, active: 0, open: 0 };

/// The zone that most is done to.
const ZONE: usize = 1;

/// An example of nothing.
const NONE: [Class; 0] = [];

struct Log {
    rules: Rules,
    serial: u32,
    /// What is found where a test says nothing of a zone.
    sights: Vec<Sight>,
}

impl Log {
    fn new(shape: Shape) -> Self {
        let empty = |zone| sight(if zone < shape.conv { State::NotWp } else { State::Empty }, &[]);
        Self { rules: Rules::new(shape), serial: 0, sights: (0..shape.zones).map(empty).collect() }
    }

    fn label(&mut self, zone: usize, life: u32) -> Label {
        self.serial += 1;
        Label { zone: zone as u32, life, serial: self.serial, at: 0 }
    }

    fn write(&mut self, zone: usize, life: u32, at: u32, len: u32) -> (Label, Number) {
        let label = self.label(zone, life);
        (label, self.rules.submit(&What::Write { zone, at, label, len }))
    }

    fn append(&mut self, len: u32) -> (Label, Number) {
        let label = self.label(ZONE, 0);
        (label, self.rules.submit(&What::Append { zone: ZONE, label, len }))
    }

    fn answer(&mut self, numbers: &[Number]) {
        self.rules.begin_sweep();
        numbers.iter().for_each(|number| self.rules.answered(*number, None));
    }

    fn landed(&mut self, number: Number, at: u32) {
        self.rules.begin_sweep();
        self.rules.answered(number, Some(at));
    }

    /// Writes, and waits.
    fn wrote(&mut self, zone: usize, life: u32, at: u32, len: u32) -> Label {
        let (label, number) = self.write(zone, life, at, len);
        self.answer(&[number]);
        label
    }

    fn done(&mut self, what: &What) {
        let number = self.rules.submit(what);
        self.answer(&[number]);
    }

    fn judge(&self, zone: usize, found: Sight, fate: Fate) -> Result<Left, String> {
        let mut sights = self.sights.clone();
        sights[zone] = found;
        self.rules.judge(&sights, &vec![fate; sights.len()])
    }

    #[track_caller]
    fn legal(&self, state: State, labels: &[Label]) -> Vec<Class> {
        let left = self.judge(ZONE, sight(state, labels), Fate::Any);
        left.unwrap_or_else(|broken| panic!("legal, and found broken: {broken}")).classes
    }

    #[track_caller]
    fn broken(&self, found: Sight, rule: &str) {
        self.broken_by(Fate::Any, found, rule);
    }

    #[track_caller]
    fn broken_by(&self, fate: Fate, found: Sight, rule: &str) {
        let zone = if found.state == State::NotWp { 0 } else { ZONE };
        match self.judge(zone, found, fate) {
            Ok(_) => panic!("a broken rule was not found: {rule}"),
            Err(broken) => assert!(broken.contains(rule), "expected {rule}: {broken}"),
        }
    }
}

fn blocks(labels: &[Label]) -> Vec<Seen> {
    let mut blocks: Vec<Seen> = labels.iter().map(|label| Seen::Whole(*label)).collect();
    blocks.resize(SHAPE.len as usize, Seen::Zeros);
    blocks
}

fn sight(state: State, labels: &[Label]) -> Sight {
    Sight { state, written: labels.len() as u64 * SECTORS, blocks: Some(blocks(labels)) }
}

fn row(requests: &[(Label, u32)]) -> Vec<Label> {
    requests.iter().flat_map(|(label, len)| label.row(*len)).collect()
}

/// Two blocks that are stable and two writes of two that are not, of which the second has no answer.
fn grown() -> (Log, [Label; 3]) {
    let mut log = Log::new(SHAPE);
    let first = log.wrote(ZONE, 0, 0, 2);
    log.done(&What::Flush);
    let second = log.wrote(ZONE, 0, 2, 2);
    let (third, _) = log.write(ZONE, 0, 4, 2);
    (log, [first, second, third])
}

#[test]
fn a_block_is_known_by_every_sector_of_it() {
    let label = Label { zone: 3, life: 7, serial: 11, at: 2 };
    let bytes = contents(Some(label));
    assert_eq!((bytes.len(), look(&bytes)), (BLOCK, Seen::Whole(label)));
    assert_eq!(look(&contents(None)), Seen::Zeros);
    for other in [label.plus(1), Label { life: 8, ..label }, Label { zone: 4, ..label }, Label { serial: 12, ..label }]
    {
        for sector in 0..8 {
            let mut torn = bytes.clone();
            torn[512 * sector..512 * sector + 512]
                .copy_from_slice(&contents(Some(other))[512 * sector..512 * sector + 512]);
            assert!(matches!(look(&torn), Seen::Torn(_)), "sector {sector} of {other:?}");
            torn[512 * sector..512 * sector + 512].fill(0);
            assert!(matches!(look(&torn), Seen::Torn(_)), "sector {sector} is zeros");
        }
    }
}

#[test]
fn each_prefix_that_holds_what_is_stable_is_legal_torn_or_not() {
    let (log, [first, second, third]) = grown();
    let all = row(&[(first, 2), (second, 2), (third, 2)]);
    assert_eq!(log.legal(State::Closed, &all[..2]), NONE);
    assert_eq!(log.legal(State::Closed, &all[..3]), [Class::TornWrite]);
    assert_eq!(log.legal(State::Closed, &all[..4]), NONE);
    assert_eq!(log.legal(State::Closed, &all[..5]), [Class::TornWrite, Class::KeptInFlight]);
    assert_eq!(log.legal(State::Full, &all), [Class::KeptInFlight]);
}

#[test]
fn a_pointer_below_what_is_stable_is_found() {
    let (log, [first, ..]) = grown();
    log.broken(sight(State::Closed, &[first]), "R1");
    log.broken(sight(State::Empty, &[]), "R1");
}

#[test]
fn a_pointer_above_what_was_accepted_is_found() {
    let mut log = Log::new(SHAPE);
    let first = log.wrote(ZONE, 0, 0, 2);
    // Nobody has asked for this one.
    let other = log.label(ZONE, 0);
    log.broken(sight(State::Closed, &row(&[(first, 2), (other, 1)])), "R1");
    let mut zeros = sight(State::Closed, &row(&[(first, 2)]));
    zeros.written += SECTORS;
    log.broken(zeros, "R2");
}

#[test]
fn data_at_the_pointer_and_above_it_is_found() {
    let (log, [first, second, third]) = grown();
    let mut above = sight(State::Closed, &row(&[(first, 2), (second, 2)]));
    above.written -= SECTORS;
    log.broken(above, "R2");
    let mut behind = sight(State::Closed, &row(&[(first, 2)]));
    behind.blocks.as_mut().unwrap()[5] = Seen::Whole(third.plus(1));
    log.broken(behind, "R2");
}

#[test]
fn a_hole_and_a_block_in_another_s_place_are_found() {
    let (log, [first, second, third]) = grown();
    log.broken(sight(State::Closed, &row(&[(first, 2), (third, 2)])), "R1");
    log.broken(sight(State::Closed, &[first, first.plus(1), second.plus(1)]), "R1");
    log.broken(sight(State::Closed, &[first.plus(1), first]), "R1");
}

#[test]
fn a_block_torn_inside_and_a_pointer_inside_a_block_are_found() {
    let (log, [first, second, _]) = grown();
    let mut torn = sight(State::Closed, &row(&[(first, 2), (second, 2)]));
    torn.blocks.as_mut().unwrap()[3] = Seen::Torn("half".to_owned());
    log.broken(torn, "torn inside");
    let mut inside = sight(State::Closed, &row(&[(first, 2)]));
    inside.written += 3;
    log.broken(inside, "midst of a block");
}

#[test]
fn open_zones_and_states_that_do_not_go_with_their_pointers_are_found() {
    let (log, [first, second, third]) = grown();
    let all = row(&[(first, 2), (second, 2), (third, 2)]);
    for state in [State::ImplicitOpen, State::ExplicitOpen, State::Empty, State::ReadOnly, State::Offline] {
        log.broken(sight(state, &all[..2]), "R5");
    }
    log.broken(sight(State::Closed, &all), "R4");
    log.broken(sight(State::Full, &all[..4]), "R1");
    let untouched = Log::new(SHAPE);
    untouched.broken(sight(State::Closed, &[]), "R5");
}

/// A stable life of two blocks, a reset, and a second life of one block, answered.
fn reset() -> (Log, [Label; 2]) {
    let mut log = Log::new(SHAPE);
    let old = log.wrote(ZONE, 0, 0, 2);
    log.done(&What::Flush);
    log.done(&What::Reset { zone: ZONE });
    let new = log.wrote(ZONE, 1, 0, 1);
    (log, [old, new])
}

#[test]
fn a_reset_has_happened_or_not() {
    let (log, [old, new]) = reset();
    assert_eq!(log.legal(State::Closed, &row(&[(old, 2)])), [Class::LostReset]);
    assert_eq!(log.legal(State::Empty, &[]), NONE);
    assert_eq!(log.legal(State::Closed, &[new]), NONE);
    log.broken(sight(State::Closed, &[old]), "R1");
    log.broken(sight(State::Closed, &[new, old.plus(1)]), "R3");
}

#[test]
fn a_reset_that_was_flushed_is_not_lost() {
    let (mut log, [old, new]) = reset();
    log.done(&What::Flush);
    assert_eq!(log.legal(State::Closed, &[new]), NONE);
    log.broken(sight(State::Closed, &row(&[(old, 2)])), "R1");
    log.broken(sight(State::Empty, &[]), "R1");
}

#[test]
fn a_reset_that_changes_nothing_makes_stable_what_came_before_it() {
    let mut log = Log::new(SHAPE);
    let old = log.wrote(ZONE, 0, 0, 2);
    log.done(&What::Flush);
    // The first has no answer, the second one has.
    log.rules.submit(&What::Reset { zone: ZONE });
    log.done(&What::Reset { zone: ZONE });
    assert_eq!(log.legal(State::Closed, &row(&[(old, 2)])), [Class::LostReset]);
    log.done(&What::Flush);
    assert_eq!(log.legal(State::Empty, &[]), NONE);
    log.broken(sight(State::Closed, &row(&[(old, 2)])), "R1");
}

#[test]
fn a_reset_of_all_zones_may_have_happened_in_any_of_them() {
    let mut log = Log::new(SHAPE);
    let labels = [1, 2].map(|zone| log.wrote(zone, 0, 0, 2));
    log.done(&What::Flush);
    log.done(&What::ResetAll);
    for lost in 0..4 {
        let mut sights = log.sights.clone();
        for (zone, label) in [1, 2].into_iter().zip(labels) {
            if lost >> (zone - 1) & 1 == 1 {
                sights[zone] = sight(State::Closed, &row(&[(label, 2)]));
            }
        }
        let left = log.rules.judge(&sights, &[Fate::Any; 4]).unwrap();
        assert_eq!(left.classes.len(), (lost as u32).count_ones() as usize, "resets lost: {lost:02b}");
    }
}

#[test]
fn a_finish_has_happened_or_not() {
    let mut log = Log::new(SHAPE);
    let first = log.wrote(ZONE, 0, 0, 2);
    log.done(&What::Flush);
    let second = log.wrote(ZONE, 0, 2, 1);
    log.done(&What::Finish { zone: ZONE });
    let all = row(&[(first, 2), (second, 1)]);
    assert_eq!(log.legal(State::Full, &all), NONE);
    assert_eq!(log.legal(State::Closed, &all), [Class::LostFinish, Class::FullZoneLoses]);
    assert_eq!(log.legal(State::Closed, &all[..2]), [Class::LostFinish, Class::FullZoneLoses]);
    log.broken(sight(State::Full, &all[..2]), "R1");
    log.done(&What::Flush);
    log.broken(sight(State::Closed, &all), "R1");
}

#[test]
fn a_filled_zone_and_one_that_was_never_flushed_may_lose_all() {
    let mut log = Log::new(SHAPE);
    let label = log.wrote(ZONE, 0, 0, 6);
    assert_eq!(log.legal(State::Empty, &[]), [Class::FullZoneLoses, Class::NeverFlushedLoses]);
    let torn = [Class::TornWrite, Class::FullZoneLoses, Class::NeverFlushedLoses];
    assert_eq!(log.legal(State::Closed, &row(&[(label, 5)])), torn);
    assert_eq!(log.legal(State::Full, &row(&[(label, 6)])), NONE);
}

#[test]
fn a_flush_covers_what_was_answered_before_it_and_only_when_it_is_answered_itself() {
    let mut log = Log::new(SHAPE);
    let (first, number) = log.write(ZONE, 0, 0, 1);
    let early = log.rules.submit(&What::Flush);
    log.answer(&[number, early]);
    log.legal(State::Empty, &[]);
    let late = log.rules.submit(&What::Flush);
    log.legal(State::Empty, &[]);
    log.rules.refused(late);
    log.legal(State::Empty, &[]);
    log.done(&What::Flush);
    log.broken(sight(State::Empty, &[]), "R1");
    log.legal(State::Closed, &[first]);
}

#[test]
fn with_write_through_each_answer_is_stable() {
    let mut log = Log::new(SHAPE);
    log.rules.write_through = true;
    let first = log.wrote(ZONE, 0, 0, 2);
    let (second, _) = log.write(ZONE, 0, 2, 2);
    log.broken(sight(State::Closed, &[first]), "R1");
    log.legal(State::Closed, &row(&[(first, 2), (second, 1)]));
    let block = log.wrote(0, 0, 3, 1);
    log.broken(sight(State::NotWp, &[]), "R7");
    let mut found = sight(State::NotWp, &[]);
    found.blocks.as_mut().unwrap()[3] = Seen::Whole(block);
    log.sights[ZONE] = sight(State::Closed, &row(&[(first, 2)]));
    log.judge(0, found, Fate::Any).unwrap();
}

#[test]
fn with_stable_management_an_answered_finish_is_stable_with_all_before_it() {
    let mut log = Log::new(SHAPE);
    log.rules.stable_management = true;
    let first = log.wrote(ZONE, 0, 0, 2);
    log.legal(State::Empty, &[]);
    log.done(&What::Finish { zone: ZONE });
    log.legal(State::Full, &row(&[(first, 2)]));
    log.broken(sight(State::Closed, &row(&[(first, 2)])), "R1");
    log.broken(sight(State::Empty, &[]), "R1");
}

#[test]
fn a_cut_that_loses_all_keeps_no_more_and_one_that_loses_nothing_no_less() {
    let (log, [first, second, third]) = grown();
    let all = row(&[(first, 2), (second, 2), (third, 2)]);
    for (len, keeps, loses) in [(2, false, true), (3, false, false), (4, true, false), (5, true, false)] {
        let found = sight(State::Closed, &all[..len]);
        assert_eq!(log.judge(ZONE, found.clone(), Fate::Keep).is_ok(), keeps, "{len} blocks where nothing is lost");
        assert_eq!(log.judge(ZONE, found, Fate::Lose).is_ok(), loses, "{len} blocks where all is lost");
    }
}

#[test]
fn a_reset_may_become_stable_when_the_zone_is_written_again() {
    let (log, [old, new]) = reset();
    log.judge(ZONE, sight(State::Closed, &row(&[(old, 2)])), Fate::Lose).unwrap();
    log.judge(ZONE, sight(State::Empty, &[]), Fate::Lose).unwrap();
    log.broken_by(Fate::Lose, sight(State::Closed, &[new]), "R1");
}

#[test]
fn appends_in_flight_lie_in_any_order_whole_but_the_last() {
    let mut log = Log::new(SHAPE);
    let first = log.wrote(ZONE, 0, 0, 1);
    let [(a, _), (b, b_number), (c, _)] = [2, 1, 2].map(|len| log.append(len));
    assert_eq!(log.legal(State::Closed, &row(&[(first, 1), (c, 2), (a, 2)])), [Class::KeptInFlight]);
    assert_eq!(log.legal(State::Closed, &row(&[(first, 1), (b, 1), (a, 1)])), [Class::TornWrite, Class::KeptInFlight]);
    assert_eq!(log.legal(State::Full, &row(&[(first, 1), (b, 1), (a, 2), (c, 2)])), [Class::KeptInFlight]);
    assert_eq!(log.legal(State::Closed, &[first]), NONE);
    // An append below a later one is whole, and none is there twice.
    log.broken(sight(State::Closed, &row(&[(first, 1), (a, 1), (b, 1)])), "R11");
    log.broken(sight(State::Closed, &row(&[(first, 1), (a, 2), (a, 2)])), "R1");
    // Its answer says where the second one is.
    log.landed(b_number, 3);
    log.broken(sight(State::Closed, &row(&[(first, 1), (b, 1), (a, 2)])), "R1");
    log.broken(sight(State::Closed, &row(&[(first, 1), (a, 2), (c, 2)])), "R1");
    log.legal(State::Closed, &row(&[(first, 1), (a, 2), (b, 1)]));
    log.legal(State::Closed, &row(&[(first, 1), (c, 2), (b, 1)]));
    log.legal(State::Closed, &row(&[(first, 1), (c, 1)]));
    // Once it is stable, so is what lies below it.
    log.done(&What::Flush);
    log.broken(sight(State::Closed, &row(&[(first, 1), (a, 2)])), "missing");
    log.broken(sight(State::Closed, &[first]), "R1");
    log.legal(State::Closed, &row(&[(first, 1), (a, 2), (b, 1), (c, 1)]));
}

#[test]
fn appends_that_were_all_answered_have_their_order() {
    let mut log = Log::new(SHAPE);
    let [(a, a_number), (b, b_number)] = [2, 2].map(|len| log.append(len));
    log.landed(a_number, 2);
    log.landed(b_number, 0);
    log.legal(State::Closed, &row(&[(b, 2), (a, 2)]));
    log.legal(State::Closed, &row(&[(b, 2), (a, 1)]));
    log.legal(State::Closed, &row(&[(b, 1)]));
    log.broken(sight(State::Closed, &row(&[(a, 2)])), "R1");
    log.broken(sight(State::Closed, &row(&[(a, 2), (b, 2)])), "R1");
}

#[test]
fn too_many_active_zones_are_found() {
    let shape = Shape { active: 2, ..SHAPE };
    let mut log = Log::new(shape);
    let labels = [1, 2].map(|zone| log.wrote(zone, 0, 0, 1));
    log.done(&What::Flush);
    log.done(&What::Reset { zone: 1 });
    let third = log.wrote(3, 0, 0, 1);
    let mut sights = log.sights.clone();
    sights[2] = sight(State::Closed, &[labels[1]]);
    sights[3] = sight(State::Closed, &[third]);
    log.rules.judge(&sights, &[Fate::Any; 4]).unwrap();
    sights[1] = sight(State::Closed, &[labels[0]]);
    let broken = log.rules.judge(&sights, &[Fate::Any; 4]).unwrap_err();
    assert!(broken.contains("R9"), "{broken}");
}

/// A conventional zone with three versions of its first two blocks, the second of which is stable, and one of its
/// third.
fn overwritten() -> (Log, [Label; 3]) {
    let mut log = Log::new(SHAPE);
    let first = log.wrote(0, 0, 0, 3);
    let second = log.wrote(0, 0, 0, 2);
    log.done(&What::Flush);
    let third = log.wrote(0, 0, 0, 2);
    (log, [first, second, third])
}

#[test]
fn a_conventional_block_is_its_last_stable_version_or_a_later_one() {
    let (log, [first, second, third]) = overwritten();
    let found = |labels: [Label; 3]| log.judge(0, sight(State::NotWp, &labels), Fate::Any).map(|left| left.classes);
    let end = first.plus(2);
    assert_eq!(found([second, second.plus(1), end]), Ok(vec![]));
    assert_eq!(found([second, third.plus(1), end]), Ok(vec![Class::VersionsMixed]));
    assert_eq!(found([third, third.plus(1), end]), Ok(vec![]));
    let wrong: [[Label; 3]; 4] = [
        [first, third.plus(1), end],
        [third.plus(1), third, end],
        [third, third.plus(1), third.plus(2)],
        [Label { serial: 99, ..third }, third.plus(1), end],
    ];
    for labels in wrong {
        assert!(found(labels).is_err_and(|broken| broken.contains("R7")), "{labels:?}");
    }
    log.broken(sight(State::NotWp, &[third, third.plus(1)]), "R7");
    let mut torn = sight(State::NotWp, &[third, third.plus(1), end]);
    torn.blocks.as_mut().unwrap()[1] = Seen::Torn("half".to_owned());
    log.broken(torn, "torn inside");
}

#[test]
fn a_conventional_zone_that_loses_all_has_the_stable_versions_unless_the_cache_is_small() {
    let (mut log, [first, second, third]) = overwritten();
    let stable = [second, second.plus(1), first.plus(2)];
    let newer = [third, second.plus(1), first.plus(2)];
    log.judge(0, sight(State::NotWp, &stable), Fate::Lose).unwrap();
    log.broken_by(Fate::Lose, sight(State::NotWp, &newer), "R7");
    log.broken_by(Fate::Keep, sight(State::NotWp, &stable), "R7");
    log.rules.small_cache = true;
    log.judge(0, sight(State::NotWp, &newer), Fate::Lose).unwrap();
}

#[test]
fn what_a_cut_has_left_is_stable() {
    let (mut log, [first, second, _]) = grown();
    let kept = row(&[(first, 2), (second, 1)]);
    let left = log.judge(ZONE, sight(State::Closed, &kept), Fate::Any).unwrap();
    log.rules.go_on_from(&left);
    assert_eq!(log.legal(State::Closed, &kept), NONE);
    log.broken(sight(State::Closed, &kept[..2]), "R1");
    let more = log.wrote(ZONE, 0, 3, 2);
    log.legal(State::Closed, &[kept.clone(), row(&[(more, 1)])].concat());
    log.broken(sight(State::Closed, &kept[..2]), "R1");
}

#[test]
fn a_zone_that_nobody_has_touched_is_as_it_was() {
    let (mut log, _) = grown();
    let first = log.wrote(ZONE + 1, 0, 0, 1);
    log.done(&What::Flush);
    log.sights[ZONE + 1] = sight(State::Closed, &[first]);
    let found = log.rules.held(ZONE);
    let left = log.judge(ZONE, sight(State::Closed, &found.blocks), Fate::Any).unwrap();
    log.rules.go_on_from(&left);
    let unread = |written| Sight { state: State::Closed, written, blocks: None };
    log.judge(ZONE, unread(4 * SECTORS), Fate::Any).unwrap();
    log.broken(unread(3 * SECTORS), "nothing was asked");
}
