//! What all threads of a device share.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::ServeError;
use super::files::{DataFiles, Files};
use super::journal::Journals;
use super::limiter::Lines;
use super::options::{AioMode, CacheMode, MAX_QUEUES, ServeOptions};
use super::router::Router;
use super::watch::Watch;
use crate::observe::stats::Stats;
use crate::observe::{Refused, Subject};
use crate::sandbox::Sandbox;
use crate::storage::Storage;
use crate::store::ZonedStore;
use crate::units::Bytes;
use crate::virtio::features::Features;
use crate::virtio::request::Request;
use crate::virtio::status::RequestError;

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

    /// Looks into a refused request and remembers it.
    pub(super) fn look_into(&self, queue: u16, request: Option<Request>, error: RequestError) -> Refused {
        let at = Subject::from(request).sector;
        let refused = Refused {
            request,
            error,
            zone: at.and_then(|at| self.store.zone_now(at)),
            usage: self.store.usage(),
            block: self.block,
            max_append: self.max_append,
            disk: self.store.geometry().size(),
        };
        self.watch.remember(queue, refused.clone());
        refused
    }

    /// What was seen so far.
    pub(super) fn stats(&self) -> Stats {
        self.watch.stats(&self.store.usage())
    }
}
