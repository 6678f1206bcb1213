//! The steps of clearing zones, done by the housekeeper; [`clearing`](super::clearing) has what they lead from and to.
//!
//! Clearing takes two syncs, shared by many zones: one of the pointers makes the resets durable, then the space is
//! punched, one of the holes makes these durable. Neither waits for the guest's data. Zones that a request waits for come
//! first, and take along the zones behind them, which are likely to be written next.

use std::io;

use super::clearing::{Clearing, NextStep, push_hole};
use super::keeper::{Job, Keeper, WINDOW_CLUSTERS};
use super::zones::{Inner, lock};
use super::{Batch, Event, Refusal, Tag, ZonedStore};
use crate::qcow2::MapError;
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, ZoneIndex};

/// How many zones are punched before other work gets its turn.
const PUNCH_ROUND: usize = 256;
/// How many zones that follow one another are punched together, before those that ask for space get their turn.
const PUNCH_AT_ONCE: usize = 16;
/// How many steps the clearing goes on for when the store is closed: 4 Ki zones. A host that discards what is freed at
/// once can take milliseconds for each.
const STEPS_AT_CLOSE: usize = 16;

impl<S: Medium> ZonedStore<S> {
    /// Has a request wait while its zone may hold bytes beyond its pointer; asks for the clearing. False where it need
    /// not wait.
    pub(super) fn wait_for_clearing(&self, inner: &mut Inner, zone: ZoneIndex, tag: Tag) -> bool {
        if inner.clearing == Clearing::Clean {
            return false;
        }
        self.ask_for_clearing(inner, zone);
        self.ask(Job::Hurry { zone });
        inner.traffic().wait(tag);
        true
    }

    /// Asks for the clearing of a zone that may hold bytes beyond its pointer, once.
    pub(super) fn ask_for_clearing(&self, inner: &mut Inner, zone: ZoneIndex) {
        if matches!(inner.clearing, Clearing::AtOpen | Clearing::InDoubt) {
            let reset = inner.clearing == Clearing::InDoubt;
            inner.clearing = Clearing::Asked;
            self.ask(Job::Clear { zone, reset });
        }
    }

    /// A zone that is not mapped beyond its pointer since the open is clean at once; another one enters the steps of
    /// clearing. One that was finished and reset may not be mapped either, but has a pointer that its next write must not
    /// meet.
    pub(super) fn clear(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, reset: bool, batch: &mut Batch) {
        if reset {
            return self.stands(keeper, zone, Clearing::Queued);
        }
        let (from, end) = (self.pointer(zone), self.geometry.writable_end(zone));
        let mut first = Vec::new();
        match keeper.image.extents(from, Bytes(end.0 - from.0), &mut first, 1) {
            Ok(_) if first.is_empty() => self.cleared(zone, true, batch),
            Ok(_) => self.stands(keeper, zone, Clearing::Queued),
            Err(error) => {
                log::error!("zone {zone} cannot be cleared: {error}");
                self.cleared(zone, false, batch);
            }
        }
    }

    /// Takes the next step of the zones being cleared; false when there are none.
    pub(super) fn clear_further(&self, keeper: &mut Keeper<S>, batch: &mut Batch) -> bool {
        match keeper.rounds.next_step(PUNCH_ROUND) {
            None => return false,
            Some(NextStep::Punch(zones)) => self.punch_zones(keeper, &zones, batch),
            Some(NextStep::SyncPointers(zones)) => {
                let durable = self.table.flush().is_ok();
                zones.into_iter().for_each(|zone| match durable {
                    true => self.stands(keeper, zone, Clearing::Durable),
                    false => self.cleared(zone, false, batch),
                });
            }
            Some(NextStep::SyncHoles(holes, zones)) => {
                let durable = self.storage.sync_ranges(&holes).is_ok();
                zones.into_iter().for_each(|zone| self.cleared(zone, durable, batch));
            }
        }
        true
    }

    /// A zone has come as far as this.
    fn stands(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, at: Clearing) {
        self.zones.inner(zone).clearing = at;
        keeper.rounds.enter(zone, at);
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
        runs.flatten().for_each(|zone| self.stands(keeper, *zone, Clearing::Durable));
    }

    /// Punches some zones that follow one another.
    fn punch_run(&self, keeper: &mut Keeper<S>, run: &[ZoneIndex], holes: &mut Vec<FileRange>, batch: &mut Batch) {
        holes.clear();
        let mut hidden = Vec::new();
        let found = self.find_holes(keeper, run, holes, &mut hidden).map_err(io::Error::other);
        match found.and_then(|()| holes.iter().try_for_each(|(offset, len)| self.storage.punch(*offset, *len))) {
            Ok(()) => {
                keeper.rounds.add_holes(holes);
                keeper.rounds.add_holes(&hidden);
                for zone in run {
                    self.forget(keeper, *zone);
                    self.stands(keeper, *zone, Clearing::Punched);
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

    /// The blocks of a punched zone are gone: has its next writes ask for them again, a run at a time. What a base had there is
    /// not to be read again.
    fn forget(&self, keeper: &mut Keeper<S>, zone: ZoneIndex) {
        if (self.allocator.get().is_some() || keeper.image.has_base())
            && let Some(map) = self.zones.inner(zone).map.take()
        {
            keeper.maps = keeper.maps.saturating_sub(map.weight());
        }
    }

    /// Where some zones that follow one another lie in the file from their pointers on. Empty ones are looked up together
    /// with those before them. What a base has there is hidden; what has to be durable for that is added to `hidden`.
    fn find_holes(
        &self,
        keeper: &mut Keeper<S>,
        run: &[ZoneIndex],
        holes: &mut Vec<FileRange>,
        hidden: &mut Vec<FileRange>,
    ) -> Result<(), MapError> {
        for part in run.chunk_by(|_, next| self.pointer(*next) == self.geometry.start(*next)) {
            if let (Some(first), Some(last)) = (part.first(), part.last()) {
                let (from, to) = (self.pointer(*first), self.geometry.writable_end(*last));
                keeper.image.hide(from, to, hidden)?;
                let extents = keeper.own_extents(from, to)?;
                extents.iter().for_each(|extent| push_hole(holes, extent.file, extent.len));
            }
        }
        Ok(())
    }

    fn pointer(&self, zone: ZoneIndex) -> Bytes {
        self.zones.inner(zone).zone.write_pointer()
    }

    /// Zones that hold data and may hold bytes beyond their pointers.
    pub(super) fn tails_in_doubt(&self) -> impl Iterator<Item = ZoneIndex> {
        (self.geometry.conventional_zones()..self.geometry.nr_zones()).map(ZoneIndex).filter(|zone| {
            let inner = self.zones.inner(*zone);
            inner.clearing != Clearing::Clean && inner.zone.write_pointer() > self.geometry.start(*zone)
        })
    }

    /// Finishes what is pending before the store is closed, and clears zones that hold data, so that the image can be
    /// marked as left in order. Of many zones that wait to be cleared some are left as they are: whoever opens the image
    /// next clears them, too, as they are empty and mapped, or the mark is missing.
    pub(super) fn wind_down(&self, batch: &mut Batch) {
        let in_doubt: Vec<ZoneIndex> = self.tails_in_doubt().take(STEPS_AT_CLOSE * PUNCH_ROUND).collect();
        for zone in in_doubt {
            self.ask_for_clearing(&mut self.zones.inner(zone), zone);
        }
        for _ in 0..STEPS_AT_CLOSE {
            if !self.housekeep(batch) {
                return;
            }
        }
        let left = lock(&self.keeper).rounds.unpunched();
        if left != 0 {
            log::info!("{left} reset zones keep their space in the file until they are written again");
        }
    }

    /// The clearing of a zone is over: those that wait for it go on, or fail.
    fn cleared(&self, zone: ZoneIndex, well: bool, batch: &mut Batch) {
        let mut inner = self.zones.inner(zone);
        inner.clearing = if well { Clearing::Clean } else { Clearing::InDoubt };
        if inner.is_quiet() {
            return;
        }
        if well {
            inner.traffic().wake(&mut batch.events);
        } else if inner.traffic().fail_waiters(&mut batch.events) {
            batch.mark_dirty(zone);
        }
        inner.drop_idle_traffic();
    }

    /// Gives back the space that a finish leaves unwritten. Whatever was there before is cleared already.
    pub(super) fn clear_tail(&self, keeper: &mut Keeper<S>, zone: ZoneIndex, waiter: Tag, batch: &mut Batch) {
        let cleared =
            keeper.own_extents(self.pointer(zone), self.geometry.writable_end(zone)).map_err(io::Error::other);
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
}
