//! The vhost-user protocol of one connection: what the frontend sets up, and when queues start and stop.
//!
//! The crate has parsed each message and checked its framing; here its meaning is checked, and everything in it is
//! the frontend's word: indices, sizes, addresses, descriptors. A message that makes no sense is refused, which the
//! frontend learns where it asked for a reply, and changes nothing.
//!
//! A queue runs while it has addresses and a kick descriptor and is enabled. Whatever stops it (GET_VRING_BASE,
//! disabling, a device reset, the end of the connection) first waits for its requests in flight.

use std::fs::File;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error as WireError, GpuBackend, VhostUserBackendReqHandlerMut};

use super::device::{Device, MAX_QUEUES, ServeOptions};
use super::inflight::{self, Disk, Inflight, InflightError};
use super::journal::{self, LeftBehind};
use super::memory::{MAX_REGIONS, MemoryError, MemoryTable};
use super::ring::RingSetup;
use super::worker::{QueueSetup, WorkerError, WorkerHandle};
use crate::storage::Storage;
use crate::virtio::config::{ConfigSpace, Written};
use crate::virtio::features::Features;

type WireResult<T> = Result<T, WireError>;

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtocolError {
    #[error("queue {index} does not exist: expected one below {MAX_QUEUES}")]
    NoSuchQueue { index: u32 },
    #[error("the available index of queue {index} was asked for, which does not exist")]
    NoBase { index: u32 },
    #[error("feature bits {asked:#x}: expected a subset of those offered, {offered:#x}")]
    Features { asked: u64, offered: u64 },
    #[error("protocol feature bits {asked:#x}: expected a subset of those offered, {offered:#x}")]
    ProtocolFeatures { asked: u64, offered: u64 },
    #[error("a ring of {size} entries for queue {index}: expected a power of two up to {most} (--queue-size)")]
    QueueSize { index: u32, size: u32, most: u16 },
    #[error("available index {base} for queue {index}: expected 16 bits")]
    Base { index: u32, base: u32 },
    #[error("{what} of queue {index} cannot change while it runs")]
    Running { index: u32, what: &'static str },
    #[error("the rings of queue {index} are at user addresses that no memory region holds")]
    RingAddress { index: u32 },
    #[error("queue {index} has no kick descriptor: polling the ring is not supported")]
    NoKick { index: u32 },
    #[error("the kick descriptor of queue {index} cannot be made non-blocking: {source}")]
    Kick { index: u32, source: nix::Error },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("queue {index} cannot run: {source}")]
    Worker { index: u32, source: WorkerError },
    #[error(transparent)]
    Inflight(#[from] InflightError),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// Ring addresses in the frontend's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UserAddresses {
    descriptors: u64,
    used: u64,
    available: u64,
}

/// One queue as the frontend has set it up.
#[derive(Default)]
struct Vring {
    size: Option<u16>,
    addresses: Option<UserAddresses>,
    /// The available index of the first chain to take, while the queue is stopped.
    base: u16,
    kick: Option<Arc<File>>,
    call: Option<Arc<File>>,
    error: Option<Arc<File>>,
    enabled: bool,
    worker: Option<WorkerHandle>,
}

/// One connection.
pub(super) struct Handler<S: Storage> {
    device: Arc<Device<S>>,
    config: ConfigSpace,
    offered: Features,
    accepted: Features,
    memory: MemoryTable,
    vrings: Vec<Vring>,
    max_size: u16,
    disk: Disk,
    inflight: Option<Arc<Inflight>>,
    /// What the last process left behind, by queue, until the queue runs.
    left: Vec<LeftBehind<S>>,
    refused: Option<ProtocolError>,
    complained: bool,
}

impl<S: Storage + 'static> Handler<S> {
    pub(super) fn new(device: Arc<Device<S>>, config: ConfigSpace, options: &ServeOptions) -> Self {
        let offered = Features::offered(options.read_only || device.store.read_only());
        device.set_mode(Features::default(), config.writeback());
        let disk = inflight::disk(device.store.geometry(), options.block_size);
        Self {
            device,
            config,
            offered,
            accepted: Features::default(),
            memory: MemoryTable::default(),
            vrings: (0..MAX_QUEUES).map(|_| Vring::default()).collect(),
            max_size: options.queue_size,
            disk,
            inflight: None,
            left: Vec::new(),
            refused: None,
            complained: false,
        }
    }

    /// Why the last message was refused, if it was.
    pub(super) fn take_refusal(&mut self) -> Option<ProtocolError> {
        self.refused.take()
    }

    /// Stops every queue, after its requests in flight, and tracks none any more.
    pub(super) fn stop_all(&mut self) {
        for index in 0..MAX_QUEUES {
            self.stop(index);
        }
        // Before what is left behind gives up its place: in the region it keeps it, for a frontend that comes again.
        self.device.journals.attach(None);
        self.inflight = None;
        self.left.clear();
    }

    /// Takes the frontend's region into use, and what a process that died has left there.
    fn track(&mut self, told: &VhostUserInflight, file: &File) -> Result<(), ProtocolError> {
        if let Some(index) = self.vrings.iter().position(|vring| vring.worker.is_some()) {
            return Err(ProtocolError::Running { index: index as u32, what: "the in-flight region" });
        }
        let zones = self.device.store.geometry().nr_zones();
        let region = Inflight::open(told, file, &self.disk, zones)?;
        self.device.journals.attach(None);
        self.left.clear();
        self.device.journals.attach(Some(&region));
        self.left = journal::recover(&self.device.store, &region, &self.device.journals);
        self.inflight = Some(region);
        Ok(())
    }

    /// Keeps the reason for the log and makes of it what the crate understands.
    fn answer<T>(&mut self, result: Result<T, ProtocolError>) -> WireResult<T> {
        result.map_err(|error| {
            self.refused = Some(error);
            WireError::InvalidParam
        })
    }

    fn unsupported<T>(&mut self, what: &'static str) -> WireResult<T> {
        self.answer(Err(ProtocolError::Unsupported(what)))
    }

    fn vring(&mut self, index: u32) -> Result<&mut Vring, ProtocolError> {
        self.vrings.get_mut(index as usize).ok_or(ProtocolError::NoSuchQueue { index })
    }

    fn stopped_vring(&mut self, index: u32, what: &'static str) -> Result<&mut Vring, ProtocolError> {
        match self.vring(index)? {
            vring if vring.worker.is_some() => Err(ProtocolError::Running { index, what }),
            vring => Ok(vring),
        }
    }

    /// Where a queue's rings are in guest memory, if it has addresses.
    fn ring_setup(&self, index: u16) -> Result<Option<RingSetup>, ProtocolError> {
        let Some(vring) = self.vrings.get(usize::from(index)) else { return Ok(None) };
        let Some(addresses) = vring.addresses else { return Ok(None) };
        let translate = |user| {
            let index = u32::from(index);
            self.memory.translate(user).ok_or(ProtocolError::RingAddress { index })
        };
        Ok(Some(RingSetup {
            size: vring.size.unwrap_or(self.max_size),
            descriptors: translate(addresses.descriptors)?,
            available: translate(addresses.available)?,
            used: translate(addresses.used)?,
            next_available: vring.base,
            event_idx: self.accepted.event_idx(),
        }))
    }

    /// Starts a queue if all it needs is there and it is not running.
    fn start_if_ready(&mut self, index: u16) -> Result<(), ProtocolError> {
        let enabled_by_itself = !self.accepted.protocol_features();
        let Some(vring) = self.vrings.get(usize::from(index)) else { return Ok(()) };
        let (Some(kick), None) = (&vring.kick, &vring.worker) else { return Ok(()) };
        if !vring.enabled && !enabled_by_itself {
            return Ok(());
        }
        let kick = Arc::clone(kick);
        let (call, error) = (vring.call.clone(), vring.error.clone());
        let Some(ring) = self.ring_setup(index)? else { return Ok(()) };
        self.complain_once();
        let mem = Arc::clone(self.memory.memory());
        let region = self.inflight.clone().filter(|region| index < region.queues());
        let mut left = LeftBehind::none(&self.device.store);
        if let Some(known) = self.left.get_mut(usize::from(index)) {
            std::mem::swap(known, &mut left);
        }
        let setup = QueueSetup { queue: index, region, left, ring, mem, kick, call, error };
        let worker = WorkerHandle::start(&self.device, setup)
            .map_err(|source| ProtocolError::Worker { index: index.into(), source })?;
        log::debug!("queue {index} runs: {ring:x?}");
        if let Some(vring) = self.vrings.get_mut(usize::from(index)) {
            vring.worker = Some(worker);
        }
        Ok(())
    }

    /// Stops a queue if it is running.
    fn stop(&mut self, index: u16) {
        let Some(vring) = self.vrings.get_mut(usize::from(index)) else { return };
        let Some(worker) = vring.worker.take() else { return };
        match worker.stop() {
            Ok(next) => vring.base = next,
            Err(error) => log::error!("queue {index} did not stop well: {error}"),
        }
        log::debug!("queue {index} is stopped at available index {}", vring.base);
    }

    /// Says, once a connection, why a driver that does not know zones gets nothing but errors.
    fn complain_once(&mut self) {
        if self.accepted.zoned() || std::mem::replace(&mut self.complained, true) {
            return;
        }
        log::error!(
            "VIRTIO_BLK_F_ZONED was not negotiated, so every request fails: a host-managed disk must not be used \
             without it. QEMU's vhost-user-blk drops the feature: use `-device \
             vhost-user-test-device-pci,virtio-id=2,num_vqs=N,vq_size=256,config_size=96,chardev=...` of QEMU 10.2 or \
             later, or a vhost-user-blk-pci patched to have `zoned=on`. A guest kernel before 6.3 or firmware at boot \
             does not know the feature either; of firmware this is harmless"
        );
    }

    /// Takes a new memory table into use, in the running queues too.
    fn replace_memory(&mut self, memory: MemoryTable) -> Result<(), ProtocolError> {
        self.memory = memory;
        let mut result = Ok(());
        for index in 0..MAX_QUEUES {
            let Some(vring) = self.vrings.get(usize::from(index)) else { continue };
            if vring.worker.is_none() {
                continue;
            }
            match self.ring_setup(index) {
                Ok(Some(ring)) => {
                    if let Some(worker) = self.vrings.get(usize::from(index)).and_then(|vring| vring.worker.as_ref()) {
                        worker.set_memory(Arc::clone(self.memory.memory()), ring);
                    }
                }
                Ok(None) => {}
                // Its rings are gone: it must not touch the old memory any more.
                Err(error) => {
                    self.stop(index);
                    result = Err(error);
                }
            }
        }
        result
    }

    fn accept_features(&mut self, bits: u64) -> Result<(), ProtocolError> {
        let offered = self.offered.bits();
        let accepted = self.offered.accept(bits).ok_or(ProtocolError::Features { asked: bits, offered })?;
        self.accepted = accepted;
        if accepted.config_wce() && !accepted.flush() {
            // virtio 1.3, 5.2.5.2: without flushes the cache mode has to begin as write-through.
            self.config.set_writeback(false);
        }
        self.device.set_mode(accepted, self.config.writeback());
        if accepted.zoned() {
            self.complained = false;
        }
        log::debug!("features {bits:#x} accepted");
        (0..MAX_QUEUES).try_for_each(|index| self.start_if_ready(index))
    }

    fn set_kick(&mut self, index: u32, kick: Option<File>) -> Result<(), ProtocolError> {
        self.vring(index)?;
        let kick = kick.ok_or(ProtocolError::NoKick { index })?;
        // Read only by this process, and never with the will to wait: see the engines.
        let nonblocking = fcntl(&kick, FcntlArg::F_GETFL)
            .map(|flags| OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK)
            .and_then(|flags| fcntl(&kick, FcntlArg::F_SETFL(flags)));
        nonblocking.map_err(|source| ProtocolError::Kick { index, source })?;
        let queue = index as u16;
        self.stop(queue);
        self.vring(index)?.kick = Some(Arc::new(kick));
        self.start_if_ready(queue)
    }

    fn set_addresses(&mut self, index: u32, addresses: UserAddresses) -> Result<(), ProtocolError> {
        let known = [addresses.descriptors, addresses.used, addresses.available];
        if known.iter().any(|user| self.memory.translate(*user).is_none()) {
            return Err(ProtocolError::RingAddress { index });
        }
        let vring = self.vring(index)?;
        if vring.worker.is_some() && vring.addresses != Some(addresses) {
            return Err(ProtocolError::Running { index, what: "the ring addresses" });
        }
        vring.addresses = Some(addresses);
        self.start_if_ready(index as u16)
    }

    fn enable(&mut self, index: u32, on: bool) -> Result<(), ProtocolError> {
        self.vring(index)?.enabled = on;
        if on {
            return self.start_if_ready(index as u16);
        }
        self.stop(index as u16);
        Ok(())
    }

    fn reset(&mut self) {
        self.stop_all();
        for vring in &mut self.vrings {
            // Frontends set these two up before the first reset and not again after it.
            *vring = Vring { call: vring.call.take(), error: vring.error.take(), ..Vring::default() };
        }
        self.accepted = Features::default();
        self.config.reset();
        self.device.set_mode(self.accepted, self.config.writeback());
    }
}

/// What the protocol layer offers: nothing that is not implemented.
fn offered_protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}

impl<S: Storage + 'static> VhostUserBackendReqHandlerMut for Handler<S> {
    fn set_owner(&mut self) -> WireResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> WireResult<()> {
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> WireResult<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> WireResult<u64> {
        Ok(self.offered.bits())
    }

    fn set_features(&mut self, features: u64) -> WireResult<()> {
        let result = self.accept_features(features);
        self.answer(result)
    }

    fn get_protocol_features(&mut self) -> WireResult<VhostUserProtocolFeatures> {
        Ok(offered_protocol_features())
    }

    fn set_protocol_features(&mut self, asked: u64) -> WireResult<()> {
        let offered = offered_protocol_features().bits();
        if asked & !offered != 0 {
            return self.answer(Err(ProtocolError::ProtocolFeatures { asked, offered }));
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> WireResult<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = MemoryTable::new(regions, files).map_err(ProtocolError::from);
        let result = memory.and_then(|memory| self.replace_memory(memory));
        self.answer(result).map(|()| None)
    }

    fn get_max_mem_slots(&mut self) -> WireResult<u64> {
        Ok(MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> WireResult<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(region, file).map_err(ProtocolError::from);
        let result = memory.and_then(|memory| self.replace_memory(memory));
        self.answer(result).map(|()| None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> WireResult<()> {
        let memory = self.memory.without(region).map_err(ProtocolError::from);
        let result = memory.and_then(|memory| self.replace_memory(memory));
        self.answer(result)
    }

    fn get_queue_num(&mut self) -> WireResult<u64> {
        Ok(MAX_QUEUES.into())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> WireResult<()> {
        let most = self.max_size;
        let fits = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= most);
        let result = fits
            .ok_or(ProtocolError::QueueSize { index, size, most })
            .and_then(|size| self.stopped_vring(index, "the size").map(|vring| vring.size = Some(size)));
        self.answer(result)
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> WireResult<()> {
        let result = self.set_addresses(index, UserAddresses { descriptors, used, available });
        self.answer(result)
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> WireResult<()> {
        let result = u16::try_from(base)
            .map_err(|_| ProtocolError::Base { index, base })
            .and_then(|base| self.stopped_vring(index, "the available index").map(|vring| vring.base = base));
        self.answer(result)
    }

    fn get_vring_base(&mut self, index: u32) -> WireResult<VhostUserVringState> {
        if self.vring(index).is_ok() {
            self.stop(index as u16);
        }
        let vring = self.vring(index).map_err(|_| ProtocolError::NoBase { index });
        let result = vring.map(|vring| {
            // The next kick descriptor starts it again.
            vring.kick = None;
            VhostUserVringState::new(index, vring.base.into())
        });
        self.answer(result)
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        let result = self.set_kick(index.into(), fd);
        self.answer(result)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        let result = self.vring(index.into()).map(|vring| {
            vring.call = fd.map(Arc::new);
            if let Some(worker) = &vring.worker {
                log::debug!("queue {index} gets another call descriptor while it runs");
                worker.set_call(vring.call.clone());
            }
        });
        self.answer(result)
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> WireResult<()> {
        let result = self.vring(index.into()).map(|vring| {
            vring.error = fd.map(Arc::new);
            if let Some(worker) = &vring.worker {
                worker.set_error(vring.error.clone());
            }
        });
        self.answer(result)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> WireResult<()> {
        let result = self.enable(index, enable);
        self.answer(result)
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> WireResult<Vec<u8>> {
        // The crate has checked that both are at most 4096.
        Ok(self.config.read(offset as usize, size as usize))
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> WireResult<()> {
        match self.config.write(offset as usize, data) {
            Written::Nothing => {}
            Written::Writeback(on) => {
                log::debug!("the driver has set the cache mode to {}", if on { "writeback" } else { "writethrough" });
                self.device.set_mode(self.accepted, on);
            }
            // As a write to a read-only register: without effect.
            Written::ReadOnlyField { offset } => {
                log::debug!("a write to the configuration space at {offset}, which is read-only, is ignored");
            }
        }
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> WireResult<()> {
        self.unsupported("a GPU socket")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> WireResult<File> {
        self.unsupported("a shared object")
    }

    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> WireResult<(VhostUserInflight, File)> {
        let made = Inflight::create(inflight, &self.disk, self.device.store.geometry().nr_zones());
        self.answer(made.map_err(ProtocolError::from))
    }

    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> WireResult<()> {
        let tracked = self.track(inflight, &file);
        self.answer(tracked)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> WireResult<Option<File>> {
        self.unsupported("transfer of the device's state")
    }

    fn check_device_state(&mut self) -> WireResult<()> {
        self.unsupported("transfer of the device's state")
    }

    fn get_shmem_config(&mut self) -> WireResult<VhostUserShMemConfig> {
        self.unsupported("shared memory of the device")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> WireResult<()> {
        self.unsupported("dirty logging")
    }
}
