//! Open and active resources, and every transition between states.
//!
//! All changes of a zone's state go through [`Resources`], which counts what they use; whoever holds it exclusively
//! is the only one to change states. Zones are reached through [`ZoneTable`], one at a time, so that the caller may
//! guard each with a lock of its own.
//!
//! Limits (virtio specification, block device, "Zoned Block Device Operation"): implicitly and explicitly open zones
//! use an open resource; these and closed ones use an active resource; where both are exceeded the active one is
//! named. When the open limit is reached, the least recently written implicitly open zone is closed first.

use super::{Geometry, Refusal, State, Zone};
use crate::units::{Bytes, ZoneIndex};

/// Access to the zones, one at a time.
pub trait ZoneTable {
    /// Calls `with` on one zone. Implementations may lock it meanwhile; `with` touches no other zone.
    fn zone<R>(&self, index: ZoneIndex, with: impl FnOnce(&mut Zone) -> R) -> R;
}

/// What the zones of one device use of its two limits.
#[derive(Debug)]
pub struct Resources {
    max_open: u32,
    max_active: u32,
    open: u32,
    active: u32,
    /// The implicitly open zones; kept only where there is an open limit.
    implicit: Vec<ZoneIndex>,
}

impl Resources {
    /// Nothing in use yet.
    pub fn new(geometry: &Geometry) -> Self {
        Self {
            max_open: geometry.max_open_zones(),
            max_active: geometry.max_active_zones(),
            open: 0,
            active: 0,
            implicit: Vec::new(),
        }
    }

    /// Counts a zone found at open. An image may hold more active zones than its limit: only new ones are refused.
    pub fn count(&mut self, zone: &Zone) {
        self.open += u32::from(zone.state().is_open());
        self.active += u32::from(zone.state().is_active());
    }

    /// Zones that are open now.
    pub fn open_zones(&self) -> u32 {
        self.open
    }

    /// Zones that are active now.
    pub fn active_zones(&self) -> u32 {
        self.active
    }

    /// Makes a zone fit to be written or finished: an empty or closed one becomes implicitly open.
    pub fn open_for_write<T: ZoneTable>(
        &mut self,
        table: &T,
        geometry: &Geometry,
        index: ZoneIndex,
    ) -> Result<(), Refusal> {
        match table.zone(index, |zone| zone.state()) {
            State::ImplicitOpen | State::ExplicitOpen => Ok(()),
            state @ (State::Empty | State::Closed) => {
                self.make_room(table, geometry, state)?;
                self.enter(table, index, State::ImplicitOpen);
                Ok(())
            }
            State::NotWp | State::ReadOnly | State::Full | State::Offline => Err(Refusal::InvalidCommand),
        }
    }

    /// The guest opens a zone.
    pub fn open_explicitly<T: ZoneTable>(
        &mut self,
        table: &T,
        geometry: &Geometry,
        index: ZoneIndex,
    ) -> Result<(), Refusal> {
        match table.zone(index, |zone| zone.state()) {
            State::ExplicitOpen => return Ok(()),
            State::ImplicitOpen => {}
            state @ (State::Empty | State::Closed) => self.make_room(table, geometry, state)?,
            State::NotWp | State::ReadOnly | State::Full | State::Offline => return Err(Refusal::InvalidCommand),
        }
        self.enter(table, index, State::ExplicitOpen);
        Ok(())
    }

    /// Closes a zone; one with nothing written becomes empty.
    pub fn close<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) -> Result<(), Refusal> {
        match table.zone(index, |zone| zone.state()) {
            State::Closed => Ok(()),
            State::ImplicitOpen | State::ExplicitOpen => {
                self.put_down(table, geometry, index);
                Ok(())
            }
            State::NotWp | State::Empty | State::ReadOnly | State::Full | State::Offline => {
                Err(Refusal::InvalidCommand)
            }
        }
    }

    /// A zone was written to its capacity, or finished.
    pub fn fill<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) {
        self.change(table, index, |_| (State::Full, geometry.writable_end(index)));
    }

    /// Whether a zone may be reset: read-only, offline and conventional zones may not.
    pub fn check_reset(zone: &Zone) -> Result<(), Refusal> {
        match zone.state() {
            State::NotWp | State::ReadOnly | State::Offline => Err(Refusal::InvalidCommand),
            State::Empty | State::ImplicitOpen | State::ExplicitOpen | State::Closed | State::Full => Ok(()),
        }
    }

    /// Makes a zone empty. The zone has no write in flight.
    pub fn reset<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) -> Result<(), Refusal> {
        table.zone(index, |zone| Self::check_reset(zone))?;
        self.change(table, index, |_| (State::Empty, geometry.start(index)));
        Ok(())
    }

    /// After a roll-back: a zone that is not explicitly open and in which nothing is left written becomes empty.
    pub fn settle<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) {
        self.change(table, index, |zone| {
            let written = zone.reserved() > geometry.start(index);
            match zone.state() {
                State::ImplicitOpen | State::Closed if !written => (State::Empty, zone.write_pointer()),
                state => (state, zone.write_pointer()),
            }
        });
    }

    /// The drive takes a sequential zone away, in which nothing is in flight: read-only, or offline, from which nothing leads
    /// back. Unlike the others this takes the zone itself, so that whoever has it locked knows that nothing is.
    pub fn fail(&mut self, index: ZoneIndex, zone: &mut Zone, offline: bool) {
        let from = zone.state();
        if matches!(from, State::NotWp | State::Offline) {
            return;
        }
        let to = if offline { State::Offline } else { State::ReadOnly };
        zone.enter(to, zone.write_pointer());
        self.count_change(index, from, to);
    }

    /// Gives a zone back that was taken away: closed, or empty or full as its pointer says.
    pub fn give_back<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) -> Result<(), Refusal> {
        let (state, pointer) = table.zone(index, |zone| (zone.state(), zone.write_pointer()));
        if !matches!(state, State::ReadOnly | State::Offline) {
            return Ok(());
        }
        let back = Zone::from_pointer(geometry, index, pointer).state();
        if back.is_active() && self.max_active != 0 && self.active >= self.max_active {
            return Err(Refusal::ActiveResource);
        }
        self.enter(table, index, back);
        Ok(())
    }

    fn make_room<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, from: State) -> Result<(), Refusal> {
        if from == State::Empty && self.max_active != 0 && self.active >= self.max_active {
            return Err(Refusal::ActiveResource);
        }
        if self.max_open != 0 && self.open >= self.max_open {
            let oldest = self.implicit.iter().copied().min_by_key(|index| table.zone(*index, |zone| zone.last_write()));
            self.put_down(table, geometry, oldest.ok_or(Refusal::OpenResource)?);
        }
        Ok(())
    }

    /// An open zone becomes closed, or empty when nothing is written or about to be.
    fn put_down<T: ZoneTable>(&mut self, table: &T, geometry: &Geometry, index: ZoneIndex) {
        self.change(table, index, |zone| {
            let written = zone.reserved() > geometry.start(index);
            (if written { State::Closed } else { State::Empty }, zone.write_pointer())
        });
    }

    fn enter<T: ZoneTable>(&mut self, table: &T, index: ZoneIndex, state: State) {
        self.change(table, index, |zone| (state, zone.write_pointer()));
    }

    /// Changes state and pointer of one zone and counts what that uses. The choice is made inside the access to the
    /// zone: a write may be admitted to an open zone at any other moment.
    fn change<T: ZoneTable>(&mut self, table: &T, index: ZoneIndex, choose: impl FnOnce(&Zone) -> (State, Bytes)) {
        let (from, to) = table.zone(index, |zone| {
            let from = zone.state();
            let (to, pointer) = choose(zone);
            zone.enter(to, pointer);
            (from, to)
        });
        self.count_change(index, from, to);
    }

    fn count_change(&mut self, index: ZoneIndex, from: State, to: State) {
        self.open = self.open + u32::from(to.is_open()) - u32::from(from.is_open());
        self.active = self.active + u32::from(to.is_active()) - u32::from(from.is_active());
        if self.max_open == 0 || from == to {
            return;
        }
        if from == State::ImplicitOpen {
            self.implicit.retain(|open| *open != index);
        }
        if to == State::ImplicitOpen {
            self.implicit.push(index);
        }
    }
}
