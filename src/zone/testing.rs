//! A geometry for tests to which its shape does not matter much.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::{Geometry, GeometryRequest};
use crate::units::Bytes;

/// So many zones of 1 MiB, all of it writable, of which the first are conventional. No limits.
pub(crate) fn geometry(zones: u64, conventional: u32) -> Geometry {
    let request = GeometryRequest {
        size: Bytes(zones << 20),
        zone_size: Bytes(1 << 20),
        zone_capacity: Bytes(1 << 20),
        conventional_zones: conventional,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(0),
    };
    Geometry::new(&request).unwrap().0
}
