//! What a new disk looks like, and how one is opened.

use crate::qcow2::{ByteOrder, CreateOptions};
use crate::units::Bytes;
use crate::zone::GeometryRequest;

/// The cluster size of a new image, where its zones are not smaller.
const CLUSTER: u64 = 64 << 10;
/// The smallest cluster that qcow2 has.
const LEAST_CLUSTER: u64 = 512;

/// The unit of writes where nothing is said, as `serve` has it.
pub(super) const BLOCK: Bytes = Bytes(4096);

/// What a new disk looks like. Where nothing is said zones can be written as a whole, none is conventional, there are
/// no limits, and a block has 4096 bytes.
///
/// ```
/// use vhost_user_zbd::disk::{Bytes, Disk, Shape};
///
/// let shape = Shape::new(8, Bytes(1 << 20)).zone_capacity(Bytes(768 << 10)).conventional_zones(1).max_active_zones(3);
/// let disk = Disk::in_memory(&shape)?;
/// assert_eq!(disk.geometry().nr_zones(), 8);
/// assert_eq!(disk.geometry().max_active_zones(), 3);
/// # Ok::<(), vhost_user_zbd::disk::DiskError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Shape {
    geometry: GeometryRequest,
    pub(super) block: Bytes,
}

impl Shape {
    /// So many zones of this size: a power of two, from 512 bytes to 2 GiB.
    pub fn new(zones: u32, zone_size: Bytes) -> Self {
        let size = Bytes(zone_size.0.saturating_mul(zones.into()));
        Self {
            geometry: GeometryRequest {
                size,
                zone_size,
                zone_capacity: zone_size,
                conventional_zones: 0,
                max_open_zones: 0,
                max_active_zones: 0,
                max_append_bytes: Bytes(0),
            },
            block: BLOCK,
        }
    }

    /// Bytes of a sequential zone that can be written.
    pub fn zone_capacity(mut self, capacity: Bytes) -> Self {
        self.geometry.zone_capacity = capacity;
        self
    }

    /// How many zones, from the first, are conventional.
    pub fn conventional_zones(mut self, zones: u32) -> Self {
        self.geometry.conventional_zones = zones;
        self
    }

    /// Most zones open at a time; 0 is no limit.
    pub fn max_open_zones(mut self, zones: u32) -> Self {
        self.geometry.max_open_zones = zones;
        self
    }

    /// Most zones active at a time; 0 is no limit.
    pub fn max_active_zones(mut self, zones: u32) -> Self {
        self.geometry.max_active_zones = zones;
        self
    }

    /// The longest append; 0 states none, and the longest that a queue carries, 1016 KiB, is in force.
    pub fn max_append(mut self, bytes: Bytes) -> Self {
        self.geometry.max_append_bytes = bytes;
        self
    }

    /// The unit of writes to sequential zones: 512 or 4096 bytes.
    pub fn block(mut self, bytes: Bytes) -> Self {
        self.block = bytes;
        self
    }

    pub(super) fn image(&self) -> CreateOptions {
        // What is no power of two is refused with the zone size that it comes from.
        let cluster_size = Bytes(self.geometry.zone_size.0.clamp(LEAST_CLUSTER, CLUSTER));
        CreateOptions { geometry: self.geometry, cluster_size, table_order: ByteOrder::Big }
    }
}

impl From<GeometryRequest> for Shape {
    /// A disk that need not consist of whole zones.
    fn from(geometry: GeometryRequest) -> Self {
        Self { geometry, block: BLOCK }
    }
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Opening {
    pub(super) block: Bytes,
    pub(super) read_only: bool,
}

impl Default for Opening {
    /// To be written, in blocks of 4096 bytes.
    fn default() -> Self {
        Self { block: BLOCK, read_only: false }
    }
}

impl Opening {
    /// The unit of writes to sequential zones: 512 or 4096 bytes.
    pub fn block(mut self, bytes: Bytes) -> Self {
        self.block = bytes;
        self
    }

    /// Every change is refused, and the file never written.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}
