//! The point of the three seams: a power is a small layer over one of them. A data path that fails every nth write, a medium
//! that counts, a device that notes each request, all three under the requests of one queue.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vhost_user_zbd::device::requests::Requests;
use vhost_user_zbd::device::router::Bell;
use vhost_user_zbd::device::{Device, Identity};
use vhost_user_zbd::io::{self as data, AioMode, Completion, DataFiles, DataPath, Files, Transfer};
use vhost_user_zbd::qcow2::{self, ByteOrder, CreateOptions};
use vhost_user_zbd::storage::{self, Medium as _, memory::MemoryMedium};
use vhost_user_zbd::store::device as disk;
use vhost_user_zbd::store::{Batch, Op, OpenOptions, Segment, Step, Tag, ZonedDevice, ZonedStore};
use vhost_user_zbd::units::{Bytes, FileOffset};
use vhost_user_zbd::virtio::features::Features;
use vhost_user_zbd::virtio::memory::Memory;
use vhost_user_zbd::zone::GeometryRequest;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

/// A data path that fails every nth write.
struct FailsEvery<P> {
    below: P,
    nth: u64,
    writes: u64,
    failed: Vec<Completion>,
}

impl<P: DataPath> DataPath for FailsEvery<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        self.writes += u64::from(transfer.write);
        if transfer.write && self.writes.is_multiple_of(self.nth) {
            return self.failed.push(Completion { token: transfer.token, result: -libc::EIO });
        }
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(transfer) }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.failed);
        self.below.poll(done)
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

/// A medium that counts what is written.
#[derive(Default)]
struct Counts {
    below: MemoryMedium,
    writes: AtomicU64,
}

impl storage::Layer for Counts {
    type Below = MemoryMedium;

    fn below(&self) -> &MemoryMedium {
        &self.below
    }

    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.below.write_at(offset, buf)
    }
}

/// A device that notes each request.
struct Notes<D> {
    below: D,
    noted: Mutex<Vec<Op>>,
}

impl<D: ZonedDevice> disk::Layer for Notes<D> {
    fn below(&self) -> &dyn ZonedDevice {
        &self.below
    }

    fn begin(&self, tag: Tag, op: Op, segments: &mut Vec<Segment>, batch: &mut Batch) -> Step {
        self.noted.lock().unwrap().push(op);
        self.below.begin(tag, op, segments, batch)
    }
}

struct Silent;

impl Bell for Silent {
    fn ring(&self) {}
}

const ZONE: u64 = 64 << 10;
const BLOCK: u64 = 4096;

fn store(medium: &Arc<storage::Layered<Counts>>) -> ZonedStore<storage::Layered<Counts>> {
    let geometry = GeometryRequest {
        size: Bytes(8 * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE),
        conventional_zones: 0,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(BLOCK),
    };
    let options = CreateOptions { geometry, cluster_size: Bytes(4096), table_order: ByteOrder::Big };
    qcow2::create(&**medium, &options).unwrap();
    ZonedStore::open(
        Arc::clone(medium),
        OpenOptions { read_only: false, write_granularity: Bytes(512), hold_resets: false },
    )
    .unwrap()
}

/// Makes a write of a block at the start of a zone available, as the nth request of the ring.
fn ask(mem: &Memory, nth: u16, zone: u64) {
    let at = GuestAddress(0x4000 + 32 * u64::from(nth));
    mem.write_obj([1u64, zone * ZONE / 512], at).unwrap();
    let chain = [(at.0, 16, 1), (0x8000, BLOCK as u32, 1), (at.0 + 16, 1, 2)];
    for (index, (addr, len, flags)) in (3 * nth..).zip(chain) {
        let descriptor = Descriptor::new(addr, len, flags, index + 1);
        mem.write_obj(descriptor, GuestAddress(0x1000 + 16 * u64::from(index))).unwrap();
    }
    mem.write_obj(3 * nth, GuestAddress(0x2004 + 2 * u64::from(nth))).unwrap();
    mem.write_obj(nth + 1, GuestAddress(0x2002)).unwrap();
}

#[test]
fn a_layer_of_each_seam_sees_and_changes_what_passes() {
    let medium = Arc::new(storage::Layered(Counts::default()));
    let noting = Arc::new(disk::Layered(Notes { below: store(&medium), noted: Mutex::default() }));
    let before = medium.0.writes.load(Ordering::Relaxed);
    let identity = Identity { serial: [0; 20], max_append: Bytes(BLOCK), block: Bytes(512), write_through: false };
    let device = Arc::new(Device::new(Arc::clone(&noting) as _, identity, vec![Arc::new(Silent)], None));
    device.set_mode(Features::offered(false), true);
    let (file, mut batch) = (tempfile::tempfile().unwrap(), Batch::default());
    let files = |file: &File| DataFiles::new(file.try_clone().unwrap(), file.try_clone().unwrap());
    let below = data::open(AioMode::Sync, Arc::new(Files::new(files(&file))), 64, data::Bare).unwrap();
    let path = Box::new(FailsEvery { below, nth: 3, writes: 0, failed: Vec::new() });
    let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let mem = Arc::new(Memory::new(guest, Vec::new()));
    let mut requests = Requests::new(path, Arc::clone(&device), 0, Arc::clone(&mem), 64);
    let mut ring = Queue::new(64).unwrap();
    ring.set_desc_table_address(Some(0x1000), None);
    ring.set_avail_ring_address(Some(0x2000), None);
    ring.set_used_ring_address(Some(0x3000), None);
    ring.set_ready(true);
    (0..6).for_each(|nth| ask(&mem, nth, nth.into()));
    let chains: Vec<_> = ring.iter(&*mem).unwrap().collect();
    chains.into_iter().for_each(|chain| assert!(requests.take(chain, &mut None, |_| {})));
    let mut answered = Vec::new();
    while answered.len() < 6 {
        requests.settle();
        noting.housekeep(&mut batch);
        device.router.deliver(batch.events.drain(..));
        requests.read_mail();
        requests.settle();
        requests.collect().unwrap();
        requests.settle();
        requests.give_back(|head, _| answered.push(head / 3));
    }
    let status = |nth: u64| mem.read_obj::<u8>(GuestAddress(0x4010 + 32 * nth)).unwrap();
    assert_eq!((0..6).map(status).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 1], "every third has failed");
    let write = |zone: u64| Op::Write { start: Bytes(zone * ZONE).to_sector(), len: Bytes(BLOCK) };
    assert_eq!(*noting.0.noted.lock().unwrap(), (0..6).map(write).collect::<Vec<_>>());
    assert!(medium.0.writes.load(Ordering::Relaxed) >= before + 4, "four pointers, at least");
    assert_eq!(medium.len().unwrap(), medium.0.below.len().unwrap());
}
