//! A device, its guest and what happens to them.

mod cut;

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserInflight;
use virtio_bindings::bindings::virtio_blk as wire;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::disk::SimDisk;
use super::driver::{Chain, Driver, MEMORY, MOST, PLACES, RING};
use super::guest::Asked;
use super::oracle::{BLOCK, Conventional, Zone, numbers};
use super::path::{SimPath, Weather};
use super::rng::Rng;
use super::seen::Seen;
use crate::device::recovery::LeftBehind;
use crate::device::router::{Bell, Rung};
use crate::device::{Device, Identity};
use crate::power::{Switch, VolatileCache};
use crate::qcow2::{self, Access, ByteOrder, CreateOptions, Image};
use crate::store::{Batch, OpenOptions, ZoneInfo, ZonedDevice, ZonedStore};
use crate::units::{Bytes, FileOffset, Sector};
use crate::vhost::inflight::{self, Inflight};
use crate::vhost::journal::{self, Journals};
use crate::vhost::queue::Queue;
use crate::vhost::ring::Ring;
use crate::virtio::features::Features;
use crate::virtio::memory::Memory;
use crate::zone::GeometryRequest;

pub(super) const ZONE: u64 = 64 << 10;
const CAPACITY: u64 = 48 << 10;
/// The first is conventional.
pub(super) const ZONES: u64 = 7;
pub(super) const ZONE_BLOCKS: usize = (ZONE / BLOCK) as usize;
const MAX_APPEND: u64 = 16 << 10;

/// A queue with its driver.
pub(super) struct Lane {
    pub(super) queue: Option<Queue<SimPath>>,
    pub(super) driver: Driver,
    pub(super) rung: Arc<Rung>,
    pub(super) kicked: bool,
    pub(super) asleep: bool,
    pub(super) asked: [Option<Asked>; PLACES],
}

/// The process: it can die.
pub(super) struct Process {
    pub(super) device: Arc<Device>,
    pub(super) store: Arc<ZonedStore<SimDisk>>,
    pub(super) work: Arc<Rung>,
    journals: Arc<Journals>,
}

/// A device, its guest, and a generator for what happens.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) weather: Rc<RefCell<Weather>>,
    pub(super) disk: Arc<SimDisk>,
    pub(super) process: Process,
    pub(super) lanes: Vec<Lane>,
    pub(super) mem: Arc<Memory>,
    pub(super) region: (VhostUserInflight, File),
    pub(super) zones: Vec<Zone>,
    pub(super) conventional: Conventional,
    pub(super) batch: Batch,
    /// Requests may fail by the disk's fault.
    pub(super) faulty: bool,
    pub(super) limited: bool,
    pub(super) write_through: bool,
    /// The disk has a volatile cache, whose power is cut on command.
    cached: bool,
    /// The guest has more to ask for.
    pub(super) issuing: bool,
    /// The last number of a block.
    pub(super) last: u64,
    pub(super) seen: Seen,
}

/// How a process is started.
#[derive(Clone, Copy)]
struct Started {
    write_through: bool,
    cached: bool,
    lanes: usize,
}

fn open(disk: &Arc<SimDisk>, started: Started) -> (Process, Vec<Arc<Rung>>, Arc<Journals>) {
    let Started { write_through, cached, lanes } = started;
    let options = OpenOptions { read_only: false, write_granularity: Bytes(BLOCK), hold_resets: cached };
    let store = Arc::new(ZonedStore::open(Arc::clone(disk), options).unwrap());
    store.set_allocator(Box::new(|_| {}));
    let rung: Vec<Arc<Rung>> = (0..lanes).map(|_| Arc::default()).collect();
    let bells = rung.iter().map(|rung| Arc::clone(rung) as Arc<dyn Bell>).collect();
    let identity = Identity {
        serial: *b"twenty bytes of name",
        max_append: Bytes(MAX_APPEND),
        block: Bytes(BLOCK),
        write_through,
    };
    let plain = Arc::clone(&store) as Arc<dyn ZonedDevice>;
    let device = Arc::new(match cached {
        false => Device::new(plain, identity, bells, None),
        true => {
            let cache = VolatileCache::new(plain, Arc::new(Switch::new(lanes)), Bytes(BLOCK), Bytes(20 * BLOCK));
            Device::cached(Arc::new(cache), identity, bells, None)
        }
    });
    if let Some(cache) = &device.cache {
        let device = Arc::downgrade(&device);
        cache.set_after_cut(Box::new(move |outcome| device.upgrade().unwrap().power_is_cut(outcome)));
    }
    let journals = Arc::new(Journals::new());
    device.disk.set_journal(Box::new(Arc::clone(&journals)));
    let work = Arc::new(Rung::default());
    let ring = Arc::clone(&work);
    device.disk.set_doorbell(Box::new(move || ring.ring()));
    device.set_mode(Features::offered(false), true);
    (Process { device, store, work, journals: Arc::clone(&journals) }, rung, journals)
}

fn memory(lanes: usize) -> Arc<Memory> {
    let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize * lanes)]).unwrap();
    Arc::new(Memory::new(guest, Vec::new()))
}

fn new_region(store: &ZonedStore<SimDisk>, lanes: usize) -> (VhostUserInflight, File) {
    let disk = inflight::disk(store.geometry(), 512);
    Inflight::create(&VhostUserInflight::new(0, 0, lanes as u16, RING), &disk, ZONES as u32).unwrap()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let limited = rng.below(3) == 0;
        let geometry = GeometryRequest {
            size: Bytes(ZONES * ZONE),
            zone_size: Bytes(ZONE),
            zone_capacity: Bytes(CAPACITY),
            conventional_zones: 1,
            max_open_zones: if limited { 2 } else { 0 },
            max_active_zones: if limited { 4 } else { 0 },
            max_append_bytes: Bytes(MAX_APPEND),
        };
        let disk = Arc::new(SimDisk::default());
        let cluster_size = Bytes(*rng.pick(&[512, 4096, 65536]));
        qcow2::create(&*disk, &CreateOptions { geometry, cluster_size, table_order: ByteOrder::Big }).unwrap();
        disk.settle();
        let lanes = 1 + rng.below(3) as usize;
        let (faulty, write_through) = (rng.below(4) == 0, rng.below(4) == 0);
        let weather = Weather {
            rng: Rng::new(seed ^ 0x5eed),
            failures: if faulty { 40 } else { 0 },
            failed_syncs: if faulty && rng.below(2) == 0 { 30 } else { 0 },
            sync_has_failed: false,
        };
        let cached = rng.below(2) == 0;
        let (process, rung, _) = open(&disk, Started { write_through, cached, lanes });
        let mem = memory(lanes);
        let event_idx = rng.below(2) == 0;
        let lane = |(number, rung): (usize, Arc<Rung>)| Lane {
            queue: None,
            driver: Driver::new(number as u16, event_idx, 65_500, &mem),
            rung,
            kicked: false,
            asleep: false,
            asked: [const { None }; PLACES],
        };
        let blocks = (CAPACITY / BLOCK) as usize;
        let region = new_region(&process.store, lanes);
        let mut world = Self {
            rng,
            weather: Rc::new(RefCell::new(weather)),
            lanes: rung.into_iter().enumerate().map(lane).collect(),
            mem,
            region,
            zones: (1..ZONES).map(|zone| Zone::new(zone * ZONE, blocks)).collect(),
            conventional: Conventional::new(&[0; ZONE_BLOCKS]),
            disk,
            process,
            batch: Batch::default(),
            faulty,
            limited,
            write_through,
            cached,
            issuing: true,
            last: 0,
            seen: Seen::default(),
        };
        world.start_process();
        world
    }

    /// Issues so many requests and lets happen what happens; then all has to come to its end.
    pub(super) fn run(mut self, requests: usize) -> Seen {
        while self.seen.requests < requests {
            self.step();
        }
        self.issuing = false;
        self.drain();
        self.read_all();
        self.close();
        self.seen
    }

    fn step(&mut self) {
        let lane = self.rng.below(self.lanes.len() as u64) as usize;
        match self.rng.below(1000) {
            0..4 if self.cached => self.cut_power(),
            0..400 => self.issue(lane),
            400..880 => self.go_on(lane),
            880..985 => self.housekeep(),
            985..990 => self.stop_and_start(lane),
            990..994 => self.move_memory(),
            994..998 => self.die(),
            _ => self.lose_power(),
        }
    }

    // The process.

    /// Takes the region over and starts all queues, after the process was started.
    fn start_process(&mut self) {
        let lanes = self.lanes.len();
        let started = Started { write_through: self.write_through, cached: self.cached, lanes };
        let (process, rung, journals) = open(&self.disk, started);
        let disk = Arc::clone(&process.device.disk);
        let region = self.open_region(&process.store);
        journals.attach(Some(&region));
        let left = journal::recover(&disk, &region, &journals);
        self.process = process;
        self.weather.borrow_mut().sync_has_failed = false;
        let mut order: Vec<usize> = (0..lanes).collect();
        if self.rng.below(2) == 0 {
            order.reverse();
        }
        let mut left: Vec<Option<LeftBehind>> = left.into_iter().map(Some).collect();
        for (number, rung) in rung.into_iter().enumerate() {
            self.lanes[number].rung = rung;
        }
        for number in order {
            let left = left[number].take().unwrap();
            self.start_queue(number, 0, left);
        }
    }

    fn open_region(&self, store: &ZonedStore<SimDisk>) -> Arc<Inflight> {
        let disk = inflight::disk(store.geometry(), 512);
        Inflight::open(&self.region.0, &self.region.1, &disk, ZONES as u32).unwrap()
    }

    fn start_queue(&mut self, number: usize, next_available: u16, left: LeftBehind) {
        let region = self.open_region(&self.process.store);
        let lane = &mut self.lanes[number];
        let setup = lane.driver.setup(next_available);
        let mut ring = Ring::new(&setup, &self.mem, Some((region, number as u16))).unwrap();
        ring.set_call(Some(lane.driver.call()));
        let path = Box::new(SimPath::new(&self.disk, &self.weather));
        let mut queue = Queue::new(path, &self.process.device, number as u16, Arc::clone(&self.mem), ring);
        queue.take_left_behind(left);
        (lane.queue, lane.asleep) = (Some(queue), false);
    }

    /// A queue goes round, if something wakes it.
    fn go_on(&mut self, number: usize) {
        let (over, late) = (self.rng.below(4) == 0, self.issuing && self.rng.below(4) == 0);
        let lane = &mut self.lanes[number];
        let Some(queue) = &mut lane.queue else { return };
        if lane.asleep {
            let completion = queue.descriptor().is_some() && over;
            if !lane.kicked && !lane.rung.is_rung() && !completion {
                return;
            }
            lane.asleep = false;
            lane.kicked = false;
            queue.silence();
        }
        let woken = lane.rung.take();
        if !queue.round(woken).unwrap().worked {
            if late {
                // Something comes before the queue asks for kicks.
                self.issue(number);
            }
            let lane = &mut self.lanes[number];
            if let Some(queue) = &mut lane.queue
                && !queue.listen()
                && !queue.collect().unwrap()
            {
                lane.asleep = true;
                self.seen.slept += 1;
            }
        }
        self.take_answers(number);
    }

    fn housekeep(&mut self) {
        self.process.work.take();
        let device = &self.process.device;
        if device.disk.housekeep(&mut self.batch) {
            self.process.work.ring();
        }
        device.disk.commit(&mut self.batch);
        device.router.deliver(self.batch.events.drain(..));
    }

    /// Lets all queues get quiet without taking anything more.
    fn quieten(&mut self, only: Option<usize>) {
        let chosen = |number: usize| only.is_none_or(|only| only == number);
        for (_, lane) in self.lanes.iter_mut().enumerate().filter(|(number, _)| chosen(*number)) {
            lane.queue.as_mut().unwrap().hold();
        }
        for turn in 0.. {
            let busy = |lane: &Lane| !lane.queue.as_ref().unwrap().is_quiet();
            if !self.lanes.iter().enumerate().any(|(number, lane)| chosen(number) && busy(lane)) {
                return;
            }
            assert!(turn < 100_000, "a queue that takes nothing does not get quiet");
            let number = self.rng.below(self.lanes.len() as u64) as usize;
            self.go_on(number);
            self.housekeep();
        }
    }

    /// GET_VRING_BASE, and a kick descriptor again.
    fn stop_and_start(&mut self, number: usize) {
        self.quieten(Some(number));
        let queue = self.lanes[number].queue.take().unwrap();
        let next = queue.next_available();
        drop(queue);
        let disk = Arc::clone(&self.process.device.disk);
        self.start_queue(number, next, LeftBehind::none(&disk));
        self.seen.stops += 1;
    }

    /// SET_MEM_TABLE: what was memory before is nobody's, and says so to whoever reads it.
    fn move_memory(&mut self) {
        self.quieten(None);
        let (old, new) = (Arc::clone(&self.mem), memory(self.lanes.len()));
        let mut bytes = vec![0; MEMORY as usize * self.lanes.len()];
        old.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        new.write_slice(&bytes, GuestAddress(0)).unwrap();
        old.write_slice(&vec![0xcc; bytes.len()], GuestAddress(0)).unwrap();
        for lane in &mut self.lanes {
            let queue = lane.queue.as_mut().unwrap();
            queue.move_to(Arc::clone(&new), &lane.driver.setup(0));
            queue.release();
            lane.asleep = false;
        }
        self.mem = new;
        self.seen.moves += 1;
    }

    /// SIGKILL, and the next process.
    fn die(&mut self) {
        for lane in &mut self.lanes {
            let mut queue = lane.queue.take().unwrap();
            queue.parts().0.die();
            (lane.asleep, lane.kicked) = (false, false);
            self.seen.resumed += lane.asked.iter().flatten().count();
        }
        self.start_process();
        self.seen.deaths += 1;
    }

    /// The power goes, of the host and so of the guest, which looks at its disk anew.
    fn lose_power(&mut self) {
        for lane in &mut self.lanes {
            lane.queue.take().unwrap().parts().0.die();
            lane.asked = [const { None }; PLACES];
        }
        let keep = self.rng.below(5);
        let rng = &mut self.rng;
        let disk = self.disk.crash_before(u64::MAX).keeping(|_, _| rng.below(4) < keep);
        self.disk = Arc::new(disk);
        self.disk.settle();
        self.new_drivers();
        self.start_process();
        self.check_after_power_loss(false);
        self.seen.power_losses += 1;
    }

    /// The guest begins anew.
    fn new_drivers(&mut self) {
        let event_idx = self.rng.below(2) == 0;
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            lane.driver = Driver::new(number as u16, event_idx, 3, &self.mem);
            (lane.asleep, lane.kicked) = (false, false);
        }
        self.region = new_region(&self.process.store, self.lanes.len());
    }

    /// Checks what is left and goes on from there. Where it was lost on `command`, nothing that is kept is zeros.
    fn check_after_power_loss(&mut self, command: bool) {
        let mut image = Image::open(Arc::clone(&self.disk), Access::ReadOnly).unwrap();
        assert_eq!(image.check().unwrap().errors, 0, "the image is not sound");
        let infos = self.infos();
        for (info, zone) in infos.iter().skip(1).zip(&mut self.zones) {
            let seen = blocks_in_file(&self.disk, &mut image, info);
            let before = zone.answered;
            let unsure = zone.doubtful || zone.in_flight != 0 && (self.faulty || self.limited);
            zone.after_power_loss(info.state, info.write_pointer, &seen, unsure, command);
            let lost = zone.answered.blocks < before.blocks;
            self.seen.data_lost += usize::from(lost);
        }
        let seen = blocks_in_file(&self.disk, &mut image, &infos[0]);
        let from: Vec<usize> = self.conventional.blocks.iter().map(|block| block.stable).collect();
        self.conventional.check(0, &from, &seen);
        self.conventional = Conventional::new(&seen);
        let active = infos.iter().filter(|info| info.state.is_active()).count();
        assert!(!self.limited || active <= 4, "{active} zones are active");
    }

    pub(super) fn infos(&self) -> Vec<ZoneInfo> {
        let mut infos = Vec::new();
        self.process.store.report(Sector(0), usize::MAX, &mut infos).unwrap();
        infos
    }

    // The end.

    /// Has all answered. Nothing but what wakes a queue goes on with it.
    fn drain(&mut self) {
        let mut still = 0;
        while self.lanes.iter().any(|lane| lane.asked.iter().any(Option::is_some)) {
            for number in 0..self.lanes.len() {
                self.go_on(number);
            }
            if self.process.work.is_rung() {
                self.housekeep();
            }
            still += 1;
            let stuck: Vec<_> = self.lanes.iter().flat_map(|lane| lane.asked.iter().flatten()).collect();
            assert!(still < 20_000, "nothing goes on with {stuck:?}");
        }
    }

    /// Reads all zones through the rings.
    fn read_all(&mut self) {
        for index in 0..self.zones.len() {
            for first in (0..ZONE_BLOCKS).step_by(MOST / BLOCK as usize) {
                let zone = &mut self.zones[index];
                zone.in_flight += 1;
                let answered = zone.answered_blocks();
                let asked = Asked::Read { zone: index, first, answered };
                let sector = zone.start / 512 + first as u64;
                let chain = Chain { kind: wire::VIRTIO_BLK_T_IN, sector, out: &[], room: MOST };
                let lane = &mut self.lanes[0];
                let place = lane.driver.free_place().unwrap();
                lane.kicked |= lane.driver.ask(&self.mem, place, &chain, &mut self.rng);
                lane.asked[place] = Some(asked);
                self.drain();
            }
        }
    }

    /// An orderly end leaves a sound image with all that was answered.
    fn close(&mut self) {
        self.quieten(None);
        self.lanes.iter_mut().for_each(|lane| drop(lane.queue.take()));
        let closed = self.process.store.close();
        assert!(closed.is_ok() || self.faulty, "{closed:?}");
        let mut image = Image::open(Arc::clone(&self.disk), Access::ReadOnly).unwrap();
        assert_eq!(image.check().unwrap().errors, 0, "the image is not sound");
        let infos = self.infos();
        for (zone, info) in self.zones.iter().zip(infos.iter().skip(1)) {
            let seen = blocks_in_file(&self.disk, &mut image, info);
            let answered = zone.answered_blocks();
            zone.check_read(0, answered, &seen);
        }
    }
}

/// The blocks of a zone as a reader of the image finds them.
fn blocks_in_file(disk: &SimDisk, image: &mut Image<SimDisk>, info: &ZoneInfo) -> Vec<u64> {
    use crate::storage::Medium;
    let end = match info.state {
        crate::zone::State::NotWp => info.end(),
        crate::zone::State::Full => Bytes(info.start.0 + info.capacity.0),
        _ => info.write_pointer,
    };
    let mut bytes = vec![0; info.len.0 as usize];
    let mut extents = Vec::new();
    image.extents(info.start, info.len, &mut extents, usize::MAX).unwrap();
    for extent in extents {
        let from = (extent.guest.0 - info.start.0) as usize;
        let to = (from + extent.len.0 as usize).min((end.0 - info.start.0) as usize);
        if from < to {
            disk.read_at(FileOffset(extent.file.0), &mut bytes[from..to]).unwrap();
        }
    }
    numbers(&bytes)
}
