//! Reads and zone reports.

use super::keeper::Job;
use super::map::push_zeros;
use super::zones::lock;
use super::{Refusal, Segment, Step, Tag, Ticket, Usage, Work, ZoneInfo, ZoneNow, ZonedStore, sequential};
use crate::storage::Medium;
use crate::units::{Bytes, Sector, ZoneIndex};
use crate::zone::{Refusal as ZoneRefusal, State};

impl<S: Medium> ZonedStore<S> {
    /// A read may not cross the border of a sequential zone.
    pub(super) fn check_read(&self, start: Bytes, len: Bytes) -> Result<(), Refusal> {
        let Some((first, last)) = self.zones_of(start, len) else {
            return Ok(());
        };
        if first != last && sequential(&self.geometry, last) {
            return Err(ZoneRefusal::InvalidCommand.into());
        }
        Ok(())
    }

    /// The first and the last zone of a range on the device; `None` where it is empty.
    pub(super) fn zones_of(&self, start: Bytes, len: Bytes) -> Option<(ZoneIndex, ZoneIndex)> {
        let last = Bytes(start.0 + len.0.checked_sub(1)?);
        Some((self.geometry.zone_at(start)?, self.geometry.zone_at(last)?))
    }

    /// Where the bytes come from: the file below the write pointer, zeros elsewhere.
    pub(super) fn plan_read(
        &self,
        tag: Tag,
        start: Bytes,
        len: Bytes,
        segments: &mut Vec<Segment>,
    ) -> Result<Step, Refusal> {
        let ticket = Ticket { tag, work: Work::Read { start, len } };
        let end = start.0 + len.0;
        let mut at = start.0;
        while let Some(zone) = self.geometry.zone_at(Bytes(at)).filter(|_| at < end) {
            let inner = self.zones.inner(zone);
            if inner.zone.state() == State::Offline {
                return Err(ZoneRefusal::InvalidCommand.into());
            }
            let until = end.min(self.geometry.start(zone).0 + self.geometry.len(zone).0);
            let in_file = inner.zone.readable_end(&self.geometry, zone).0.clamp(at, until);
            if at < in_file {
                match inner.map.as_ref().filter(|map| map.covers(Bytes(at), Bytes(in_file))) {
                    Some(map) => {
                        map.segments(Bytes(at), Bytes(in_file), segments);
                    }
                    None => {
                        drop(inner);
                        self.ask(Job::Load { zone, from: Bytes(at), to: Bytes(in_file), waiter: tag });
                        return Ok(Step::Parked(ticket));
                    }
                }
            }
            if in_file < until {
                push_zeros(segments, until - in_file);
            }
            at = until;
        }
        Ok(Step::Io(ticket))
    }

    /// Appends up to `max` zones from the one that holds `start`.
    pub fn report(&self, start: Sector, max: usize, out: &mut Vec<ZoneInfo>) -> Result<(), Refusal> {
        let first = start.to_bytes().and_then(|start| self.geometry.zone_at(start));
        let first = first.ok_or(ZoneRefusal::InvalidCommand)?;
        let left = (first.0..self.geometry.nr_zones()).map(ZoneIndex);
        out.extend(left.take(max).map(|index| ZoneInfo::of(&self.geometry, index, &self.zones.inner(index).zone)));
        Ok(())
    }

    /// The zone that holds a sector, if one does.
    pub fn zone_now(&self, at: Sector) -> Option<ZoneNow> {
        let index = self.geometry.zone_at(at.to_bytes()?)?;
        let zone = self.zones.inner(index).zone;
        Some(ZoneNow { info: ZoneInfo::of(&self.geometry, index, &zone), next_write: zone.reserved() })
    }

    /// The zones in use now.
    pub fn usage(&self) -> Usage {
        let resources = lock(&self.resources);
        Usage {
            open: resources.open_zones(),
            max_open: self.geometry.max_open_zones(),
            active: resources.active_zones(),
            max_active: self.geometry.max_active_zones(),
        }
    }
}
