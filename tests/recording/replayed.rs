//! The states of a recording, made again.

use std::sync::Arc;

use vhost_user_zbd::power::{CutOutcome, Words};
use vhost_user_zbd::record::{Machine, Point, Reader, Scan};
use vhost_user_zbd::storage::memory::MemoryMedium;

use crate::common::Rng;
use crate::live::{Live, differences, image};

/// The image at a moment of a log, after a cut where words say so.
pub(crate) fn replay(
    base: &MemoryMedium,
    log: &[u8],
    to: &str,
    words: Option<&str>,
) -> (MemoryMedium, Option<CutOutcome>) {
    let point = Point::parse(to).unwrap();
    let mut reader = Reader::new(log).unwrap();
    let scan = Scan::of(&mut reader, Some(&point), |_| {}).unwrap();
    let last = scan.reached(&point).unwrap();
    let medium = Arc::new(base.clone());
    let block = reader.header().block();
    let mut machine = Machine::new(Arc::clone(&medium), None, block, scan.undone()).unwrap();
    let mut reader = Reader::new(log).unwrap();
    while let Some(record) = reader.read().unwrap().filter(|record| record.number <= last) {
        machine.take(&record).unwrap_or_else(|error| panic!("{to}: {error}"));
    }
    let outcome = words.map(|words| {
        let words = Words::parse(words.split(' '), |_| Err(String::new())).unwrap();
        machine.cut(words).unwrap_or_else(|error| panic!("{to}: {error}"))
    });
    machine.finish().unwrap();
    (Arc::into_inner(medium).unwrap(), outcome)
}

#[track_caller]
pub(crate) fn assert_same(made: &MemoryMedium, seen: &MemoryMedium, what: &str) {
    let different = differences(made, seen);
    assert!(different.is_empty(), "{what}: the image that is made again, and the one that was seen: {different:#?}");
}

/// At each flush of runs of so many requests in all.
fn each_flush_is_made_again(requests: u64, seeds: std::ops::Range<u64>, cached: bool) {
    for seed in seeds {
        let mut rng = Rng::new(seed);
        let base = image();
        let mut live = Live::start(base.clone(), cached);
        while live.answered < requests {
            live.step(&mut rng);
        }
        let live = live.end(&mut rng);
        let log = live.recorded();
        assert!(live.flushed.len() as u64 > requests / 50, "{} flushes", live.flushed.len());
        for (flush, seen) in live.flushed.iter().enumerate() {
            let to = format!("flush:{}", flush + 1);
            let (made, _) = replay(&base, &log, &to, None);
            assert_same(&made, seen, &format!("seed {seed}, {to}"));
        }
        let scan = Scan::of(&mut Reader::new(log.as_slice()).unwrap(), None, |_| {}).unwrap();
        assert_eq!(scan.flushes, live.flushed.len() as u64);
        assert_eq!(scan.left_over, 0);
    }
}

#[test]
fn each_flush_of_a_recording_is_made_again_byte_by_byte() {
    let long = std::env::var("RECORDED_REQUESTS").ok().map(|text| text.parse().unwrap());
    match long {
        Some(requests) => each_flush_is_made_again(requests, 1..2, false),
        None => each_flush_is_made_again(250, 1..25, false),
    }
}

#[test]
fn each_flush_of_a_recording_with_a_volatile_cache_is_made_again() {
    each_flush_is_made_again(250, 100..115, true);
}

#[test]
fn a_moment_is_what_its_words_say_and_one_that_never_came_is_refused() {
    for (text, point) in [
        ("flush:3", Point::Flush(3)),
        ("request:0", Point::Request(0)),
        ("mark:fsync: A", Point::Mark("fsync: A".to_owned())),
        ("record:7", Point::Record(7)),
    ] {
        assert_eq!(Point::parse(text), Ok(point));
    }
    for text in ["", "flush", "flush:", "flush:x", "mark:", "noon:1", "flush:-1"] {
        assert!(
            Point::parse(text).unwrap_err().contains("expected flush:N, request:N, mark:NAME or record:N"),
            "{text}"
        );
    }
    let live = Live::start(image(), false);
    live.log.mark("here");
    let log = live.recorded();
    let reached = |text: &str| {
        let point = Point::parse(text).unwrap();
        Scan::of(&mut Reader::new(log.as_slice()).unwrap(), Some(&point), |_| {}).unwrap().reached(&point)
    };
    assert_eq!(reached("mark:here"), Ok(1));
    assert_eq!(reached("request:0"), Ok(0));
    assert_eq!(reached("mark:there").unwrap_err(), "mark:there: the recording has no such mark");
    assert_eq!(reached("flush:1").unwrap_err(), "flush:1: the recording has 0 flushes");
    assert_eq!(reached("request:7").unwrap_err(), "request:7: the recording has 0 answered requests");
}

#[test]
fn a_mark_is_behind_what_was_answered_before_it() {
    let (mut rng, base) = (Rng::new(5), image());
    let mut live = Live::start(base.clone(), false);
    let mut seen = Vec::new();
    for mark in 0..10 {
        (0..60).for_each(|_| live.step(&mut rng));
        live.quiesce(&mut rng);
        live.log.mark(&format!("mark {mark}"));
        seen.push((*live.image).clone());
    }
    let log = live.end(&mut rng).recorded();
    for (mark, seen) in seen.iter().enumerate() {
        let to = format!("mark:mark {mark}");
        assert_same(&replay(&base, &log, &to, None).0, seen, &to);
    }
}

#[test]
fn another_image_than_that_of_the_beginning_is_refused_by_its_first_zone_that_differs() {
    let mut rng = Rng::new(6);
    let mut live = Live::start(image(), false);
    while live.flushed.is_empty() {
        live.step(&mut rng);
    }
    live.quiesce(&mut rng);
    let (other, log) = (live.flushed[0].clone(), live.recorded());
    let mut reader = Reader::new(log.as_slice()).unwrap();
    let first = reader.read().unwrap().unwrap();
    let mut machine = Machine::new(Arc::new(other), None, reader.header().block(), Default::default()).unwrap();
    let error = machine.take(&first).unwrap_err().to_string();
    assert!(error.contains("expected a copy of the image as it was then"), "{error}");
}
