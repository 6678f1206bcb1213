//! Losses of power, of a recorded disk and of one that is made again.

use crate::common::Rng;
use crate::live::{Live, image};
use crate::replayed::{assert_same, replay};

#[test]
fn what_a_cut_leaves_of_a_disk_that_is_made_again_is_what_it_would_have_left_then() {
    let (mut lossy, mut same) = (0, 0);
    for seed in 200..230 {
        let (mut rng, base) = (Rng::new(seed), image());
        let mut live = Live::start(base.clone(), true);
        (0..400).for_each(|_| live.step(&mut rng));
        live.quiesce(&mut rng);
        live.log.mark("now");
        let words =
            ["lose=all", "lose=nothing", "seed=17", "seed=99", "lose=zone:3,7", "keep=zone:4,5", "seed=3 mgmt=stable"];
        let words = rng.pick(&words);
        let log = live.recorded();
        let outcome = live.cut(words);
        lossy += usize::from(outcome.zones.iter().any(|zone| zone.kept != zone.accepted));
        let (made, again) = replay(&base, &log, "mark:now", Some(words));
        let again = again.unwrap();
        assert_eq!(again.zones, outcome.zones, "seed {seed}, {words}");
        // A write to conventional zones that was in flight over a flush may be lost by the rules, and is not by the cache.
        let all = again.conventional == outcome.conventional;
        if all {
            assert_eq!(again.digest, outcome.digest, "seed {seed}, {words}");
            assert_same(&made, &live.image, &format!("seed {seed}, {words}"));
        }
        same += usize::from(all);
    }
    assert!(lossy > 10, "{lossy} of 30 cuts have lost anything");
    assert!(same > 12, "{same} of 30 cuts have left the same blocks");
}

#[test]
fn a_recording_goes_on_over_cuts_and_each_flush_behind_them_is_made_again() {
    for seed in 300..312 {
        let (mut rng, base) = (Rng::new(seed), image());
        let mut live = Live::start(base.clone(), true);
        let mut cuts = Vec::new();
        for cut in 0..4 {
            (0..200).for_each(|_| live.step(&mut rng));
            live.quiesce(&mut rng);
            live.cut(&format!("seed={}", rng.below(1000)));
            live.log.mark(&format!("cut {cut}"));
            cuts.push((*live.image).clone());
        }
        let live = live.end(&mut rng);
        let log = live.recorded();
        for (cut, seen) in cuts.iter().enumerate() {
            let to = format!("mark:cut {cut}");
            assert_same(&replay(&base, &log, &to, None).0, seen, &format!("seed {seed}, {to}"));
        }
        for (flush, seen) in live.flushed.iter().enumerate() {
            let to = format!("flush:{}", flush + 1);
            assert_same(&replay(&base, &log, &to, None).0, seen, &format!("seed {seed}, {to}"));
        }
    }
}

#[test]
fn requests_in_flight_are_kept_or_lost_with_the_rest_and_the_same_words_choose_the_same() {
    let mut states = std::collections::BTreeSet::new();
    let (mut rng, base) = (Rng::new(400), image());
    let mut live = Live::start(base.clone(), false);
    let (mut flushes, mut since) = (0, 0);
    while live.answered < since + 12 {
        live.step(&mut rng);
        if live.flushed.len() > flushes {
            (flushes, since) = (live.flushed.len(), live.answered);
        }
    }
    live.log.mark("in flight");
    let log = live.recorded();
    for seed in 0..40 {
        let words = format!("seed={seed}");
        let (made, outcome) = replay(&base, &log, "mark:in flight", Some(&words));
        let (again, same) = replay(&base, &log, "mark:in flight", Some(&words));
        assert_eq!(outcome, same);
        assert_same(&made, &again, &words);
        states.insert(outcome.unwrap().digest);
    }
    assert!(states.len() > 20, "{} states of 40 seeds", states.len());
    let digest = |words: &str| replay(&base, &log, "mark:in flight", Some(words)).1.unwrap().digest;
    assert_ne!(digest("lose=all"), digest("lose=nothing"));
}
