//! The requests in flight of one worker.
//!
//! A slot owns all that the kernel and the store may still come back to: the buffers and their iovecs, the head of
//! the chain, the ticket. It is free again only after its answer was put into the used ring. Slots are made as they
//! are needed and kept, so that a request allocates nothing in the long run.

use super::transfer::DataIo;
use crate::store::Ticket;
use crate::virtio::request::{Buffers, Request};

/// The slot of the worker's own flushes; see `execute`.
pub(super) const FLUSH_SLOT: u16 = 0;

/// One request.
#[derive(Default)]
pub(super) struct Slot {
    /// What goes back into the used ring.
    pub(super) head: u16,
    pub(super) buffers: Buffers,
    pub(super) request: Option<Request>,
    /// Present while the request is parked: the store will say when it goes on.
    pub(super) parked: Option<Ticket>,
    /// Present while the request's I/O runs.
    pub(super) in_io: Option<Ticket>,
    pub(super) io: DataIo,
}

/// The slots of a worker: [`FLUSH_SLOT`] and one for each entry of the ring.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
    limit: u16,
}

impl Slots {
    pub(super) fn new(ring_size: u16) -> Self {
        Self { slots: vec![Slot::default()], free: Vec::new(), limit: ring_size }
    }

    /// A free slot. None when as many requests are in flight as the ring has entries, which a driver that keeps the
    /// rules never exceeds.
    pub(super) fn take(&mut self) -> Option<u16> {
        if let Some(slot) = self.free.pop() {
            return Some(slot);
        }
        let slot = u16::try_from(self.slots.len()).ok().filter(|slot| *slot <= self.limit)?;
        self.slots.push(Slot::default());
        Some(slot)
    }

    /// Whether [`take`](Self::take) would give one.
    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty() || self.slots.len() <= usize::from(self.limit)
    }

    /// Frees a slot.
    pub(super) fn give_back(&mut self, number: u16) {
        if let Some(slot) = self.get(number) {
            slot.buffers.recycle();
            slot.io.recycle();
            slot.request = None;
            slot.parked = None;
            slot.in_io = None;
            self.free.push(number);
        }
    }

    pub(super) fn get(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number))
    }

    /// Requests in flight, [`FLUSH_SLOT`] not counted.
    pub(super) fn in_use(&self) -> usize {
        self.slots.len() - 1 - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_slots_as_ring_entries_and_they_are_used_again() {
        let mut slots = Slots::new(4);
        assert_eq!([0; 5].map(|_| slots.take()), [Some(1), Some(2), Some(3), Some(4), None]);
        assert!(!slots.has_free());
        assert_eq!(slots.in_use(), 4);
        slots.give_back(3);
        assert!(slots.has_free());
        assert_eq!((slots.take(), slots.take()), (Some(3), None));
        let mut largest = Slots::new(32768);
        assert_eq!((0..40000).filter_map(|_| largest.take()).count(), 32768);
    }
}
