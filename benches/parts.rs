//! What the parts of a request cost without its I/O: taking a chain apart, the zone model and the mapping of a write and
//! of a read, a report. `cargo bench --bench parts`.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking and is no library")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use vhost_user_zbd::fault::Faults;
use vhost_user_zbd::qcow2::{self, Access, ByteOrder, CreateOptions, Image};
use vhost_user_zbd::storage::memory::MemoryMedium;
use vhost_user_zbd::store::device::Layered;
use vhost_user_zbd::store::{Batch, IoResult, Op, OpenOptions, Step, Tag, ZonedDevice, ZonedStore};
use vhost_user_zbd::units::{Bytes, Sector, ZoneIndex};
use vhost_user_zbd::virtio::memory::Memory;
use vhost_user_zbd::virtio::report::{self, write_report};
use vhost_user_zbd::virtio::request::Buffers;
use vhost_user_zbd::zone::GeometryRequest;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

const ZONE: u64 = 64 << 20;
const ZONES: u64 = 4096;
const BLOCK: u64 = 4096;
const TAG: Tag = Tag { queue: 0, slot: 1 };

fn image() -> Arc<MemoryMedium> {
    let geometry = GeometryRequest {
        size: Bytes(ZONES * ZONE),
        zone_size: Bytes(ZONE),
        zone_capacity: Bytes(ZONE),
        conventional_zones: 0,
        max_open_zones: 0,
        max_active_zones: 0,
        max_append_bytes: Bytes(1 << 20),
    };
    let storage = MemoryMedium::default();
    let options = CreateOptions { geometry, cluster_size: Bytes(65536), table_order: ByteOrder::Big };
    qcow2::create(&storage, &options).unwrap();
    Arc::new(storage)
}

fn open(storage: &Arc<MemoryMedium>) -> ZonedStore<MemoryMedium> {
    let options = OpenOptions { read_only: false, write_granularity: Bytes(BLOCK), hold_resets: false };
    ZonedStore::open(Arc::clone(storage), options).unwrap()
}

/// Begins a request and does the housekeeping it waits for, until it has its place in the file.
fn place(store: &dyn ZonedDevice, op: Op, batch: &mut Batch) -> vhost_user_zbd::store::Ticket {
    let mut segments = Vec::new();
    let mut step = store.begin(TAG, op, &mut segments, batch);
    loop {
        match step {
            Step::Io(ticket) => return ticket,
            Step::Parked(ticket) => {
                while store.housekeep(batch) {}
                batch.events.clear();
                step = store.resume(ticket, &mut segments, batch);
            }
            Step::Done(outcome) => unreachable!("{outcome:?}"),
        }
    }
}

fn parse(criterion: &mut Criterion) {
    let mem = Memory::from(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    mem.write_obj(1u32, GuestAddress(0)).unwrap();
    let (next, write) = (1, 2);
    let chain = [
        Descriptor::new(0, 16, next, 1),
        Descriptor::new(0x1000, BLOCK as u32, next, 2),
        Descriptor::new(0x10, 1, write, 0),
    ];
    let mut buffers = Buffers::default();
    criterion.bench_function("parse a write of one buffer", |bencher| {
        bencher.iter(|| buffers.parse(&mem, black_box(chain).into_iter()).unwrap());
    });
}

/// Writes zone after zone.
fn write_on(criterion: &mut Criterion, name: &str, store: &dyn ZonedDevice) {
    let (mut batch, mut segments) = (Batch::default(), Vec::new());
    let mut at = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let ticket = place(store, Op::Write { start: Sector(at / 512), len: Bytes(BLOCK) }, &mut batch);
            store.io_done(ticket, IoResult::Complete, &mut batch);
            store.commit(&mut batch);
            batch.events.clear();
            at = (at + BLOCK) % (ZONES * ZONE);
            if at == 0 {
                let _ = store.begin(TAG, Op::ResetAll, &mut segments, &mut batch);
            }
        });
    });
}

fn requests(criterion: &mut Criterion) {
    write_on(criterion, "admit, place and commit a zone write of 4 KiB", &open(&image()));
    let faults = Faults::over(Arc::new(open(&image())), Bytes(BLOCK));
    write_on(criterion, "the same behind the layer of rules for faults, without a rule", &Layered(faults));
    let store = open(&image());
    let (mut batch, mut segments) = (Batch::default(), Vec::new());
    let read = Op::Read { start: Sector(1024), len: Bytes(BLOCK) };
    let _ = place(&store, read, &mut batch);
    criterion.bench_function("place a read of 4 KiB", |bencher| {
        bencher.iter(|| black_box(store.begin(TAG, black_box(read), &mut segments, &mut batch)));
    });
}

fn reports(criterion: &mut Criterion) {
    let store = open(&image());
    let mut scratch = report::Scratch::default();
    criterion.bench_function("report 4096 zones", |bencher| {
        bencher.iter(|| {
            let fetch = |start, max, out: &mut Vec<_>| store.report(start, max, out);
            let put = |_, bytes: &[u8]| {
                black_box(bytes);
                Ok(bytes.len())
            };
            write_report(store.geometry(), Sector(0), Bytes(64 * (ZONES + 1)), &mut scratch, fetch, put).unwrap()
        });
    });
}

fn mapping(criterion: &mut Criterion) {
    let mut image = Image::open(image(), Access::ReadWrite).unwrap();
    image.refill(Bytes(ZONE)).unwrap();
    image.map(Bytes(0), Bytes(ZONE)).unwrap();
    let mut extents = Vec::new();
    criterion.bench_function("look up a zone of 1024 clusters", |bencher| {
        bencher.iter(|| {
            extents.clear();
            image.extents(Bytes(0), Bytes(ZONE), &mut extents, usize::MAX).unwrap()
        });
    });
    let table = image.pointer_table();
    criterion.bench_function("store a write pointer", |bencher| {
        bencher.iter(|| table.store(black_box(ZoneIndex(7)), Bytes(7 * ZONE + BLOCK)).unwrap());
    });
}

criterion_group!(parts, parse, requests, reports, mapping);
criterion_main!(parts);
