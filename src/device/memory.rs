//! The guest's memory, as requests see it.

use std::ops::Deref;
use std::sync::Arc;

use vm_memory::{GuestMemoryMmap, MmapRegion};

/// The guest's memory. It holds the mappings that its regions are parts of.
#[derive(Debug, Default)]
pub struct Memory {
    guest: GuestMemoryMmap,
    _mappings: Vec<Arc<MmapRegion>>,
}

impl Memory {
    /// Memory whose regions are parts of these mappings, or have their own.
    pub fn new(guest: GuestMemoryMmap, mappings: Vec<Arc<MmapRegion>>) -> Self {
        Self { guest, _mappings: mappings }
    }
}

impl Deref for Memory {
    type Target = GuestMemoryMmap;

    fn deref(&self) -> &GuestMemoryMmap {
        &self.guest
    }
}
