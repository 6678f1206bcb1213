//! The guest's side of a disk in its own process: memory, and in it a chain of descriptors for each request, as a
//! driver of virtio 1.3, 5.2.6 lays them out. It trusts the device with its memory as any guest does.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::units::Sector;
use crate::virtio::memory::Memory;
use crate::virtio::status::Status;

/// Descriptors of the table.
pub(super) const RING: u16 = 256;
/// Descriptors of a chain, at most: header, data, the sector of an append, status.
const CHAIN: u16 = 4;
/// Requests in flight, at most.
const PLACES: u16 = RING / CHAIN;

// Where things lie: the table of descriptors, then the available ring, then what each place has beside its data, then
// data.
const AVAILABLE: u64 = 16 * RING as u64;
const BESIDE: u64 = 0x2000;
const DATA: u64 = 0x3000;

/// What a place has beside its data.
const HEADER: u64 = 0;
const APPENDED: u64 = 16;
const STATUS: u64 = 24;
const BESIDE_BYTES: u64 = 32;

/// Memory for data, at least.
const LEAST: u64 = 128 << 10;
/// What the data of a request begins at a multiple of.
const ALIGNMENT: u64 = 4096;
/// A status byte that no device writes.
const NONE: u8 = 0xff;

const _: () = assert!(AVAILABLE + 6 + 2 * RING as u64 <= BESIDE && BESIDE + BESIDE_BYTES * PLACES as u64 <= DATA);

/// What a request consists of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain<'a> {
    /// Its type.
    pub(super) kind: u32,
    pub(super) sector: Sector,
    /// Data for the device.
    pub(super) out: &'a [u8],
    /// Bytes of data from the device.
    pub(super) room: usize,
    /// The device is to say where it has put the data.
    pub(super) appends: bool,
}

/// A request in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    place: u16,
    data: GuestAddress,
    room: usize,
}

/// Memory that cannot be had, or is in use by requests that are not answered.
#[derive(Debug)]
pub(super) struct NoMemory;

/// The guest's memory, and what is in flight.
pub(super) struct Guest {
    mem: Arc<Memory>,
    queue: Queue,
    /// The available index.
    available: u16,
    in_flight: [bool; PLACES as usize],
    /// Where there is memory for data.
    free: u64,
    /// Where the memory ends.
    end: u64,
}

fn memory(end: u64) -> Result<Arc<Memory>, NoMemory> {
    let len = usize::try_from(end).map_err(|_| NoMemory)?;
    let guest = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).map_err(|_| NoMemory)?;
    Ok(Arc::new(Memory::new(guest, Vec::new())))
}

fn queue() -> Result<Queue, virtio_queue::Error> {
    let mut queue = Queue::new(RING)?;
    queue.try_set_desc_table_address(GuestAddress(0))?;
    queue.try_set_avail_ring_address(GuestAddress(AVAILABLE))?;
    queue.set_ready(true);
    Ok(queue)
}

impl Guest {
    pub(super) fn new() -> Result<Self, NoMemory> {
        let end = DATA + LEAST;
        Ok(Self {
            mem: memory(end)?,
            queue: queue().map_err(|_| NoMemory)?,
            available: 0,
            in_flight: [false; PLACES as usize],
            free: DATA,
            end,
        })
    }

    /// The memory, for the device.
    pub(super) fn mem(&self) -> &Arc<Memory> {
        &self.mem
    }

    /// Has memory for a request with so much data. Returns whether it is other memory than before, which it can be only
    /// while nothing is in flight.
    pub(super) fn make_room(&mut self, data: usize) -> Result<bool, NoMemory> {
        let busy = self.in_flight.contains(&true);
        if !busy {
            self.free = DATA;
        }
        let needed = u64::try_from(data).ok().and_then(|data| self.free.checked_add(data)).ok_or(NoMemory)?;
        if needed <= self.end {
            return Ok(false);
        }
        if busy {
            return Err(NoMemory);
        }
        let end = needed.checked_next_power_of_two().ok_or(NoMemory)?;
        let queue = queue().map_err(|_| NoMemory)?;
        (self.mem, self.queue, self.available, self.end) = (memory(end)?, queue, 0, end);
        Ok(true)
    }

    /// Makes a request available; there is [room](Self::make_room) for its data.
    pub(super) fn ask(&mut self, chain: &Chain<'_>) -> Result<Asked, NoMemory> {
        let place = (0..PLACES).zip(&self.in_flight).find(|(_, busy)| !**busy).map(|(place, _)| place);
        let place = place.ok_or(NoMemory)?;
        let asked = Asked { place, data: GuestAddress(self.free), room: chain.room };
        self.lay_out(chain, asked).map_err(|_| NoMemory)?;
        let data = chain.out.len().max(chain.room) as u64;
        self.free = self.free.saturating_add(data).next_multiple_of(ALIGNMENT);
        if let Some(busy) = self.in_flight.get_mut(usize::from(place)) {
            *busy = true;
        }
        Ok(asked)
    }

    fn lay_out(&mut self, chain: &Chain<'_>, asked: Asked) -> Result<(), vm_memory::GuestMemoryError> {
        let Asked { place, data, .. } = asked;
        let header = [u64::from(chain.kind).to_le(), chain.sector.0.to_le()];
        self.mem.write_obj(header, beside(place, HEADER))?;
        self.mem.write_obj(NONE, beside(place, STATUS))?;
        self.mem.write_slice(chain.out, data)?;
        let parts = [
            (beside(place, HEADER), 16, false),
            (data, chain.out.len(), false),
            (data, chain.room, true),
            (beside(place, APPENDED), if chain.appends { 8 } else { 0 }, true),
            (beside(place, STATUS), 1, true),
        ];
        let head = place * CHAIN;
        let parts = parts.into_iter().filter(|(_, len, _)| *len != 0);
        for (index, (addr, len, writable)) in (head..).zip(parts) {
            let mut flags = if writable { VRING_DESC_F_WRITE } else { 0 };
            flags |= if addr == beside(place, STATUS) { 0 } else { VRING_DESC_F_NEXT };
            let descriptor = Descriptor::new(addr.0, len as u32, flags as u16, index + 1);
            self.mem.write_obj(descriptor, GuestAddress(16 * u64::from(index)))?;
        }
        let entry = AVAILABLE + 4 + 2 * u64::from(self.available % RING);
        self.mem.write_obj(head.to_le(), GuestAddress(entry))?;
        self.available = self.available.wrapping_add(1);
        self.mem.write_obj(self.available.to_le(), GuestAddress(AVAILABLE + 2))
    }

    /// The chain of the request that was made available last. `mem` is [this guest's](Self::mem).
    pub(super) fn chain<'m>(&mut self, mem: &'m Memory) -> Option<DescriptorChain<&'m Memory>> {
        self.queue.iter(mem).ok()?.next()
    }

    /// Takes back the chain that begins with `head`.
    pub(super) fn take_back(&mut self, head: u16) {
        if let Some(busy) = self.in_flight.get_mut(usize::from(head / CHAIN)) {
            *busy = false;
        }
    }

    /// Whether the device has given a request back.
    pub(super) fn is_answered(&self, asked: &Asked) -> bool {
        self.in_flight.get(usize::from(asked.place)) == Some(&false)
    }

    /// The status of a request that was given back; none where the device has written none.
    pub(super) fn status(&self, asked: &Asked) -> Option<Status> {
        self.mem.read_obj(beside(asked.place, STATUS)).ok().and_then(Status::from_byte)
    }

    /// The data from the device.
    pub(super) fn data(&self, asked: &Asked) -> Vec<u8> {
        let mut data = vec![0; asked.room];
        // It lies in the memory, where it was put.
        let _ = self.mem.read_slice(&mut data, asked.data);
        data
    }

    /// Where an append has put its data.
    pub(super) fn appended(&self, asked: &Asked) -> Option<Sector> {
        self.mem.read_obj(beside(asked.place, APPENDED)).ok().map(|sector| Sector(u64::from_le(sector)))
    }
}

fn beside(place: u16, what: u64) -> GuestAddress {
    GuestAddress(BESIDE + BESIDE_BYTES * u64::from(place) + what)
}
