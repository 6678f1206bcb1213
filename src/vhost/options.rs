//! The options a device is served with.

use std::time::Duration;

use crate::io::AioMode;
use crate::sandbox;
use crate::virtio::config::{ConfigError, ConfigSpace, DeviceShape};
use crate::zone::Geometry;

/// Most queues a frontend may set up. QEMU's vhost-user-blk asks for one a virtual CPU and fails when there are
/// fewer, so that this is more than `num_queues` in the configuration space usually says.
pub(super) const MAX_QUEUES: u16 = 64;

/// How writes are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// In the host's page cache until a flush.
    Writeback,
    /// Past the page cache; a flush still makes them durable.
    None,
    /// Durable before each is acknowledged.
    Writethrough,
}

/// How an image is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Bytes of a logical block: 512 or 4096. Also the write granularity the store was opened with.
    pub block_size: u32,
    /// Queues the driver is told of.
    pub num_queues: u16,
    /// The largest ring a frontend may set up; a power of two.
    pub queue_size: u16,
    /// How writes are cached.
    pub cache: CacheMode,
    /// Offer VIRTIO_BLK_F_RO. A store opened read-only implies it.
    pub read_only: bool,
    /// What GET_ID answers; at most 20 bytes.
    pub serial: String,
    /// How I/O is done.
    pub aio: AioMode,
    /// How long a queue's thread looks for work before it sleeps, at most.
    pub poll: Duration,
    /// How far the process is confined.
    pub sandbox: sandbox::Mode,
}

impl ServeOptions {
    /// The configuration space of a device served with these options, after a reset.
    pub(super) fn config_space(&self, geometry: &Geometry) -> Result<ConfigSpace, ConfigError> {
        let shape = DeviceShape {
            block_size: self.block_size,
            num_queues: self.num_queues,
            queue_size: self.queue_size,
            writeback: self.cache != CacheMode::Writethrough,
        };
        ConfigSpace::new(geometry, &shape)
    }
}
