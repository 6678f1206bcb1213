//! Who waits for whom. The rounds of the queues, the turns of the housekeeper and the end of a sync come when the test
//! says, so that what is answered without them has not waited for them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;

use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_bindings::bindings::virtio_blk as wire;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::device::Identity;
use crate::device::router::{Bell, Rung};
use crate::io::{self as data, AioMode, Completion, DataFiles, Files, Transfer};
use crate::qcow2::{self, Access, ByteOrder, CreateOptions, Image};
use crate::storage::memory::MemoryMedium;
use crate::store::{Batch, OpenOptions, ZonedStore};
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::features::Features;
use crate::zone::GeometryRequest;

const ZONE: u64 = 64 << 10;
const ZONES: u32 = 16 << 10;
/// The length of every read and write.
const BLOCK: u64 = 4096;

/// Requests in flight on one queue, at most.
const PLACES: usize = 80;
const RING: u16 = 256;
/// Guest memory of one queue, and what lies where in it.
const MEMORY: u64 = 1 << 20;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADERS: u64 = 0x10000;
const DATA: u64 = 0x20000;

const READ: u32 = wire::VIRTIO_BLK_T_IN;
const WRITE: u32 = wire::VIRTIO_BLK_T_OUT;
const FLUSH: u32 = wire::VIRTIO_BLK_T_FLUSH;
const GET_ID: u32 = wire::VIRTIO_BLK_T_GET_ID;
const RESET: u32 = wire::VIRTIO_BLK_T_ZONE_RESET;
const RESET_ALL: u32 = wire::VIRTIO_BLK_T_ZONE_RESET_ALL;

/// A data path whose syncs end when the test says. Transfers are done at once.
struct HeldSyncs {
    below: Box<dyn DataPath>,
    syncs: Vec<u64>,
}

impl DataPath for HeldSyncs {
    unsafe fn submit(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(transfer) };
    }

    fn sync(&mut self, token: u64) {
        self.syncs.push(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.below.poll(done)
    }

    fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        None
    }
}

/// A queue with its driver. Requests are known by their number, from 0.
struct Driven {
    queue: Queue<HeldSyncs>,
    rung: Arc<Rung>,
    base: u64,
    asked: usize,
    seen: u16,
    /// The request in each place.
    places: [usize; PLACES],
}

/// A device with two queues. The first zone is conventional.
struct Rig {
    device: Arc<Device>,
    queues: [Driven; 2],
    batch: Batch,
}

fn block(zone: u64, number: u64) -> u64 {
    (zone * ZONE + number * BLOCK) / 512
}

/// An image whose sequential zones from `first` on have a block each, as their pointers say.
fn image(first: u32) -> Arc<MemoryMedium> {
    let geometry = GeometryRequest {
        size: Bytes(u64::from(ZONES) * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE),
        conventional_zones: 1,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(BLOCK),
    };
    let image = Arc::new(MemoryMedium::default());
    let options = CreateOptions { geometry, cluster_size: Bytes(4096), table_order: ByteOrder::Big };
    qcow2::create(&*image, &options).unwrap();
    let table = Image::open(Arc::clone(&image), Access::ReadWrite).unwrap().pointer_table();
    (first..ZONES).for_each(|zone| table.store(ZoneIndex(zone), Bytes(u64::from(zone) * ZONE + BLOCK)).unwrap());
    image
}

impl Driven {
    fn new(device: &Arc<Device>, files: &Arc<Files>, mem: &Arc<Memory>, number: u16, rung: &Arc<Rung>) -> Self {
        let base = u64::from(number) * MEMORY;
        let setup = RingSetup {
            size: RING,
            descriptors: GuestAddress(base),
            available: GuestAddress(base + AVAILABLE),
            used: GuestAddress(base + USED),
            next_available: 0,
            event_idx: false,
        };
        let ring = Ring::new(&setup, mem, None).unwrap();
        let below = data::open(AioMode::Sync, Arc::clone(files), RING, data::Bare).unwrap();
        let path = Box::new(HeldSyncs { below, syncs: Vec::new() });
        let queue = Queue::new(path, device, number, Arc::clone(mem), ring);
        Self { queue, rung: Arc::clone(rung), base, asked: 0, seen: 0, places: [0; PLACES] }
    }

    /// Goes round once; false when there was nothing to do.
    fn round(&mut self) -> bool {
        self.queue.round(self.rung.take()).unwrap().worked
    }

    /// Makes a request available; returns its number.
    fn ask(&mut self, kind: u32, sector: u64) -> usize {
        let (number, place) = (self.asked, self.asked % PLACES);
        let mem = Arc::clone(self.queue.parts().1);
        let header = self.base + HEADERS + 32 * place as u64;
        mem.write_obj([u64::from(kind), sector], GuestAddress(header)).unwrap();
        mem.write_obj(0xee_u8, GuestAddress(header + 16)).unwrap();
        let (data, len, flags) = match kind {
            READ => (true, BLOCK, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE),
            WRITE => (true, BLOCK, VRING_DESC_F_NEXT),
            GET_ID => (true, 20, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE),
            _ => (false, 0, 0),
        };
        let head = 3 * place as u16;
        let put = |index: u16, addr: u64, len: u64, flags: u32, next: u16| {
            let descriptor = Descriptor::new(addr, len as u32, flags as u16, next);
            mem.write_obj(descriptor, GuestAddress(self.base + 16 * u64::from(index))).unwrap();
        };
        put(head, header, 16, VRING_DESC_F_NEXT, if data { head + 1 } else { head + 2 });
        put(head + 1, self.base + DATA + BLOCK * place as u64, len, flags, head + 2);
        put(head + 2, header + 16, 1, VRING_DESC_F_WRITE, 0);
        let available = self.base + AVAILABLE;
        let index = number as u16;
        mem.write_obj(head, GuestAddress(available + 4 + 2 * u64::from(index % RING))).unwrap();
        mem.write_obj(index.wrapping_add(1), GuestAddress(available + 2)).unwrap();
        self.places[place] = number;
        self.asked += 1;
        number
    }

    /// The requests answered since the last time, in order. All must have succeeded.
    fn answered(&mut self) -> Vec<usize> {
        let (mem, used) = (Arc::clone(self.queue.parts().1), self.base + USED);
        let end: u16 = mem.read_obj(GuestAddress(used + 2)).unwrap();
        let mut answered = Vec::new();
        while self.seen != end {
            let at = used + 4 + 8 * u64::from(self.seen % RING);
            let place = mem.read_obj::<u32>(GuestAddress(at)).unwrap() as usize / 3;
            let status: u8 = mem.read_obj(GuestAddress(self.base + HEADERS + 32 * place as u64 + 16)).unwrap();
            assert_eq!(status, 0, "request {}", self.places[place]);
            answered.push(self.places[place]);
            self.seen = self.seen.wrapping_add(1);
        }
        answered
    }

    fn in_flight(&self) -> usize {
        self.asked - usize::from(self.seen)
    }

    /// Goes round until there is nothing to do but wait; returns what was answered, by its number.
    fn go_on(&mut self) -> Vec<usize> {
        while self.round() {}
        let mut answered = self.answered();
        answered.sort_unstable();
        answered
    }

    /// Lets its syncs end.
    fn release(&mut self) {
        let path = self.queue.parts().0;
        path.syncs.drain(..).for_each(|token| path.below.sync(token));
    }
}

impl Rig {
    fn new(image: Arc<MemoryMedium>) -> Self {
        let store = ZonedStore::open(
            image,
            OpenOptions { read_only: false, write_granularity: Bytes(512), hold_resets: false },
        )
        .unwrap();
        let identity = Identity {
            serial: *b"twenty bytes of name",
            max_append: Bytes(BLOCK),
            block: Bytes(512),
            write_through: false,
        };
        let rung = [(); 2].map(|()| Arc::new(Rung::default()));
        let bells = rung.iter().map(|rung| Arc::clone(rung) as Arc<dyn Bell>).collect();
        let device = Arc::new(Device::new(Arc::new(store), identity, bells, None));
        device.set_mode(Features::offered(false), true);
        let file = File::from(memfd_create("queue-test", MFdFlags::MFD_CLOEXEC).unwrap());
        let files = Arc::new(Files::new(DataFiles::new(file.try_clone().unwrap(), file)));
        let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 * MEMORY as usize)]).unwrap();
        let mem = Arc::new(Memory::new(guest, Vec::new()));
        let queues = [0, 1].map(|queue| Driven::new(&device, &files, &mem, queue, &rung[usize::from(queue)]));
        Self { device, queues, batch: Batch::default() }
    }

    /// A disk without a written zone but those given, which have a block each and are mapped.
    fn written(zones: std::ops::Range<u64>) -> Self {
        let mut rig = Self::new(image(ZONES));
        zones.for_each(|zone| {
            rig.queues[0].ask(WRITE, block(zone, 0));
            rig.finish(0);
        });
        rig
    }

    /// Lets the housekeeper take one turn; false when it had nothing to do.
    fn housekeep(&mut self) -> bool {
        let device = &self.device;
        let busy = device.disk.housekeep(&mut self.batch);
        device.disk.commit(&mut self.batch);
        device.router.deliver(self.batch.events.drain(..));
        busy
    }

    /// Has all done that was asked on a queue and on the housekeeper; returns what was answered on the queue.
    fn finish(&mut self, queue: usize) -> Vec<usize> {
        let mut answered = self.queues[queue].go_on();
        while self.housekeep() {
            answered.extend(self.queues[queue].go_on());
        }
        answered.sort_unstable();
        assert_eq!(self.queues[queue].in_flight(), 0, "a request is stuck");
        answered
    }
}

#[test]
fn a_sync_under_way_holds_up_nothing_that_comes_after_it_on_any_queue() {
    let mut rig = Rig::written(1..3);
    let [first, second] = &mut rig.queues;
    let before = first.ask(WRITE, block(1, 1));
    let flush = first.ask(FLUSH, 0);
    let behind = [(WRITE, block(1, 2)), (READ, block(1, 0)), (READ, block(2, 0)), (READ, block(9, 0)), (GET_ID, 0)];
    let behind = behind.map(|(kind, sector)| first.ask(kind, sector));
    assert_eq!(first.go_on(), [[before].as_slice(), &behind].concat());
    // A flush that comes while one is under way waits for a sync of its own.
    let next = first.ask(FLUSH, 0);
    let beside = [(WRITE, block(2, 1)), (READ, block(1, 0)), (READ, block(1, 2)), (RESET, block(2, 0))];
    let beside = beside.map(|(kind, sector)| second.ask(kind, sector));
    assert_eq!((first.go_on(), second.go_on()), (vec![], beside.to_vec()));
    first.release();
    assert_eq!(first.go_on(), [flush]);
    first.release();
    assert_eq!(first.go_on(), [next]);
}

#[test]
fn a_reset_of_all_zones_lets_the_requests_behind_it_pass() {
    let mut rig = Rig::new(image(1));
    let first = &mut rig.queues[0];
    let reset = first.ask(RESET_ALL, 0);
    (1..PLACES).for_each(|_| {
        first.ask(GET_ID, 0);
    });
    while first.round() {}
    let answered = first.answered();
    assert_eq!((answered.len(), answered.last()), (PLACES, Some(&reset)));
}

#[test]
fn a_write_that_waits_for_its_space_holds_up_no_other_zone() {
    let mut rig = Rig::written(1..3);
    let [first, second] = &mut rig.queues;
    let waits = [first.ask(WRITE, block(5, 0)), first.ask(WRITE, block(0, 0)), first.ask(WRITE, block(5, 1))];
    let others = [(WRITE, block(1, 1)), (READ, block(1, 0)), (READ, block(5, 0)), (RESET, block(2, 0)), (FLUSH, 0)];
    let others = others.map(|(kind, sector)| first.ask(kind, sector));
    let beside = [(WRITE, block(1, 2)), (READ, block(1, 1))].map(|(kind, sector)| second.ask(kind, sector));
    let mut answered = first.go_on();
    assert_eq!(second.go_on(), beside);
    first.release();
    answered.extend(first.go_on());
    assert_eq!(answered, others);
    assert_eq!(rig.device.stats().in_flight, waits.len() as u64);
    assert_eq!(rig.finish(0), waits);
    assert_eq!(rig.device.stats().in_flight, 0);
}

#[test]
fn zones_that_are_cleared_hold_up_no_other_zone() {
    let mut rig = Rig::written(1..60);
    let resets: Vec<usize> = (2..60).map(|zone| rig.queues[0].ask(RESET, block(zone, 0))).collect();
    assert_eq!(rig.queues[0].go_on(), resets);
    // A step each: the pointers, the holes, and the sync of the holes.
    for step in 0..3 {
        let [first, second] = &mut rig.queues;
        let waits = first.ask(WRITE, block(2 + step, 0));
        let others = [(WRITE, block(1, 1 + 2 * step)), (READ, block(1, 0)), (READ, block(30, 0)), (GET_ID, 0)];
        let others = others.map(|(kind, sector)| first.ask(kind, sector));
        let beside = [(WRITE, block(1, 2 + 2 * step)), (READ, block(1, 0)), (READ, block(30, 0))];
        let beside = beside.map(|(kind, sector)| second.ask(kind, sector));
        assert_eq!((first.go_on(), second.go_on()), (others.to_vec(), beside.to_vec()), "{waits}, step {step}");
        assert!(rig.housekeep());
    }
    rig.finish(0);
}

#[test]
fn a_queue_that_has_zone_after_zone_cleared_does_not_keep_the_housekeeper_from_another() {
    let mut rig = Rig::written(1..60);
    let mut zones = 1..50;
    let waits = {
        let second = &mut rig.queues[1];
        second.ask(RESET, block(55, 0));
        second.ask(WRITE, block(55, 0))
    };
    let mut turns = 0;
    loop {
        let [first, second] = &mut rig.queues;
        let zone = zones.next().unwrap();
        first.ask(RESET, block(zone, 0));
        first.ask(WRITE, block(zone, 0));
        first.go_on();
        if second.go_on().contains(&waits) {
            break;
        }
        assert!(turns < 6, "zone 55 waits for those that came after it");
        rig.housekeep();
        turns += 1;
    }
    rig.finish(0);
}

#[test]
fn a_full_ring_is_taken_and_answered_in_parts() {
    let mut rig = Rig::written(1..2);
    let first = &mut rig.queues[0];
    (0..PLACES).for_each(|_| {
        first.ask(READ, block(1, 0));
    });
    for part in 0..PLACES / CHAINS_PER_ROUND {
        assert!(first.round());
        assert_eq!(first.answered().len(), CHAINS_PER_ROUND, "part {part}");
    }
}
