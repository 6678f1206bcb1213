//! A disk put together: an image in a medium, the store over it, the layers, a device with one queue.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use super::Disk;
use super::error::{DiskError, ImageError};
use super::guest::{Guest, NoMemory, RING};
use super::shape::{Opening, Shape};
use crate::chain;
use crate::device::requests::Requests;
use crate::device::router::{Bell, Rung};
use crate::device::{Device, Identity};
use crate::io::{DataPath, OverMedium};
use crate::power::cache::DEFAULT_SIZE;
use crate::power::{Power, Switch, VolatileCache};
use crate::qcow2::{self, Base};
use crate::storage::Medium;
use crate::storage::file::{FileMedium, open_regular};
use crate::storage::lock::{self, Purpose};
use crate::storage::memory::MemoryMedium;
use crate::store::{Batch, OpenOptions, ZonedStore};
use crate::units::Bytes;
use crate::virtio::config::{ConfigError, ConfigSpace, DEFAULT_QUEUE_SIZE, DeviceShape};
use crate::virtio::features::Features;
use crate::zone::Geometry;

/// What errors call a disk without a file.
const IN_MEMORY: &str = "the disk in memory";

/// The one queue.
const QUEUE: u16 = 0;

impl From<NoMemory> for ImageError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

pub(super) fn in_memory(shape: &Shape) -> Result<Disk, DiskError> {
    let make = || {
        let medium = Arc::new(MemoryMedium::default());
        qcow2::create(&*medium, &shape.image())?;
        assemble(medium, None, Opening::default().block(shape.block))
    };
    named(IN_MEMORY.to_owned(), make)
}

/// Makes the file of an image, which is removed again where that fails.
pub(super) fn create(path: &Path, shape: &Shape) -> Result<Disk, DiskError> {
    let make = || {
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(ImageError::File)?;
        let filled = || {
            lock::lock_image(&file, Purpose::Write)?;
            let medium = Arc::new(FileMedium::new(file));
            qcow2::create(&*medium, &shape.image())?;
            assemble(medium, None, Opening::default().block(shape.block))
        };
        filled().inspect_err(|_| {
            // What was begun is worth nothing; the first error is the one to tell.
            let _ = fs::remove_file(path);
        })
    };
    named(path.display().to_string(), make)
}

pub(super) fn open(path: &Path, opening: Opening) -> Result<Disk, DiskError> {
    let make = || {
        let purpose = if opening.read_only { Purpose::Read } else { Purpose::Write };
        let mut options = File::options();
        options.read(true).write(!opening.read_only);
        let file = open_regular(path, &mut options, "a qcow2 image in a file").map_err(ImageError::File)?;
        lock::lock_image(&file, purpose)?;
        let medium = Arc::new(FileMedium::new(file));
        let chain = chain::bases_of(path, &medium).map_err(|why| ImageError::Base(Box::new(why)))?;
        let base = chain.map(|chain| chain.base);
        assemble(medium, base, opening)
    };
    named(path.display().to_string(), make)
}

fn named(name: String, make: impl FnOnce() -> Result<Disk, ImageError>) -> Result<Disk, DiskError> {
    make().map_err(|why| DiskError::Image { name, why })
}

fn assemble<M: Medium + 'static>(medium: Arc<M>, base: Option<Base>, opening: Opening) -> Result<Disk, ImageError> {
    let Opening { block, read_only } = opening;
    let options = OpenOptions { read_only, write_granularity: block, hold_resets: true };
    let check = block_size(block)?;
    let bases = base.as_ref().map(Base::media).unwrap_or_default();
    let store = Arc::new(ZonedStore::open_over(Arc::clone(&medium), base, options)?);
    let identity = Identity {
        serial: Default::default(),
        max_append: longest_append(store.geometry(), check)?,
        block,
        write_through: false,
    };
    let (cache, path) = stacked(Arc::clone(&store), OverMedium::over(medium, bases), block);
    let (bell, work) = (Arc::new(Rung::default()), Arc::new(Rung::default()));
    let device = Device::cached(cache, identity, vec![Arc::clone(&bell) as Arc<dyn Bell>], None);
    device.set_mode(Features::offered(read_only), true);
    let doorbell = Arc::clone(&work);
    device.disk.set_doorbell(Box::new(move || doorbell.ring()));
    // Work may have been asked for before there was a bell.
    work.ring();
    let path: Box<dyn DataPath + Send> = Box::new(device.faults.reads(QUEUE).of(path));
    let (device, guest) = (Arc::new(device), Guest::new()?);
    let requests = Requests::new(path, Arc::clone(&device), QUEUE, Arc::clone(guest.mem()), RING);
    let close = Box::new(move || store.close());
    let gate = device.switch.gate(QUEUE);
    Ok(Disk { requests, guest, device, gate, power: Power::On, bell, work, batch: Batch::default(), close })
}

/// The layers over a store and over its data path, from below. A layer more has its place here.
fn stacked<M: Medium + 'static>(
    store: Arc<ZonedStore<M>>,
    path: OverMedium<M>,
    block: Bytes,
) -> (Arc<VolatileCache>, Box<dyn DataPath + Send>) {
    let switch = Arc::new(Switch::new(usize::from(QUEUE) + 1));
    let cache = Arc::new(VolatileCache::new(store, switch, block, DEFAULT_SIZE));
    (cache, Box::new(path))
}

fn block_size(block: Bytes) -> Result<u32, ImageError> {
    u32::try_from(block.0).ok().filter(|size| matches!(size, 512 | 4096)).ok_or(ImageError::Block(block))
}

/// The longest append that a driver would be told of.
fn longest_append(geometry: &Geometry, block_size: u32) -> Result<Bytes, ConfigError> {
    let shape = DeviceShape { block_size, num_queues: 1, queue_size: DEFAULT_QUEUE_SIZE, writeback: true };
    ConfigSpace::new(geometry, &shape).map(|config| config.max_append())
}
