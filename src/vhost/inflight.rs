//! The in-flight region: memory of this process and the frontend's that survives either, and says which requests
//! were taken from the rings and not given back.
//!
//! ```text
//!  one block a queue:    header of 16 bytes, then an entry of 16 bytes for each descriptor      up to a multiple of 64
//!  this daemon's own:    the disk it was made for (9 words), and whether the power was cut (1 word)
//!  one journal a queue:  32 bytes for each descriptor (see `journal`)
//!  a byte a zone:        whether it is explicitly open
//! ```
//!
//! The blocks are those of the vhost-user protocol ("Inflight I/O tracking", split virtqueues). A request is marked
//! before anything is done for it, and unmarked after it is in the used ring; the frontend's used index tells whether
//! the process died in between. A request that is marked is done again by the next process, in the order it was
//! taken, with what its journal says. The frontend only keeps the region: nothing in it is trusted.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{AtomicAccess, Bytes as _, FileOffset, MmapRegion, VolatileMemory};

use super::options::MAX_QUEUES;
use crate::units::ZoneIndex;
use crate::zone::Geometry;

/// The first word of the daemon's own part; its last byte is the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"zbdinfl\x03");

/// Version of the blocks in the vhost-user protocol.
const BLOCK_VERSION: u16 = 1;
const BLOCK_ALIGN: usize = 64;
const BLOCK_HEADER: usize = 16;
const ENTRY: usize = 16;
const DISK_WORDS: usize = 9;
/// Descriptors a queue has room for, whatever the frontend says: guests and firmware make rings as long as the device
/// allows, which is more than what QEMU asks for here (its property queue-size).
const LEAST_ENTRIES: u16 = 1024;
/// The power was cut, and requests are not answered, or fail.
const DEAD: u64 = 1;
const FAILS: u64 = 2;
/// Bytes of a journal record.
pub(super) const RECORD: usize = 32;
/// Where in a record a layer's choice is.
pub(super) const CHOICE: usize = 24;

/// Why a region was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum InflightError {
    #[error("in-flight tracking of {queues} queues with {entries} entries: expected 1 to {MAX_QUEUES} with 1 to 32768")]
    Shape { queues: u16, entries: u16 },
    #[error("the in-flight region cannot be {what}: {reason}")]
    Region { what: &'static str, reason: String },
    #[error("the in-flight region has {have} bytes: expected {expected}")]
    Size { have: u64, expected: u64 },
    #[error("the in-flight region was not made by this version of the daemon")]
    Foreign,
    #[error("the guest's disk has {field} {theirs}, and the image served here {ours}: it is not the image it was")]
    OtherDisk { field: &'static str, theirs: u64, ours: u64 },
}

/// What the guest knows of its disk and must find again.
pub(super) type Disk = [(&'static str, u64); DISK_WORDS - 1];

/// The disk that an image served with blocks of `block_size` bytes is.
pub(super) fn disk(geometry: &Geometry, block_size: u32) -> Disk {
    [
        ("a size of", geometry.size().0),
        ("a zone size of", geometry.zone_size().0),
        ("a zone capacity of", geometry.zone_capacity().0),
        ("a number of conventional zones of", geometry.conventional_zones().into()),
        ("an open limit of", geometry.max_open_zones().into()),
        ("an active limit of", geometry.max_active_zones().into()),
        ("an append limit of", geometry.max_append().map_or(0, |limit| limit.0)),
        ("a block size of", block_size.into()),
    ]
}

/// Where what is in a region.
#[derive(Clone, Copy, Debug)]
struct Layout {
    queues: u16,
    entries: u16,
    zones: u32,
}

impl Layout {
    fn new(queues: u16, entries: u16, zones: u32) -> Result<Self, InflightError> {
        if !(1..=MAX_QUEUES).contains(&queues) || !(1..=32768).contains(&entries) {
            return Err(InflightError::Shape { queues, entries });
        }
        Ok(Self { queues, entries: entries.max(LEAST_ENTRIES), zones })
    }

    fn block(&self, queue: u16) -> usize {
        let len = (BLOCK_HEADER + ENTRY * usize::from(self.entries)).next_multiple_of(BLOCK_ALIGN);
        len * usize::from(queue)
    }

    fn entry(&self, queue: u16, head: u16) -> usize {
        self.block(queue) + BLOCK_HEADER + ENTRY * usize::from(head)
    }

    fn disk(&self) -> usize {
        self.block(self.queues)
    }

    fn power(&self) -> usize {
        self.disk() + 8 * DISK_WORDS
    }

    fn record(&self, queue: u16, head: u16) -> usize {
        let records = self.power() + 8;
        records + RECORD * (usize::from(queue) * usize::from(self.entries) + usize::from(head))
    }

    fn zone(&self, zone: ZoneIndex) -> usize {
        self.record(self.queues, 0) + zone.index()
    }

    fn size(&self) -> usize {
        self.zone(ZoneIndex(self.zones)).next_multiple_of(BLOCK_ALIGN)
    }
}

/// A mapped region.
pub(super) struct Inflight {
    map: MmapRegion,
    layout: Layout,
}

impl Inflight {
    /// Makes a region for a frontend to keep: what to tell it, and the file.
    pub(super) fn create(
        asked: &VhostUserInflight,
        disk: &Disk,
        zones: u32,
    ) -> Result<(VhostUserInflight, File), InflightError> {
        let failed = |reason: nix::Error| InflightError::Region { what: "made", reason: reason.to_string() };
        let layout = Layout::new(asked.num_queues, asked.queue_size, zones)?;
        let size = layout.size() as u64;
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("vhost-user-zbd-inflight", flags).map_err(failed)?);
        nix::unistd::ftruncate(&file, size as i64).map_err(failed)?;
        // Whoever has it may write to it, but not take it away from under the mapping.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(failed)?;
        let region = Self::map(&file, 0, layout)?;
        (0..layout.queues).for_each(|queue| {
            region.store(layout.block(queue) + 8, BLOCK_VERSION);
            region.store(layout.block(queue) + 10, layout.entries);
        });
        region.store(layout.disk(), MAGIC);
        for (word, (_, value)) in disk.iter().enumerate() {
            region.store(layout.disk() + 8 * (word + 1), *value);
        }
        Ok((VhostUserInflight::new(size, 0, layout.queues, asked.queue_size), file))
    }

    /// Maps a region that a frontend has kept, if it was made for this disk.
    pub(super) fn open(
        told: &VhostUserInflight,
        file: &File,
        disk: &Disk,
        zones: u32,
    ) -> Result<Arc<Self>, InflightError> {
        let layout = Layout::new(told.num_queues, told.queue_size, zones)?;
        let expected = layout.size() as u64;
        let end = told.mmap_offset.saturating_add(told.mmap_size);
        let about =
            file.metadata().map_err(|error| InflightError::Region { what: "used", reason: error.to_string() })?;
        if about.len() < end {
            return Err(InflightError::Size { have: about.len(), expected: end });
        }
        // The disk is looked at first, as another number of zones makes another size.
        let start = Layout { zones: 0, ..layout };
        if told.mmap_size < start.size() as u64 {
            return Err(InflightError::Size { have: told.mmap_size, expected });
        }
        Self::map(file, told.mmap_offset, start)?.check_disk(disk)?;
        if told.mmap_size != expected {
            return Err(InflightError::Size { have: told.mmap_size, expected });
        }
        Ok(Arc::new(Self::map(file, told.mmap_offset, layout)?))
    }

    fn map(file: &File, offset: u64, layout: Layout) -> Result<Self, InflightError> {
        let failed = |reason: String| InflightError::Region { what: "mapped", reason };
        let file = file.try_clone().map_err(|error| failed(error.to_string()))?;
        let map = MmapRegion::from_file(FileOffset::new(file, offset), layout.size())
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { map, layout })
    }

    fn check_disk(&self, disk: &Disk) -> Result<(), InflightError> {
        if self.load::<u64>(self.layout.disk()) != MAGIC {
            return Err(InflightError::Foreign);
        }
        for (word, (field, ours)) in disk.iter().enumerate() {
            let theirs = self.load(self.layout.disk() + 8 * (word + 1));
            if theirs != *ours {
                return Err(InflightError::OtherDisk { field, theirs, ours: *ours });
            }
        }
        Ok(())
    }

    pub(super) fn queues(&self) -> u16 {
        self.layout.queues
    }

    /// The most descriptors of a queue.
    pub(super) fn entries(&self) -> u16 {
        self.layout.entries
    }

    /// Where the journal of a request begins.
    pub(super) fn record(&self, queue: u16, head: u16) -> Option<usize> {
        (queue < self.layout.queues && head < self.layout.entries).then(|| self.layout.record(queue, head))
    }

    /// Where the entry of a request begins.
    #[cfg(any(fuzzing, test))]
    pub(super) fn entry_place(&self, queue: u16, head: u16) -> usize {
        self.layout.entry(queue, head)
    }

    /// Whether a request was taken and not given back.
    pub(super) fn is_taken(&self, queue: u16, head: u16) -> bool {
        self.load::<u8>(self.layout.entry(queue, head)) == 1
    }

    /// The zones that are noted as explicitly open.
    pub(super) fn open_zones(&self) -> impl Iterator<Item = ZoneIndex> {
        (0..self.layout.zones).map(ZoneIndex).filter(|zone| self.load::<u8>(self.layout.zone(*zone)) == 1)
    }

    /// The power was cut: none of its requests is brought to an end any more. Until the device is reset requests fail, or are
    /// not answered.
    pub(super) fn lose_power(&self, fails: bool) {
        // The word first: who finds it looks at nothing else.
        self.store(self.layout.power(), if fails { FAILS } else { DEAD });
        for queue in 0..self.layout.queues {
            (0..self.layout.entries).for_each(|head| self.store(self.layout.entry(queue, head), 0u8));
        }
        (0..self.layout.zones).for_each(|zone| self.store(self.layout.zone(ZoneIndex(zone)), 0u8));
    }

    /// Whether the power was cut, and if so whether requests fail.
    pub(super) fn lost_power(&self) -> Option<bool> {
        match self.load::<u64>(self.layout.power()) {
            0 => None,
            word => Some(word == FAILS),
        }
    }

    /// The device was reset.
    pub(super) fn power_is_back(&self) {
        self.store(self.layout.power(), 0u64);
    }

    /// Whether any request is in flight.
    pub(super) fn is_empty(&self) -> bool {
        (0..self.layout.queues).all(|queue| (0..self.layout.entries).all(|head| !self.is_taken(queue, head)))
    }

    pub(super) fn set_open_zone(&self, zone: ZoneIndex, open: bool) {
        if zone.0 < self.layout.zones {
            self.store(self.layout.zone(zone), u8::from(open));
        }
    }

    // All places come from the layout, and the mapping is as long as that says.

    pub(super) fn load<T: AtomicAccess + Default>(&self, at: usize) -> T {
        self.map.as_volatile_slice().load(at, Ordering::Acquire).unwrap_or_default()
    }

    pub(super) fn store<T: AtomicAccess>(&self, at: usize, value: T) {
        if self.map.as_volatile_slice().store(value, at, Ordering::Release).is_err() {
            log::error!("the in-flight region has no place {at}");
        }
    }
}

/// The block of one running queue.
pub(super) struct Tracker {
    region: Arc<Inflight>,
    queue: u16,
    /// The number of the next request taken.
    counter: u64,
}

impl Tracker {
    /// Takes the block of a queue into use, whose used ring stands at `used`. Also the heads of the requests that were
    /// left behind, in the order in which they were taken.
    pub(super) fn new(region: Arc<Inflight>, queue: u16, used: u16) -> (Self, Vec<u16>) {
        let mut tracker = Self { region, queue, counter: 0 };
        tracker.unmark_given_back(used);
        let mut left: Vec<(u64, u16)> = (0..tracker.region.entries())
            .filter(|head| tracker.region.is_taken(queue, *head))
            .map(|head| (tracker.region.load(tracker.entry(head) + 8), head))
            .collect();
        left.sort_unstable();
        tracker.counter = left.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        (tracker, left.into_iter().map(|(_, head)| head).collect())
    }

    fn entry(&self, head: u16) -> usize {
        self.region.layout.entry(self.queue, head)
    }

    fn block(&self) -> usize {
        self.region.layout.block(self.queue)
    }

    /// The last process may have died between giving requests back and unmarking them.
    fn unmark_given_back(&mut self, used: u16) {
        let behind = used.wrapping_sub(self.region.load::<u16>(self.block() + 14));
        let mut head: u16 = self.region.load(self.block() + 12);
        for _ in 0..behind.min(self.region.entries()) {
            if head >= self.region.entries() {
                break;
            }
            self.region.store(self.entry(head), 0u8);
            head = self.region.load(self.entry(head) + 6);
        }
        self.region.store(self.block() + 14, used);
    }

    /// Marks a request that was taken from the ring.
    pub(super) fn take(&mut self, head: u16) {
        if let Some(record) = self.region.record(self.queue, head) {
            // What is left of an earlier request with this head.
            self.region.store(record, 0u64);
            self.region.store(record + CHOICE, 0u64);
            self.region.store(self.entry(head) + 8, self.counter);
            self.region.store(self.entry(head), 1u8);
            self.counter = self.counter.wrapping_add(1);
        }
    }

    /// A request is about to be put into the used ring.
    pub(super) fn before_giving_back(&self, head: u16) {
        if head < self.region.entries() {
            let last: u16 = self.region.load(self.block() + 12);
            self.region.store(self.entry(head) + 6, last);
            self.region.store(self.block() + 12, head);
        }
    }

    /// It is there, and the used ring stands at `used`.
    pub(super) fn given_back(&self, head: u16, used: u16) {
        if head < self.region.entries() {
            self.region.store(self.entry(head), 0u8);
        }
        self.region.store(self.block() + 14, used);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const DISK: Disk = [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7), ("h", 8)];

    fn region() -> (VhostUserInflight, File, Arc<Inflight>) {
        let (told, file) = Inflight::create(&VhostUserInflight::new(0, 0, 2, 8), &DISK, 5).unwrap();
        let region = Inflight::open(&told, &file, &DISK, 5).unwrap();
        (told, file, region)
    }

    #[test]
    fn the_blocks_are_those_of_the_protocol_and_nothing_overlaps() {
        let layout = Layout::new(3, 2048, 7).unwrap();
        assert_eq!(layout.block(1), (16 + 2048 * 16usize).next_multiple_of(64));
        assert_eq!(layout.entry(1, 2), layout.block(1) + 16 + 32);
        assert!(layout.entry(2, 2047) + ENTRY <= layout.disk());
        assert!(layout.disk() + 8 * DISK_WORDS <= layout.power());
        assert!(layout.power() + 8 <= layout.record(0, 0));
        assert_eq!(layout.record(1, 0), layout.record(0, 2047) + RECORD);
        assert!(layout.record(2, 2047) + RECORD <= layout.zone(ZoneIndex(0)));
        assert!(layout.zone(ZoneIndex(6)) < layout.size());
        let (_, _, region) = region();
        assert_eq!(region.load::<u16>(region.layout.block(1) + 8), 1, "version");
        assert_eq!(region.load::<u16>(region.layout.block(1) + 10), 1024, "more descriptors than asked for");
    }

    #[test]
    fn a_region_of_another_disk_or_size_is_refused_by_the_field() {
        let (told, file, _) = region();
        let open = |told: &VhostUserInflight, disk: &Disk, zones| {
            Inflight::open(told, &file, disk, zones).err().map(|error| error.to_string()).unwrap()
        };
        let mut other = DISK;
        other[1].1 = 9;
        assert!(open(&told, &other, 5).contains("has b 2, and the image served here 9"));
        assert!(open(&told, &DISK, 600).contains("bytes: expected"));
        assert!(open(&VhostUserInflight::new(told.mmap_size, 64, 2, 8), &DISK, 5).contains("bytes: expected"));
        assert!(open(&VhostUserInflight::new(u64::MAX, u64::MAX, 2, 8), &DISK, 5).contains("bytes: expected"));
        assert!(open(&VhostUserInflight::new(told.mmap_size, 0, 0, 8), &DISK, 5).contains("0 queues"));
        assert!(open(&VhostUserInflight::new(told.mmap_size, 0, 1, 8), &DISK, 5).contains("not made by"));
    }

    #[test]
    fn requests_left_behind_come_back_in_the_order_they_were_taken() {
        let (_, _, region) = region();
        let (mut tracker, left) = Tracker::new(Arc::clone(&region), 1, 0);
        assert!(left.is_empty());
        [5, 2, 7, 0].into_iter().for_each(|head| tracker.take(head));
        tracker.before_giving_back(2);
        tracker.given_back(2, 1);
        let (mut tracker, left) = Tracker::new(Arc::clone(&region), 1, 1);
        assert_eq!(left, [5, 7, 0]);
        tracker.take(2);
        assert_eq!(Tracker::new(Arc::clone(&region), 1, 1).1, [5, 7, 0, 2]);
        assert!(Tracker::new(region, 0, 0).1.is_empty(), "the other queue has none");
    }

    #[test]
    fn a_power_cut_empties_the_region_and_is_remembered_until_the_device_is_reset() {
        let (_, _, region) = region();
        Tracker::new(Arc::clone(&region), 1, 0).0.take(5);
        region.set_open_zone(ZoneIndex(3), true);
        assert!(!region.is_empty() && region.lost_power().is_none());
        for fails in [true, false] {
            region.lose_power(fails);
            assert_eq!(region.lost_power(), Some(fails));
            assert!(region.is_empty() && region.open_zones().next().is_none());
        }
        region.power_is_back();
        assert_eq!(region.lost_power(), None);
    }

    #[test]
    fn a_request_in_the_used_ring_is_not_left_behind_though_it_is_still_marked() {
        let (_, _, region) = region();
        let (mut tracker, _) = Tracker::new(Arc::clone(&region), 0, 65535);
        [3, 4].into_iter().for_each(|head| tracker.take(head));
        tracker.before_giving_back(3);
        assert_eq!(Tracker::new(Arc::clone(&region), 0, 65535).1, [3, 4], "it is not in the used ring yet");
        tracker.before_giving_back(4);
        assert_eq!(Tracker::new(region, 0, 0).1, [3], "the index has wrapped");
    }
}
