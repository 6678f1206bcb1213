//! One daemon after another: what a killed one leaves of a log, and who may go on behind it.

use std::sync::Arc;

use vhost_user_zbd::record::{Entry, ReadError, Reader, SessionError};
use vhost_user_zbd::storage::Medium;
use vhost_user_zbd::units::Bytes;

use crate::common::Rng;
use crate::live::{Live, image};
use crate::replayed::{assert_same, replay};

#[test]
fn a_killed_daemon_s_log_goes_on_with_the_next_and_each_flush_is_made_again() {
    let mut ahead = 0;
    for seed in 500..530 {
        let (mut rng, base) = (Rng::new(seed), image());
        let mut live = Live::start(base.clone(), false);
        let mut flushed = Vec::new();
        for life in 0..4 {
            (0..150).for_each(|_| live.step(&mut rng));
            if life == 1 {
                live.quiesce(&mut rng);
            }
            flushed.append(&mut live.flushed);
            let before_answers = life == 0;
            let (dead, log_file) = match life {
                1 => live.die_over_a_zone(&mut rng),
                _ => live.die(&mut rng, before_answers),
            };
            live = Live::go_on(dead, log_file, false).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            ahead += usize::from(before_answers);
        }
        (0..150).for_each(|_| live.step(&mut rng));
        let live = live.end(&mut rng);
        flushed.extend(live.flushed.iter().cloned());
        let log = live.recorded();
        for (flush, seen) in flushed.iter().enumerate() {
            let to = format!("flush:{}", flush + 1);
            assert_same(&replay(&base, &log, &to, None).0, seen, &format!("seed {seed}, {to}"));
        }
    }
    assert!(ahead > 0);
}

#[test]
fn a_log_goes_on_behind_an_orderly_end() {
    let (mut rng, base) = (Rng::new(600), image());
    let mut live = Live::start(base.clone(), false);
    (0..200).for_each(|_| live.step(&mut rng));
    let ended = live.end(&mut rng);
    let (image, log_file) = (Arc::clone(&ended.image), Arc::clone(&ended.log_file));
    let flushes = ended.flushed.len();
    drop(ended);
    let mut live = Live::go_on(image, log_file, false).unwrap();
    (0..200).for_each(|_| live.step(&mut rng));
    let live = live.end(&mut rng);
    let to = format!("flush:{}", flushes + live.flushed.len());
    assert_same(&replay(&base, &live.recorded(), &to, None).0, live.flushed.last().unwrap(), &to);
}

#[test]
fn a_log_whose_image_was_written_without_it_does_not_go_on() {
    let mut rng = Rng::new(700);
    let mut live = Live::start(image(), false);
    (0..100).for_each(|_| live.step(&mut rng));
    let ended = live.end(&mut rng);
    let (image, log_file) = (Arc::clone(&ended.image), Arc::clone(&ended.log_file));
    drop(ended);
    let mut other = Live::start((*image).clone(), false);
    (0..100).for_each(|_| other.step(&mut rng));
    let other = other.end(&mut rng);
    let before = log_file.0.below.as_ref().clone();
    match Live::go_on(Arc::clone(&other.image), Arc::clone(&log_file), false).map(|_| ()) {
        Err(error @ SessionError::OtherPointer { .. }) => {
            assert!(error.to_string().contains("the image was written without it"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(*log_file.0.below == before, "a log that is refused stays as it was");
    Live::go_on(image, log_file, false).unwrap();
}

#[test]
fn a_log_cut_short_goes_on_behind_its_last_whole_record() {
    let live = Live::start(image(), false);
    live.log.mark("first");
    live.log.mark("second");
    let (len, file) = (live.log_file.len().unwrap().0, Arc::clone(&live.log_file));
    let disk = Arc::clone(&live.image);
    drop(live);
    file.set_len(Bytes(len - 1)).unwrap();
    let live = Live::go_on(disk, file, false).unwrap();
    let mut reader = Reader::new(std::io::Cursor::new(live.recorded())).unwrap();
    let mut entries = Vec::new();
    while let Some(record) = reader.read().unwrap() {
        entries.push(record.entry.name());
    }
    assert_eq!(entries, ["session", "mark", "session"]);
}

#[test]
fn a_damaged_log_does_not_go_on() {
    let live = Live::start(image(), false);
    live.log.mark("first");
    live.log.mark("second");
    let (file, disk, bytes) = (Arc::clone(&live.log_file), Arc::clone(&live.image), live.recorded());
    drop(live);
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    reader.read().unwrap();
    file.write_at(vhost_user_zbd::units::FileOffset(reader.at() + 3), b"x").unwrap();
    match Live::go_on(disk, file, false).map(|_| ()) {
        Err(SessionError::Read(ReadError::Damaged { number: 1, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mark_is_in_the_file_when_it_is_set() {
    let live = Live::start(image(), false);
    live.log.mark("a mark");
    let bytes = live.recorded();
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    let session = reader.read().unwrap().unwrap().entry;
    assert_eq!(session, Entry::Session { generation: 0, pointers: Vec::new() });
    assert_eq!(reader.read().unwrap().unwrap().entry, Entry::Mark("a mark".to_owned()));
}
