//! Exactly once (P2), simulated: the process dies before every operation on the file and after every note, with several
//! requests in flight; the next one reads the notes and every request is answered with the right result.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking and share helpers")]

mod sim;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sim::Rng;
use sim::disk::SimDisk;
use sim::rig::{self, Rig};
use vhost_user_zbd::store::{Action, Journal, Note, Op, Outcome, Recovered, Refusal, Reply, Reserved, Tag};
use vhost_user_zbd::units::{Bytes, Sector, ZoneIndex};
use vhost_user_zbd::zone::{GeometryRequest, State};

const ZONE: u64 = 64 * 1024;
const ZONES: u64 = 6;
const CAPACITY: u64 = 48 * 1024;

fn geometry() -> GeometryRequest {
    GeometryRequest {
        size: Bytes(ZONES * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(CAPACITY),
        conventional_zones: 1,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(8192),
    }
}

fn sector(zone: u64, offset: u64) -> Sector {
    Bytes(zone * ZONE + offset).to_sector()
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Noted(Note),
    Settled(Outcome),
}

/// All notes in the order they were made, each with the number of operations on the file before it.
#[derive(Clone)]
struct Notes {
    disk: Arc<SimDisk>,
    made: Arc<Mutex<Vec<(u64, u16, Entry)>>>,
}

impl Notes {
    fn add(&self, tag: Tag, entry: Entry) {
        self.made.lock().unwrap().push((self.disk.operations(), tag.slot, entry));
    }
}

impl Journal for Notes {
    fn note(&self, tag: Tag, note: Note) {
        self.add(tag, Entry::Noted(note));
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        self.add(tag, Entry::Settled(*outcome));
    }

    fn chosen(&self, _: Tag, _: u64) {}

    fn emptied(&self, _zone: ZoneIndex, _from: Bytes) {}

    fn filled(&self, _zone: ZoneIndex, _from: Bytes) {}

    fn explicitly_open(&self, _zone: ZoneIndex, _open: bool) {}

    fn power_lost(&self, _fails: bool) {}
}

/// A request in flight, with what its data is.
#[derive(Clone, Debug)]
struct Wish {
    op: Op,
    data: Vec<u8>,
}

/// What is in each zone before the requests begin: zone 1 empty, the others partly written.
fn prepare(rig: &mut Rig) -> Vec<u64> {
    let mut written = vec![0; ZONES as usize];
    for zone in 2..ZONES {
        let len = zone * 2048;
        assert_eq!(rig.write(zone * ZONE, vec![zone as u8; len as usize]), Ok(Reply::Done));
        written[zone as usize] = len;
    }
    written
}

/// Requests that are in flight together, such that each must succeed in whatever order they are done: a zone has
/// writes one behind the other, or appends, or one request for the whole of it.
fn wishes(rng: &mut Rng, written: &[u64]) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let mut stamp = 100;
    for zone in 1..ZONES {
        let kind = rng.below(5);
        let count = 1 + rng.below(3);
        let mut at = written[zone as usize];
        for _ in 0..count {
            let len = 512 * (1 + rng.below(8));
            stamp += 1;
            let data = vec![stamp; len as usize];
            match kind {
                0 | 1 => wishes.push(Wish { op: Op::Write { start: sector(zone, at), len: Bytes(len) }, data }),
                2 => wishes.push(Wish { op: Op::Append { zone: sector(zone, 0), len: Bytes(len) }, data }),
                _ => {
                    let action = if kind == 3 { Action::Reset } else { Action::Finish };
                    wishes.push(Wish { op: Op::Manage { action, zone: sector(zone, 0) }, data: Vec::new() });
                    break;
                }
            }
            at += len;
        }
    }
    if rng.below(8) == 0 {
        return vec![Wish { op: Op::ResetAll, data: Vec::new() }];
    }
    wishes
}

/// The first answers given, and the run's length in operations.
fn run_to_end(rig: &mut Rig, rng: &mut Rng, wishes: &[Wish]) -> Vec<u16> {
    let slots = wishes.iter().map(|wish| rig.begin(wish.op, wish.data.clone())).collect();
    loop {
        let ready = rig.ready();
        if !ready.is_empty() && rng.below(3) > 0 {
            rig.perform(ready[rng.below(ready.len() as u64) as usize]);
        } else if !rig.housekeep() && ready.is_empty() {
            return slots;
        }
    }
}

/// What the next process finds: the last note of each request.
fn last_notes(made: &[(u64, u16, Entry)]) -> BTreeMap<u16, Entry> {
    made.iter().map(|(_, slot, entry)| (*slot, *entry)).collect()
}

/// The next process: goes on with all requests by their notes. Their outcomes, by slot.
fn go_on(rig: &mut Rig, slots: &[u16], wishes: &[Wish], found: &BTreeMap<u16, Entry>) -> Vec<Outcome> {
    let mut known: BTreeMap<u16, Recovered> = BTreeMap::new();
    let mut noted: Vec<(u16, Note)> = Vec::new();
    for (slot, entry) in found {
        match entry {
            Entry::Settled(outcome) => drop(known.insert(*slot, Recovered::Settled(*outcome))),
            Entry::Noted(note) => noted.push((*slot, *note)),
        }
    }
    noted.sort_by_key(|(_, note)| match note {
        Note::Reserved(reserved) => reserved.start,
        _ => Bytes(0),
    });
    for (slot, note) in noted {
        known.insert(slot, rig.store.recover(Tag { queue: 0, slot }, note));
    }
    let mut settled = BTreeMap::new();
    // Not in the order they came: the queues of a frontend start in any.
    for (slot, wish) in slots.iter().zip(wishes).rev() {
        match known.remove(slot) {
            Some(Recovered::Settled(outcome)) => drop(settled.insert(*slot, outcome)),
            Some(Recovered::Resumes(ticket)) => rig.resume_as(*slot, ticket, wish.data.clone()),
            Some(Recovered::Anew) | None => {}
        }
    }
    for (slot, wish) in slots.iter().zip(wishes) {
        if !settled.contains_key(slot) && !rig.has(*slot) {
            rig.begin_as(*slot, wish.op, wish.data.clone());
        }
    }
    rig.drain();
    slots.iter().map(|slot| settled.get(slot).copied().unwrap_or_else(|| rig.outcome(*slot).unwrap())).collect()
}

/// Every request has succeeded, and the disk is what that makes of it.
fn assert_right(rig: &mut Rig, wishes: &[Wish], outcomes: &[Outcome], written: &[u64]) {
    let mut pointers = written.to_vec();
    let mut contents = Vec::new();
    for (wish, outcome) in wishes.iter().zip(outcomes) {
        let len = wish.data.len() as u64;
        match (wish.op, outcome) {
            (Op::Write { start, .. }, Ok(Reply::Done)) => {
                pointers[(start.0 * 512 / ZONE) as usize] += len;
                contents.push((start.0 * 512, &wish.data));
            }
            (Op::Append { zone, .. }, Ok(Reply::Appended(at))) => {
                pointers[(zone.0 * 512 / ZONE) as usize] += len;
                contents.push((at.0 * 512, &wish.data));
            }
            (Op::Manage { action, zone }, Ok(Reply::Done)) => {
                pointers[(zone.0 * 512 / ZONE) as usize] = if action == Action::Reset { 0 } else { CAPACITY };
            }
            (Op::ResetAll, Ok(Reply::Done)) => pointers.fill(0),
            other => panic!("not what it must be: {other:?}"),
        }
    }
    let zones = rig.zones();
    for zone in 1..ZONES as usize {
        assert_eq!(zones[zone].write_pointer.0 - zones[zone].start.0, pointers[zone], "pointer of zone {zone}");
    }
    // Appends to one zone that overlap would have lost the data of one.
    for (at, data) in contents {
        assert_eq!(&rig.read(at, data.len()), data, "at {at}");
    }
}

#[test]
fn after_a_death_at_any_moment_every_request_in_flight_is_answered_once_and_right() {
    let seeds: u64 = std::env::var("RECOVER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let first: u64 = std::env::var("RECOVER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let mut deaths = 0;
    for seed in first..first + seeds {
        let mut rng = Rng::new(seed);
        let disk = rig::create(geometry(), Bytes(4096));
        let mut rig = Rig::open(Arc::clone(&disk));
        let written = prepare(&mut rig);
        let notes = Notes { disk: Arc::clone(&disk), made: Arc::default() };
        rig.store.set_journal(Box::new(notes.clone()));
        let begun = disk.operations();
        let wishes = wishes(&mut rng, &written);
        let slots = run_to_end(&mut rig, &mut rng, &wishes);
        let made = notes.made.lock().unwrap().clone();
        for operation in begun..=disk.operations() {
            let before = made.iter().filter(|(count, ..)| *count < operation).count();
            let at = made.iter().filter(|(count, ..)| *count == operation).count();
            for notes in before..=before + at {
                let seen =
                    format!("RECOVER_SEED={seed}: dead before operation {operation} with {notes} notes: {wishes:?}");
                let after = disk.crash_before(operation).keeping(|_, _| true);
                let found = last_notes(&made[..notes]);
                let survived = std::panic::catch_unwind(|| {
                    let mut rig = Rig::open(Arc::new(after));
                    let outcomes = go_on(&mut rig, &slots, &wishes, &found);
                    for (slot, outcome) in slots.iter().zip(&outcomes) {
                        if let Some(Entry::Settled(first)) = found.get(slot) {
                            assert_eq!(outcome, first, "another answer than the one that may have been seen");
                        }
                    }
                    assert_right(&mut rig, &wishes, &outcomes, &written);
                });
                assert!(survived.is_ok(), "{seen}");
                deaths += 1;
            }
        }
    }
    println!("{seeds} seeds, {deaths} deaths");
}

/// Another queue's request comes between the notes and the request for the whole zone, and is answered. What it found
/// shows whether that request had been done before.
#[test]
fn what_was_done_to_a_whole_zone_is_not_done_again_over_what_came_after_it() {
    let zone = sector(3, 0);
    let finish = Op::Manage { action: Action::Finish, zone };
    let reset = Op::Manage { action: Action::Reset, zone };
    let append = Op::Append { zone, len: Bytes(4096) };
    for (op, meanwhile) in [(reset, append), (Op::ResetAll, append), (finish, reset)] {
        let disk = rig::create(geometry(), Bytes(4096));
        let mut rig = Rig::open(Arc::clone(&disk));
        prepare(&mut rig);
        let notes = Notes { disk: Arc::clone(&disk), made: Arc::default() };
        rig.store.set_journal(Box::new(notes.clone()));
        let begun = disk.operations();
        let slot = rig.begin(op, Vec::new());
        rig.drain();
        let made = notes.made.lock().unwrap().clone();
        for operation in begun..=disk.operations() {
            let before = made.iter().filter(|(count, ..)| *count < operation).count();
            let until = made.iter().filter(|(count, ..)| *count <= operation).count();
            for found in (before..=until).map(|notes| last_notes(&made[..notes])) {
                let mut rig = Rig::open(Arc::new(disk.crash_before(operation).keeping(|_, _| true)));
                let known = found.get(&slot).map(|entry| match entry {
                    Entry::Settled(outcome) => Recovered::Settled(*outcome),
                    Entry::Noted(note) => rig.store.recover(Tag { queue: 0, slot }, *note),
                });
                let was_full = rig.zones()[3].state == State::Full;
                let (answer, _) = rig.run(meanwhile, vec![9; 4096]);
                match known {
                    Some(Recovered::Settled(outcome)) => assert_eq!(outcome, Ok(Reply::Done)),
                    Some(Recovered::Resumes(ticket)) => rig.resume_as(slot, ticket, Vec::new()),
                    Some(Recovered::Anew) | None => rig.begin_as(slot, op, Vec::new()),
                }
                rig.drain();
                let seen = format!("{op:?} dead before operation {operation} with {found:?}");
                match answer {
                    Ok(Reply::Appended(at)) if at == zone => {
                        assert_eq!(rig.read(3 * ZONE, 4096), vec![9; 4096], "reset again: {seen}");
                    }
                    Ok(Reply::Done) if was_full => assert_eq!(rig.zones()[3].state, State::Empty, "full again: {seen}"),
                    Ok(_) => {}
                    Err(refusal) => panic!("{refusal}: {seen}"),
                }
            }
        }
    }
}

fn reserved(zone: u32, start: u64, end: u64, append: bool) -> Note {
    let base = u64::from(zone) * ZONE;
    Note::Reserved(Reserved { zone: ZoneIndex(zone), start: Bytes(base + start), end: Bytes(base + end), append })
}

#[test]
fn a_note_says_what_became_of_a_write_by_where_the_pointer_stands() {
    let disk = rig::create(geometry(), Bytes(4096));
    let mut rig = Rig::open(disk);
    prepare(&mut rig);
    // Zone 2 is written up to 4096.
    for (note, expected) in [
        (reserved(2, 0, 2048, false), Some(Ok(Reply::Done))),
        (reserved(2, 2048, 4096, true), Some(Ok(Reply::Appended(sector(2, 2048))))),
        (reserved(2, 2048, 8192, false), Some(Err(Refusal::Io))),
        // With a gap, off the zone, past its capacity, backwards, not a zone, not aligned: begun anew.
        (reserved(2, 8192, 9216, false), None),
        (reserved(2, 4096, ZONE + 512, false), None),
        (reserved(2, 4096, CAPACITY + 512, false), None),
        (reserved(2, 4096, 4096, false), None),
        (reserved(2, 8192, 4096, true), None),
        (reserved(0, 0, 512, false), None),
        (reserved(4000, 0, 512, false), None),
        (reserved(u32::MAX, u64::MAX - u64::from(u32::MAX) * ZONE, 0, true), None),
        (reserved(2, 4096, 4100, false), None),
    ] {
        match (rig.store.recover(Tag { queue: 0, slot: 77 }, note), expected) {
            (Recovered::Settled(outcome), Some(expected)) => assert_eq!(outcome, expected, "{note:?}"),
            (Recovered::Anew, None) => {}
            other => panic!("{note:?}: {other:?}"),
        }
    }
}

#[test]
fn a_range_that_nobody_resumes_is_free_again() {
    let disk = rig::create(geometry(), Bytes(4096));
    let mut rig = Rig::open(disk);
    let recovered = [reserved(1, 0, 4096, false), reserved(1, 4096, 8192, true)]
        .map(|note| rig.store.recover(Tag { queue: 0, slot: 77 }, note));
    assert_eq!(rig.zones()[1].state, State::ImplicitOpen);
    for each in recovered {
        match each {
            Recovered::Resumes(ticket) => rig.store.abandon(ticket),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((rig.zones()[1].state, rig.zones()[1].write_pointer), (State::Empty, Bytes(ZONE)));
    assert_eq!(rig.write(ZONE, vec![1; 512]), Ok(Reply::Done));
}
