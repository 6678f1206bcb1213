//! A recorded disk in this process, with requests of several queues in flight, each of which goes on when the test says so.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use vhost_user_zbd::io::{Completion, DataPath, OverMedium, Transfer};
use vhost_user_zbd::power::{CutOutcome, Switch, VolatileCache, Words};
use vhost_user_zbd::qcow2::{self, Access, ByteOrder, Comparison, CreateOptions, Image};
use vhost_user_zbd::record::{Log, RecordedPath, Recorder, SessionError, session};
use vhost_user_zbd::storage::memory::MemoryMedium;
use vhost_user_zbd::storage::{self, Medium};
use vhost_user_zbd::store::device::Layered;
use vhost_user_zbd::store::{
    Action, Batch, Event, IoKind, IoResult, Op, OpenOptions, Outcome, Segment, Step, Tag, Ticket, ZonedDevice,
    ZonedStore,
};
use vhost_user_zbd::units::{Bytes, Depth, FileOffset, Sector, ZoneIndex};
use vhost_user_zbd::zone::{GeometryRequest, State, ZoneKind};

use crate::common::Rng;

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const ZONE: u64 = 64 << 10;
pub(crate) const ZONES: u32 = 12;
const CONVENTIONAL: u32 = 2;
const QUEUES: u16 = 3;
/// Most requests in flight.
const DEPTH: usize = 12;

/// A new image: zones whose end cannot be written, limits that are felt, conventional zones.
pub(crate) fn image() -> MemoryMedium {
    let geometry = GeometryRequest {
        size: Bytes(u64::from(ZONES) * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE - 2 * BLOCK),
        conventional_zones: CONVENTIONAL,
        max_open_zones: 3,
        max_active_zones: 5,
        max_append_bytes: Bytes(ZONE / 2),
    };
    let medium = MemoryMedium::default();
    let options = CreateOptions { geometry, cluster_size: Bytes(4096), table_order: ByteOrder::Big };
    qcow2::create(&medium, &options).unwrap();
    medium
}

/// All bytes of a file.
pub(crate) fn content(file: &MemoryMedium) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap().0 as usize];
    file.read_at(FileOffset(0), &mut bytes).unwrap();
    bytes
}

/// What differs between two images, as guests see them.
pub(crate) fn differences(first: &MemoryMedium, second: &MemoryMedium) -> Vec<String> {
    let open = |medium: &MemoryMedium| Image::open(Arc::new(medium.clone()), Access::ReadOnly).unwrap();
    let (mut first, mut second) = (open(first), open(second));
    let mut comparison = Comparison::new(&mut first, &mut second).unwrap();
    let zones = comparison.zones().map(ZoneIndex);
    zones
        .filter_map(|zone| comparison.zone(zone, |_| {}).unwrap())
        .map(|difference| format!("{difference:?}"))
        .collect()
}

/// The file of a log, which takes so many more writes; those behind them are lost.
pub(crate) struct LogFile {
    pub(crate) below: Arc<MemoryMedium>,
    takes: AtomicUsize,
}

impl storage::Layer for LogFile {
    type Below = MemoryMedium;

    fn below(&self) -> &MemoryMedium {
        &self.below
    }

    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        match self.takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => self.below.write_at(offset, buf),
            Err(_) => Ok(()),
        }
    }
}

/// The bottom of a data path, which carries a part of a write where that is to fail.
struct Carrier {
    below: OverMedium<MemoryMedium>,
    most: Rc<Cell<u64>>,
}

impl DataPath for Carrier {
    unsafe fn submit(&mut self, transfer: Transfer) {
        let len = transfer.len.min(self.most.get());
        self.most.set(self.most.get() - len);
        // SAFETY: the caller promises the same.
        unsafe { self.below.submit(Transfer { len, ..transfer }) }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        self.below.poll(done)
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

enum Stage {
    Parked(Ticket),
    Placed(Ticket, Vec<Segment>),
    /// Its data is carried.
    Carried(Ticket, IoResult),
    Moving,
}

struct Asked {
    op: Op,
    data: Vec<u8>,
    stage: Stage,
}

struct Queue {
    path: RecordedPath<Carrier>,
    most: Rc<Cell<u64>>,
}

/// The disk.
pub(crate) struct Live {
    pub(crate) image: Arc<MemoryMedium>,
    pub(crate) log_file: Arc<storage::Layered<LogFile>>,
    store: Arc<ZonedStore<MemoryMedium>>,
    device: Arc<dyn ZonedDevice>,
    cache: Option<Arc<VolatileCache>>,
    pub(crate) log: Arc<Log>,
    queues: Vec<Queue>,
    requests: BTreeMap<(u16, u16), Asked>,
    batch: Batch,
    work: Arc<AtomicBool>,
    next: u16,
    /// The image at each flush that was answered.
    pub(crate) flushed: Vec<MemoryMedium>,
    /// Requests that were answered, the refused ones among them.
    pub(crate) answered: u64,
}

impl Live {
    /// A new disk, recorded from the beginning.
    pub(crate) fn start(image: MemoryMedium, cached: bool) -> Self {
        let log_file = LogFile { below: Arc::default(), takes: AtomicUsize::new(usize::MAX) };
        Self::go_on(Arc::new(image), Arc::new(storage::Layered(log_file)), cached).unwrap()
    }

    /// A disk on an image and a log that are there.
    pub(crate) fn go_on(
        image: Arc<MemoryMedium>,
        log_file: Arc<storage::Layered<LogFile>>,
        cached: bool,
    ) -> Result<Self, SessionError> {
        let options = OpenOptions { read_only: false, write_granularity: Bytes(BLOCK), hold_resets: cached };
        let store = Arc::new(ZonedStore::open(Arc::clone(&image), options).unwrap());
        let input = content(&log_file.0.below);
        let clock = Box::new(|| 0);
        let file = Arc::clone(&log_file) as Arc<dyn Medium>;
        let log = Arc::new(session::begin(file, input.as_slice(), &*store, Bytes(BLOCK), clock)?);
        let bottom = Arc::new(Layered(Recorder::over(Arc::clone(&store) as Arc<dyn ZonedDevice>, Arc::clone(&log))));
        let switch = Arc::new(Switch::new(usize::from(QUEUES)));
        let cache = cached.then(|| Arc::new(VolatileCache::new(bottom.clone(), switch, Bytes(BLOCK), Bytes(1 << 20))));
        let device: Arc<dyn ZonedDevice> = match &cache {
            Some(cache) => Arc::new(Layered(Arc::clone(cache))),
            None => bottom,
        };
        let work = Arc::new(AtomicBool::new(true));
        let bell = Arc::clone(&work);
        device.set_doorbell(Box::new(move || bell.store(true, Ordering::Relaxed)));
        let queue = |queue| {
            let most = Rc::new(Cell::new(u64::MAX));
            let below = Carrier { below: OverMedium::new(Arc::clone(&image)), most: Rc::clone(&most) };
            Queue { path: RecordedPath::new(Arc::clone(&log), queue, below), most }
        };
        let queues = (0..QUEUES).map(queue).collect();
        let (requests, batch, flushed) = (BTreeMap::new(), Batch::default(), Vec::new());
        Ok(Self {
            image,
            log_file,
            store,
            device,
            cache,
            log,
            queues,
            requests,
            batch,
            work,
            next: 0,
            flushed,
            answered: 0,
        })
    }

    /// The log as it is in its file.
    pub(crate) fn recorded(&self) -> Vec<u8> {
        content(&self.log_file.0.below)
    }

    /// Does one thing of those there are to do.
    pub(crate) fn step(&mut self, rng: &mut Rng) {
        if self.requests.len() < DEPTH && rng.below(2) == 0 {
            let op = self.any_op(rng);
            self.ask(rng, op);
        } else if self.work.load(Ordering::Relaxed) && rng.below(3) == 0 {
            self.housekeep();
        } else {
            self.advance(rng);
        }
    }

    /// Does all that is left to do, and stops.
    pub(crate) fn end(mut self, rng: &mut Rng) -> Self {
        self.quiesce(rng);
        self.store.close().unwrap();
        self.log.end();
        self
    }

    /// Has all requests in flight come to their end.
    pub(crate) fn quiesce(&mut self, rng: &mut Rng) {
        for _ in 0..10_000 {
            if self.requests.is_empty() {
                return;
            }
            self.housekeep();
            self.advance(rng);
        }
        panic!("requests do not come to their end");
    }

    /// Dies; where `before_answers`, when the pointers of what has landed are stored, and the log has nothing of that yet.
    pub(crate) fn die(
        mut self,
        rng: &mut Rng,
        before_answers: bool,
    ) -> (Arc<MemoryMedium>, Arc<storage::Layered<LogFile>>) {
        if before_answers {
            for tag in self.requests.keys().copied().collect::<Vec<_>>() {
                if rng.below(2) == 0 {
                    self.carry(rng, tag);
                    self.over(tag);
                }
            }
            self.log.write_out();
            self.log_file.0.takes.store(0, Ordering::Relaxed);
            self.device.commit(&mut self.batch);
        }
        self.log_file.0.takes.store(usize::MAX, Ordering::Relaxed);
        (self.image, self.log_file)
    }

    /// Dies right after a reset or a finish of a zone, of which the log has no more than that it was accepted.
    pub(crate) fn die_over_a_zone(mut self, rng: &mut Rng) -> (Arc<MemoryMedium>, Arc<storage::Layered<LogFile>>) {
        self.quiesce(rng);
        self.log.write_out();
        self.log_file.0.takes.store(1, Ordering::Relaxed);
        let zone = Bytes((u64::from(CONVENTIONAL) + rng.below(u64::from(ZONES - CONVENTIONAL))) * ZONE).to_sector();
        let action = if rng.below(2) == 0 { Action::Reset } else { Action::Finish };
        self.ask(rng, Op::Manage { action, zone });
        self.housekeep();
        self.log_file.0.takes.store(usize::MAX, Ordering::Relaxed);
        (self.image, self.log_file)
    }

    /// Cuts the power, with nothing in flight.
    pub(crate) fn cut(&mut self, words: &str) -> CutOutcome {
        let outcome = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&outcome);
        let words = Words::parse(words.split(' '), |_| Err(String::new())).unwrap();
        let cache = self.cache.as_ref().unwrap();
        cache.command(words, Box::new(move |result| *tell.lock().unwrap() = Some(result))).unwrap();
        while self.device.housekeep(&mut self.batch) {}
        assert!(cache.switch().device_reset());
        self.log.device_reset();
        outcome.lock().unwrap().take().unwrap().unwrap()
    }

    fn any_op(&self, rng: &mut Rng) -> Op {
        let zone = ZoneIndex(rng.below(u64::from(ZONES)) as u32);
        let start = Bytes(u64::from(zone.0) * ZONE);
        let len = Bytes(BLOCK * (1 + rng.below(5)));
        let now = self.device.zone_now(start.to_sector()).unwrap();
        let manage = |action| Op::Manage { action, zone: start.to_sector() };
        match rng.below(100) {
            0..4 => manage(Action::Open),
            4..8 => manage(Action::Close),
            8..12 => manage(Action::Finish),
            12..16 => manage(Action::Reset),
            16 => Op::ResetAll,
            17..24 => Op::Flush,
            24 => Op::Write { start: Sector(start.0 / 512 + 8 * rng.below(12)), len },
            // A full zone is seldom the one to look at.
            _ if now.info.state == State::Full && rng.below(2) == 0 => manage(Action::Reset),
            _ if now.info.kind == ZoneKind::Conventional => {
                Op::Write { start: Sector(start.0 / 512 + 8 * rng.below(11)), len }
            }
            _ if rng.below(3) == 0 => Op::Append { zone: start.to_sector(), len },
            _ => Op::Write { start: now.next_write.to_sector(), len },
        }
    }

    fn ask(&mut self, rng: &mut Rng, op: Op) {
        let queue = rng.below(u64::from(QUEUES)) as u16;
        self.next = (self.next + 1) % 100;
        let tag = Tag { queue, slot: self.next };
        if self.requests.contains_key(&(queue, self.next)) {
            return;
        }
        let len = match op {
            Op::Write { len, .. } | Op::Append { len, .. } => len.0,
            _ => 0,
        };
        let block = |rng: &mut Rng| vec![if rng.below(3) == 0 { 0 } else { rng.next() as u8 }; BLOCK as usize];
        let data = (0..len / BLOCK).flat_map(|_| block(rng)).collect();
        if op == Op::Flush {
            self.device.flush_comes(queue);
        }
        self.requests.insert((queue, self.next), Asked { op, data, stage: Stage::Moving });
        let mut segments = Vec::new();
        let step = self.device.begin(tag, op, &mut segments, &mut self.batch);
        self.take_step(tag, step, segments);
        self.settle();
    }

    fn take_step(&mut self, tag: Tag, step: Step, segments: Vec<Segment>) {
        let stage = match step {
            Step::Done(outcome) => return self.finished(tag, outcome),
            Step::Parked(ticket) => Stage::Parked(ticket),
            Step::Io(ticket) => Stage::Placed(ticket, segments),
        };
        self.requests.get_mut(&(tag.queue, tag.slot)).unwrap().stage = stage;
    }

    /// Goes on with one of the requests whose I/O is to be done.
    fn advance(&mut self, rng: &mut Rng) {
        let ready =
            self.requests.iter().filter(|(_, asked)| matches!(asked.stage, Stage::Placed(..) | Stage::Carried(..)));
        let ready: Vec<_> = ready.map(|(tag, _)| *tag).collect();
        if ready.is_empty() {
            return self.housekeep();
        }
        let tag = *rng.pick(&ready);
        let flushes = self.requests[&tag].op == Op::Flush;
        // In a conventional zone what is in flight shows.
        let conventional =
            matches!(self.requests[&tag].op, Op::Write { start, .. } if start.0 * 512 < u64::from(CONVENTIONAL) * ZONE);
        if flushes {
            // So that its answer is the only thing that happens.
            self.settle();
        }
        if self.carry(rng, tag) && !flushes && !conventional {
            return;
        }
        self.over(tag);
        self.settle();
    }

    /// Carries the data of a request. False where that was done before.
    fn carry(&mut self, rng: &mut Rng, tag: (u16, u16)) -> bool {
        let Some(asked) = self.requests.get_mut(&tag) else { return false };
        let (ticket, segments) = match std::mem::replace(&mut asked.stage, Stage::Moving) {
            Stage::Placed(ticket, segments) => (ticket, segments),
            other => {
                asked.stage = other;
                return false;
            }
        };
        let mut result = IoResult::Complete;
        if ticket.io_kind() == IoKind::Write {
            let queue = &mut self.queues[usize::from(tag.0)];
            if rng.below(25) == 0 {
                let good = rng.below(asked.data.len() as u64 / BLOCK) * BLOCK;
                result = IoResult::Failed { good: Bytes(good) };
                queue.most.set(good);
            }
            let mut rest = asked.data.as_mut_slice();
            for segment in &segments {
                let Segment::File { offset, len, .. } = segment else { panic!("{segment:?}") };
                let (part, later) = rest.split_at_mut(len.0 as usize);
                rest = later;
                let buffer = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
                let transfer = Transfer {
                    token: u64::from(tag.1) << 32,
                    write: true,
                    buffered: false,
                    beside: false,
                    depth: Depth::TOP,
                    offset: offset.0,
                    len: len.0,
                    buffers: &raw const buffer,
                    count: 1,
                };
                // SAFETY: the path carries the bytes before this returns.
                unsafe { queue.path.submit(transfer) };
            }
            queue.path.poll(&mut Vec::new()).unwrap();
            queue.most.set(u64::MAX);
        }
        self.requests.get_mut(&tag).unwrap().stage = Stage::Carried(ticket, result);
        true
    }

    /// The I/O of a request that was carried is over.
    fn over(&mut self, tag: (u16, u16)) {
        let Some(asked) = self.requests.get_mut(&tag) else { return };
        match std::mem::replace(&mut asked.stage, Stage::Moving) {
            Stage::Carried(ticket, result) => self.device.io_done(ticket, result, &mut self.batch),
            other => asked.stage = other,
        }
    }

    fn housekeep(&mut self) {
        self.work.store(false, Ordering::Relaxed);
        while self.device.housekeep(&mut self.batch) {}
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.device.commit(&mut self.batch);
            let events = std::mem::take(&mut self.batch.events);
            if events.is_empty() {
                return;
            }
            for event in events {
                match event {
                    Event::Finished { tag, outcome } => self.finished(tag, outcome),
                    Event::Retry { tag } => self.retry(tag),
                }
            }
        }
    }

    fn finished(&mut self, tag: Tag, outcome: Outcome) {
        let asked = self.requests.remove(&(tag.queue, tag.slot)).expect("answered twice");
        self.answered += 1;
        if asked.op == Op::Flush && outcome.is_ok() {
            self.flushed.push((*self.image).clone());
        }
    }

    fn retry(&mut self, tag: Tag) {
        let Some(asked) = self.requests.get_mut(&(tag.queue, tag.slot)) else { return };
        let Stage::Parked(ticket) = std::mem::replace(&mut asked.stage, Stage::Moving) else {
            panic!("{tag:?} is not parked")
        };
        let mut segments = Vec::new();
        let step = self.device.resume(ticket, &mut segments, &mut self.batch);
        self.take_step(tag, step, segments);
    }
}
