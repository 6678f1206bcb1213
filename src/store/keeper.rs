//! The blocking metadata work, done by one thread: finding where zones lie, mapping new space. (`clear` has the steps of
//! clearing zones.)
//!
//! Requests that need it are parked and retried. All reading and changing of the image's mapping happens here, so
//! the image has one owner and the worker threads never wait for its tables.
//!
//! Loading and mapping are served between the steps of clearing, and between the holes of one: where the host discards at
//! once each may take milliseconds.

use std::io;

use super::clearing::{Clearing, Rounds};
use super::fuse::Fused;
use super::map::{MAX_EXTENTS, ZoneMap};
use super::zones::lock;
use super::{Batch, Event, Refusal, Tag, ZonedStore, sequential};
use crate::qcow2::{Extent, Image, MapError};
use crate::storage::Medium;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::Geometry;

/// The least space mapped at a time, and the alignment in conventional zones.
const MIN_RUN: u64 = 1 << 20;
/// The most space mapped ahead of a write pointer at a time.
const MAX_RUN: u64 = 16 << 20;
/// Writes of this length and more find blocks for themselves at little cost, and wait while others are found ahead.
const LARGE_WRITE: u64 = 512 << 10;
/// How many clusters of a zone are looked up at a time.
pub(super) const WINDOW_CLUSTERS: u64 = 64 * 1024;
/// Bytes of maps kept in memory.
const MAX_MAPS: usize = 48 << 20;

/// Work asked for by a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Find where `from..to` of a zone lies.
    Load { zone: ZoneIndex, from: Bytes, to: Bytes, waiter: Tag },
    /// Have `from..to` of a zone mapped; `reserved` tells a write in flight in a sequential zone.
    Map { zone: ZoneIndex, from: Bytes, to: Bytes, waiter: Tag, reserved: bool },
    /// Have a run of a sequential zone mapped from `from` on, where its writes, of this length, will come soon.
    Ahead { zone: ZoneIndex, from: Bytes, write: Bytes },
    /// Clear a zone that may hold bytes beyond its pointer; `reset` tells one whose pointer may not be durable, as this
    /// process has reset it.
    Clear { zone: ZoneIndex, reset: bool },
    /// A request waits for a zone that is being cleared.
    Hurry { zone: ZoneIndex },
    /// Give back the unwritten part of a zone that is to be full.
    Finish { zone: ZoneIndex, waiter: Tag },
}

/// How much is mapped at a time where a sequential zone has none from `at` on. What a zone takes grows with it: a zone
/// written a little holds little, a full one is a few long runs.
pub(super) fn run_at(geometry: &Geometry, zone: ZoneIndex, at: Bytes) -> u64 {
    (at.0 - geometry.start(zone).0).clamp(MIN_RUN, MAX_RUN)
}

impl Job {
    /// Whether a request waits for it that needs no clearing, or, in a zone empty since the open, mostly needs none.
    pub(super) fn is_for_space(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Map { .. } | Self::Finish { .. } | Self::Clear { reset: false, .. } => true,
            Self::Clear { reset: true, .. } | Self::Ahead { .. } | Self::Hurry { .. } => false,
        }
    }
}

/// The owner of the image.
pub(super) struct Keeper<S> {
    pub(super) image: Image<Fused<S>>,
    /// Bytes of all maps, and the zone at which the search for one to drop goes on.
    pub(super) maps: usize,
    hand: u32,
    /// The zones that are being cleared.
    pub(super) rounds: Rounds,
    /// The last turn left out the clearing.
    yielded: bool,
    /// Space was taken from the reservation since it was last topped up.
    drawn: bool,
}

impl<S: Medium> Keeper<S> {
    pub(super) fn new(image: Image<Fused<S>>) -> Self {
        Self { image, maps: 0, hand: 0, rounds: Rounds::default(), yielded: false, drawn: false }
    }

    /// Returns the unused reservation to the image, makes all durable, and says in the image whether it ends in order.
    pub(super) fn release(&mut self, orderly: bool) -> io::Result<()> {
        self.image.release().map_err(io::Error::other)?;
        if orderly { self.image.mark_orderly().map_err(io::Error::other) } else { Ok(()) }
    }

    pub(super) fn drawn(&self) -> Bytes {
        self.image.drawn()
    }

    pub(super) fn keep_ahead(&mut self, ahead: Bytes) {
        self.image.keep_ahead(ahead);
    }

    /// All extents of a range, those of bases among them.
    pub(super) fn extents(&self, from: Bytes, to: Bytes) -> Result<Vec<Extent>, MapError> {
        let mut extents = Vec::new();
        self.image.extents(from, Bytes(to.0 - from.0), &mut extents, usize::MAX)?;
        Ok(extents)
    }

    /// All extents of a range that are the image's own.
    pub(super) fn own_extents(&self, from: Bytes, to: Bytes) -> Result<Vec<Extent>, MapError> {
        let mut extents = Vec::new();
        self.image.own_extents(from, Bytes(to.0 - from.0), &mut extents, usize::MAX)?;
        Ok(extents)
    }
}

impl<S: Medium> ZonedStore<S> {
    /// Does what was asked for; returns whether there was anything to do. One thread calls it, when the doorbell
    /// rings and then until it returns false. Blocking.
    pub fn housekeep(&self, batch: &mut Batch) -> bool {
        let keeper = &mut *lock(&self.keeper);
        let jobs = std::mem::take(&mut *lock(&self.jobs));
        let (asked, for_space) = (!jobs.is_empty(), jobs.iter().any(Job::is_for_space));
        for job in jobs {
            match job {
                Job::Load { zone, from, to, waiter } => self.load(keeper, zone, from, to, waiter, batch),
                Job::Map { zone, from, to, waiter, reserved } => {
                    let mapped = self.map(keeper, zone, from, to, Bytes(to.0 - from.0));
                    match mapped.map_err(|error| log::error!("no space for zone {zone} in the image: {error}")) {
                        Ok(()) => batch.events.push(Event::Retry { tag: waiter }),
                        Err(()) if reserved => self.fail_reserved(zone, from, batch),
                        Err(()) => batch.finish(waiter, Err(Refusal::Io)),
                    }
                }
                Job::Ahead { zone, from, write } => {
                    // Without it the write that comes there asks for it, and says what is wrong.
                    if self.is_written_up_to(zone, from)
                        && let Err(error) = self.map(keeper, zone, from, from, write)
                    {
                        log::debug!("no space ahead of the writes of zone {zone} in the image: {error}");
                    }
                }
                Job::Clear { zone, reset } => self.clear(keeper, zone, reset, batch),
                Job::Hurry { zone } => keeper.rounds.hurry(zone),
                Job::Finish { zone, waiter } => self.clear_tail(keeper, zone, waiter, batch),
            }
        }
        // Whoever has its space now is told before the next step, which may take long. The turn after has one anyway.
        keeper.yielded = for_space && !keeper.yielded;
        let cleared = !keeper.yielded && self.clear_further(keeper, batch);
        self.commit(batch);
        asked || cleared || self.top_up(keeper)
    }

    fn load(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, from: Bytes, to: Bytes, waiter: Tag, batch: &mut Batch) {
        match self.look_up(keeper, zone, from, to) {
            Ok(map) => {
                self.install(keeper, zone, map);
                batch.events.push(Event::Retry { tag: waiter });
            }
            Err(error) => {
                log::error!("zone {zone} cannot be found in the image: {error}");
                batch.finish(waiter, Err(Refusal::Io));
            }
        }
    }

    /// A map with `from..to` in its window; the whole zone where that is not too much.
    fn look_up(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, from: Bytes, to: Bytes) -> Result<ZoneMap, MapError> {
        let start = self.geometry.start(zone).0;
        let end = self.geometry.writable_end(zone).0;
        let window = WINDOW_CLUSTERS.saturating_mul(keeper.image.header().cluster_size().0);
        let low = start + (from.0 - start) / window * window;
        let high = to.0.max(low.saturating_add(window)).min(end);
        let mut extents = Vec::new();
        let known = keeper.image.extents(Bytes(low), Bytes(high - low), &mut extents, MAX_EXTENTS)?;
        if known >= to {
            return Ok(ZoneMap::new(Bytes(low), known.min(Bytes(high)), extents));
        }
        Ok(ZoneMap::new(from, to, keeper.extents(from, to)?))
    }

    /// Maps a run of space for a zone, at least `from..to`, for writes of this length.
    fn map(
        &self,
        keeper: &mut Keeper<S>,
        zone: ZoneIndex,
        from: Bytes,
        to: Bytes,
        write: Bytes,
    ) -> Result<(), MapError> {
        let start = self.geometry.start(zone).0;
        let end = self.geometry.writable_end(zone).0;
        let sequential = sequential(&self.geometry, zone);
        let (low, high) = if sequential {
            (from.0, from.0.saturating_add(run_at(&self.geometry, zone, from)).max(to.0).min(end))
        } else {
            let low = start + (from.0 - start) / MIN_RUN * MIN_RUN;
            (low, to.0.next_multiple_of(MIN_RUN).min(end))
        };
        keeper.drawn = true;
        // Of what a base has nothing is to be seen beyond a write pointer.
        let hidden = if sequential { low..end } else { 0..0 };
        keeper.image.map_without(Bytes(low), Bytes(high - low), hidden)?;
        let extents = keeper.extents(Bytes(low), Bytes(high))?;
        if let Some(allocate) = self.allocator.get()
            && write.0 < LARGE_WRITE
        {
            extents.iter().for_each(|extent| allocate((extent.file, extent.len)));
        }
        self.install(keeper, zone, ZoneMap::new(Bytes(low), Bytes(high), extents));
        Ok(())
    }

    /// Whether a zone's writes still lead to `from`, and have not been reset since.
    fn is_written_up_to(&self, zone: ZoneIndex, from: Bytes) -> bool {
        let inner = self.zones.inner(zone);
        let next = inner.zone.reserved();
        inner.zone.state().is_open() && inner.clearing == Clearing::Clean && next <= from && from.0 - next.0 < MAX_RUN
    }

    fn install(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, newer: ZoneMap) {
        let mut inner = self.zones.inner(zone);
        let map = match inner.map.take() {
            None => Box::new(newer),
            Some(mut map) => {
                keeper.maps = keeper.maps.saturating_sub(map.weight());
                map.absorb(newer);
                map
            }
        };
        keeper.maps += map.weight();
        inner.map = Some(map);
        drop(inner);
        // One round at most: the zone just loaded stays even where it alone is over the bound.
        for _ in 0..self.geometry.nr_zones() {
            if keeper.maps <= MAX_MAPS {
                break;
            }
            keeper.hand = (keeper.hand + 1) % self.geometry.nr_zones();
            if keeper.hand != zone.0
                && let Some(map) = self.zones.inner(ZoneIndex(keeper.hand)).map.take()
            {
                keeper.maps = keeper.maps.saturating_sub(map.weight());
            }
        }
    }

    /// When nothing else is to be done: has space ready for the next writes.
    fn top_up(&self, keeper: &mut Keeper<S>) -> bool {
        if !std::mem::take(&mut keeper.drawn) {
            return false;
        }
        if let Err(error) = keeper.image.refill(Bytes(2 * MAX_RUN)) {
            log::warn!("no space could be reserved in advance: {error}");
        }
        true
    }
}
