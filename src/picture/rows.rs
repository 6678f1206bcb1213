//! Zones to rows: a row for each zone that was touched while there is room, and else for equally many of them.

use std::collections::HashMap;

use serde::Serialize;

use crate::units::ZoneIndex;
use crate::zone::{Geometry, ZoneKind};

/// Rows of a picture at most.
pub const MOST_ROWS: usize = 512;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its first zone.
    pub first: u32,
    /// Its last zone.
    pub last: u32,
    /// How many zones of these were touched: what the row shows.
    pub zones: u32,
    /// Bytes that can be written of them.
    pub capacity: u64,
    /// They have no write pointers.
    pub conventional: bool,
}

/// The rows, in the order of their zones. Zones between them were not touched.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    rows: Vec<Row>,
    of: HashMap<ZoneIndex, u32>,
}

impl Rows {
    /// Finds rows for zones that were touched, in order.
    pub fn of(geometry: &Geometry, touched: &[ZoneIndex]) -> Self {
        // One row less, since a row has zones of one kind.
        let each = touched.len().div_ceil(MOST_ROWS - 1).max(1);
        let each = if touched.len() <= MOST_ROWS { 1 } else { each };
        let border = touched.partition_point(|zone| geometry.kind(*zone) == ZoneKind::Conventional);
        let (conventional, sequential) = touched.split_at(border);
        let mut all = Self::default();
        for group in conventional.chunks(each).chain(sequential.chunks(each)) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            all.of.extend(group.iter().map(|zone| (*zone, all.rows.len() as u32)));
            all.rows.push(Row {
                first: first.0,
                last: last.0,
                zones: group.len() as u32,
                capacity: group.iter().map(|zone| geometry.capacity(*zone).0).sum(),
                conventional: geometry.kind(*first) == ZoneKind::Conventional,
            });
        }
        all
    }

    /// All rows.
    pub fn all(&self) -> &[Row] {
        &self.rows
    }

    /// The number of the row of a zone, if it was touched.
    pub fn row(&self, zone: ZoneIndex) -> Option<usize> {
        self.of.get(&zone).map(|row| *row as usize)
    }
}
