//! What a zoned device without limits does, one request at a time, with contents.

use vhost_user_zbd::store::{Action, Op, Outcome, Refusal, Reply};
use vhost_user_zbd::units::{Bytes, Sector};
use vhost_user_zbd::zone::{GeometryRequest, Refusal as ZoneRefusal, State};

use super::rig::GRAIN;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelZone {
    pub state: State,
    /// Bytes from the zone's start to its write pointer.
    pub written: u64,
    /// What a read of the whole zone returns.
    pub data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub zone_size: u64,
    pub capacity: u64,
    pub max_append: u64,
    pub zones: Vec<ModelZone>,
}

const INVALID: Outcome = Err(Refusal::Zone(ZoneRefusal::InvalidCommand));
const UNALIGNED: Outcome = Err(Refusal::Zone(ZoneRefusal::UnalignedWrite));

impl Model {
    pub fn new(request: &GeometryRequest) -> Model {
        let zone = |index: u64| ModelZone {
            state: if index < u64::from(request.conventional_zones) { State::NotWp } else { State::Empty },
            written: 0,
            data: vec![0; request.zone_size.0 as usize],
        };
        Model {
            zone_size: request.zone_size.0,
            capacity: request.zone_capacity.0,
            max_append: request.max_append_bytes.0,
            zones: (0..request.size.0 / request.zone_size.0).map(zone).collect(),
        }
    }

    fn split(&self, start: Sector) -> (usize, u64) {
        let start = start.0 * GRAIN;
        ((start / self.zone_size) as usize, start % self.zone_size)
    }

    /// Does one request that stays on the device.
    pub fn run(&mut self, op: Op, data: &[u8]) -> Outcome {
        match op {
            Op::Write { start, .. } => {
                let (zone, offset) = self.split(start);
                if self.zones[zone].state == State::NotWp {
                    self.zones[zone].data[offset as usize..offset as usize + data.len()].copy_from_slice(data);
                    return Ok(Reply::Done);
                }
                self.put(zone, Some(offset), data)
            }
            Op::Append { zone, .. } => {
                let (zone, offset) = self.split(zone);
                if offset != 0 || self.zones[zone].state == State::NotWp || data.len() as u64 > self.max_append {
                    return INVALID;
                }
                self.put(zone, None, data)
            }
            Op::Manage { action, zone } => {
                let (zone, offset) = self.split(zone);
                if offset != 0 { INVALID } else { self.manage(zone, action) }
            }
            Op::ResetAll => {
                self.zones.iter_mut().filter(|zone| zone.state != State::NotWp).for_each(ModelZone::reset);
                Ok(Reply::Done)
            }
            Op::Read { .. } | Op::Flush | Op::Report { .. } => Ok(Reply::Done),
        }
    }

    fn put(&mut self, index: usize, offset: Option<u64>, data: &[u8]) -> Outcome {
        let capacity = self.capacity;
        let zone = &mut self.zones[index];
        let offset = offset.unwrap_or(zone.written);
        let end = offset + data.len() as u64;
        if end > self.zone_size || zone.state == State::Full {
            return INVALID;
        }
        if offset != zone.written {
            return UNALIGNED;
        }
        if end > capacity {
            return INVALID;
        }
        zone.data[offset as usize..end as usize].copy_from_slice(data);
        zone.written = end;
        if !data.is_empty() && zone.state != State::ExplicitOpen {
            zone.state = State::ImplicitOpen;
        }
        if end == capacity {
            zone.state = State::Full;
        }
        Ok(Reply::Appended(Bytes(index as u64 * self.zone_size + offset).to_sector()))
    }

    fn manage(&mut self, index: usize, action: Action) -> Outcome {
        let capacity = self.capacity;
        let zone = &mut self.zones[index];
        match (action, zone.state) {
            (_, State::NotWp) | (Action::Open, State::Full) | (Action::Close, State::Empty | State::Full) => {
                return INVALID;
            }
            (Action::Open, _) => zone.state = State::ExplicitOpen,
            (Action::Close, _) => zone.state = if zone.written == 0 { State::Empty } else { State::Closed },
            (Action::Finish, _) => {
                zone.state = State::Full;
                zone.written = capacity;
            }
            (Action::Reset, _) => zone.reset(),
        }
        Ok(Reply::Done)
    }

    /// The zones as they are after the daemon was started again.
    pub fn reopened(&self) -> Model {
        let mut model = self.clone();
        for zone in &mut model.zones {
            if zone.state.is_open() {
                zone.state = if zone.written == 0 { State::Empty } else { State::Closed };
            }
        }
        model
    }
}

impl ModelZone {
    fn reset(&mut self) {
        self.state = State::Empty;
        self.written = 0;
        self.data.fill(0);
    }
}

/// Whether an outcome is what the model says; a plain write has no sector to tell.
pub fn same(op: Op, outcome: Outcome, expected: Outcome) -> bool {
    match (op, expected) {
        (Op::Write { .. }, Ok(_)) => outcome == Ok(Reply::Done),
        _ => outcome == expected,
    }
}
