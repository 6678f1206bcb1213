//! Zones that the drive takes away, read-only or offline, and gives back: for the layers above. The format keeps neither, so
//! that whoever asks for it keeps it.

use super::zones::lock;
use super::{Refusal, ZonedStore, sequential};
use crate::storage::Medium;
use crate::units::ZoneIndex;

impl<S: Medium> ZonedStore<S> {
    /// Takes a sequential zone away: read-only, or offline. Its pointer and its bytes stay. False while requests of the zone are
    /// in flight; a zone that is not sequential stays as it is.
    pub fn take_away(&self, zone: ZoneIndex, offline: bool) -> bool {
        if zone.0 >= self.geometry.nr_zones() || !sequential(&self.geometry, zone) {
            return true;
        }
        let mut resources = lock(&self.resources);
        let mut inner = self.zones.inner(zone);
        if inner.is_in_use() {
            return false;
        }
        resources.fail(zone, &mut inner.zone, offline);
        drop(inner);
        drop(resources);
        self.note_open(zone);
        true
    }

    /// Gives a zone back that was taken away: closed, or empty or full as it was.
    pub fn give_back(&self, zone: ZoneIndex) -> Result<(), Refusal> {
        if zone.0 < self.geometry.nr_zones() {
            lock(&self.resources).give_back(&self.zones, &self.geometry, zone)?;
        }
        Ok(())
    }
}
