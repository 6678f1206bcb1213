//! The frontend's memory table: which files are the guest's memory, and at which addresses.
//!
//! A table is never changed once workers have it: every message makes a new [`GuestMemoryMmap`] that shares the
//! mappings that stay. Frontends name ring addresses as addresses of their own process; [`MemoryTable::translate`]
//! turns them into guest-physical ones.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollection, GuestRegionMmap};

/// Most regions at a time; what QEMU allows for its own memory slots.
pub(super) const MAX_REGIONS: usize = 509;

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
    mapping: Arc<GuestRegionMmap>,
}

/// The regions and the memory made of them.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryTable {
    /// In the order of their guest addresses.
    regions: Vec<Region>,
    memory: Arc<GuestMemoryMmap>,
}

impl MemoryTable {
    /// Maps the regions of a whole table.
    pub(super) fn new(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self, MemoryError> {
        let mapped = regions.iter().zip(files).map(|(region, file)| map(region, file)).collect::<Result<_, _>>()?;
        Self::from_regions(mapped)
    }

    /// This table and one more region.
    pub(super) fn with(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Self, MemoryError> {
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
        let mappings = regions.iter().map(|region| Arc::clone(&region.mapping)).collect();
        // The one thing left to refuse is a table of no regions.
        let memory = GuestRegionCollection::from_arc_regions(mappings).unwrap_or_default();
        Ok(Self { regions, memory: Arc::new(memory) })
    }

    /// The guest's memory.
    pub(super) fn memory(&self) -> &Arc<GuestMemoryMmap> {
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

fn map(region: &VhostUserMemoryRegion, file: File) -> Result<Region, MemoryError> {
    let (guest, user, size) = (region.guest_phys_addr, region.user_addr, region.memory_size);
    let failed = |reason: String| MemoryError::Map { guest, size, reason };
    // The mapping would be there all the same, and the first access beyond the file end this process.
    let end = region.mmap_offset.saturating_add(size);
    let about = file.metadata().map_err(|error| failed(error.to_string()))?;
    if about.is_file() && about.len() < end {
        return Err(failed(format!("its file has {:#x} bytes: expected at least {end:#x}", about.len())));
    }
    let mapping = region.mmap_region(file).map_err(|error| failed(error.to_string()))?;
    let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest))
        .ok_or_else(|| failed("it reaches past the end of the address space".into()))?;
    Ok(Region { guest, user, size, mapping: Arc::new(mapping) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use vm_memory::{Bytes as _, GuestMemoryBackend};

    use super::*;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn region(guest: u64, size: u64, user: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, size, user, 0)
    }

    #[test]
    fn ring_addresses_are_translated_through_the_region_that_holds_them() {
        let regions = [region(0x10000, 0x2000, 0x7f00_0000), region(0, 0x1000, 0x5500_0000)];
        let table = MemoryTable::new(&regions, vec![file(0x2000), file(0x1000)]).unwrap();
        assert_eq!(table.translate(0x7f00_1fff), Some(GuestAddress(0x11fff)));
        assert_eq!(table.translate(0x5500_0000), Some(GuestAddress(0)));
        for outside in [0x7f00_2000, 0x54ff_ffff, 0, u64::MAX] {
            assert_eq!(table.translate(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn regions_come_and_go_while_the_others_stay_mapped() {
        let table = MemoryTable::new(&[region(0, 0x1000, 0x1000)], vec![file(0x1000)]).unwrap();
        table.memory().write_obj(0x55u8, GuestAddress(7)).unwrap();
        let more = table.with(&region(0x1000, 0x1000, 0x8000), file(0x1000)).unwrap();
        assert!(more.memory().check_range(GuestAddress(0), 0x2000));
        assert!(matches!(more.without(&region(0, 0x1000, 0x9999)), Err(MemoryError::Unknown(0))));
        let less = more.without(&region(0x1000, 0x1000, 0x8000)).unwrap();
        assert_eq!(less.memory().read_obj::<u8>(GuestAddress(7)).unwrap(), 0x55);
        assert!(!less.memory().check_range(GuestAddress(0x1000), 1));
        let none = less.without(&region(0, 0x1000, 0x1000)).unwrap();
        assert!(!none.memory().check_range(GuestAddress(0), 1));
    }

    #[test]
    fn a_region_beyond_its_file_or_over_another_is_refused() {
        let short = MemoryTable::new(&[region(0, 0x2000, 0)], vec![file(0x1000)]);
        assert!(matches!(short, Err(MemoryError::Map { .. })));
        let table = MemoryTable::new(&[region(0x1000, 0x2000, 0)], vec![file(0x2000)]).unwrap();
        for guest in [0x1000, 0x2000, 0] {
            let overlapping = table.with(&region(guest, 0x2000, 0x10_0000), file(0x2000));
            assert!(matches!(overlapping, Err(MemoryError::Overlap(_))), "{guest:#x}");
        }
    }
}
