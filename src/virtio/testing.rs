//! What the tests of this layer and of `vhost` share: a geometry, and chains of descriptors in guest memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::request::{Buffers, Request};
use super::status::RequestError;
use crate::units::Bytes;
use crate::virtio::memory::Memory;
use crate::zone::{Geometry, GeometryRequest};

/// 12 zones of 64 MiB, 48 MiB of each writable, the first conventional.
pub(crate) fn geometry() -> Geometry {
    let request = GeometryRequest {
        size: Bytes(768 << 20),
        zone_size: Bytes(64 << 20),
        zone_capacity: Bytes(48 << 20),
        conventional_zones: 1,
        max_open_zones: 6,
        max_active_zones: 8,
        max_append_bytes: Bytes(128 << 10),
    };
    Geometry::new(&request).unwrap().0
}

/// One megabyte of guest memory from 0; the rings of [`parse`] lie in its upper half.
pub(crate) fn memory() -> Memory {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap().into()
}

/// One buffer: address, length, device-writable.
pub(crate) type Buffer = (u64, u32, bool);

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// The descriptors of a chain.
pub(crate) fn descriptors(buffers: &[Buffer]) -> Vec<Descriptor> {
    let last = buffers.len().saturating_sub(1);
    let describe = |(index, (addr, len, writable)): (usize, &Buffer)| {
        let flags = if index == last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
        Descriptor::new(*addr, *len, flags, index as u16 + 1)
    };
    buffers.iter().enumerate().map(describe).collect()
}

/// Where the descriptor table, the available ring and the used ring of [`parse_raw`] lie, and how long they are.
pub(crate) const RINGS: (u64, u64, u64, u16) = (0x80000, 0x90000, 0xa0000, 2048);

/// Makes `descriptors` the only chain of a ring and parses it.
pub(crate) fn parse_raw(mem: &Memory, descriptors: &[Descriptor]) -> (Buffers, Result<Request, RequestError>) {
    let (table, available, used, size) = RINGS;
    for (index, descriptor) in descriptors.iter().enumerate() {
        mem.write_obj(*descriptor, GuestAddress(table + 16 * index as u64)).unwrap();
    }
    // flags 0, idx 1, ring[0] 0
    mem.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(available)).unwrap();
    let mut queue = Queue::new(size).unwrap();
    queue.try_set_desc_table_address(GuestAddress(table)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(available)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
    queue.set_ready(true);
    let chain = queue.iter(mem).unwrap().next().unwrap();
    let mut buffers = Buffers::default();
    let request = buffers.parse(mem, chain);
    (buffers, request)
}

/// Parses a chain of `buffers`.
pub(crate) fn parse(mem: &Memory, buffers: &[Buffer]) -> (Buffers, Result<Request, RequestError>) {
    parse_raw(mem, &descriptors(buffers))
}
