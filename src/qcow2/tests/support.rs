//! What the tests share: seeded numbers, images to start from, and storages that fail or lose power.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use crate::qcow2::refcount::Refcounts;
use crate::qcow2::{Access, ByteOrder, CheckReport, CreateOptions, Extent, Image, OpenError, create};
use crate::storage::memory::MemoryMedium;
use crate::storage::{FileRange, Medium};
use crate::units::{Bytes, FileOffset};
use crate::zone::GeometryRequest;

/// Reproducible numbers (splitmix64).
pub(super) struct Seeded(pub(super) u64);

impl Seeded {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A new image of layout B.
pub(super) fn layout_b(options: &CreateOptions) -> MemoryMedium {
    let file = image_file(options);
    crate::fuzzing::layout_b::rewrite(|at, len| read(&file, at, len), |at, bytes| write(&file, at, bytes));
    file
}

/// Twelve zones, one of them conventional.
pub(super) fn options(size: u64, zone_size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions {
        geometry: GeometryRequest {
            size: Bytes(size),
            zone_size: Bytes(zone_size),
            zone_capacity: Bytes(zone_size),
            conventional_zones: 1,
            max_open_zones: 3,
            max_active_zones: 4,
            max_append_bytes: Bytes(4096),
        },
        cluster_size: Bytes(cluster_size),
        table_order: ByteOrder::Big,
    }
}

pub(super) fn small() -> CreateOptions {
    options(12 << 20, 1 << 20, 65536)
}

pub(super) fn image_file(options: &CreateOptions) -> MemoryMedium {
    let storage = MemoryMedium::default();
    create(&storage, options).unwrap();
    storage
}

pub(super) fn open(storage: MemoryMedium) -> Image<MemoryMedium> {
    Image::open(Arc::new(storage), Access::ReadWrite).unwrap()
}

pub(super) fn open_error(storage: MemoryMedium, access: Access) -> String {
    match Image::open(Arc::new(storage), access) {
        Ok(_) => panic!("the image was opened"),
        Err(error) => error.to_string(),
    }
}

pub(super) fn read<S: Medium>(storage: &S, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    storage.read_at(FileOffset(at), &mut bytes).unwrap();
    bytes
}

pub(super) fn read_u64<S: Medium>(storage: &S, at: u64) -> u64 {
    u64::from_be_bytes(read(storage, at, 8).try_into().unwrap())
}

pub(super) fn write<S: Medium>(storage: &S, at: u64, bytes: &[u8]) {
    storage.write_at(FileOffset(at), bytes).unwrap();
}

/// Checks the file as a reader that has just opened it does.
pub(super) fn check(storage: &MemoryMedium) -> Result<CheckReport, OpenError> {
    Ok(Image::open(Arc::new(storage.clone()), Access::ReadOnly)?.check().unwrap())
}

pub(super) fn all_extents<S: Medium>(image: &mut Image<S>) -> Vec<Extent> {
    let size = image.geometry().size();
    let mut out = Vec::new();
    assert_eq!(image.extents(Bytes(0), size, &mut out, usize::MAX).unwrap(), size);
    out
}

/// A file whose changes begin to fail after a number of them.
#[derive(Debug, Default)]
pub(super) struct Failing {
    pub(super) inner: MemoryMedium,
    /// How many more changes succeed; negative for all.
    pub(super) left: AtomicI64,
    /// How many changes fail after that, before all is well again.
    pub(super) failures: AtomicI64,
    /// How long the file can become.
    pub(super) longest: Option<Bytes>,
}

impl Failing {
    fn change(&self) -> io::Result<()> {
        if self.left.load(Ordering::Relaxed) < 0 {
            return Ok(());
        }
        if self.left.load(Ordering::Relaxed) > 0 {
            self.left.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        if self.failures.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.left.store(-1, Ordering::Relaxed);
        Ok(())
    }
}

impl Medium for Failing {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        if let Err(error) = self.change() {
            // As bad as it can be: a failing write may have landed in part.
            self.inner.write_at(offset, &buf[..buf.len() / 2 / 8 * 8]).unwrap();
            return Err(error);
        }
        self.inner.write_at(offset, buf)
    }
    fn flush(&self) -> io::Result<()> {
        self.change()
    }
    fn sync_ranges(&self, _: &[FileRange]) -> io::Result<()> {
        self.change()
    }
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        self.change()?;
        self.inner.punch(offset, len)
    }
    fn set_len(&self, len: Bytes) -> io::Result<()> {
        self.change()?;
        if self.longest.is_some_and(|longest| len > longest) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<Bytes> {
        self.inner.len()
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    SetLen(u64),
}

impl Change {
    /// What is left of a change without a range.
    fn outside(self, range: &Range<u64>) -> Vec<Change> {
        let (start, end) = match &self {
            Change::Write(at, bytes) => (*at, at + bytes.len() as u64),
            Change::Punch(at, len) => (*at, at + len),
            Change::SetLen(_) => return vec![self],
        };
        let parts = [(start, end.min(range.start)), (start.max(range.end), end)];
        let part = |(from, to): (u64, u64)| match &self {
            Change::Write(_, bytes) => {
                Change::Write(from, bytes[(from - start) as usize..(to - start) as usize].to_vec())
            }
            _ => Change::Punch(from, to - from),
        };
        parts.into_iter().filter(|(from, to)| from < to).map(part).collect()
    }
}

/// A file that remembers what was not flushed, so that the power can be lost at any moment.
#[derive(Debug, Default)]
pub(super) struct Powered {
    now: MemoryMedium,
    durable: Mutex<MemoryMedium>,
    pending: Mutex<Vec<Change>>,
    /// Changes and flushes so far.
    pub(super) steps: AtomicI64,
    /// From this step on every call fails, as the process is dead.
    pub(super) dies_at: AtomicI64,
}

impl Powered {
    pub(super) fn new(file: &MemoryMedium) -> Self {
        let this = Self { now: file.clone(), durable: Mutex::new(file.clone()), ..Self::default() };
        this.dies_at.store(i64::MAX, Ordering::Relaxed);
        this
    }

    fn step(&self) -> io::Result<()> {
        if self.steps.fetch_add(1, Ordering::Relaxed) >= self.dies_at.load(Ordering::Relaxed) {
            return Err(io::Error::other("dead"));
        }
        Ok(())
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.step()?;
        Self::apply(&self.now, &change);
        self.pending.lock().unwrap().push(change);
        Ok(())
    }

    fn apply(file: &MemoryMedium, change: &Change) {
        match change {
            Change::Write(at, bytes) => file.write_at(FileOffset(*at), bytes).unwrap(),
            Change::Punch(at, len) => file.punch(FileOffset(*at), Bytes(*len)).unwrap(),
            Change::SetLen(len) => file.set_len(Bytes(*len)).unwrap(),
        }
    }

    /// The file as the process left it.
    pub(super) fn after_kill(&self) -> MemoryMedium {
        self.now.clone()
    }

    /// The file after a loss of power: of what was not flushed, some sectors in some order.
    pub(super) fn after_power_loss(&self, seeded: &mut Seeded) -> MemoryMedium {
        let file = self.durable.lock().unwrap().clone();
        let mut pieces = Vec::new();
        for change in self.pending.lock().unwrap().iter() {
            match change {
                Change::Write(at, bytes) => {
                    let mut done = 0;
                    while done < bytes.len() {
                        let from = at + done as u64;
                        let part = (512 - (from % 512) as usize).min(bytes.len() - done);
                        pieces.push(Change::Write(from, bytes[done..done + part].to_vec()));
                        done += part;
                    }
                }
                other => pieces.push(other.clone()),
            }
        }
        // Later contents of a sector replace earlier ones on any disk that keeps some of them, so order is kept; which
        // ones are there is anybody's guess.
        let keep = seeded.below(4);
        for piece in pieces {
            if seeded.below(4) < keep {
                Self::apply(&file, &piece);
            }
        }
        file
    }
}

impl Medium for Powered {
    fn read_at(&self, offset: FileOffset, buf: &mut [u8]) -> io::Result<()> {
        self.now.read_at(offset, buf)
    }
    fn write_at(&self, offset: FileOffset, buf: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset.0, buf.to_vec()))
    }
    fn flush(&self) -> io::Result<()> {
        self.step()?;
        self.pending.lock().unwrap().clear();
        *self.durable.lock().unwrap() = self.now.clone();
        Ok(())
    }
    fn sync_ranges(&self, ranges: &[FileRange]) -> io::Result<()> {
        self.step()?;
        let durable = self.durable.lock().unwrap();
        let mut pending = self.pending.lock().unwrap();
        if !ranges.is_empty() {
            pending.retain(|change| !matches!(change, Change::SetLen(_)));
            durable.set_len(self.now.len().unwrap()).unwrap();
        }
        for (offset, len) in ranges {
            // What these bytes are now is what they are after a loss, whichever earlier changes of them it keeps.
            let mut bytes = vec![0; len.0 as usize];
            self.now.read_at(*offset, &mut bytes).unwrap();
            durable.write_at(*offset, &bytes).unwrap();
            let range = offset.0..offset.0 + len.0;
            *pending = pending.drain(..).flat_map(|change| change.outside(&range)).collect();
        }
        Ok(())
    }
    fn punch(&self, offset: FileOffset, len: Bytes) -> io::Result<()> {
        self.change(Change::Punch(offset.0, len.0))
    }
    fn set_len(&self, len: Bytes) -> io::Result<()> {
        self.change(Change::SetLen(len.0))
    }
    fn len(&self) -> io::Result<Bytes> {
        self.now.len()
    }
}

pub(super) fn shared<S>(storage: S) -> Arc<S> {
    Arc::new(storage)
}

/// An image as another program could have made it: a refcount table of one cluster, refcounts of any width.
pub(super) fn foreign_file(cluster_bits: u32, refcount_order: u32, size: u64, zone_size: u64) -> MemoryMedium {
    let cluster = 1u64 << cluster_bits;
    let file = image_file(&options(size, zone_size, cluster));
    let bytes = |value: u64| value.to_be_bytes();
    let (l1_entries, old_table) = (read_u64(&file, 32) as u32, read_u64(&file, 48));
    let zonedmeta_at = read_u64(&file, extension_at(&file) + 40);
    let l1_at = read_u64(&file, 40);
    // A new refcount structure behind everything, and nothing left of the old one.
    let old_end = file.len().unwrap().0;
    file.punch(FileOffset(old_table), Bytes(zonedmeta_at - old_table)).unwrap();
    let zonedmeta = zonedmeta_at / cluster..l1_at / cluster;
    let l1 = l1_at / cluster..old_end / cluster;
    let table = old_end / cluster;
    let per_block = (cluster * 8) >> refcount_order;
    let mut blocks = 1;
    while (table + 1 + blocks).div_ceil(per_block) > blocks {
        blocks += 1;
    }
    assert!(blocks <= cluster / 8 && l1_entries > 0);
    file.set_len(Bytes((table + 1 + blocks) * cluster)).unwrap();
    let refcounts = Refcounts {
        table: (0..blocks).map(|index| (table + 1 + index) * cluster).collect(),
        order: refcount_order,
        cluster_bits,
    };
    for used in [0..1, zonedmeta, l1, table..table + 1 + blocks] {
        refcounts.fill(&file, used, 1).unwrap();
    }
    for (index, block) in (0u64..).zip(&refcounts.table) {
        write(&file, table * cluster + index * 8, &bytes(*block));
    }
    write(&file, 48, &bytes(table * cluster));
    write(&file, 56, &1u32.to_be_bytes());
    write(&file, 96, &refcount_order.to_be_bytes());
    file
}

/// Where the data of the zoned extension is.
pub(super) fn extension_at<S: Medium>(file: &S) -> u64 {
    let mut at = 112;
    loop {
        let head = read_u64(file, at);
        if head >> 32 == 0x007a_6264 {
            return at + 8;
        }
        assert_ne!(head, 0, "no zoned extension");
        at += 8 + (head & u64::from(u32::MAX)).next_multiple_of(8);
    }
}
