//! Changing zones back to what they were, and reading and writing their bytes, for the layers above: a loss of power, a return to
//! an earlier state. The housekeeper's thread calls what is in here.

use super::clearing::Clearing;
use super::keeper::{Job, Keeper};
use super::zones::lock;
use super::{Refusal, ZonedStore, sequential};
use crate::qcow2::{Change, Extent};
use crate::storage::Medium;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Resources, State};

/// What is written down with a change: how requests end until the device is reset.
const DEAD: u64 = 1;
const FAILS: u64 = 2;

/// What zones change back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewind {
    /// Write pointers of sequential zones: each where that zone stands, where it stood earlier in this life, or in the life before
    /// where [`ZonedStore::can_take_back`] says so.
    pub pointers: Vec<(ZoneIndex, Bytes)>,
    /// Content of conventional zones: where it is on the device, and what.
    pub blocks: Vec<(Bytes, Vec<u8>)>,
}

impl<S: Medium> ZonedStore<S> {
    /// Whether the reset that made a zone empty can be taken back: nothing of its space was given up.
    pub fn can_take_back(&self, zone: ZoneIndex) -> bool {
        let inner = self.zones.inner(zone);
        self.hold_resets
            && inner.clearing == Clearing::InDoubt
            && inner.zone.write_pointer() == self.geometry.start(zone)
    }

    /// The reset that made a zone empty is not taken back any more: its space may be given up.
    pub fn let_go(&self, zone: ZoneIndex) {
        let mut inner = self.zones.inner(zone);
        if inner.zone.write_pointer() == self.geometry.start(zone) {
            self.ask_for_clearing(&mut inner, zone);
        }
    }

    /// Reads what a range of the device holds in the file, whatever the write pointers say; zeros where nothing is mapped.
    /// Blocking.
    pub fn peek(&self, at: Bytes, into: &mut [u8]) -> Result<(), Refusal> {
        let keeper = &mut *lock(&self.keeper);
        into.fill(0);
        let end = Bytes(at.0.saturating_add(into.len() as u64));
        for extent in keeper.extents(at, end).map_err(|error| failed("found", at, &error))? {
            if let Some(bytes) = into.get_mut(part_of(&extent, at)) {
                keeper.image.read_extent(&extent, bytes).map_err(|error| failed("read", at, &error))?;
            }
        }
        Ok(())
    }

    /// Writes a range of the device where the file holds it; what is not mapped stays as it is. Blocking.
    pub fn poke(&self, at: Bytes, content: &[u8]) -> Result<(), Refusal> {
        let keeper = &mut *lock(&self.keeper);
        changes(keeper, at, content)?.into_iter().try_for_each(|(file, bytes)| {
            self.storage.write_at(file, &bytes).map_err(|error| failed("written", at, &error))
        })
    }

    /// Changes zones back, all at once, as a loss of power does: open zones are closed, and whatever was in flight never ends.
    /// Nothing is in the hands of a data path. `fails` is noted for a successor: whether requests fail until the device is
    /// reset, or are not answered. After an error nothing is changed. Blocking.
    pub fn rewind(&self, to: &Rewind, fails: bool) -> Result<(), Refusal> {
        let keeper = &mut *lock(&self.keeper);
        let mut wanted = Vec::new();
        for (zone, pointer) in &to.pointers {
            if self.zones.inner(*zone).zone.write_pointer() != *pointer {
                let full = *pointer == self.geometry.writable_end(*zone);
                let stored = if full { self.table.full_pointer(*zone) } else { *pointer };
                wanted.push((self.table.offset(*zone), self.table.encode(*zone, stored).to_vec()));
            }
        }
        for (at, content) in &to.blocks {
            wanted.append(&mut changes(keeper, *at, content)?);
        }
        let noted = || self.journal(|journal| journal.power_lost(fails));
        // What is left is stable from now on, also where the host's own power goes: all of the file is made durable with it.
        keeper.image.change_at_once(&wanted, if fails { FAILS } else { DEAD }, noted).map_err(|error| {
            log::error!("zones could not be changed back: {error}");
            Refusal::Io
        })?;
        // What requests asked for is nobody's now.
        lock(&self.jobs).retain(|job| matches!(job, Job::Clear { .. }));
        self.take_over(keeper, to);
        Ok(())
    }

    /// Whether the last process died while it changed zones back, and if so whether requests fail until the device is reset.
    pub fn power_was_lost(&self) -> Option<bool> {
        lock(&self.keeper).image.changed_by().map(|word| word == FAILS)
    }

    fn take_over(&self, keeper: &mut Keeper<S>, to: &Rewind) {
        let mut resources = lock(&self.resources);
        *resources = Resources::new(&self.geometry);
        let mut pointers = to.pointers.iter().peekable();
        for zone in (0..self.geometry.nr_zones()).map(ZoneIndex) {
            let wanted = pointers.next_if(|(wanted, _)| *wanted == zone).map(|(_, pointer)| *pointer);
            let mut inner = self.zones.inner(zone);
            let stands = inner.zone.write_pointer();
            let pointer = wanted.unwrap_or(stands);
            // A write that was in flight may have left bytes beyond the pointer, as one does that is taken back.
            let strayed = inner.zone.reserved() != stands && !inner.clearing.is_under_way();
            if pointer != stands || strayed {
                keeper.rounds.forget(zone);
                inner.clearing = Clearing::InDoubt;
            }
            inner.forget_traffic();
            let explicit = inner.zone.state() == State::ExplicitOpen;
            if sequential(&self.geometry, zone) {
                inner.zone = inner.zone.moved_to(&self.geometry, zone, pointer);
            }
            resources.count(&inner.zone);
            drop(inner);
            if explicit {
                self.note_open(zone);
            }
        }
    }
}

/// Which part of a range that begins at `at` an extent is.
fn part_of(extent: &Extent, at: Bytes) -> std::ops::Range<usize> {
    let first = (extent.guest.0 - at.0) as usize;
    first..first + extent.len.0 as usize
}

/// What content for a range of the device changes in the file.
fn changes<S: Medium>(keeper: &Keeper<S>, at: Bytes, content: &[u8]) -> Result<Vec<Change>, Refusal> {
    let end = Bytes(at.0.saturating_add(content.len() as u64));
    let own = keeper.own_extents(at, end).map_err(|error| failed("found", at, &error))?;
    let change = |extent: &Extent| Some((extent.file, content.get(part_of(extent, at))?.to_vec()));
    Ok(own.iter().filter_map(change).collect())
}

fn failed(what: &str, at: Bytes, error: &dyn std::fmt::Display) -> Refusal {
    log::error!("the disk at byte {at} could not be {what} in the image: {error}");
    Refusal::Io
}
