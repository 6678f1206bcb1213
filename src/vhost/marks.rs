//! The mark disk: a small ordinary disk on a socket of its own. Text that is written to it becomes a mark, so that software in a guest
//! says where it is without an agent, in order with its I/O on the other disk.
//!
//! It is a disk like the other, served by the same code over an image in memory, of which a driver is shown the conventional
//! zones only. A mark is set when the write's data has landed and before its answer goes out: whatever was answered
//! before the text was written stands before the mark, and whatever is asked for after that answer stands behind it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::connection;
use super::host::Host;
use super::housekeeper::Housekeeper;
use super::options::{CacheMode, ServeOptions};
use super::socket::Listening;
use super::texts::{BLOCK, Texts};
use super::{Disk, ListenOn, ServeError, Served, Supervised};
use crate::device::Device;
use crate::io::{AioMode, DataFiles};
use crate::qcow2::{self, ByteOrder, CreateOptions};
use crate::sandbox::Sandbox;
use crate::service::ServiceManager;
use crate::storage::file::FileMedium;
use crate::store::device::{Layer, Layered};
use crate::store::{
    Batch, IoKind, IoResult, Op, OpenOptions, Refusal, Segment, Step, Tag, Ticket, ZonedDevice, ZonedStore,
};
use crate::units::Bytes;
use crate::zone::GeometryRequest;

/// The size of the disk.
const SIZE: Bytes = Bytes(1 << 20);

/// The layer over the device: sets a mark when a write has landed.
struct Marking {
    below: Arc<dyn ZonedDevice>,
    texts: Arc<Texts>,
    set: Box<dyn Fn(&str) + Send + Sync>,
}

impl Layer for Marking {
    fn below(&self) -> &dyn ZonedDevice {
        &*self.below
    }

    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        let inside = match op {
            Op::Read { start, len } | Op::Write { start, len } => {
                start.to_bytes().and_then(|start| start.checked_add(len)).is_some_and(|end| end <= SIZE)
            }
            Op::Flush => true,
            Op::Append { .. } | Op::Report { .. } | Op::Manage { .. } | Op::ResetAll => false,
        };
        match inside {
            true => self.below.begin(tag, op, segments, batch),
            false => Step::Done(Err(Refusal::BadRange)),
        }
    }

    fn io_done(&self, ticket: Ticket, result: IoResult, batch: &mut Batch) {
        if ticket.io_kind() == IoKind::Write {
            let text = self.texts.take(ticket.tag());
            if let Some(text) = text.filter(|_| result == IoResult::Complete) {
                (self.set)(&text);
            }
        }
        self.below.io_done(ticket, result, batch);
    }
}

/// The disk before anybody is let in, made before the process is confined.
pub(super) struct Prepared {
    pub(super) listening: Listening,
    store: Arc<dyn ZonedDevice>,
    files: DataFiles,
}

impl Prepared {
    /// Makes the disk, and its socket.
    pub(super) fn new(on: ListenOn) -> Result<Self, ServeError> {
        let (store, files) = make().map_err(ServeError::system("make the mark disk"))?;
        Ok(Self { listening: Listening::open(on)?, store, files })
    }
}

/// The disk while it is served.
pub(super) struct MarkDisk {
    stop: EventFd,
    thread: JoinHandle<()>,
    housekeeper: Housekeeper,
}

impl MarkDisk {
    /// Serves it, as the other disk is served. Its marks are those of `device`.
    pub(super) fn start(
        prepared: Prepared,
        options: &ServeOptions,
        device: &Arc<Device>,
        sandbox: Sandbox,
    ) -> Result<Self, ServeError> {
        let options = ServeOptions {
            block_size: BLOCK as u32,
            num_queues: 1,
            cache: CacheMode::Writeback,
            read_only: false,
            serial: "marks".to_owned(),
            aio: AioMode::Sync,
            poll: Duration::ZERO,
            ..options.clone()
        };
        let Prepared { listening, store, files } = prepared;
        let config = options.config_space(store.geometry())?.of_ordinary_disk(SIZE);
        let (texts, marked) = (Arc::<Texts>::default(), Arc::clone(device));
        let set = Box::new(move |text: &str| _ = marked.mark(text, Box::new(|_| {})));
        let disk = Disk::Plain(Arc::new(Layered(Marking { below: store, texts: Arc::clone(&texts), set })));
        let served = Served { disk, files, power_lost: None, rules: None, log: None, remote: Default::default() };
        let host = Arc::new(Host::new(served, &options, config.max_append(), None, sandbox, Some(texts))?);
        let housekeeper = Housekeeper::start(Arc::clone(&host))?;
        log::info!("marks are taken on {listening}");
        let start = || {
            let stop = EventFd::new(EFD_NONBLOCK)?;
            let stopped = stop.try_clone()?;
            let run = move || {
                let by = Supervised { stop: &stopped, manager: &ServiceManager::default() };
                if let Err(error) = connection::accept_loop(&listening, &host, &config, &options, by) {
                    log::error!("no marks are taken any more: {error}");
                }
            };
            Ok((stop, std::thread::Builder::new().name("marks".into()).spawn(run)?))
        };
        let (stop, thread) = start().map_err(ServeError::system("start the thread of the mark disk"))?;
        Ok(Self { stop, thread, housekeeper })
    }

    /// Ends it, with what is in flight.
    pub(super) fn stop(self) {
        if let Err(error) = self.stop.write(1) {
            log::error!("the thread of the mark disk cannot be stopped: {error}");
            return;
        }
        if self.thread.join().is_err() {
            log::error!("the thread of the mark disk has panicked");
        }
        self.housekeeper.stop();
    }
}

/// Makes the disk.
fn make() -> io::Result<(Arc<dyn ZonedDevice>, DataFiles)> {
    let geometry = GeometryRequest {
        size: Bytes(2 * SIZE.0),
        zone_size: SIZE,
        zone_capacity: SIZE,
        // What is shown. A disk of conventional zones alone is none that could be stored.
        conventional_zones: 1,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(0),
    };
    let file = File::from(memfd_create("vhost-user-zbd-marks", MFdFlags::MFD_CLOEXEC)?);
    let files = DataFiles::new(file.try_clone()?, file.try_clone()?);
    let medium = Arc::new(FileMedium::new(file));
    let options = CreateOptions { geometry, cluster_size: Bytes(64 << 10), table_order: ByteOrder::Big };
    qcow2::create(&*medium, &options).map_err(io::Error::other)?;
    let options = OpenOptions { read_only: false, write_granularity: Bytes(BLOCK as u64), hold_resets: false };
    let store = ZonedStore::open(medium, options).map_err(io::Error::other)?;
    Ok((Arc::new(store), files))
}
