//! The blocking metadata work, done by one thread: finding where zones lie, mapping new space, clearing reset zones.
//!
//! Requests that need it are parked and retried. All reading and changing of the image's mapping happens here, so
//! the image has one owner and the worker threads never wait for its tables.
//!
//! Clearing a reset zone takes two syncs, shared by many zones: one of the pointers makes the reset durable, then the
//! space is punched, one of the holes makes these durable. Neither waits for the guest's data. Zones that a request waits
//! for come first, and take along the zones behind them, which are likely to be written next. Loading and mapping are
//! served between the steps, and between the holes of one: where the host discards at once each may take milliseconds.

use std::io;

use super::fuse::Fuse;
use super::map::{MAX_EXTENTS, ZoneMap};
use super::set::ZoneSet;
use super::slot::{Stale, lock};
use super::{Batch, Event, Refusal, Tag, ZonedStore, sequential};
use crate::qcow2::{Extent, Image, MapError};
use crate::storage::{FileRange, Storage};
use crate::units::{Bytes, FileOffset, ZoneIndex};
use crate::zone::Geometry;

/// The least space mapped at a time, and the alignment in conventional zones.
const MIN_RUN: u64 = 1 << 20;
/// The most space mapped ahead of a write pointer at a time.
const MAX_RUN: u64 = 16 << 20;
/// Writes of this length and more find blocks for themselves at little cost, and wait while others are found ahead.
const LARGE_WRITE: u64 = 512 << 10;
/// How many clusters of a zone are looked up at a time.
const WINDOW_CLUSTERS: u64 = 64 * 1024;
/// How many zones are punched before other work gets its turn.
const PUNCH_ROUND: usize = 256;
/// How many zones that follow one another are punched together, before those that ask for space get their turn.
const PUNCH_AT_ONCE: usize = 16;
/// How many punched zones share the flush that makes their holes durable, at most.
const PUNCHED: usize = 16 * 1024;
/// How many holes share it: a zone in small pieces has many.
const HOLES: usize = 64 * 1024;
/// How many steps the clearing goes on for when the store is closed: 4 Ki zones. A host that discards what is freed at
/// once can take milliseconds for each.
const STEPS_AT_CLOSE: usize = 16;
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
    fn is_for_space(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Map { .. } | Self::Finish { .. } | Self::Clear { reset: false, .. } => true,
            Self::Clear { reset: true, .. } | Self::Ahead { .. } | Self::Hurry { .. } => false,
        }
    }
}

/// The owner of the image.
pub(super) struct Keeper<S> {
    image: Image<Fuse<S>>,
    /// Bytes of all maps, and the zone at which the search for one to drop goes on.
    maps: usize,
    hand: u32,
    /// Zones to be cleared whose reset pointer may not be durable yet.
    reset: ZoneSet,
    /// Zones to be cleared whose pointer is durable.
    durable: ZoneSet,
    /// Zones whose space was punched; the holes may not be durable yet.
    punched: ZoneSet,
    /// What was punched of them, by its place in the file.
    holes: Vec<FileRange>,
    /// Zones that requests wait for, in the order of the waiting, each in one of the sets above until it is cleared.
    wanted: Vec<ZoneIndex>,
    /// Where the punching goes on.
    next: ZoneIndex,
    /// The last turn left out the clearing.
    yielded: bool,
    /// Space was taken from the reservation since it was last topped up.
    drawn: bool,
}

impl<S: Storage> Keeper<S> {
    pub(super) fn new(image: Image<Fuse<S>>) -> Self {
        Self {
            image,
            maps: 0,
            hand: 0,
            reset: ZoneSet::default(),
            durable: ZoneSet::default(),
            punched: ZoneSet::default(),
            holes: Vec::new(),
            wanted: Vec::new(),
            next: ZoneIndex(0),
            yielded: false,
            drawn: false,
        }
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

    /// All extents of a range.
    fn extents(&mut self, from: Bytes, to: Bytes) -> Result<Vec<Extent>, MapError> {
        let mut extents = Vec::new();
        self.image.extents(from, Bytes(to.0 - from.0), &mut extents, usize::MAX)?;
        Ok(extents)
    }
}

impl<S: Storage> ZonedStore<S> {
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
                Job::Hurry { zone } => keeper.wanted.push(zone),
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
        let (low, high) = if sequential(&self.geometry, zone) {
            (from.0, from.0.saturating_add(run_at(&self.geometry, zone, from)).max(to.0).min(end))
        } else {
            let low = start + (from.0 - start) / MIN_RUN * MIN_RUN;
            (low, to.0.next_multiple_of(MIN_RUN).min(end))
        };
        keeper.drawn = true;
        keeper.image.map(Bytes(low), Bytes(high - low))?;
        let extents = keeper.extents(Bytes(low), Bytes(high))?;
        if self.storage.allocates() && write.0 < LARGE_WRITE {
            extents.iter().for_each(|extent| self.storage.allocate(extent.file, extent.len));
        }
        self.install(keeper, zone, ZoneMap::new(Bytes(low), Bytes(high), extents));
        Ok(())
    }

    /// Whether a zone's writes still lead to `from`, and have not been reset since.
    fn is_written_up_to(&self, zone: ZoneIndex, from: Bytes) -> bool {
        let inner = self.slots.inner(zone);
        let next = inner.zone.reserved();
        inner.zone.state().is_open() && inner.stale == Stale::No && next <= from && from.0 - next.0 < MAX_RUN
    }

    fn install(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, newer: ZoneMap) {
        let mut inner = self.slots.inner(zone);
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
                && let Some(map) = self.slots.inner(ZoneIndex(keeper.hand)).map.take()
            {
                keeper.maps = keeper.maps.saturating_sub(map.weight());
            }
        }
    }

    /// A zone that is not mapped beyond its pointer since the open is clean at once; another one enters the steps of
    /// clearing. One that was finished and reset may not be mapped either, but has a pointer that its next write must not
    /// meet.
    fn clear(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, reset: bool, batch: &mut Batch) {
        if reset {
            keeper.reset.insert(zone);
            return;
        }
        let (from, end) = (self.pointer(zone), self.geometry.writable_end(zone));
        let mut first = Vec::new();
        match keeper.image.extents(from, Bytes(end.0 - from.0), &mut first, 1) {
            Ok(_) if first.is_empty() => self.cleared(zone, true, batch),
            Ok(_) => keeper.reset.insert(zone),
            Err(error) => {
                log::error!("zone {zone} cannot be cleared: {error}");
                self.cleared(zone, false, batch);
            }
        }
    }

    /// Takes the next step of the zones being cleared: the one that the zone waited for longest needs. Zones that come
    /// meanwhile are taken along where they are as far, and otherwise have their turn behind it.
    fn clear_further(&self, keeper: &mut Keeper<S>, batch: &mut Batch) -> bool {
        let Keeper { reset, durable, punched, holes, wanted, next, .. } = &mut *keeper;
        wanted.retain(|zone| reset.contains(*zone) || durable.contains(*zone) || punched.contains(*zone));
        match wanted.first().copied() {
            Some(first) if reset.contains(first) => self.make_pointers_durable(keeper, batch),
            Some(first) if durable.contains(first) => {
                let mut round: Vec<ZoneIndex> = wanted.iter().copied().take(PUNCH_ROUND).collect();
                round.retain(|zone| durable.remove(*zone));
                round.sort_unstable();
                round.extend(durable.take(first, PUNCH_ROUND - round.len()));
                self.punch_zones(keeper, &round, batch);
            }
            Some(_) => self.make_holes_durable(keeper, batch),
            None if punched.len() >= PUNCHED || holes.len() >= HOLES || (durable.is_empty() && !punched.is_empty()) => {
                self.make_holes_durable(keeper, batch);
            }
            None if !durable.is_empty() => {
                let round = durable.take(*next, PUNCH_ROUND);
                *next = round.last().map_or(ZoneIndex(0), |last| ZoneIndex(last.0.saturating_add(1)));
                self.punch_zones(keeper, &round, batch);
            }
            None if !reset.is_empty() => self.make_pointers_durable(keeper, batch),
            None => return false,
        }
        true
    }

    fn make_holes_durable(&self, keeper: &mut Keeper<S>, batch: &mut Batch) {
        let holes_durable = self.storage.sync_ranges(&std::mem::take(&mut keeper.holes)).is_ok();
        for zone in keeper.punched.take_all() {
            self.cleared(zone, holes_durable, batch);
        }
    }

    fn make_pointers_durable(&self, keeper: &mut Keeper<S>, batch: &mut Batch) {
        let zones = keeper.reset.take_all();
        if self.table.flush().is_ok() {
            zones.into_iter().for_each(|zone| keeper.durable.insert(zone));
        } else {
            zones.into_iter().for_each(|zone| self.cleared(zone, false, batch));
        }
    }

    /// Punches zones, in their order. Where a request asks for space meanwhile, the rest have to wait.
    fn punch_zones(&self, keeper: &mut Keeper<S>, zones: &[ZoneIndex], batch: &mut Batch) {
        // Zones that follow one another are looked up at once. What they could have mapped between them is nobody's.
        let zone_clusters = self.geometry.zone_size().0.div_ceil(keeper.image.header().cluster_size().0);
        let most = usize::try_from(WINDOW_CLUSTERS / zone_clusters).map_or(1, |most| most.clamp(1, PUNCH_AT_ONCE));
        let mut runs = zones.chunk_by(|zone, next| zone.0 + 1 == next.0).flat_map(|run| run.chunks(most));
        let mut holes = Vec::new();
        for run in runs.by_ref() {
            self.punch_run(keeper, run, &mut holes, batch);
            if lock(&self.jobs).iter().any(Job::is_for_space) {
                break;
            }
        }
        runs.flatten().for_each(|zone| keeper.durable.insert(*zone));
    }

    /// Punches some zones that follow one another.
    fn punch_run(&self, keeper: &mut Keeper<S>, run: &[ZoneIndex], holes: &mut Vec<FileRange>, batch: &mut Batch) {
        holes.clear();
        let found = self.find_holes(keeper, run, holes).map_err(io::Error::other);
        match found.and_then(|()| holes.iter().try_for_each(|(offset, len)| self.storage.punch(*offset, *len))) {
            Ok(()) => {
                holes.iter().for_each(|(offset, len)| push_hole(&mut keeper.holes, *offset, *len));
                for zone in run {
                    self.forget(keeper, *zone);
                    keeper.punched.insert(*zone);
                }
            }
            // One of them is to blame, and no other.
            Err(_) if run.len() > 1 => run.chunks(1).for_each(|zone| self.punch_run(keeper, zone, holes, batch)),
            Err(error) => {
                for zone in run {
                    log::error!("zone {zone} cannot be cleared: {error}");
                    self.cleared(*zone, false, batch);
                }
            }
        }
    }

    /// The blocks of a punched zone are gone: has its next writes ask for them again, a run at a time.
    fn forget(&self, keeper: &mut Keeper<S>, zone: ZoneIndex) {
        if self.storage.allocates()
            && let Some(map) = self.slots.inner(zone).map.take()
        {
            keeper.maps = keeper.maps.saturating_sub(map.weight());
        }
    }

    /// Where some zones that follow one another lie in the file from their pointers on. Empty ones are looked up together
    /// with those before them.
    fn find_holes(
        &self,
        keeper: &mut Keeper<S>,
        run: &[ZoneIndex],
        holes: &mut Vec<FileRange>,
    ) -> Result<(), MapError> {
        for part in run.chunk_by(|_, next| self.pointer(*next) == self.geometry.start(*next)) {
            if let (Some(first), Some(last)) = (part.first(), part.last()) {
                let extents = keeper.extents(self.pointer(*first), self.geometry.writable_end(*last))?;
                extents.iter().for_each(|extent| push_hole(holes, extent.file, extent.len));
            }
        }
        Ok(())
    }

    fn pointer(&self, zone: ZoneIndex) -> Bytes {
        self.slots.inner(zone).zone.write_pointer()
    }

    /// Zones that hold data and may hold bytes beyond their pointers.
    pub(super) fn tails_in_doubt(&self) -> impl Iterator<Item = ZoneIndex> {
        (self.geometry.conventional_zones()..self.geometry.nr_zones()).map(ZoneIndex).filter(|zone| {
            let inner = self.slots.inner(*zone);
            inner.stale != Stale::No && inner.zone.write_pointer() > self.geometry.start(*zone)
        })
    }

    /// Finishes what is pending before the store is closed, and clears zones that hold data, so that the image can be
    /// marked as left in order. Of many zones that wait to be cleared some are left as they are: whoever opens the image
    /// next takes them for stale, too, as they are empty and mapped, or the mark is missing.
    pub(super) fn wind_down(&self, batch: &mut Batch) {
        let in_doubt: Vec<ZoneIndex> = self.tails_in_doubt().take(STEPS_AT_CLOSE * PUNCH_ROUND).collect();
        for zone in in_doubt {
            self.ask_for_clearing(&mut self.slots.inner(zone), zone);
        }
        for _ in 0..STEPS_AT_CLOSE {
            if !self.housekeep(batch) {
                return;
            }
        }
        let keeper = lock(&self.keeper);
        let left = keeper.reset.len() + keeper.durable.len();
        if left != 0 {
            log::info!("{left} reset zones keep their space in the file until they are written again");
        }
    }

    /// The clearing of a zone is over: those that wait for it go on, or fail.
    fn cleared(&self, zone: ZoneIndex, well: bool, batch: &mut Batch) {
        let mut inner = self.slots.inner(zone);
        inner.stale = if well { Stale::No } else { Stale::Maybe };
        if inner.is_quiet() {
            return;
        }
        if well {
            inner.lane().wake(&mut batch.events);
        } else if inner.lane().fail_waiters(&mut batch.events) {
            batch.mark_dirty(zone);
        }
        inner.drop_idle_lane();
    }

    /// Gives back the space that a finish leaves unwritten. Whatever was there before is cleared already.
    fn clear_tail(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, waiter: Tag, batch: &mut Batch) {
        let cleared = keeper.extents(self.pointer(zone), self.geometry.writable_end(zone)).map_err(io::Error::other);
        let cleared =
            cleared.and_then(|tail| tail.iter().try_for_each(|extent| self.storage.punch(extent.file, extent.len)));
        match cleared {
            Ok(()) => batch.events.push(Event::Retry { tag: waiter }),
            Err(error) => {
                log::error!("the unwritten part of zone {zone} cannot be cleared: {error}");
                self.give_up(waiter, zone, &mut batch.events);
                batch.finish(waiter, Err(Refusal::Io));
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

/// Adds a range of the file, joined to the one before where it goes on from it.
fn push_hole(holes: &mut Vec<FileRange>, start: FileOffset, more: Bytes) {
    match holes.last_mut() {
        Some((offset, len)) if offset.0 + len.0 == start.0 => len.0 += more.0,
        _ => holes.push((start, more)),
    }
}
