//! The model against a naive reference: one that recounts everything at each step and knows no reservations.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::units::{Bytes, ZoneIndex};

const ZONE: u64 = 16 * 1024;
const GRAIN: u64 = 4096;

fn request() -> GeometryRequest {
    GeometryRequest {
        size: Bytes(8 * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(12 * 1024),
        conventional_zones: 1,
        max_open_zones: 2,
        max_active_zones: 3,
        max_append_bytes: Bytes(8192),
    }
}

/// The zones behind a plain cell, driven one request at a time.
struct Driver {
    geometry: Geometry,
    zones: Vec<RefCell<Zone>>,
    resources: Resources,
    stamp: u64,
}

impl ZoneTable for Vec<RefCell<Zone>> {
    fn zone<R>(&self, index: ZoneIndex, with: impl FnOnce(&mut Zone) -> R) -> R {
        with(&mut self[index.index()].borrow_mut())
    }
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Write { zone: u32, offset: u64, len: u64 },
    WriteAtPointer { zone: u32, len: u64 },
    Append { zone: u32, len: u64 },
    Open(u32),
    Close(u32),
    Finish(u32),
    Reset(u32),
    Fail { zone: u32, offline: bool },
}

impl Driver {
    fn new(geometry: Geometry) -> Self {
        let zone = |index| {
            let index = ZoneIndex(index);
            RefCell::new(Zone::from_pointer(&geometry, index, geometry.start(index)))
        };
        let zones: Vec<_> = (0..geometry.nr_zones()).map(zone).collect();
        Self { geometry, zones, resources: Resources::new(&geometry), stamp: 0 }
    }

    fn pointer(&self, zone: u32) -> Bytes {
        self.zones[zone as usize].borrow().write_pointer()
    }

    fn run(&mut self, request: Request) -> Result<(), Refusal> {
        let Self { geometry, zones, resources, .. } = self;
        match request {
            Request::Write { zone, offset, len } => {
                let start = Bytes(u64::from(zone) * ZONE + offset);
                self.write(
                    ZoneIndex(zone),
                    |geometry, index, seen| seen.check_write(geometry, index, start, Bytes(len), Bytes(GRAIN)),
                    len,
                )
            }
            Request::WriteAtPointer { zone, len } => {
                let offset = self.pointer(zone).0 - u64::from(zone) * ZONE;
                self.run(Request::Write { zone, offset, len })
            }
            Request::Append { zone, len } => self.write(
                ZoneIndex(zone),
                |geometry, index, seen| seen.check_append(geometry, index, Bytes(len), Bytes(GRAIN)),
                len,
            ),
            Request::Open(zone) => resources.open_explicitly(zones, geometry, ZoneIndex(zone)),
            Request::Close(zone) => resources.close(zones, geometry, ZoneIndex(zone)),
            Request::Finish(zone) if zones[zone as usize].borrow().state() == State::Full => Ok(()),
            Request::Finish(zone) => {
                resources.open_for_write(zones, geometry, ZoneIndex(zone))?;
                resources.fill(zones, geometry, ZoneIndex(zone));
                Ok(())
            }
            Request::Reset(zone) => resources.reset(zones, geometry, ZoneIndex(zone)),
            Request::Fail { zone, offline } => {
                resources.fail(ZoneIndex(zone), &mut zones[zone as usize].borrow_mut(), offline);
                Ok(())
            }
        }
    }

    fn write(
        &mut self,
        index: ZoneIndex,
        check: impl Fn(&Geometry, ZoneIndex, &Zone) -> Result<Admission, Refusal>,
        len: u64,
    ) -> Result<(), Refusal> {
        let zone = &self.zones[index.index()];
        let admission = check(&self.geometry, index, &zone.borrow())?;
        if admission.needs_open {
            self.resources.open_for_write(&self.zones, &self.geometry, index)?;
        }
        if len == 0 {
            return Ok(());
        }
        self.stamp += 1;
        zone.borrow_mut().reserve(Bytes(len), self.stamp);
        let end = zone.borrow().reserved();
        zone.borrow_mut().commit(end);
        if end == self.geometry.writable_end(index) {
            self.resources.fill(&self.zones, &self.geometry, index);
        }
        Ok(())
    }
}

/// What a zone is to the reference: a state and bytes written; the order of writes is a list.
#[derive(Clone, Debug)]
struct Naive {
    geometry: Geometry,
    zones: Vec<(State, u64)>,
    recency: Vec<usize>,
}

impl Naive {
    fn new(geometry: Geometry) -> Self {
        let state = |zone| if zone < geometry.conventional_zones() { State::NotWp } else { State::Empty };
        Self { geometry, zones: (0..geometry.nr_zones()).map(|zone| (state(zone), 0)).collect(), recency: Vec::new() }
    }

    fn capacity(&self, zone: usize) -> u64 {
        self.geometry.capacity(ZoneIndex(zone as u32)).0
    }

    fn count(&self, states: &[State]) -> u32 {
        self.zones.iter().filter(|(state, _)| states.contains(state)).count() as u32
    }

    fn take_resources(&mut self, zone: usize) -> Result<(), Refusal> {
        use State::{Closed, Empty, ExplicitOpen, ImplicitOpen};
        let state = self.zones[zone].0;
        if ![Empty, Closed].contains(&state) {
            return Ok(());
        }
        let (max_open, max_active) = (self.geometry.max_open_zones(), self.geometry.max_active_zones());
        if state == Empty && max_active > 0 && self.count(&[ImplicitOpen, ExplicitOpen, Closed]) >= max_active {
            return Err(Refusal::ActiveResource);
        }
        if max_open > 0 && self.count(&[ImplicitOpen, ExplicitOpen]) >= max_open {
            let oldest = self.recency.iter().copied().find(|zone| self.zones[*zone].0 == ImplicitOpen);
            let oldest = oldest.ok_or(Refusal::OpenResource)?;
            self.zones[oldest].0 = Closed;
        }
        Ok(())
    }

    fn write(&mut self, zone: usize, offset: Option<u64>, len: u64) -> Result<(), Refusal> {
        let (state, written) = self.zones[zone];
        if offset.is_none() && (state == State::NotWp || self.geometry.max_append().is_some_and(|most| len > most.0)) {
            return Err(Refusal::InvalidCommand);
        }
        if offset.is_some_and(|offset| offset + len > self.geometry.len(ZoneIndex(zone as u32)).0) {
            return Err(Refusal::InvalidCommand);
        }
        if [State::Full, State::ReadOnly, State::Offline].contains(&state) {
            return Err(Refusal::InvalidCommand);
        }
        let offset = offset.unwrap_or(written);
        if offset != written || !(offset + len).is_multiple_of(GRAIN) {
            return Err(Refusal::UnalignedWrite);
        }
        if offset + len > self.capacity(zone) {
            return Err(Refusal::InvalidCommand);
        }
        if len == 0 {
            return Ok(());
        }
        self.take_resources(zone)?;
        let state = if state == State::ExplicitOpen { state } else { State::ImplicitOpen };
        let full = offset + len == self.capacity(zone);
        self.zones[zone] = (if full { State::Full } else { state }, offset + len);
        self.recency.retain(|other| *other != zone);
        self.recency.push(zone);
        Ok(())
    }

    fn run(&mut self, request: Request) -> Result<(), Refusal> {
        use State::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen, NotWp, Offline, ReadOnly};
        let zone = match request {
            Request::Write { zone, offset, len } => return self.write(zone as usize, Some(offset), len),
            Request::WriteAtPointer { zone, len } => {
                return self.write(zone as usize, Some(self.zones[zone as usize].1), len);
            }
            Request::Append { zone, len } => return self.write(zone as usize, None, len),
            Request::Open(zone) | Request::Close(zone) | Request::Finish(zone) | Request::Reset(zone) => zone as usize,
            Request::Fail { zone, .. } => zone as usize,
        };
        let (state, written) = self.zones[zone];
        let next = match (request, state) {
            (Request::Fail { .. }, NotWp | Offline) => (state, written),
            (Request::Fail { offline, .. }, _) => (if offline { Offline } else { ReadOnly }, written),
            (_, NotWp | ReadOnly | Offline) => return Err(Refusal::InvalidCommand),
            (Request::Open(_), Full) => return Err(Refusal::InvalidCommand),
            (Request::Open(_), _) => {
                self.take_resources(zone)?;
                (ExplicitOpen, written)
            }
            (Request::Close(_), ImplicitOpen | ExplicitOpen | Closed) if written > 0 => (Closed, written),
            (Request::Close(_), ExplicitOpen) => (Empty, 0),
            (Request::Close(_), _) => return Err(Refusal::InvalidCommand),
            (Request::Finish(_), _) => {
                self.take_resources(zone)?;
                (Full, self.capacity(zone))
            }
            _ => (Empty, 0),
        };
        self.zones[zone] = next;
        Ok(())
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let zone = 0..8u32;
    let len = prop_oneof![Just(0u64), Just(512), Just(GRAIN), Just(2 * GRAIN), Just(3 * GRAIN), Just(4 * GRAIN)];
    let offset = prop_oneof![Just(0u64), Just(512), Just(GRAIN), Just(2 * GRAIN), Just(3 * GRAIN)];
    prop_oneof![
        2 => (zone.clone(), offset, len.clone()).prop_map(|(zone, offset, len)| Request::Write { zone, offset, len }),
        4 => (zone.clone(), len.clone()).prop_map(|(zone, len)| Request::WriteAtPointer { zone, len }),
        3 => (zone.clone(), len).prop_map(|(zone, len)| Request::Append { zone, len }),
        2 => zone.clone().prop_map(Request::Open),
        2 => zone.clone().prop_map(Request::Close),
        1 => zone.clone().prop_map(Request::Finish),
        2 => zone.clone().prop_map(Request::Reset),
        1 => (zone, proptest::bool::weighted(0.3)).prop_map(|(zone, offline)| Request::Fail { zone, offline }),
    ]
}

fn any_limits() -> impl Strategy<Value = (u32, u32, u64)> {
    (0..5u32, 0..5u32, prop_oneof![Just(8 * ZONE), Just(7 * ZONE + 8192), Just(7 * ZONE + 4096)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn every_request_ends_as_in_the_naive_reference((open, active, size) in any_limits(), requests in prop::collection::vec(any_request(), 1..80)) {
        let wanted = GeometryRequest { size: Bytes(size), max_open_zones: open, max_active_zones: active, ..request() };
        let (geometry, _) = Geometry::new(&wanted).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (mut model, mut naive) = (Driver::new(geometry), Naive::new(geometry));
        for asked in requests {
            // The reference has no write to conventional zones: the store does not ask the model about them.
            if matches!(asked, Request::Write { zone: 0, .. } | Request::WriteAtPointer { zone: 0, .. }) {
                continue;
            }
            prop_assert_eq!(model.run(asked), naive.run(asked), "{:?}", asked);
            for (index, (state, written)) in naive.zones.iter().enumerate() {
                let zone = *model.zones[index].borrow();
                let start = geometry.start(ZoneIndex(index as u32));
                prop_assert_eq!((zone.state(), zone.write_pointer().0 - start.0), (*state, *written), "zone {} after {:?}", index, asked);
                prop_assert_eq!(zone.reserved(), zone.write_pointer());
            }
            prop_assert_eq!(model.resources.open_zones(), naive.count(&[State::ImplicitOpen, State::ExplicitOpen]));
            prop_assert_eq!(model.resources.active_zones(), naive.count(&[State::ImplicitOpen, State::ExplicitOpen, State::Closed]));
        }
    }
}

#[test]
fn geometry_names_the_rule_that_is_broken() {
    let good = request();
    let cases: [(GeometryRequest, &str); 10] = [
        (GeometryRequest { zone_size: Bytes(0), ..good }, "zone_size is 0: expected a power of two"),
        (GeometryRequest { zone_size: Bytes(12288), ..good }, "zone_size is 12288: expected a power of two"),
        (GeometryRequest { zone_size: Bytes(4 << 30), ..good }, "zone_size is 4294967296: expected a power of two"),
        (GeometryRequest { size: Bytes(0), ..good }, "size is 0: expected a multiple of 512"),
        (GeometryRequest { size: Bytes(1000), ..good }, "size is 1000: expected a multiple of 512"),
        (GeometryRequest { zone_capacity: Bytes(0), ..good }, "zone_capacity is 0: expected a multiple of 512"),
        (GeometryRequest { zone_capacity: Bytes(ZONE + 512), ..good }, "zone_capacity is 16896"),
        (GeometryRequest { max_append_bytes: Bytes(1000), ..good }, "max_append_bytes is 1000"),
        (
            GeometryRequest { max_append_bytes: Bytes(11776), ..good },
            "max_append_bytes is 11776: expected it, plus 512",
        ),
        (GeometryRequest { conventional_zones: 8, ..good }, "conventional_zones is 8: expected less than the number"),
    ];
    for (wanted, message) in cases {
        let error = Geometry::new(&wanted).map(|_| ()).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|error| error.starts_with(message)), "{error:?} instead of {message}");
    }
}

#[test]
fn limits_that_cannot_be_reached_are_lowered_and_unreachable_ones_are_none() {
    let limits = |open, active| {
        let wanted = GeometryRequest { max_open_zones: open, max_active_zones: active, ..request() };
        Geometry::new(&wanted).map(|(shape, clamps)| (shape.max_open_zones(), shape.max_active_zones(), clamps))
    };
    let clamp = |field, from, to| Clamp { field, from, to };
    assert_eq!(limits(0, 0), Ok((0, 0, vec![])));
    assert_eq!(limits(2, 3), Ok((2, 3, vec![])));
    assert_eq!(limits(6, 3), Ok((3, 3, vec![clamp("max_open_zones", 6, 3)])));
    assert_eq!(limits(7, 7), Ok((0, 0, vec![])));
    assert_eq!(limits(9, 0), Ok((0, 0, vec![clamp("max_open_zones", 9, 7)])));
    let both = vec![clamp("max_active_zones", 20, 8), clamp("max_open_zones", 20, 7)];
    assert_eq!(limits(20, 20), Ok((0, 0, both)));
}

#[test]
fn the_last_zone_may_be_shorter_and_its_capacity_ends_with_it() {
    let wanted = GeometryRequest { size: Bytes(7 * ZONE + 4096), ..request() };
    let Ok((geometry, _)) = Geometry::new(&wanted) else {
        unreachable!("a short last zone is allowed");
    };
    let last = ZoneIndex(7);
    assert_eq!((geometry.nr_zones(), geometry.len(last), geometry.capacity(last)), (8, Bytes(4096), Bytes(4096)));
    assert_eq!(geometry.capacity(ZoneIndex(1)), Bytes(12 * 1024));
    assert_eq!(geometry.capacity(ZoneIndex(0)), Bytes(ZONE));
    assert_eq!(geometry.zone_at(Bytes(7 * ZONE + 4096)), None);
    assert_eq!(geometry.zone_starting_at(Bytes(512)), None);
}

#[test]
fn a_stored_pointer_tells_the_state_at_open() {
    let Ok((geometry, _)) = Geometry::new(&request()) else {
        unreachable!("the request is good");
    };
    let state = |zone: u32, offset: u64| {
        let index = ZoneIndex(zone);
        let zone = Zone::from_pointer(&geometry, index, Bytes(geometry.start(index).0 + offset));
        (zone.state(), zone.write_pointer().0 - geometry.start(index).0)
    };
    assert_eq!(state(0, 0), (State::NotWp, 0));
    assert_eq!(state(1, 0), (State::Empty, 0));
    assert_eq!(state(1, 4096), (State::Closed, 4096));
    assert_eq!(state(1, 12 * 1024), (State::Full, 12 * 1024));
    assert_eq!(state(1, ZONE), (State::Full, 12 * 1024));
}
