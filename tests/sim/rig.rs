//! The real store over a simulated disk, without threads: requests are begun, and their I/O is performed when and in
//! the order the test says.

use std::collections::HashMap;
use std::sync::Arc;

use vhost_user_zbd::qcow2::{self, Access, Base, BaseMedium, ByteOrder, CreateOptions, ForkOptions, Image};
use vhost_user_zbd::storage::Medium;
use vhost_user_zbd::store::{
    Batch, Event, IoKind, IoResult, Op, OpenOptions, Outcome, Segment, Step, Tag, Ticket, ZoneInfo, ZonedStore,
};
use vhost_user_zbd::units::{Bytes, Depth, FileOffset, Sector};
use vhost_user_zbd::zone::GeometryRequest;

use super::disk::SimDisk;

/// The unit of writes in all simulations.
pub const GRAIN: u64 = 512;

enum Stage {
    Parked(Ticket),
    Io(Ticket, Vec<Segment>),
    Moving,
    Done(Outcome),
}

struct Request {
    data: Vec<u8>,
    stage: Stage,
}

/// A store, its disk, and the requests under way.
pub struct Rig {
    pub disk: Arc<SimDisk>,
    pub store: ZonedStore<SimDisk>,
    requests: HashMap<u16, Request>,
    next: u16,
    batch: Batch,
}

/// Makes an image on a new disk, durable.
pub fn create(geometry: GeometryRequest, cluster_size: Bytes) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::default());
    let options = CreateOptions { geometry, cluster_size, table_order: ByteOrder::Big };
    qcow2::create(&*disk, &options).unwrap();
    disk
}

/// The same in layout B, which nothing but a test makes here.
pub fn create_b(geometry: GeometryRequest, cluster_size: Bytes) -> Arc<SimDisk> {
    let disk = create(geometry, cluster_size);
    let read = |at, len| {
        let mut bytes = vec![0; len];
        disk.read_at(FileOffset(at), &mut bytes).unwrap();
        bytes
    };
    super::layout_b::rewrite(read, |at, bytes| disk.write_at(FileOffset(at), bytes).unwrap());
    disk.settle();
    disk
}

/// Makes an image that builds on the one in a disk, which nobody changes any more; durable.
pub fn fork(base: &Arc<SimDisk>, cluster_size: Bytes) -> Arc<SimDisk> {
    let disk = SimDisk::above(base);
    let options = ForkOptions { name: "base".to_owned(), cluster_size };
    qcow2::fork(&disk, &base_of(&disk).unwrap(), &options).unwrap();
    disk.settle();
    Arc::new(disk)
}

/// What the image in a disk builds on.
pub fn base_of(disk: &SimDisk) -> Option<Base> {
    disk.bases().iter().rev().fold(None, |below, disk| {
        let medium: BaseMedium = Arc::clone(disk) as BaseMedium;
        Some(Base::open(medium, "never changed".to_owned(), below).unwrap())
    })
}

/// Opens the image in a disk to look at it.
pub fn look(disk: &Arc<SimDisk>) -> Result<Image<SimDisk>, qcow2::OpenError> {
    Image::open_over(Arc::clone(disk), Access::ReadOnly, base_of(disk))
}

impl Rig {
    pub fn open(disk: Arc<SimDisk>) -> Rig {
        let options = OpenOptions { read_only: false, write_granularity: Bytes(GRAIN), hold_resets: false };
        let store = ZonedStore::open_over(Arc::clone(&disk), base_of(&disk), options).unwrap();
        // So that what the store does around an allocation is simulated. There is nothing to keep or to lose of one.
        store.set_allocator(Box::new(|_| {}));
        Rig { disk, store, requests: HashMap::new(), next: 0, batch: Batch::default() }
    }

    /// Begins a request; for a read `data` is the buffer.
    pub fn begin(&mut self, op: Op, data: Vec<u8>) -> u16 {
        let slot = self.next;
        self.next = self.next.wrapping_add(1);
        self.begin_as(slot, op, data);
        slot
    }

    /// Begins a request that has this slot.
    pub fn begin_as(&mut self, slot: u16, op: Op, data: Vec<u8>) {
        self.next = self.next.max(slot + 1);
        let mut segments = Vec::new();
        let step = self.store.begin(Tag { queue: 0, slot }, op, &mut segments, &mut self.batch);
        self.requests.insert(slot, Request { data, stage: Stage::Moving });
        self.place(slot, step, segments);
        self.settle();
    }

    /// Goes on with a request that the last process left behind.
    pub fn resume_as(&mut self, slot: u16, ticket: Ticket, data: Vec<u8>) {
        self.next = self.next.max(slot + 1);
        let mut segments = Vec::new();
        self.requests.insert(slot, Request { data, stage: Stage::Moving });
        let step = self.store.resume(ticket, &mut segments, &mut self.batch);
        self.place(slot, step, segments);
        self.settle();
    }

    /// Whether a request has this slot.
    pub fn has(&self, slot: u16) -> bool {
        self.requests.contains_key(&slot)
    }

    fn place(&mut self, slot: u16, step: Step, segments: Vec<Segment>) {
        let stage = match step {
            Step::Done(outcome) => Stage::Done(outcome),
            Step::Parked(ticket) => Stage::Parked(ticket),
            Step::Io(ticket) => Stage::Io(ticket, segments),
        };
        self.requests.get_mut(&slot).unwrap().stage = stage;
    }

    /// Commits and follows events until there are none.
    fn settle(&mut self) {
        loop {
            self.store.commit(&mut self.batch);
            let events = std::mem::take(&mut self.batch.events);
            if events.is_empty() {
                return;
            }
            for event in events {
                match event {
                    Event::Finished { tag, outcome } => {
                        let request = self.requests.get_mut(&tag.slot).unwrap();
                        assert!(!matches!(request.stage, Stage::Done(_)), "answered twice");
                        request.stage = Stage::Done(outcome);
                    }
                    Event::Retry { tag } => {
                        let request = self.requests.get_mut(&tag.slot).unwrap();
                        let Stage::Parked(ticket) = std::mem::replace(&mut request.stage, Stage::Moving) else {
                            panic!("retry of a request that is not parked");
                        };
                        let mut segments = Vec::new();
                        let step = self.store.resume(ticket, &mut segments, &mut self.batch);
                        self.place(tag.slot, step, segments);
                    }
                }
            }
        }
    }

    /// Lets the housekeeper take one turn; false when it had nothing to do.
    pub fn housekeep(&mut self) -> bool {
        let busy = self.store.housekeep(&mut self.batch);
        self.settle();
        busy
    }

    /// Requests whose I/O could be performed now.
    pub fn ready(&self) -> Vec<u16> {
        let ready = self.requests.iter().filter(|(_, request)| matches!(request.stage, Stage::Io(..)));
        let mut ready: Vec<u16> = ready.map(|(slot, _)| *slot).collect();
        ready.sort_unstable();
        ready
    }

    /// Performs the I/O of one request.
    pub fn perform(&mut self, slot: u16) {
        let request = self.requests.get_mut(&slot).unwrap();
        let Stage::Io(ticket, segments) = std::mem::replace(&mut request.stage, Stage::Moving) else {
            panic!("no I/O to perform");
        };
        let result = transfer(&self.disk, ticket.io_kind(), &segments, &mut request.data);
        self.store.io_done(ticket, result, &mut self.batch);
        self.settle();
    }

    /// The outcome of a request that is over.
    pub fn outcome(&self, slot: u16) -> Option<Outcome> {
        match self.requests[&slot].stage {
            Stage::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Runs everything to its end.
    pub fn drain(&mut self) {
        loop {
            if let Some(slot) = self.ready().first() {
                self.perform(*slot);
            } else if !self.housekeep() {
                break;
            }
        }
        assert!(self.requests.values().all(|request| matches!(request.stage, Stage::Done(_))), "a request is stuck");
    }

    /// Runs until one request has its outcome, and no further: other work may be pending.
    pub fn finish(&mut self, slot: u16) {
        while self.outcome(slot).is_none() {
            match self.ready().first() {
                Some(ready) => self.perform(*ready),
                None => assert!(self.housekeep(), "the request is stuck"),
            }
        }
    }

    /// One request from begin to end.
    pub fn run(&mut self, op: Op, data: Vec<u8>) -> (Outcome, Vec<u8>) {
        let slot = self.begin(op, data);
        self.drain();
        let outcome = self.outcome(slot).unwrap();
        (outcome, self.requests.remove(&slot).unwrap().data)
    }

    pub fn write(&mut self, start: u64, data: Vec<u8>) -> Outcome {
        self.run(Op::Write { start: Bytes(start).to_sector(), len: Bytes(data.len() as u64) }, data).0
    }

    pub fn read(&mut self, start: u64, len: usize) -> Vec<u8> {
        let (outcome, data) =
            self.run(Op::Read { start: Bytes(start).to_sector(), len: Bytes(len as u64) }, vec![0xee; len]);
        assert!(outcome.is_ok(), "read at {start}: {outcome:?}");
        data
    }

    pub fn zones(&self) -> Vec<ZoneInfo> {
        let mut zones = Vec::new();
        self.store.report(Sector(0), usize::MAX, &mut zones).unwrap();
        zones
    }
}

fn transfer(disk: &SimDisk, kind: IoKind, segments: &[Segment], data: &mut [u8]) -> IoResult {
    if kind == IoKind::Sync {
        return if disk.flush().is_ok() { IoResult::Complete } else { IoResult::Failed { good: Bytes(0) } };
    }
    let mut at = 0usize;
    for segment in segments {
        let done = match (segment, kind) {
            (Segment::Lost, _) => {
                at = data.len();
                continue;
            }
            (Segment::Zero { len }, _) => {
                data[at..at + len.0 as usize].fill(0);
                at += len.0 as usize;
                continue;
            }
            (Segment::File { depth, offset, len }, IoKind::Read) => {
                let file = usize::from(depth.0).checked_sub(1).map_or(disk, |base| &disk.bases()[base]);
                file.read_at(*offset, &mut data[at..at + len.0 as usize])
            }
            (Segment::File { depth, offset, len }, _) => {
                assert_eq!(*depth, Depth::TOP, "a base is written");
                write_sectors(disk, *offset, &data[at..at + len.0 as usize])
            }
        };
        if done.is_err() {
            return IoResult::Failed { good: Bytes(at as u64) };
        }
        at += length(segment);
    }
    assert_eq!(at, data.len(), "segments and data differ in length");
    IoResult::Complete
}

fn length(segment: &Segment) -> usize {
    match segment {
        Segment::File { len, .. } | Segment::Zero { len } => len.0 as usize,
        Segment::Lost => 0,
    }
}

fn write_sectors(disk: &SimDisk, offset: FileOffset, data: &[u8]) -> std::io::Result<()> {
    disk.write_at(offset, data)
}
