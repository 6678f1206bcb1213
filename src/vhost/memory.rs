//! The frontend's memory table: which files are the guest's memory, and at which addresses.
//!
//! A table is never changed once workers have it: every message makes a new [`Memory`] that shares the mappings that
//! stay. Frontends name ring addresses as addresses of their own process; [`MemoryTable::translate`] turns them into
//! guest-physical ones.

use std::fs::File;
use std::sync::Arc;

use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestRegionCollection, GuestRegionMmap, MmapRegion};

use crate::virtio::memory::Memory;

/// Most regions at a time; what QEMU allows for its own memory slots.
pub(super) const MAX_REGIONS: usize = 509;

/// The smallest page.
const PAGE: u64 = 4096;

/// Why a memory table was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("{0} memory regions: expected at most {MAX_REGIONS}")]
    TooMany(usize),
    #[error("a memory region at guest address {guest:#x} of {size:#x} bytes cannot be mapped: {reason}")]
    Map { guest: u64, size: u64, reason: String },
    #[error("memory regions overlap at guest address {0:#x}")]
    Overlap(u64),
    #[error("no memory region at guest address {0:#x} has this size and address")]
    Unknown(u64),
}

#[derive(Clone, Debug)]
struct Region {
    guest: u64,
    user: u64,
    size: u64,
    memory: Arc<GuestRegionMmap>,
    /// The mapping that `memory` is a part of.
    mapping: Arc<MmapRegion>,
}

/// The regions and the memory made of them.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryTable {
    /// In the order of their guest addresses.
    regions: Vec<Region>,
    memory: Arc<Memory>,
}

impl MemoryTable {
    /// Maps the regions of a whole table.
    pub(super) fn new(regions: Vec<(VhostUserMemoryRegion, File)>) -> Result<Self, MemoryError> {
        Self::from_regions(regions.iter().map(|(region, file)| map(region, file)).collect::<Result<_, _>>()?)
    }

    /// This table and one more region.
    pub(super) fn with(&self, region: &VhostUserMemoryRegion, file: &File) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(map(region, file)?);
        Self::from_regions(regions)
    }

    /// This table without a region. Frontends name it by its addresses and size.
    pub(super) fn without(&self, region: &VhostUserMemoryRegion) -> Result<Self, MemoryError> {
        let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let same = |have: &Region| have.guest == guest && have.user == user && have.size == size;
        let mut regions = self.regions.clone();
        let place = regions.iter().position(same).ok_or(MemoryError::Unknown(guest))?;
        regions.remove(place);
        Self::from_regions(regions)
    }

    fn from_regions(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        if regions.len() > MAX_REGIONS {
            return Err(MemoryError::TooMany(regions.len()));
        }
        regions.sort_by_key(|region| region.guest);
        let ends_before = |pair: &&[Region]| pair[0].guest.saturating_add(pair[0].size) > pair[1].guest;
        if let Some(pair) = regions.windows(2).find(ends_before) {
            return Err(MemoryError::Overlap(pair[1].guest));
        }
        let parts = regions.iter().map(|region| Arc::clone(&region.memory)).collect();
        // The one thing left to refuse is a table of no regions.
        let guest = GuestRegionCollection::from_arc_regions(parts).unwrap_or_default();
        let mappings = regions.iter().map(|region| Arc::clone(&region.mapping)).collect();
        Ok(Self { regions, memory: Arc::new(Memory::new(guest, mappings)) })
    }

    /// The guest's memory.
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The guest address of an address in the frontend's process.
    pub(super) fn translate(&self, user: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|region| {
            let offset = user.checked_sub(region.user).filter(|offset| *offset < region.size)?;
            region.guest.checked_add(offset).map(GuestAddress)
        })
    }
}

/// The size of the pages that a file is mapped in, where it decides.
fn page_of(file: &File) -> u64 {
    let huge = fstatfs(file).ok().filter(|about| about.filesystem_type() == HUGETLBFS_MAGIC);
    huge.and_then(|about| u64::try_from(about.block_size()).ok()).map_or(PAGE, |page| page.max(PAGE))
}

/// Maps whole pages, of which the region may be a part: QEMU has the memory beyond 4 GiB in the same file as the memory
/// below the hole for devices, whose border is no border of huge pages. Every page that a mapping ends in is mapped to
/// its end as well, as a part of a huge page can be neither mapped nor unmapped.
fn map(region: &VhostUserMemoryRegion, file: &File) -> Result<Region, MemoryError> {
    let (guest, user, size, offset) =
        (region.guest_phys_addr, region.user_addr, region.memory_size, region.mmap_offset);
    let failed = |reason: String| MemoryError::Map { guest, size, reason };
    // The mapping would be there all the same, and the first access beyond the file end this process.
    let end = offset.saturating_add(size);
    let about = file.metadata().map_err(|error| failed(error.to_string()))?;
    if about.is_file() && about.len() < end {
        return Err(failed(format!("its file has {:#x} bytes: expected at least {end:#x}", about.len())));
    }
    if !offset.is_multiple_of(PAGE) {
        return Err(failed(format!("it begins at {offset:#x} of its file: expected a multiple of {PAGE}")));
    }
    let page = page_of(file);
    let lead = offset % page;
    let whole = if page == PAGE { Some(size) } else { (lead + size).checked_next_multiple_of(page) };
    let too_long = || failed("it is longer than the address space".into());
    let whole = whole.and_then(|whole| usize::try_from(whole).ok()).ok_or_else(too_long)?;
    let file = file.try_clone().map_err(|error| failed(error.to_string()))?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, offset - lead), whole);
    let mapping = Arc::new(mapping.map_err(|error| failed(error.to_string()))?);
    let part = part(&mapping, lead as usize, size as usize).map_err(|error| failed(error.to_string()))?;
    let memory = GuestRegionMmap::new(part, GuestAddress(guest))
        .ok_or_else(|| failed("it reaches past the end of the address space".into()))?;
    Ok(Region { guest, user, size, memory: Arc::new(memory), mapping })
}

/// A part of a mapping, to be used no longer than that.
fn part(of: &MmapRegion, from: usize, size: usize) -> Result<MmapRegion, vm_memory::mmap::MmapRegionError> {
    // SAFETY: the part lies in the mapping, which is whole pages around it. `Memory`, which has the part, and `Region`
    // hold the mapping as well, and outlive nothing that uses it.
    unsafe { MmapRegion::build_raw(of.as_ptr().wrapping_add(from), size, of.prot(), of.flags()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use vm_memory::Bytes as _;

    use super::*;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn region(guest: u64, size: u64, user: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, size, user, 0)
    }

    fn one(guest: u64, size: u64, user: u64, file: File) -> Result<MemoryTable, MemoryError> {
        MemoryTable::new(vec![(region(guest, size, user), file)])
    }

    #[test]
    fn ring_addresses_are_translated_through_the_region_that_holds_them() {
        let regions =
            vec![(region(0x10000, 0x2000, 0x7f00_0000), file(0x2000)), (region(0, 0x1000, 0x5500_0000), file(0x1000))];
        let table = MemoryTable::new(regions).unwrap();
        assert_eq!(table.translate(0x7f00_1fff), Some(GuestAddress(0x11fff)));
        assert_eq!(table.translate(0x5500_0000), Some(GuestAddress(0)));
        for outside in [0x7f00_2000, 0x54ff_ffff, 0, u64::MAX] {
            assert_eq!(table.translate(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn regions_come_and_go_while_the_others_stay_mapped() {
        let table = one(0, 0x1000, 0x1000, file(0x1000)).unwrap();
        table.memory().write_obj(0x55u8, GuestAddress(7)).unwrap();
        let more = table.with(&region(0x1000, 0x1000, 0x8000), &file(0x1000)).unwrap();
        assert!(more.memory().holds(GuestAddress(0), 0x2000));
        assert!(matches!(more.without(&region(0, 0x1000, 0x9999)), Err(MemoryError::Unknown(0))));
        let less = more.without(&region(0x1000, 0x1000, 0x8000)).unwrap();
        assert_eq!(less.memory().read_obj::<u8>(GuestAddress(7)).unwrap(), 0x55);
        assert!(!less.memory().holds(GuestAddress(0x1000), 1));
        let none = less.without(&region(0, 0x1000, 0x1000)).unwrap();
        assert!(!none.memory().holds(GuestAddress(0), 1));
    }

    #[test]
    fn a_region_beyond_its_file_or_over_another_is_refused() {
        let short = one(0, 0x2000, 0, file(0x1000));
        assert!(matches!(short, Err(MemoryError::Map { .. })));
        let table = one(0x1000, 0x2000, 0, file(0x2000)).unwrap();
        for guest in [0x1000, 0x2000, 0] {
            let overlapping = table.with(&region(guest, 0x2000, 0x10_0000), &file(0x2000));
            assert!(matches!(overlapping, Err(MemoryError::Overlap(_))), "{guest:#x}");
        }
    }

    /// Memory of huge pages, where this machine has any to give.
    fn huge(len: u64) -> Option<File> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB | MFdFlags::MFD_CLOEXEC;
        let file = File::from(memfd_create("huge", flags).ok()?);
        // Pages that are not there would be missed at the first access, which ends the process.
        nix::fcntl::posix_fallocate(&file, 0, len as i64).ok()?;
        Some(file)
    }

    #[test]
    fn a_region_that_begins_inside_a_huge_page_is_mapped_from_the_start_of_that_page() {
        const HUGE: u64 = 2 << 20;
        let Some(file) = huge(3 * HUGE) else {
            eprintln!("not tested: this machine has no three huge pages free");
            return;
        };
        let end = |table: &MemoryTable, guest| table.memory().read_obj::<u8>(GuestAddress(guest)).unwrap();
        let all = one(0, 3 * HUGE, 0, file.try_clone().unwrap()).unwrap();
        let (offset, size) = (HUGE - PAGE, HUGE + 2 * PAGE);
        let inside = VhostUserMemoryRegion::new(1 << 32, size, 0x7000, offset);
        let table = MemoryTable::new(vec![(inside, file)]).unwrap();
        table.memory().write_obj(0x11u8, GuestAddress(1 << 32)).unwrap();
        table.memory().write_obj(0x22u8, GuestAddress((1 << 32) + size - 1)).unwrap();
        assert_eq!((end(&all, offset), end(&all, offset + size - 1)), (0x11, 0x22));
        assert!(!table.memory().holds(GuestAddress((1 << 32) + size), 1), "nothing but the region is the guest's");
        assert!(!table.memory().holds(GuestAddress((1 << 32) - 1), 1));
        let range = |table: &MemoryTable| {
            let mapping = &table.regions[0].mapping;
            format!("{:x}-{:x}", mapping.as_ptr() as usize, mapping.as_ptr() as usize + mapping.size())
        };
        let mapped = |range: &str| std::fs::read_to_string("/proc/self/maps").unwrap().contains(range);
        let was = range(&table);
        assert!(mapped(&was), "{was}");
        drop(table);
        assert!(!mapped(&was), "{was} is mapped still");
    }

    #[test]
    fn a_region_may_begin_at_any_page_of_its_file_and_memory_outlives_its_table() {
        let file = file(0x4000);
        let region = VhostUserMemoryRegion::new(0x1000, 0x1000, 0, 0x3000);
        let table = MemoryTable::new(vec![(region, file.try_clone().unwrap())]).unwrap();
        let memory = Arc::clone(table.memory());
        drop(table);
        memory.write_obj(0x77u8, GuestAddress(0x1000)).unwrap();
        let mut found = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 0x3000).unwrap();
        assert_eq!(found, [0x77]);
        let odd = VhostUserMemoryRegion::new(0x1000, 0x1000, 0, 0x200);
        assert!(matches!(MemoryTable::new(vec![(odd, file)]), Err(MemoryError::Map { .. })));
    }
}
