//! A block backend that does nothing but copy between the guest's memory and its own: no file, no zones. What a
//! frontend gets from it is the most that any backend with one thread a queue could give.

mod queue;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures as Protocol, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendListener, Error as WireError, GpuBackend, Listener, Result as Wire, VhostUserBackendReqHandlerMut,
};
use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::memory::map;
use crate::parse_size;
use crate::slot::SECTOR;
use queue::{Queue, Region, Rings, Store};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const FEATURES: u64 = EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_F_VERSION_1
    | 1 << blk::VIRTIO_BLK_F_FLUSH
    | 1 << blk::VIRTIO_BLK_F_MQ
    | 1 << blk::VIRTIO_BLK_F_BLK_SIZE
    | 1 << 30;
const MOST_QUEUES: usize = 16;

/// How the backend is started.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long)]
    socket: PathBuf,
    /// Bytes on the disk, all of which are taken from memory at once
    #[arg(long, value_parser = parse_size)]
    size: u64,
    /// Take memory when it is first written, as a file in memory does
    #[arg(long)]
    fresh: bool,
    /// Microseconds to look for more requests before sleeping
    #[arg(long, default_value_t = 0)]
    poll_us: u64,
}

/// Serves one frontend after another, until it is killed.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let when = if args.fresh { libc::MAP_NORESERVE } else { libc::MAP_POPULATE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | when;
    let here = map(args.size, flags, -1, 0).context("the disk's memory")?;
    let mut listener = Listener::new(&args.socket, true).context("the socket")?;
    loop {
        let backend = Arc::new(Mutex::new(Backend {
            store: Store { here, size: args.size },
            poll: Duration::from_micros(args.poll_us),
            features: 0,
            regions: Vec::new(),
            queues: (0..MOST_QUEUES).map(|_| Setup::default()).collect(),
        }));
        let mut accepted = BackendListener::new(&mut listener, Arc::clone(&backend)).context("listening")?;
        let Some(mut connection) = accepted.accept().context("accepting")? else { continue };
        while connection.handle_request().is_ok() {}
        let mut backend = backend.lock().map_err(|_| anyhow::anyhow!("a handler has panicked"))?;
        (0..MOST_QUEUES).for_each(|at| drop(backend.stop(at)));
    }
}

#[derive(Default)]
struct Setup {
    size: u16,
    /// Descriptors, available and used ring, as the frontend sees them.
    addresses: Option<[u64; 3]>,
    base: u16,
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    running: Option<Running>,
}

struct Running {
    thread: JoinHandle<Result<u16>>,
    stop: Arc<AtomicBool>,
    kick: File,
}

struct Backend {
    store: Store,
    poll: Duration,
    features: u64,
    regions: Vec<Region>,
    queues: Vec<Setup>,
}

// SAFETY: the pointers lead into mappings that live until the process ends.
unsafe impl Send for Backend {}

impl Backend {
    fn queue(&mut self, index: u32) -> Wire<&mut Setup> {
        self.queues.get_mut(index as usize).ok_or(WireError::InvalidParam)
    }

    /// The place of a ring of `len` bytes.
    fn ring(&self, user: u64, len: u64, align: u64) -> Option<*mut u8> {
        let region = self.regions.iter().find(|region| {
            let offset = user.checked_sub(region.user);
            offset.and_then(|offset| offset.checked_add(len)).is_some_and(|end| end <= region.size)
        })?;
        // SAFETY: just found to be inside the region.
        let place = unsafe { region.here.add((user - region.user) as usize) };
        (place as u64).is_multiple_of(align).then_some(place)
    }

    /// Starts a queue that has all it needs.
    fn start(&mut self, at: usize) -> Wire<()> {
        let setup = &self.queues[at];
        let (Some([descriptors, avail, used]), Some(kick), Some(call), true, None) =
            (setup.addresses, &setup.kick, &setup.call, setup.enabled, &setup.running)
        else {
            return Ok(());
        };
        let n = u64::from(setup.size);
        let place = |user, len, align| self.ring(user, len, align).ok_or(WireError::InvalidParam);
        let rings = Rings {
            size: setup.size,
            descriptors: place(descriptors, 16 * n, 16)?.cast_const().cast(),
            avail: place(avail, 6 + 2 * n, 2)?,
            used: place(used, 6 + 8 * n, 4)?,
        };
        let copy = |file: &File| file.try_clone().map_err(WireError::ReqHandlerError);
        let stop = Arc::new(AtomicBool::new(false));
        // SAFETY: the index is inside the used ring, which was found to be mapped and aligned.
        let next_used = unsafe { AtomicU16::from_ptr(rings.used.add(2).cast()) }.load(Ordering::Relaxed);
        let queue = Queue {
            rings,
            regions: self.regions.clone(),
            store: self.store,
            kick: copy(kick)?,
            call: copy(call)?,
            stop: Arc::clone(&stop),
            event_idx: self.features & EVENT_IDX != 0,
            poll: self.poll,
            next_avail: setup.base,
            next_used,
        };
        let kick = copy(kick)?;
        let thread = thread::spawn(move || {
            let result = queue.run();
            if let Err(error) = &result {
                eprintln!("load backend: queue {at}: {error:#}");
            }
            result
        });
        self.queues[at].running = Some(Running { thread, stop, kick });
        Ok(())
    }

    fn stop(&mut self, at: usize) -> Wire<u16> {
        let setup = &mut self.queues[at];
        if let Some(mut running) = setup.running.take() {
            running.stop.store(true, Ordering::Relaxed);
            std::io::Write::write_all(&mut running.kick, &1_u64.to_ne_bytes()).map_err(WireError::ReqHandlerError)?;
            let ended = running.thread.join().map_err(|_| WireError::BackendInternalError)?;
            setup.base = ended.map_err(|_| WireError::BackendInternalError)?;
        }
        Ok(setup.base)
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; 96];
        config[..8].copy_from_slice(&(self.store.size / SECTOR).to_le_bytes());
        config[20..24].copy_from_slice(&512_u32.to_le_bytes());
        config[34..36].copy_from_slice(&(MOST_QUEUES as u16).to_le_bytes());
        config
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> Wire<()> {
        Ok(())
    }

    fn get_features(&mut self) -> Wire<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> Wire<()> {
        self.features = features;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Wire<Protocol> {
        Ok(Protocol::MQ | Protocol::CONFIG | Protocol::REPLY_ACK)
    }

    fn set_protocol_features(&mut self, _: u64) -> Wire<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Wire<u64> {
        Ok(MOST_QUEUES as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Wire<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.regions.clear();
        for (region, file) in regions.iter().zip(files) {
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            let here = map(region.memory_size, flags, file.as_raw_fd(), region.mmap_offset);
            let here = here.map_err(WireError::ReqHandlerError)?;
            let (guest, user) = (region.guest_phys_addr, region.user_addr);
            self.regions.push(Region { guest, user, size: region.memory_size, here });
        }
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Wire<()> {
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two());
        self.queue(index)?.size = size.ok_or(WireError::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        avail: u64,
        _: u64,
    ) -> Wire<()> {
        self.queue(index)?.addresses = Some([descriptors, avail, used]);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Wire<()> {
        self.queue(index)?.base = base as u16;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Wire<VhostUserVringState> {
        self.queue(index)?;
        let base = self.stop(index as usize)?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Wire<()> {
        self.queue(u32::from(index))?.kick = fd;
        self.start(usize::from(index))
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Wire<()> {
        self.queue(u32::from(index))?.call = fd;
        self.start(usize::from(index))
    }

    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Wire<()> {
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Wire<()> {
        self.queue(index)?.enabled = enable;
        self.start(index as usize)
    }

    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Wire<Vec<u8>> {
        let range = offset as usize..offset as usize + size as usize;
        self.config().get(range).map(<[u8]>::to_vec).ok_or(WireError::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Wire<()> {
        Err(WireError::InvalidOperation("SET_CONFIG"))
    }

    fn reset_owner(&mut self) -> Wire<()> {
        Err(WireError::InvalidOperation("RESET_OWNER"))
    }

    fn reset_device(&mut self) -> Wire<()> {
        Err(WireError::InvalidOperation("RESET_DEVICE"))
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Wire<()> {
        Err(WireError::InvalidOperation("GPU_SET_SOCKET"))
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Wire<File> {
        Err(WireError::InvalidOperation("GET_SHARED_OBJECT"))
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Wire<(VhostUserInflight, File)> {
        Err(WireError::InvalidOperation("GET_INFLIGHT_FD"))
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Wire<()> {
        Err(WireError::InvalidOperation("SET_INFLIGHT_FD"))
    }

    fn get_max_mem_slots(&mut self) -> Wire<u64> {
        Err(WireError::InvalidOperation("GET_MAX_MEM_SLOTS"))
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Wire<Option<VhostUserMemoryRegionBase>> {
        Err(WireError::InvalidOperation("ADD_MEM_REG"))
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Wire<()> {
        Err(WireError::InvalidOperation("REM_MEM_REG"))
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Wire<Option<File>> {
        Err(WireError::InvalidOperation("SET_DEVICE_STATE_FD"))
    }

    fn check_device_state(&mut self) -> Wire<()> {
        Err(WireError::InvalidOperation("CHECK_DEVICE_STATE"))
    }

    fn get_shmem_config(&mut self) -> Wire<VhostUserShMemConfig> {
        Err(WireError::InvalidOperation("GET_SHMEM_CONFIG"))
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Wire<()> {
        Err(WireError::InvalidOperation("SET_LOG_BASE"))
    }
}
