//! What the vhost-user messages of one connection mean: what the frontend sets up, and when queues start and stop.
//!
//! The form of each message was checked; everything in it is the frontend's word: indices, sizes, addresses,
//! descriptors. A message that makes no sense is refused, which the frontend learns where it asked for a reply, and
//! changes nothing: what could be wrong is looked at first, and what still fails at the end is taken back.
//!
//! A queue runs while it has addresses and a kick descriptor and is enabled. Whatever stops it (GET_VRING_BASE,
//! disabling, a device reset, the end of the connection) first waits for its requests in flight.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::VhostUserInflight;

use super::host::Host;
use super::inflight::{self, Disk, Inflight, InflightError};
use super::journal;
use super::memory::{MAX_REGIONS, MemoryError, MemoryTable};
use super::message::{Message, inflight_payload};
use super::notify::Notifier;
use super::options::{MAX_QUEUES, ServeOptions};
use super::ring::{Ring, RingSetup};
use super::worker::{QueueSetup, WorkerError, WorkerHandle};
use crate::device::Device;
use crate::device::limiter::Lines;
use crate::device::recovery::LeftBehind;
use crate::power::{Power, Then};
use crate::virtio::config::{ConfigSpace, Written};
use crate::virtio::features::Features;

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
    #[error("queue {index} runs, and its rings would not lie in the guest's memory any more")]
    RingMemory { index: u32 },
    #[error("queue {index} has no kick descriptor: polling the ring is not supported")]
    NoKick { index: u32 },
    #[error("the {what} descriptor of queue {index} is {kind}: expected an eventfd")]
    Event { index: u32, what: &'static str, kind: &'static str },
    #[error("queue {index} is enabled or disabled, and VHOST_USER_F_PROTOCOL_FEATURES was not accepted")]
    NotByMessage { index: u32 },
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("queue {index} cannot run: {source}")]
    Worker { index: u32, source: WorkerError },
    #[error(transparent)]
    Inflight(#[from] InflightError),
}

/// What a message that was done is answered with.
#[derive(Debug)]
pub(super) enum Reply {
    /// That it was done, if that was asked for.
    Done,
    Payload(Vec<u8>),
    WithFile(Vec<u8>, File),
}

impl Reply {
    fn number(number: u64) -> Self {
        Self::Payload(number.to_ne_bytes().into())
    }
}

/// Ring addresses in the frontend's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UserAddresses {
    descriptors: u64,
    used: u64,
    available: u64,
}

/// One queue as the frontend has set it up.
#[derive(Clone, Default)]
struct Wanted {
    size: Option<u16>,
    addresses: Option<UserAddresses>,
    /// The available index of the first chain to take, while the queue is stopped.
    base: u16,
    /// The queue was stopped, and nobody has said since where it is to go on.
    stopped_there: bool,
    kick: Option<Arc<Notifier>>,
    call: Option<Arc<Notifier>>,
    error: Option<Arc<Notifier>>,
    enabled: bool,
}

/// A queue, and its worker while it runs.
#[derive(Default)]
struct Vring {
    wanted: Wanted,
    worker: Option<WorkerHandle>,
}

/// One connection.
pub(super) struct Handler {
    host: Arc<Host>,
    device: Arc<Device>,
    config: ConfigSpace,
    offered: Features,
    accepted: Features,
    protocol: VhostUserProtocolFeatures,
    memory: MemoryTable,
    vrings: Vec<Vring>,
    max_size: u16,
    disk: Disk,
    inflight: Option<Arc<Inflight>>,
    /// What the last process left behind, by queue, until the queue runs.
    left: Vec<LeftBehind>,
    complained: bool,
    /// A queue ran on this connection.
    has_run: bool,
    /// The frontend has come with requests in flight, or with a power cut behind it, and the device was not reset since.
    goes_on: bool,
}

impl Handler {
    pub(super) fn new(host: Arc<Host>, config: ConfigSpace, options: &ServeOptions) -> Self {
        let device = Arc::clone(&host.device);
        let offered = Features::offered(options.read_only || device.disk.read_only());
        let offered = if device.is_ordinary { offered.of_ordinary_disk() } else { offered };
        device.set_mode(Features::default(), config.writeback());
        let disk = inflight::disk(device.disk.geometry(), options.block_size);
        Self {
            host,
            device,
            config,
            offered,
            accepted: Features::default(),
            protocol: VhostUserProtocolFeatures::empty(),
            memory: MemoryTable::default(),
            vrings: (0..MAX_QUEUES).map(|_| Vring::default()).collect(),
            max_size: options.queue_size,
            disk,
            inflight: None,
            left: Vec::new(),
            complained: false,
            has_run: false,
            goes_on: false,
        }
    }

    /// How much may be logged because of the frontend.
    pub(super) fn lines(&self) -> &Lines {
        &self.device.lines
    }

    /// The protocol features that were agreed on.
    pub(super) fn protocol(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    /// Whether a message is acknowledged where that is asked for.
    pub(super) fn acknowledges(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    /// Does what a message asks for; an error has changed nothing.
    pub(super) fn handle(&mut self, message: Message) -> Result<Reply, ProtocolError> {
        match message {
            Message::GetFeatures => return Ok(Reply::number(self.offered.bits())),
            Message::GetProtocolFeatures => return Ok(Reply::number(offered_protocol_features().bits())),
            Message::GetQueueNum => return Ok(Reply::number(MAX_QUEUES.into())),
            Message::GetMaxMemSlots => return Ok(Reply::number(MAX_REGIONS as u64)),
            Message::GetVringBase { index } => return self.give_base(index),
            Message::GetConfig { offset, size, flags } => return Ok(self.read_config(offset, size, flags)),
            Message::GetInflightFd(asked) => {
                let (told, file) = Inflight::create(&asked, &self.disk, self.device.disk.geometry().nr_zones())?;
                return Ok(Reply::WithFile(inflight_payload(&told), file));
            }
            Message::SetOwner => {}
            Message::SetFeatures(bits) => self.accept_features(bits)?,
            Message::SetProtocolFeatures(bits) => self.accept_protocol_features(bits)?,
            Message::Reset => self.reset(),
            Message::SetMemTable(regions) => self.replace_memory(MemoryTable::new(regions)?)?,
            Message::AddMemReg(region, file) => self.replace_memory(self.memory.with(&region, &file)?)?,
            Message::RemMemReg(region) => self.replace_memory(self.memory.without(&region)?)?,
            Message::SetVringNum { index, size } => self.set_size(index, size)?,
            Message::SetVringAddr { index, descriptors, used, available } => {
                self.set_addresses(index, UserAddresses { descriptors, used, available })?;
            }
            Message::SetVringBase { index, base } => {
                let base = u16::try_from(base).map_err(|_| ProtocolError::Base { index, base })?;
                let wanted = &mut self.stopped_vring(index, "the available index")?.wanted;
                (wanted.base, wanted.stopped_there) = (base, false);
            }
            Message::SetVringKick { index, file } => self.set_kick(index, file)?,
            Message::SetVringCall { index, file } => self.set_call(index, file)?,
            Message::SetVringErr { index, file } => self.set_error(index, file)?,
            Message::SetVringEnable { index, on } => self.enable(index, on)?,
            Message::SetConfig { offset, data } => self.write_config(offset, &data),
            Message::SetInflightFd(told, file) => self.track(&told, &file)?,
        }
        Ok(Reply::Done)
    }

    /// Stops every queue, after its requests in flight, and tracks none any more.
    pub(super) fn stop_all(&mut self) {
        for index in 0..MAX_QUEUES {
            self.stop(index);
        }
        // Before what is left behind gives up its place: in the region it keeps it, for a frontend that comes again.
        self.host.journals.attach(None);
        self.inflight = None;
        self.left.clear();
    }

    /// Takes the frontend's region into use, and what a process that died has left there.
    fn track(&mut self, told: &VhostUserInflight, file: &File) -> Result<(), ProtocolError> {
        if let Some(index) = self.vrings.iter().position(|vring| vring.worker.is_some()) {
            return Err(ProtocolError::Running { index: index as u32, what: "the in-flight region" });
        }
        let zones = self.device.disk.geometry().nr_zones();
        let region = Inflight::open(told, file, &self.disk, zones)?;
        self.host.journals.attach(None);
        self.left.clear();
        self.host.journals.attach(Some(&region));
        let lost = region.lost_power();
        if let Some(fails) = lost {
            self.device.switch.cut(if fails { Then::Fail } else { Then::Dead });
        }
        // On a connection whose queues ran, a region that is told again is that of a device that is set up again.
        self.goes_on = !self.has_run && (lost.is_some() || !region.is_empty());
        match self.device.switch.power() {
            // What was in flight before the cut never ends, and what was open is closed.
            Power::Dead => region.lose_power(false),
            Power::Failing => region.lose_power(true),
            Power::On | Power::Frozen | Power::Still => {
                self.left = journal::recover(&self.device.disk, &region, &self.host.journals)
            }
        }
        self.inflight = Some(region);
        Ok(())
    }

    /// Whether a queue that is about to start is the first of a device that was reset: nothing runs, all is set up to begin at
    /// the ring's start, and nothing is gone on with. QEMU's stop and cont is none, as it keeps the place in the ring.
    fn begins_anew(&self, index: u16) -> bool {
        let from_the_start = |wanted: &Wanted| wanted.base == 0 && !wanted.stopped_there;
        let kept = |vring: &Vring| !vring.wanted.stopped_there && vring.wanted.base != 0;
        !self.goes_on
            && self.vrings.iter().all(|vring| vring.worker.is_none() && !kept(vring))
            && self.vrings.get(usize::from(index)).is_some_and(|vring| from_the_start(&vring.wanted))
    }

    /// The driver has reset the device.
    fn device_was_reset(&mut self) {
        self.goes_on = false;
        if let Some(region) = &self.inflight {
            region.power_is_back();
        }
        self.device.reset();
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

    /// Where a queue's rings are in this memory, if it has addresses.
    fn ring_setup(&self, index: u16, memory: &MemoryTable) -> Result<Option<RingSetup>, ProtocolError> {
        let Some(vring) = self.vrings.get(usize::from(index)) else { return Ok(None) };
        let Some(addresses) = vring.wanted.addresses else { return Ok(None) };
        let translate = |user| {
            let index = u32::from(index);
            memory.translate(user).ok_or(ProtocolError::RingAddress { index })
        };
        Ok(Some(RingSetup {
            size: vring.wanted.size.unwrap_or(self.max_size),
            descriptors: translate(addresses.descriptors)?,
            available: translate(addresses.available)?,
            used: translate(addresses.used)?,
            next_available: vring.wanted.base,
            event_idx: self.accepted.event_idx(),
        }))
    }

    /// Starts a queue if all it needs is there and it is not running. Returns whether it has.
    fn start_if_ready(&mut self, index: u16) -> Result<bool, ProtocolError> {
        let enabled_by_itself = !self.accepted.protocol_features();
        let Some(vring) = self.vrings.get(usize::from(index)) else { return Ok(false) };
        let (Some(kick), None) = (vring.wanted.kick.clone(), &vring.worker) else { return Ok(false) };
        if !vring.wanted.enabled && !enabled_by_itself {
            return Ok(false);
        }
        let (call, error) = (vring.wanted.call.clone(), vring.wanted.error.clone());
        let Some(ring) = self.ring_setup(index, &self.memory)? else { return Ok(false) };
        self.complain_once();
        if self.begins_anew(index) {
            self.device_was_reset();
        }
        let mem = Arc::clone(self.memory.memory());
        let region = self.inflight.clone().filter(|region| index < region.queues());
        let mut nothing = LeftBehind::none(&self.device.disk);
        let left = self.left.get_mut(usize::from(index)).unwrap_or(&mut nothing);
        let setup = QueueSetup { queue: index, region, ring, mem, kick, call, error };
        let worker = WorkerHandle::start(&self.host, setup, left)
            .map_err(|source| ProtocolError::Worker { index: index.into(), source })?;
        log::debug!("queue {index} runs: {ring:x?}");
        self.has_run = true;
        if let Some(vring) = self.vrings.get_mut(usize::from(index)) {
            vring.worker = Some(worker);
        }
        Ok(true)
    }

    /// Stops a queue if it is running.
    fn stop(&mut self, index: u16) {
        let Some(vring) = self.vrings.get_mut(usize::from(index)) else { return };
        let Some(worker) = vring.worker.take() else { return };
        match worker.stop() {
            Ok(next) => (vring.wanted.base, vring.wanted.stopped_there) = (next, true),
            Err(error) => log::error!("queue {index} did not stop well: {error}"),
        }
        log::debug!("queue {index} is stopped at available index {}", vring.wanted.base);
    }

    /// Changes what is wanted of a queue, and starts it if that was what it needed. If it cannot run, nothing is
    /// changed.
    fn change(&mut self, index: u32, change: impl FnOnce(&mut Wanted)) -> Result<(), ProtocolError> {
        let vring = self.vring(index)?;
        let before = vring.wanted.clone();
        change(&mut vring.wanted);
        match self.start_if_ready(index as u16) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.vring(index)?.wanted = before;
                Err(error)
            }
        }
    }

    /// Says, once a connection, why a driver that does not know zones gets nothing but errors.
    fn complain_once(&mut self) {
        let known = self.device.zoned() || std::mem::replace(&mut self.complained, true);
        if known || !self.device.lines.unzoned.allow() {
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

    /// Takes a new memory table into use, in the running queues too, if their rings lie in it.
    fn replace_memory(&mut self, memory: MemoryTable) -> Result<(), ProtocolError> {
        let mut rings = Vec::new();
        for (index, vring) in (0..MAX_QUEUES).zip(&self.vrings) {
            if vring.worker.is_none() {
                continue;
            }
            let ring = self.ring_setup(index, &memory).ok().flatten();
            let ring = ring.filter(|ring| Ring::check(ring, memory.memory()).is_ok());
            rings.push((index, ring.ok_or(ProtocolError::RingMemory { index: index.into() })?));
        }
        self.memory = memory;
        for (index, ring) in rings {
            if let Some(worker) = self.vrings.get(usize::from(index)).and_then(|vring| vring.worker.as_ref()) {
                worker.set_memory(Arc::clone(self.memory.memory()), ring);
            }
        }
        Ok(())
    }

    fn accept_features(&mut self, bits: u64) -> Result<(), ProtocolError> {
        let offered = self.offered.bits();
        let accepted = self.offered.accept(bits).ok_or(ProtocolError::Features { asked: bits, offered })?;
        let before = (self.accepted, self.config.clone());
        self.accepted = accepted;
        if accepted.config_wce() && !accepted.flush() {
            // virtio 1.3, 5.2.5.2: without flushes the cache mode has to begin as write-through.
            self.config.set_writeback(false);
        }
        self.device.set_mode(accepted, self.config.writeback());
        let mut started = Vec::new();
        for index in 0..MAX_QUEUES {
            match self.start_if_ready(index) {
                Ok(true) => started.push(index),
                Ok(false) => {}
                Err(error) => {
                    started.into_iter().for_each(|index| self.stop(index));
                    (self.accepted, self.config) = before;
                    self.device.set_mode(self.accepted, self.config.writeback());
                    return Err(error);
                }
            }
        }
        if accepted.zoned() {
            self.complained = false;
        }
        if self.device.lines.visits.allow() {
            log::info!("the frontend has accepted features {bits:#x}: {accepted}");
        }
        Ok(())
    }

    fn accept_protocol_features(&mut self, asked: u64) -> Result<(), ProtocolError> {
        let offered = offered_protocol_features();
        let known = VhostUserProtocolFeatures::from_bits(asked).filter(|asked| offered.contains(*asked));
        self.protocol = known.ok_or(ProtocolError::ProtocolFeatures { asked, offered: offered.bits() })?;
        Ok(())
    }

    fn set_size(&mut self, index: u32, size: u32) -> Result<(), ProtocolError> {
        let most = self.max_size;
        let fits = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= most);
        let size = fits.ok_or(ProtocolError::QueueSize { index, size, most })?;
        self.stopped_vring(index, "the size")?.wanted.size = Some(size);
        Ok(())
    }

    fn teller(index: u32, what: &'static str, file: Option<File>) -> Result<Option<Arc<Notifier>>, ProtocolError> {
        let taken = file.map(Notifier::to_tell).transpose();
        Ok(taken.map_err(|kind| ProtocolError::Event { index, what, kind })?.map(Arc::new))
    }

    fn set_kick(&mut self, index: u32, file: Option<File>) -> Result<(), ProtocolError> {
        self.vring(index)?;
        let kick = file.ok_or(ProtocolError::NoKick { index })?;
        let kick = Notifier::to_listen(kick).map_err(|kind| ProtocolError::Event { index, what: "kick", kind })?;
        let kick = Arc::new(kick);
        let vring = self.vring(index)?;
        if let Some(worker) = &vring.worker {
            log::debug!("queue {index} gets another kick descriptor while it runs");
            worker.set_kick(Arc::clone(&kick));
            vring.wanted.kick = Some(kick);
            return Ok(());
        }
        self.change(index, |wanted| wanted.kick = Some(kick))
    }

    fn set_call(&mut self, index: u32, file: Option<File>) -> Result<(), ProtocolError> {
        let vring = self.vring(index)?;
        vring.wanted.call = Self::teller(index, "call", file)?;
        if let Some(worker) = &mut vring.worker {
            log::debug!("queue {index} gets another call descriptor while it runs");
            worker.set_call(vring.wanted.call.clone());
        }
        Ok(())
    }

    fn set_error(&mut self, index: u32, file: Option<File>) -> Result<(), ProtocolError> {
        let vring = self.vring(index)?;
        vring.wanted.error = Self::teller(index, "error", file)?;
        if let Some(worker) = &mut vring.worker {
            worker.set_error(vring.wanted.error.clone());
        }
        Ok(())
    }

    fn set_addresses(&mut self, index: u32, addresses: UserAddresses) -> Result<(), ProtocolError> {
        let known = [addresses.descriptors, addresses.used, addresses.available];
        if known.iter().any(|user| self.memory.translate(*user).is_none()) {
            return Err(ProtocolError::RingAddress { index });
        }
        let vring = self.vring(index)?;
        if vring.worker.is_some() && vring.wanted.addresses != Some(addresses) {
            return Err(ProtocolError::Running { index, what: "the ring addresses" });
        }
        self.change(index, |wanted| wanted.addresses = Some(addresses))
    }

    fn enable(&mut self, index: u32, on: bool) -> Result<(), ProtocolError> {
        self.vring(index)?;
        if !self.accepted.protocol_features() {
            return Err(ProtocolError::NotByMessage { index });
        }
        if !on {
            self.stop(index as u16);
        }
        self.change(index, |wanted| wanted.enabled = on)
    }

    /// Stops a queue and says where it goes on. The next kick descriptor starts it again.
    fn give_base(&mut self, index: u32) -> Result<Reply, ProtocolError> {
        self.vring(index).map_err(|_| ProtocolError::NoBase { index })?;
        self.stop(index as u16);
        let wanted = &mut self.vring(index)?.wanted;
        wanted.kick = None;
        Ok(Reply::Payload([index, wanted.base.into()].map(u32::to_ne_bytes).concat()))
    }

    /// A part of the configuration space, or, of one that it does not have, no bytes.
    fn read_config(&self, offset: u32, size: u32, flags: u32) -> Reply {
        let mut bytes = self.config.read(offset as usize, size as usize);
        if bytes.len() != size as usize {
            bytes.clear();
        }
        let header = [offset, bytes.len() as u32, flags].map(u32::to_ne_bytes);
        Reply::Payload([header.as_flattened(), &bytes].concat())
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
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
    }

    fn reset(&mut self) {
        if let Some(region) = &self.inflight {
            region.power_is_back();
        }
        self.stop_all();
        self.device_was_reset();
        for Vring { wanted, .. } in &mut self.vrings {
            // Frontends set these two up before the first reset and not again after it.
            *wanted = Wanted { call: wanted.call.take(), error: wanted.error.take(), ..Wanted::default() };
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
