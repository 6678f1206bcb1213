//! An image that is wrong somewhere, opened, checked, repaired and served.

use std::sync::{Arc, OnceLock};

use super::{Input, Metered, layout_b};
use crate::qcow2::{self, Access, ByteOrder, CreateOptions, Finding, Image, Pointers, ZonedLayout};
use crate::storage::Medium;
use crate::storage::memory::MemoryMedium;
use crate::store::{Action, Batch, Event, IoKind, IoResult, Op, OpenOptions, Segment, Step, Tag, ZonedStore};
use crate::units::{Bytes, FileOffset, Sector, ZoneIndex};
use crate::zone::GeometryRequest;

const ZONES: u64 = 8;

/// A sound image in use, and where its metadata is.
struct Base {
    file: MemoryMedium,
    metadata: Vec<(u64, u64)>,
    cluster: u64,
    zone: u64,
}

impl Base {
    fn new(cluster: u64, zone: u64, table_order: ByteOrder, layout: ZonedLayout) -> Self {
        let geometry = GeometryRequest {
            size: Bytes(ZONES * zone),
            zone_size: Bytes(zone),
            zone_capacity: Bytes(zone / 4 * 3),
            conventional_zones: 1,
            max_open_zones: 3,
            max_active_zones: 5,
            max_append_bytes: Bytes(4096),
        };
        let storage = Arc::new(MemoryMedium::default());
        qcow2::create(&*storage, &CreateOptions { geometry, cluster_size: Bytes(cluster), table_order }).unwrap();
        if layout == ZonedLayout::B {
            layout_b::rewrite(
                |at, len| read(&storage, at, len),
                |at, data| storage.write_at(FileOffset(at), data).unwrap(),
            );
        }
        let mut image = Image::open(Arc::clone(&storage), Access::ReadWrite).unwrap();
        // Full, finished, reset and still mapped, in part.
        for (number, mapped, written) in [(1, 3, 3), (2, 1, 4), (3, 3, 0), (4, 1, 1)] {
            let start = Bytes(number * zone);
            image.map(start, Bytes(mapped * zone / 4)).unwrap();
            let table = image.pointer_table();
            let pointer = table.full_pointer(ZoneIndex(number as u32)).min(Bytes(start.0 + written * zone / 4));
            table.store(ZoneIndex(number as u32), pointer).unwrap();
        }
        image.map(Bytes(0), Bytes(zone / 2)).unwrap();
        image.release().unwrap();
        let metadata = Image::open(Arc::clone(&storage), Access::ReadOnly).unwrap().metadata();
        Self { file: (*storage).clone(), metadata, cluster, zone }
    }

    fn all() -> &'static [Base] {
        static BASES: OnceLock<Vec<Base>> = OnceLock::new();
        BASES.get_or_init(|| {
            vec![
                Base::new(4096, 256 << 10, ByteOrder::Big, ZonedLayout::V7),
                Base::new(512, 32 << 10, ByteOrder::Little, ZonedLayout::V7),
                Base::new(65536, 256 << 10, ByteOrder::Little, ZonedLayout::V7),
                Base::new(4096, 256 << 10, ByteOrder::Big, ZonedLayout::B),
            ]
        })
    }

    /// Makes something wrong in the metadata.
    fn damage(&self, file: &MemoryMedium, input: &mut Input<'_>) {
        let (start, len) = self.metadata[input.below(self.metadata.len())];
        let width = 1usize << input.below(4);
        let at = start + (input.u16() as u64 * width as u64) % len;
        let mut was = [0; 8];
        file.read_at(FileOffset(at), &mut was).unwrap();
        let was = u64::from_be_bytes(was) >> (64 - 8 * width);
        let clusters = file.len().unwrap().0 / self.cluster;
        let value = match input.below(7) {
            0 => was ^ 1 << input.below(8 * width),
            1 => 0,
            2 => u64::MAX,
            3 => was.wrapping_add(input.u8() as i8 as u64),
            4 => (input.below(clusters as usize + 4) as u64 * self.cluster) | 1 << 63,
            5 => input.below(clusters as usize + 4) as u64 * self.cluster,
            _ => input.u64(),
        };
        file.write_at(FileOffset(at), &value.to_be_bytes()[8 - width..]).unwrap();
    }
}

fn read(file: &MemoryMedium, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_at(FileOffset(at), &mut bytes).unwrap();
    bytes
}

/// Damages an image and does with it what can be done with one.
pub fn image(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let base = &Base::all()[input.below(Base::all().len())];
    let file = base.file.clone();
    for _ in 0..input.below(6) {
        base.damage(&file, &mut input);
    }
    let before = look(&file);
    let served = if input.flag() { mend(&file, &mut input, before) } else { file };
    serve(base, &served, &mut input);
}

/// How many errors there are, or may become of them when the image is served; none where it does not open.
fn look(file: &MemoryMedium) -> Option<u64> {
    let storage = Arc::new(Metered::new(file));
    let report = Image::open(Arc::clone(&storage), Access::ReadOnly).ok().map(|mut image| image.check().unwrap());
    assert_eq!(storage.changes(), 0, "written by looking at it");
    // An entry that leads past the end leads to what is allocated there later.
    let past_the_end = |finding: &&Finding| finding.message.contains("must be inside the file");
    report.map(|report| report.errors + report.findings.iter().filter(past_the_end).count() as u64)
}

fn mend(file: &MemoryMedium, input: &mut Input<'_>, before: Option<u64>) -> MemoryMedium {
    let pointers = if input.flag() { Pointers::Settle } else { Pointers::Report };
    let storage = Arc::new(Metered::new(file));
    match qcow2::repair(&storage, pointers) {
        Err(_) => assert_eq!(storage.changes(), 0, "refused and written"),
        Ok(report) => {
            assert!(before.is_none_or(|before| report.left.errors <= before), "worse by a repair");
            assert_eq!(report.left.errors == 0, look(&storage.inner) == Some(0), "{report:?}");
        }
    }
    storage.inner.clone()
}

fn serve(base: &Base, file: &MemoryMedium, input: &mut Input<'_>) {
    let before = look(file);
    let storage = Arc::new(Metered::new(file));
    let options = OpenOptions { read_only: input.u8() >= 240, write_granularity: Bytes(512), hold_resets: false };
    let Ok(store) = ZonedStore::open(Arc::clone(&storage), options) else {
        assert_eq!(storage.changes(), 0, "refused and written");
        return;
    };
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        run(&store, &storage, operation(base, input));
    }
    let closed = store.close();
    assert!(!options.read_only || storage.changes() == 0, "read-only and written");
    let after = look(&storage.inner);
    assert!(after.is_some() && after <= before, "{before:?} errors became {after:?}, closed: {closed:?}");
}

fn operation(base: &Base, input: &mut Input<'_>) -> Op {
    let zone = Bytes(input.mostly_below(ZONES as usize + 1).wrapping_mul(base.zone));
    let sectors = input.mostly_below(base.zone as usize / 512 + 2);
    let len = Bytes((1 + input.below(40) as u64) * 512);
    let start = Sector(zone.to_sector().0.wrapping_add(sectors));
    match input.below(10) {
        0 | 1 => Op::Read { start, len },
        2 | 3 => Op::Write { start, len },
        // Zone 4 is written to a quarter.
        4 => Op::Write { start: Bytes(4 * base.zone + base.zone / 4).to_sector(), len },
        5 => Op::Append { zone: zone.to_sector(), len },
        6 => Op::Flush,
        7 => Op::ResetAll,
        _ => {
            let action = [Action::Open, Action::Close, Action::Finish, Action::Reset][input.below(4)];
            Op::Manage { action, zone: zone.to_sector() }
        }
    }
}

/// One request from its begin to its outcome.
fn run(store: &ZonedStore<Metered>, storage: &Metered, op: Op) {
    let tag = Tag { queue: 0, slot: 1 };
    let (mut segments, mut batch) = (Vec::new(), Batch::default());
    let mut step = store.begin(tag, op, &mut segments, &mut batch);
    for _ in 0..1000 {
        let parked = match step {
            Step::Done(_) => return,
            Step::Parked(ticket) => Some(ticket),
            Step::Io(ticket) => {
                let result = transfer(storage, ticket.io_kind(), &segments);
                store.io_done(ticket, result, &mut batch);
                None
            }
        };
        store.commit(&mut batch);
        while batch.events.is_empty() {
            assert!(store.housekeep(&mut batch), "{op:?} is stuck");
            store.commit(&mut batch);
        }
        match (batch.events.remove(0), parked) {
            (Event::Finished { .. }, _) => return,
            (Event::Retry { .. }, Some(ticket)) => step = store.resume(ticket, &mut segments, &mut batch),
            (Event::Retry { .. }, None) => panic!("{op:?} is retried without having waited"),
        }
    }
    panic!("{op:?} goes on for ever");
}

/// Does what the workers do with the file, which must not be in metadata.
fn transfer(storage: &Metered, kind: IoKind, segments: &[Segment]) -> IoResult {
    let image = Image::open(Arc::new(storage.inner.clone()), Access::ReadOnly).unwrap();
    for segment in segments {
        let Segment::File { offset, len, .. } = *segment else { continue };
        if let Some(metadata) = image.metadata_in(offset, len) {
            panic!("data is to be in {metadata}: {segment:?}");
        }
        let mut data = vec![0xd5; len.0 as usize];
        let done = match kind {
            IoKind::Read => storage.read_at(offset, &mut data),
            IoKind::Write => storage.write_at(offset, &data),
            IoKind::Sync => storage.flush(),
        };
        done.unwrap();
    }
    IoResult::Complete
}
