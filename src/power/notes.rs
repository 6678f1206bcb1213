//! What is not stable of all sequential zones, as the store's notes tell it on their way to whoever keeps them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::history::{Counter, History, Mark};
use super::rules::Span;
use crate::store::{Journal, Note, Outcome, Reserved, Tag};
use crate::units::{Bytes, ZoneIndex};
use crate::zone::Geometry;

/// Parts that the histories are kept in, so that queues seldom meet.
const SHARDS: usize = 64;

/// Takes a lock.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // In the daemon a panic ends the process, so poison exists only in tests that caught one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) type Shard = Mutex<HashMap<ZoneIndex, History>>;

/// What is not stable of all sequential zones, as the store's notes tell it.
pub(super) struct Notes {
    geometry: Geometry,
    counter: Counter,
    shards: Vec<Shard>,
    pub(super) journal: OnceLock<Box<dyn Journal>>,
}

impl Notes {
    pub(super) fn new(geometry: Geometry) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { geometry, counter: Counter::default(), shards, journal: OnceLock::new() }
    }

    pub(super) fn shard(&self, zone: ZoneIndex) -> &Shard {
        // The remainder is below their number.
        &self.shards[zone.index() % SHARDS]
    }

    fn history<R>(&self, zone: ZoneIndex, stable: Bytes, with: impl FnOnce(&mut History) -> R) -> R {
        let span = || Span { start: self.geometry.start(zone).0, end: self.geometry.writable_end(zone).0 };
        let mut shard = lock(self.shard(zone));
        let history = shard.entry(zone).or_insert_with(|| History::new(span(), stable.0, &self.counter));
        let result = with(history);
        if history.is_empty() {
            shard.remove(&zone);
        }
        result
    }

    pub(super) fn all<T>(&self, each: impl Fn(ZoneIndex, &History) -> T) -> Vec<T> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(lock(shard).iter().map(|(zone, history)| each(*zone, history)));
        }
        found
    }

    /// How far all zones have come that have anything to lose. `pointer` reads a zone's pointer.
    pub(super) fn marks(&self, pointer: impl Fn(ZoneIndex) -> Option<Bytes>) -> Vec<(ZoneIndex, Mark)> {
        let lives = self.all(|zone, history| (zone, history.mark(0)));
        let mark = |(zone, life)| Some((zone, self.mark(zone, life, &pointer)?));
        lives.into_iter().filter_map(mark).collect()
    }

    /// How far a zone has come that was in a life. No history may be locked while a pointer is read, so that a reset may come
    /// between the two; then both are read again, as the pointer of one life says nothing of another. None where there is
    /// nothing to lose any more.
    fn mark(&self, zone: ZoneIndex, mut life: Mark, pointer: impl Fn(ZoneIndex) -> Option<Bytes>) -> Option<Mark> {
        loop {
            let at = pointer(zone)?;
            let now = lock(self.shard(zone)).get(&zone)?.mark(0);
            if now == life {
                return Some(life.at(at.0));
            }
            life = now;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }

    pub(super) fn volatile(&self) -> u64 {
        self.all(|_, history| history.volatile()).into_iter().sum()
    }

    /// Returns whether that made a reset stable.
    pub(super) fn stable_up_to(&self, zone: ZoneIndex, mark: Mark) -> bool {
        let mut shard = lock(self.shard(zone));
        let Some(history) = shard.get_mut(&zone) else { return false };
        let was_reset = history.ends_in_reset();
        history.stable_up_to(mark);
        let kept = was_reset && !history.ends_in_reset();
        if history.is_empty() {
            shard.remove(&zone);
        }
        kept
    }

    pub(super) fn clear(&self) {
        self.shards.iter().for_each(|shard| lock(shard).clear());
    }
}

/// The store's notes on their way to whoever keeps them.
pub(super) struct Noting(pub(super) Arc<Notes>);

impl Noting {
    fn pass(&self, with: impl FnOnce(&dyn Journal)) {
        if let Some(journal) = self.0.journal.get() {
            with(journal.as_ref());
        }
    }
}

impl Journal for Noting {
    fn note(&self, tag: Tag, note: Note) {
        if let Note::Reserved(Reserved { zone, start, end, .. }) = note {
            self.0.history(zone, start, |history| history.write(start.0, end.0, &self.0.counter));
        }
        self.pass(|journal| journal.note(tag, note));
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        self.pass(|journal| journal.settled(tag, outcome));
    }

    fn chosen(&self, tag: Tag, choice: u64) {
        self.pass(|journal| journal.chosen(tag, choice));
    }

    fn emptied(&self, zone: ZoneIndex, from: Bytes) {
        self.0.history(zone, from, |history| {
            history.cut_back(from.0);
            history.reset(&self.0.counter);
        });
        self.pass(|journal| journal.emptied(zone, from));
    }

    fn filled(&self, zone: ZoneIndex, from: Bytes) {
        self.0.history(zone, from, |history| {
            history.cut_back(from.0);
            history.finish(&self.0.counter);
        });
        self.pass(|journal| journal.filled(zone, from));
    }

    fn explicitly_open(&self, zone: ZoneIndex, open: bool) {
        self.pass(|journal| journal.explicitly_open(zone, open));
    }

    fn power_lost(&self, fails: bool) {
        self.pass(|journal| journal.power_lost(fails));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::Cell;

    use super::*;
    use crate::zone::testing::geometry;

    const ZONE: ZoneIndex = ZoneIndex(1);
    const START: u64 = 1 << 20;

    fn noting() -> Noting {
        Noting(Arc::new(Notes::new(geometry(8, 0))))
    }

    fn write(noting: &Noting, start: u64, end: u64) {
        let reserved = Reserved { zone: ZONE, start: Bytes(start), end: Bytes(end), append: false };
        noting.note(Tag { queue: 0, slot: 0 }, Note::Reserved(reserved));
    }

    /// The stable pointer of the zone and how many operations are not stable, where there are any.
    fn left(noting: &Noting) -> Option<(u64, u64)> {
        let shard = lock(noting.0.shard(ZONE));
        shard.get(&ZONE).map(|history| (history.steps().stable, history.steps().operations()))
    }

    #[test]
    fn a_flush_covers_what_was_written_before_it_whenever_a_reset_comes_meanwhile() {
        const END: u64 = START + 8192;
        // Never; between the life that the flush has seen and the pointer; behind both.
        for (when, expected) in [(None, None), (Some(0), None), (Some(1), Some((END, 1)))] {
            let noting = noting();
            write(&noting, START, END);
            let (pointer, reads) = (Cell::new(END), Cell::new(0));
            let reset = || {
                noting.emptied(ZONE, Bytes(END));
                pointer.set(START);
            };
            let marks = noting.0.marks(|_| {
                if when == Some(0) && reads.get() == 0 {
                    reset();
                }
                reads.set(reads.get() + 1);
                Some(Bytes(pointer.get()))
            });
            if when == Some(1) {
                reset();
            }
            marks.into_iter().for_each(|(zone, mark)| _ = noting.0.stable_up_to(zone, mark));
            assert_eq!(left(&noting), expected, "a reset at {when:?}");
        }
    }
}
