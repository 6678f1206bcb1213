//! What all threads of a device share, and the options it is served with.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::ServeError;
use super::files::{DataFiles, Files};
use super::journal::Journals;
use super::limiter::Lines;
use super::router::Router;
use super::watch::Watch;
use crate::sandbox::{self, Sandbox};
use crate::storage::Storage;
use crate::store::ZonedStore;
use crate::units::Bytes;
use crate::virtio::config::{ConfigError, ConfigSpace, DeviceShape};
use crate::virtio::features::Features;
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

/// How the data's I/O is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AioMode {
    /// io_uring where the kernel allows it.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// Plain system calls.
    Sync,
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

/// What the worker threads, the connection and the housekeeper share.
pub(super) struct Device<S> {
    pub(super) store: Arc<ZonedStore<S>>,
    pub(super) files: Arc<Files>,
    pub(super) router: Router,
    pub(super) journals: Arc<Journals>,
    pub(super) serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    pub(super) max_append: Bytes,
    /// The unit of writes.
    pub(super) block: Bytes,
    pub(super) watch: Watch,
    /// How much may be logged because of guests and frontends.
    pub(super) lines: Lines,
    pub(super) aio: AioMode,
    pub(super) poll: Duration,
    pub(super) sandbox: Sandbox,
    always_write_through: bool,
    write_through: AtomicBool,
    zoned: AtomicBool,
}

impl<S: Storage> Device<S> {
    pub(super) fn new(
        store: Arc<ZonedStore<S>>,
        files: DataFiles,
        options: &ServeOptions,
        max_append: Bytes,
        trace: Option<File>,
        sandbox: Sandbox,
    ) -> Result<Self, ServeError> {
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        let room = serial.get_mut(..options.serial.len()).ok_or(ServeError::Serial(options.serial.len()))?;
        room.copy_from_slice(options.serial.as_bytes());
        let always_write_through = options.cache == CacheMode::Writethrough;
        let journals = Arc::new(Journals::new());
        store.set_journal(Box::new(Arc::clone(&journals)));
        Ok(Self {
            store,
            files: Arc::new(Files::new(files)),
            router: Router::new(MAX_QUEUES).map_err(ServeError::system("create event descriptors"))?,
            journals,
            serial,
            max_append,
            block: Bytes(options.block_size.into()),
            watch: Watch::new(MAX_QUEUES, trace),
            lines: Lines::new(MAX_QUEUES),
            aio: options.aio,
            poll: options.poll,
            sandbox,
            always_write_through,
            write_through: AtomicBool::new(always_write_through),
            zoned: AtomicBool::new(false),
        })
    }

    /// Takes over what follows from the negotiated features and the cache mode of the configuration space.
    pub(super) fn set_mode(&self, accepted: Features, writeback: bool) {
        self.zoned.store(accepted.zoned(), Ordering::Relaxed);
        // A driver that never flushes has to find its writes durable (virtio 1.3, 5.2.6.2, case 1 and 2).
        let write_through = self.always_write_through || !accepted.flush() || !writeback;
        self.write_through.store(write_through, Ordering::Relaxed);
    }

    /// Whether the driver knows that the disk is zoned; otherwise no request may succeed.
    pub(super) fn zoned(&self) -> bool {
        self.zoned.load(Ordering::Relaxed)
    }

    /// Whether a change has to be durable before it is acknowledged.
    pub(super) fn write_through(&self) -> bool {
        self.write_through.load(Ordering::Relaxed)
    }
}

/// The configuration space of a device served with these options, after a reset.
pub(super) fn config_space(geometry: &Geometry, options: &ServeOptions) -> Result<ConfigSpace, ConfigError> {
    let shape = DeviceShape {
        block_size: options.block_size,
        num_queues: options.num_queues,
        queue_size: options.queue_size,
        writeback: options.cache != CacheMode::Writethrough,
    };
    ConfigSpace::new(geometry, &shape)
}
