//! The zones as the store keeps them, of each the model, the writes in flight, who waits, and where it lies in the file.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clearing::Clearing;
use super::map::ZoneMap;
use super::request::{Event, IoResult, Outcome, Refusal, Reply, Tag};
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, Zone, ZoneTable};

/// Takes a lock. A poisoned one is taken too: in the daemon a panic ends the process (`panic = "abort"`), so poison
/// exists only in tests that caught a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All zones of a device.
pub(super) struct Zones(Vec<Entry>);

/// One zone with its two locks.
struct Entry {
    /// Held while the zone's pointer is written to the table, so that an older value never follows a newer one.
    /// Only threads that have to wait for that pointer anyway meet here.
    commit: Mutex<()>,
    inner: Mutex<Inner>,
}

/// What the zone's own lock guards; never held over I/O.
pub(super) struct Inner {
    pub(super) zone: Zone,
    pub(super) clearing: Clearing,
    pub(super) map: Option<Box<ZoneMap>>,
    traffic: Option<Box<Traffic>>,
}

/// The traffic of one zone.
#[derive(Default)]
pub(super) struct Traffic {
    /// Reserved ranges in address order, without gaps, the first at the write pointer.
    writes: VecDeque<InFlight>,
    /// Writes from here on have failed; nothing new is admitted until all in flight are back.
    failed_at: Option<Bytes>,
    /// The request that has the zone for itself, or will have it as soon as no write is in flight.
    exclusive: Option<Tag>,
    /// Requests to retry when the zone can be used again.
    waiters: Vec<Tag>,
}

struct InFlight {
    tag: Tag,
    start: Bytes,
    end: Bytes,
    append: bool,
    state: Flight,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flight {
    Submitted,
    Landed,
    Failed,
}

impl Zones {
    /// What a zone takes, in bytes, as long as nothing is done to it.
    pub(super) const WEIGHT: u64 = size_of::<Entry>() as u64;

    /// Room for this many zones, or none where there is not enough memory.
    pub(super) fn with_room(zones: u32) -> Option<Self> {
        let mut all = Vec::new();
        all.try_reserve_exact(usize::try_from(zones).ok()?).ok()?;
        Some(Self(all))
    }

    /// Takes the next zone.
    pub(super) fn push(&mut self, zone: Zone, clearing: Clearing) {
        let inner = Inner { zone, clearing, map: None, traffic: None };
        self.0.push(Entry { commit: Mutex::new(()), inner: Mutex::new(inner) });
    }

    /// The zone's own lock.
    pub(super) fn inner(&self, index: ZoneIndex) -> MutexGuard<'_, Inner> {
        lock(&self.0[index.index()].inner)
    }

    /// The lock of the zone's pointer in the table.
    pub(super) fn commit(&self, index: ZoneIndex) -> MutexGuard<'_, ()> {
        lock(&self.0[index.index()].commit)
    }
}

impl ZoneTable for Zones {
    fn zone<R>(&self, index: ZoneIndex, with: impl FnOnce(&mut Zone) -> R) -> R {
        with(&mut self.inner(index).zone)
    }
}

impl Inner {
    /// The zone's traffic, made when first needed.
    pub(super) fn traffic(&mut self) -> &mut Traffic {
        self.traffic.get_or_insert_default()
    }

    /// Whether a zone that holds data is being cleared beyond its pointer.
    pub(super) fn is_clearing_tail(&self, geometry: &Geometry, zone: ZoneIndex) -> bool {
        self.clearing.is_under_way() && self.zone.write_pointer() > geometry.start(zone)
    }

    /// Whether there is no traffic, and was none lately.
    pub(super) fn is_quiet(&self) -> bool {
        self.traffic.is_none()
    }

    /// Whether requests that change the zone are in flight.
    pub(super) fn is_in_use(&self) -> bool {
        self.traffic.as_ref().is_some_and(|traffic| !traffic.writes.is_empty() || traffic.exclusive.is_some())
    }

    /// Forgets whatever is in flight and whoever waits.
    pub(super) fn forget_traffic(&mut self) {
        self.traffic = None;
    }

    /// Whether new writes have to wait.
    pub(super) fn gated(&self) -> bool {
        self.traffic.as_ref().is_some_and(|traffic| traffic.exclusive.is_some() || traffic.failed_at.is_some())
    }

    /// Frees the traffic of a zone that is not being written.
    pub(super) fn drop_idle_traffic(&mut self) {
        if !self.zone.state().is_open() && self.traffic.as_ref().is_some_and(|traffic| traffic.is_idle()) {
            self.traffic = None;
        }
    }
}

impl Traffic {
    /// A write was admitted at the end of those in flight.
    pub(super) fn admit(&mut self, tag: Tag, start: Bytes, end: Bytes, append: bool) {
        self.writes.push_back(InFlight { tag, start, end, append, state: Flight::Submitted });
    }

    /// The I/O of the write at `start` is over. `granularity` is the unit that counts as written.
    pub(super) fn landed(&mut self, start: Bytes, result: IoResult, granularity: Bytes) {
        let Some(write) = self.writes.iter_mut().find(|write| write.start == start) else {
            return;
        };
        match result {
            IoResult::Complete => write.state = Flight::Landed,
            IoResult::Failed { good } => {
                let len = write.end.0 - write.start.0;
                let good = good.0.min(len - 1) / granularity.0 * granularity.0;
                write.state = Flight::Failed;
                self.fail_from(Bytes(start.0 + good));
            }
        }
    }

    /// Everything from `offset` on is lost.
    pub(super) fn fail_from(&mut self, offset: Bytes) {
        self.failed_at = Some(self.failed_at.map_or(offset, |earlier| earlier.min(offset)));
    }

    /// The end of what has landed without a gap, or `None` where that is nothing new.
    pub(super) fn landed_end(&self) -> Option<Bytes> {
        let mut end = None;
        for write in &self.writes {
            match (write.state, self.failed_at) {
                (_, Some(failed)) if failed <= write.start => break,
                (Flight::Failed, Some(failed)) => return Some(failed),
                (Flight::Landed, Some(failed)) if failed < write.end => return Some(failed),
                (Flight::Landed, _) => end = Some(write.end),
                (Flight::Submitted | Flight::Failed, _) => break,
            }
        }
        end
    }

    /// Answers the writes whose outcome is known now that the pointer stands at `pointer`. Returns whether these
    /// were the last in flight.
    pub(super) fn settle(&mut self, pointer: Bytes, events: &mut Vec<Event>) -> bool {
        if self.writes.is_empty() {
            return false;
        }
        let failed_at = self.failed_at;
        self.writes.retain(|write| {
            let done = |outcome: Outcome| Event::Finished { tag: write.tag, outcome };
            if write.end <= pointer {
                events.push(done(Ok(match write.append {
                    true => Reply::Appended(write.start.to_sector()),
                    false => Reply::Done,
                })));
                return false;
            }
            let lost = write.state != Flight::Submitted && failed_at.is_some_and(|failed| failed < write.end);
            if lost {
                events.push(done(Err(Refusal::Io)));
            }
            !lost
        });
        self.writes.is_empty()
    }

    /// All writes are back: forgets a failure, and says whether there was one.
    pub(super) fn take_failure(&mut self) -> bool {
        self.failed_at.take().is_some()
    }

    /// Asks for the zone alone. True when the request has it now; otherwise it is retried when it can have it.
    pub(super) fn take_exclusive(&mut self, tag: Tag) -> bool {
        match self.exclusive {
            Some(holder) if holder != tag => {
                self.waiters.push(tag);
                false
            }
            _ => {
                self.exclusive = Some(tag);
                self.writes.is_empty()
            }
        }
    }

    /// Gives up the zone where `tag` has it.
    pub(super) fn release_exclusive(&mut self, tag: Tag, events: &mut Vec<Event>) {
        if self.exclusive == Some(tag) {
            self.exclusive = None;
            self.wake(events);
        }
    }

    /// No write is in flight any more: lets on whoever waited for that.
    pub(super) fn drained(&mut self, events: &mut Vec<Event>) {
        match self.exclusive {
            Some(tag) => events.push(Event::Retry { tag }),
            None => self.wake(events),
        }
    }

    /// Has a request retried when the zone can be used again.
    pub(super) fn wait(&mut self, tag: Tag) {
        self.waiters.push(tag);
    }

    /// Retries all that wait.
    pub(super) fn wake(&mut self, events: &mut Vec<Event>) {
        events.extend(self.waiters.drain(..).map(|tag| Event::Retry { tag }));
    }

    /// The zone cannot be cleared: fails all that wait for that. Returns whether writes in flight are among them, which
    /// get their answers from a commit.
    pub(super) fn fail_waiters(&mut self, events: &mut Vec<Event>) -> bool {
        let first = self.writes.front().map(|write| write.start);
        for tag in std::mem::take(&mut self.waiters) {
            if self.exclusive == Some(tag) {
                self.exclusive = None;
            }
            match self.writes.iter_mut().find(|write| write.tag == tag) {
                Some(write) => write.state = Flight::Failed,
                None => events.push(Event::Finished { tag, outcome: Err(Refusal::Io) }),
            }
        }
        // Nothing of a zone that is not clean has been placed, so all in flight are waiting, from the first.
        first.into_iter().for_each(|first| self.fail_from(first));
        first.is_some()
    }

    fn is_idle(&self) -> bool {
        self.writes.is_empty() && self.failed_at.is_none() && self.exclusive.is_none() && self.waiters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAIN: Bytes = Bytes(512);

    fn tag(slot: u16) -> Tag {
        Tag { queue: 0, slot }
    }

    /// Three writes of 2 KiB from 0 on.
    fn three() -> Traffic {
        let mut traffic = Traffic::default();
        (0..3).for_each(|slot| {
            traffic.admit(tag(slot), Bytes(u64::from(slot) * 2048), Bytes(2048 * (u64::from(slot) + 1)), false)
        });
        traffic
    }

    fn outcomes(traffic: &mut Traffic, pointer: u64) -> Vec<(u16, bool)> {
        let mut events = Vec::new();
        traffic.settle(Bytes(pointer), &mut events);
        let outcome = |event: &Event| match event {
            Event::Finished { tag, outcome } => (tag.slot, outcome.is_ok()),
            Event::Retry { tag } => (tag.slot, false),
        };
        events.iter().map(outcome).collect()
    }

    #[test]
    fn a_write_that_fails_midway_is_an_error_and_its_good_sectors_count() {
        let mut traffic = three();
        traffic.landed(Bytes(2048), IoResult::Failed { good: Bytes(1100) }, GRAIN);
        assert_eq!(traffic.landed_end(), None, "the first is not back");
        traffic.landed(Bytes(0), IoResult::Complete, GRAIN);
        traffic.landed(Bytes(4096), IoResult::Complete, GRAIN);
        assert_eq!(traffic.landed_end(), Some(Bytes(2048 + 1024)));
        assert_eq!(outcomes(&mut traffic, 2048 + 1024), [(0, true), (1, false), (2, false)]);
        assert!(traffic.take_failure());
    }

    #[test]
    fn a_write_that_reports_all_its_bytes_and_fails_has_a_sector_less() {
        let mut traffic = three();
        traffic.landed(Bytes(0), IoResult::Failed { good: Bytes(2048) }, GRAIN);
        assert_eq!(traffic.landed_end(), Some(Bytes(1536)));
    }

    #[test]
    fn the_lowest_of_several_failures_counts() {
        let mut traffic = three();
        traffic.landed(Bytes(4096), IoResult::Failed { good: Bytes(512) }, GRAIN);
        traffic.landed(Bytes(0), IoResult::Complete, GRAIN);
        traffic.landed(Bytes(2048), IoResult::Failed { good: Bytes(0) }, GRAIN);
        assert_eq!(traffic.landed_end(), Some(Bytes(2048)));
        assert_eq!(outcomes(&mut traffic, 2048), [(0, true), (1, false), (2, false)]);
    }

    #[test]
    fn whoever_asked_for_the_zone_alone_gets_it_before_those_who_only_wait() {
        let mut traffic = three();
        assert!(!traffic.take_exclusive(tag(7)));
        assert!(!traffic.take_exclusive(tag(8)), "another has asked before");
        let mut events = Vec::new();
        traffic.drained(&mut events);
        assert_eq!(events, [Event::Retry { tag: tag(7) }]);
        events.clear();
        traffic.release_exclusive(tag(9), &mut events);
        assert_eq!(events, [], "only the holder can give it up");
        traffic.release_exclusive(tag(7), &mut events);
        assert_eq!(events, [Event::Retry { tag: tag(8) }]);
    }
}
