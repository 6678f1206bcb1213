//! The guest's memory, as rings and requests see it.
//!
//! A request looks into guest memory about ten times: a descriptor, the header, the status byte. Each look finds its region and
//! takes a slice of it, so that the iterator over slices is the hottest code of the device above the store. The one of `vm-memory`
//! moves each slice through memory several times; the one here does not, and is one function to the compiler.

use std::iter::FusedIterator;
use std::sync::Arc;

use vm_memory::guest_memory::{Error, GuestMemorySliceIterator, Result};
use vm_memory::{
    GuestAddress, GuestMemory, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _,
    GuestRegionCollectionError, GuestRegionMmap, MmapRegion, Permissions, VolatileSlice,
};

/// The guest's memory. It holds the mappings that its regions are parts of.
#[derive(Debug, Default)]
pub struct Memory {
    guest: GuestMemoryMmap,
    mappings: Vec<Arc<MmapRegion>>,
}

impl Memory {
    /// Makes memory whose regions are parts of these mappings, or have their own.
    pub fn new(guest: GuestMemoryMmap, mappings: Vec<Arc<MmapRegion>>) -> Self {
        Self { guest, mappings }
    }

    /// Whether all of a range is memory.
    #[inline]
    pub fn holds(&self, addr: GuestAddress, count: usize) -> bool {
        self.slices(addr, count).all(|slice| slice.is_ok())
    }

    /// The last address of the last region; 0 where there is none.
    pub fn last_addr(&self) -> GuestAddress {
        self.guest.last_addr()
    }

    /// This memory and one more region.
    pub fn with(&self, region: GuestRegionMmap) -> std::result::Result<Self, GuestRegionCollectionError> {
        Ok(Self { guest: self.guest.insert_region(Arc::new(region))?, mappings: self.mappings.clone() })
    }

    /// Cuts a range into the pieces of this process's memory that hold it. An error is the last item.
    #[inline]
    pub fn slices(&self, addr: GuestAddress, count: usize) -> Slices<'_> {
        Slices { memory: self, addr, count }
    }
}

impl From<GuestMemoryMmap> for Memory {
    fn from(guest: GuestMemoryMmap) -> Self {
        Self::new(guest, Vec::new())
    }
}

impl GuestMemory for Memory {
    type PhysicalMemory = GuestMemoryMmap;
    type Bitmap = ();

    #[inline]
    fn check_range(&self, addr: GuestAddress, count: usize, _: Permissions) -> bool {
        self.holds(addr, count)
    }

    #[inline]
    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        _: Permissions,
    ) -> Result<impl GuestMemorySliceIterator<'a, ()>> {
        Ok(self.slices(addr, count))
    }

    fn physical_memory(&self) -> Option<&GuestMemoryMmap> {
        Some(&self.guest)
    }
}

/// The pieces of a range of guest memory.
#[derive(Debug)]
pub struct Slices<'a> {
    memory: &'a Memory,
    addr: GuestAddress,
    count: usize,
}

impl<'a> Slices<'a> {
    /// The piece at the beginning of what is left, which is not empty.
    #[inline]
    fn first(&mut self) -> Result<VolatileSlice<'a>> {
        let addr = self.addr;
        let outside = || Error::InvalidGuestAddress(addr);
        let region = self.memory.guest.find_region(addr).ok_or_else(outside)?;
        let at = region.to_region_addr(addr).ok_or_else(outside)?;
        let len = usize::try_from(region.len() - at.0).unwrap_or(usize::MAX).min(self.count);
        let slice = region.get_slice(at, len)?;
        self.count -= len;
        // No wrap: a region that reaches the end of the address space cannot be made.
        self.addr = GuestAddress(addr.0.wrapping_add(len as u64));
        Ok(slice)
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = Result<VolatileSlice<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let first = self.first();
        if first.is_err() {
            self.count = 0;
        }
        Some(first)
    }
}

impl FusedIterator for Slices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, ()> for Slices<'a> {
    #[inline]
    fn stop_on_error(self) -> Result<impl Iterator<Item = VolatileSlice<'a>>> {
        // Cheaper than to take the first piece, which would have to be kept.
        if self.count != 0 && self.memory.guest.find_region(self.addr).is_none() {
            return Err(Error::InvalidGuestAddress(self.addr));
        }
        Ok(self.map_while(Result::ok))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;
    use vm_memory::Bytes as _;

    use super::*;

    /// Two regions that touch, a hole, and one more.
    const REGIONS: [(u64, usize); 3] = [(0x1000, 0x1000), (0x2000, 0x800), (0x3000, 0x1000)];

    fn guest() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&REGIONS.map(|(at, len)| (GuestAddress(at), len))).unwrap()
    }

    proptest! {
        #[test]
        fn a_range_is_found_read_and_written_as_vm_memory_does(at in 0x0f00_u64..0x4100, count in 0_usize..0x1200) {
            let (guest, at) = (guest(), GuestAddress(at));
            let memory = Memory::from(guest.clone());
            prop_assert_eq!(memory.holds(at, count), vm_memory::GuestMemoryBackend::check_range(&guest, at, count));
            let bytes: Vec<u8> = (0..count).map(|n| n as u8 | 1).collect();
            let written = memory.write(&bytes, at).ok();
            let mut read = vec![0; count];
            let mut read_by_other = vec![0; count];
            let (len, len_of_other) = (memory.read(&mut read, at).ok(), guest.read(&mut read_by_other, at).ok());
            prop_assert_eq!((len, &read), (len_of_other, &read_by_other));
            prop_assert_eq!(written, len);
            prop_assert_eq!(memory.read_slice(&mut read, at).is_ok(), vm_memory::GuestMemoryBackend::check_range(&guest, at, count));
        }
    }

    #[test]
    fn pieces_end_with_their_regions_and_an_error_is_the_last_item() {
        let memory = Memory::from(guest());
        let lens = |at, count| -> Vec<Option<usize>> {
            memory.slices(GuestAddress(at), count).map(|slice| slice.ok().map(|slice| slice.len())).collect()
        };
        assert_eq!(lens(0x1ff0, 0x20), [Some(0x10), Some(0x10)]);
        assert_eq!(lens(0x27ff, 2), [Some(1), None]);
        assert_eq!(lens(0x2800, 1), [None]);
        assert_eq!(lens(0, 0), []);
        assert_eq!(lens(u64::MAX, 2), [None]);
    }

    #[test]
    fn a_region_more_leaves_the_memory_as_it_was() {
        let memory = Memory::from(guest());
        let more = memory.with(GuestRegionMmap::from_range(GuestAddress(0x4000), 0x1000, None).unwrap()).unwrap();
        assert_eq!((memory.last_addr().0, more.last_addr().0), (0x3fff, 0x4fff));
        assert!(more.holds(GuestAddress(0x3000), 0x2000) && !memory.holds(GuestAddress(0x3000), 0x2000));
    }
}
