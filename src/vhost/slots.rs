//! The requests in flight of one worker.
//!
//! A slot owns all that the kernel and the store may still come back to: the buffers and their iovecs, the head of
//! the chain, the ticket. It is free again only after its answer was put into the used ring. A slot belongs to the
//! descriptor that a chain begins with, which a driver uses for one request at a time. Slots are made as they are
//! needed and kept, so that a request allocates nothing in the long run.

use super::transfer::DataIo;
use super::watch::Seen;
use crate::store::Ticket;
use crate::virtio::request::{Buffers, Request};

/// The slot of the queue's own flushes; see `requests`.
pub(super) const FLUSH_SLOT: u16 = 0;

/// One request.
#[derive(Default)]
pub(super) struct Slot {
    taken: bool,
    pub(super) buffers: Buffers,
    pub(super) request: Option<Request>,
    /// Present while the request is parked: the store will say when it goes on.
    pub(super) parked: Option<Ticket>,
    /// Present while the request's I/O runs.
    pub(super) in_io: Option<Ticket>,
    pub(super) io: DataIo,
    pub(super) seen: Seen,
}

/// The slot of the request whose chain begins with this descriptor.
pub(super) fn slot_of(head: u16) -> u16 {
    // Rings have at most 32768 descriptors.
    head.saturating_add(1)
}

/// The first descriptor of the request in a slot.
pub(super) fn head_of(slot: u16) -> Option<u16> {
    slot.checked_sub(1)
}

/// The slots of a worker: [`FLUSH_SLOT`] and one for each descriptor that can begin a chain.
pub(super) struct Slots {
    slots: Vec<Slot>,
    limit: u16,
    in_use: usize,
}

impl Slots {
    pub(super) fn new(ring_size: u16) -> Self {
        Self { slots: vec![Slot::default()], limit: ring_size, in_use: 0 }
    }

    /// The slot of a chain. None when its head is that of a request in flight, or outside the table.
    pub(super) fn take(&mut self, head: u16) -> Option<u16> {
        let number = slot_of(head);
        if head >= self.limit {
            return None;
        }
        if self.slots.len() <= usize::from(number) {
            self.slots.resize_with(usize::from(number) + 1, Slot::default);
        }
        let slot = self.slots.get_mut(usize::from(number)).filter(|slot| !slot.taken)?;
        slot.taken = true;
        self.in_use += 1;
        Some(number)
    }

    /// Frees a slot.
    pub(super) fn give_back(&mut self, number: u16) {
        if let Some(slot) = self.get(number) {
            slot.buffers.recycle();
            slot.io.recycle();
            slot.request = None;
            slot.parked = None;
            slot.in_io = None;
            slot.seen = Seen::default();
            if std::mem::take(&mut slot.taken) {
                self.in_use -= 1;
            }
        }
    }

    pub(super) fn look(&self, number: u16) -> Option<&Slot> {
        self.slots.get(usize::from(number))
    }

    pub(super) fn get(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number))
    }

    /// Requests in flight, [`FLUSH_SLOT`] not counted.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_one_slot_and_is_in_flight_once() {
        let mut slots = Slots::new(4);
        assert_eq!([3, 0, 4].map(|head| slots.take(head)), [Some(4), Some(1), None]);
        assert_eq!(slots.take(3), None, "it is in flight");
        assert_eq!(slots.in_use(), 2);
        slots.give_back(4);
        assert_eq!((slots.in_use(), slots.take(3)), (1, Some(4)));
        let mut largest = Slots::new(32768);
        assert_eq!((0..40000).filter_map(|head| largest.take(head)).count(), 32768);
        assert_eq!((head_of(FLUSH_SLOT), head_of(slot_of(32767))), (None, Some(32767)));
    }
}
