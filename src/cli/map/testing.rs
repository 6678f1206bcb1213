//! Disks for tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::cli::disk::Disk;
use crate::observe::summary::Summary;
use crate::power::PowerStatus;
use crate::store::ZoneInfo;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, GeometryRequest, State, ZoneKind};

const ZONE: u64 = 4096;
const CAPACITY: u64 = 2048;

/// A disk of zones of 4 KiB, 2 of them writable, with limits of 3 open and 4 active zones where it is large enough for them.
pub(in crate::cli) fn disk(zones: u32, conventional: u32) -> Disk {
    let request = GeometryRequest {
        size: Bytes(ZONE * u64::from(zones)),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(CAPACITY),
        conventional_zones: conventional,
        max_open_zones: 3,
        max_active_zones: 4,
        max_append_bytes: Bytes(512),
    };
    let geometry = Geometry::new(&request).unwrap().0;
    Disk { name: "a disk".to_owned(), geometry, longest_append: geometry.max_append(), cached: false }
}

/// Zones by their states and how many 1024ths of each are written, in at most `cells` cells.
pub(in crate::cli) fn summary(zones: &[(State, u64)], cells: u32) -> Summary {
    Summary::of(infos(zones), zones.len() as u32, cells)
}

/// The same behind a volatile cache, by which all zones from number `from` on may lose all that they hold.
pub(in crate::cli) fn volatile(zones: &[(State, u64)], cells: u32, from: u32, power: PowerStatus) -> Summary {
    let stable = |zone: ZoneIndex| (zone.0 >= from).then_some(Bytes(ZONE * u64::from(zone.0)));
    Summary::of_volatile(infos(zones), stable, power, zones.len() as u32, cells)
}

fn infos(zones: &[(State, u64)]) -> impl Iterator<Item = ZoneInfo> {
    let zone = |(index, (state, written)): (u32, &(State, u64))| {
        let start = Bytes(ZONE * u64::from(index));
        let conventional = *state == State::NotWp;
        ZoneInfo {
            index: ZoneIndex(index),
            kind: if conventional { ZoneKind::Conventional } else { ZoneKind::SequentialWriteRequired },
            state: *state,
            start,
            len: Bytes(ZONE),
            capacity: Bytes(CAPACITY),
            write_pointer: Bytes(start.0 + written * CAPACITY / 1024),
        }
    };
    (0..).zip(zones).map(zone)
}
