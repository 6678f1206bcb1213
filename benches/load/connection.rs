//! A vhost-user connection up to running queues, in the order QEMU's frontends negotiate it. Everything that a backend
//! does not offer is left out, so that plain block backends can be driven too.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures as Protocol,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::memory::GuestMemory;
use crate::ring::Ring;
use crate::slot::{Layout, SECTOR, Slot};

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const INDIRECT: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
const ZONED: u64 = 1 << blk::VIRTIO_BLK_F_ZONED;
const MQ: u64 = 1 << blk::VIRTIO_BLK_F_MQ;
const FLUSH: u64 = 1 << blk::VIRTIO_BLK_F_FLUSH;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const DRIVER_FEATURES: u64 = EVENT_IDX
    | INDIRECT
    | ZONED
    | MQ
    | FLUSH
    | PROTOCOL_FEATURES
    | VERSION_1
    | 1 << blk::VIRTIO_BLK_F_SEG_MAX
    | 1 << blk::VIRTIO_BLK_F_BLK_SIZE
    | 1 << blk::VIRTIO_BLK_F_TOPOLOGY;

/// The configuration's length as every block backend has it, and with the zoned fields.
const PLAIN_CONFIG: u32 = 60;
const ZONED_CONFIG: u32 = 96;
const MODEL_HOST_MANAGED: u8 = 1;

const PATIENCE: Duration = Duration::from_secs(10);

/// What the frontend asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) queues: u16,
    pub(crate) ring: u16,
    /// Requests in flight on each queue.
    pub(crate) slots: u16,
    pub(crate) indirect: bool,
    pub(crate) event_idx: bool,
    /// Whether the backend shall note requests in flight in shared memory, as QEMU's vhost-user-blk has it do.
    pub(crate) inflight: bool,
    /// Most bytes in a descriptor of data.
    pub(crate) segment: u32,
    /// Most bytes of data in a request.
    pub(crate) data: u32,
}

/// The zoned part of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zoned {
    pub(crate) zone_sectors: u64,
    pub(crate) max_append: u64,
}

/// The disk as its configuration shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) bytes: u64,
    pub(crate) zoned: Option<Zoned>,
    pub(crate) flush: bool,
}

/// One queue and the requests that fit into it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) number: u16,
    pub(crate) ring: Ring,
    pub(crate) slots: Vec<Slot>,
    /// For each first descriptor, the slot that owns it.
    pub(crate) slot_of_head: Vec<u16>,
}

/// A backend with running queues. The queues end with the connection.
pub(crate) struct Connection {
    _frontend: Frontend,
    /// The same socket once more, to see the backend hang up.
    pub(crate) socket: UnixStream,
    _inflight: Option<File>,
    _memory: GuestMemory,
    pub(crate) disk: Disk,
    pub(crate) lanes: Vec<Lane>,
}

impl Connection {
    pub(crate) fn open(path: &Path, wishes: &Wishes) -> Result<Self> {
        let socket = connect(path)?;
        let stream = socket.try_clone().context("the socket")?;
        let mut frontend = Frontend::from_stream(stream, u64::from(wishes.queues));
        let (features, protocol) = negotiate(&mut frontend, wishes).context("negotiation")?;
        let disk = read_config(&mut frontend, features).context("the configuration")?;
        let indirect = features & INDIRECT != 0;
        let layout = Layout { indirect, segment: wishes.segment.min(wishes.data), data: wishes.data };
        let per_request = if indirect { 1 } else { layout.chain() };
        let needed = u32::from(per_request) * u32::from(wishes.slots);
        ensure!(needed <= u32::from(wishes.ring), "a ring of {} has no room for {needed} descriptors", wishes.ring);
        let per_lane = u64::from(wishes.slots) * layout.slot_memory() + u64::from(wishes.ring) * 32 + 3 * 4096;
        let mut memory = GuestMemory::new((per_lane * u64::from(wishes.queues)).next_multiple_of(2 << 20))?;
        let lanes: Vec<Lane> = (0..wishes.queues)
            .map(|number| Lane::new(&mut memory, number, wishes, layout, features & EVENT_IDX != 0))
            .collect::<Result<_>>()?;
        frontend.set_features(features).context("SET_FEATURES")?;
        let inflight = share_inflight(&mut frontend, protocol, wishes).context("in-flight region")?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: memory.guest_address(),
            memory_size: memory.size(),
            userspace_addr: memory.user_address(),
            mmap_offset: 0,
            mmap_handle: memory.fd(),
        };
        frontend.set_mem_table(&[region]).context("SET_MEM_TABLE")?;
        for lane in &lanes {
            start(&mut frontend, lane, features).with_context(|| format!("starting queue {}", lane.number))?;
        }
        Ok(Self { _frontend: frontend, socket, _inflight: inflight, _memory: memory, disk, lanes })
    }
}

/// Connects; waits a little for a backend that is just being started.
fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("connecting to {}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn negotiate(frontend: &mut Frontend, wishes: &Wishes) -> Result<(u64, Protocol)> {
    let offered = frontend.get_features().context("GET_FEATURES")?;
    let mut unwanted = 0;
    unwanted |= if wishes.indirect { 0 } else { INDIRECT };
    unwanted |= if wishes.event_idx { 0 } else { EVENT_IDX };
    unwanted |= if wishes.queues > 1 { 0 } else { MQ };
    let features = offered & DRIVER_FEATURES & !unwanted;
    ensure!(features & VERSION_1 != 0, "the backend has no virtio 1");
    ensure!(features & PROTOCOL_FEATURES != 0, "the backend has no protocol features");
    frontend.set_owner().context("SET_OWNER")?;
    let offered = frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
    let mut wanted = Protocol::MQ | Protocol::REPLY_ACK | Protocol::CONFIG;
    wanted.set(Protocol::INFLIGHT_SHMFD, wishes.inflight);
    let protocol = offered & wanted;
    ensure!(protocol.contains(Protocol::CONFIG), "the backend has no configuration space");
    frontend.set_protocol_features(protocol).context("SET_PROTOCOL_FEATURES")?;
    if protocol.contains(Protocol::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    if wishes.queues > 1 {
        ensure!(protocol.contains(Protocol::MQ), "the backend has one queue");
        let most = frontend.get_queue_num().context("GET_QUEUE_NUM")?;
        ensure!(u64::from(wishes.queues) <= most, "the backend has {most} queues");
    }
    Ok((features, protocol))
}

fn read_config(frontend: &mut Frontend, features: u64) -> Result<Disk> {
    let zoned = features & ZONED != 0;
    let len = if zoned { ZONED_CONFIG } else { PLAIN_CONFIG };
    let (_, config) = frontend.get_config(0, len, VhostUserConfigFlags::empty(), &vec![0; len as usize])?;
    let field = |at: usize, len: usize| config[at..at + len].iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    if zoned && config[92] != MODEL_HOST_MANAGED {
        bail!("the disk's zoned model is {}, not host-managed", config[92]);
    }
    let zoned = zoned.then(|| Zoned { zone_sectors: field(72, 4), max_append: field(84, 4) * SECTOR });
    Ok(Disk { bytes: field(0, 8) * SECTOR, zoned, flush: features & FLUSH != 0 })
}

fn share_inflight(frontend: &mut Frontend, protocol: Protocol, wishes: &Wishes) -> Result<Option<File>> {
    if !protocol.contains(Protocol::INFLIGHT_SHMFD) {
        return Ok(None);
    }
    let (region, file) = frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, wishes.queues, wishes.ring))?;
    frontend.set_inflight_fd(&region, file.as_raw_fd())?;
    Ok(Some(file))
}

fn start(frontend: &mut Frontend, lane: &Lane, features: u64) -> Result<()> {
    let (at, ring) = (usize::from(lane.number), &lane.ring);
    frontend.set_vring_num(at, ring.size)?;
    frontend.set_vring_base(at, 0)?;
    let addresses = VringConfigData {
        queue_max_size: ring.size,
        queue_size: ring.size,
        flags: 0,
        desc_table_addr: ring.descriptors.here as u64,
        used_ring_addr: ring.used.here as u64,
        avail_ring_addr: ring.avail.here as u64,
        log_addr: None,
    };
    frontend.set_vring_addr(at, &addresses)?;
    frontend.set_vring_call(at, &ring.call)?;
    frontend.set_vring_kick(at, &ring.kick)?;
    if features & PROTOCOL_FEATURES != 0 {
        frontend.set_vring_enable(at, true)?;
    }
    Ok(())
}

impl Lane {
    fn new(memory: &mut GuestMemory, number: u16, wishes: &Wishes, layout: Layout, event_idx: bool) -> Result<Self> {
        let ring = Ring::new(memory, wishes.ring, event_idx)?;
        let slots: Vec<Slot> = (0..wishes.slots).map(|at| Slot::new(memory, at, layout)).collect::<Result<_>>()?;
        let mut slot_of_head = vec![u16::MAX; usize::from(wishes.ring)];
        for (at, slot) in slots.iter().enumerate() {
            slot_of_head[usize::from(slot.head)] = at as u16;
        }
        Ok(Self { number, ring, slots, slot_of_head })
    }
}
