//! The requests in flight of one queue.
//!
//! A slot owns all that the kernel and the store may still come back to: the buffers and their iovecs, the head of
//! the chain, the ticket. It is free again only after its answer was put into the used ring. A slot belongs to the
//! descriptor that a chain begins with, which a driver uses for one request at a time. Slots are made as they are
//! needed and kept, so that a request allocates nothing in the long run.

use super::counts::Observed;
use crate::io::pieces::Pieces;
use crate::store::Ticket;
use crate::virtio::request::{Buffers, Request};

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
    pub(super) io: Pieces,
    pub(super) observed: Observed,
}

/// The slots of a queue: one for each descriptor that can begin a chain, by whose number it is known.
pub(super) struct Slots {
    slots: Vec<Slot>,
    limit: u16,
    in_use: usize,
}

impl Slots {
    pub(super) fn new(ring_size: u16) -> Self {
        Self { slots: Vec::new(), limit: ring_size, in_use: 0 }
    }

    /// Takes the slot of a chain. None when its head is that of a request in flight, or outside the table.
    pub(super) fn take(&mut self, head: u16) -> Option<&mut Slot> {
        if head >= self.limit {
            return None;
        }
        if self.slots.len() <= usize::from(head) {
            self.slots.resize_with(usize::from(head) + 1, Slot::default);
        }
        let slot = self.slots.get_mut(usize::from(head)).filter(|slot| !slot.taken)?;
        slot.taken = true;
        self.in_use += 1;
        Some(slot)
    }

    /// Frees a slot.
    pub(super) fn give_back(&mut self, head: u16) {
        if let Some(slot) = self.get(head) {
            slot.buffers.recycle();
            slot.io.recycle();
            slot.request = None;
            slot.parked = None;
            slot.in_io = None;
            slot.observed = Observed::default();
            if std::mem::take(&mut slot.taken) {
                self.in_use -= 1;
            }
        }
    }

    pub(super) fn look(&self, head: u16) -> Option<&Slot> {
        self.slots.get(usize::from(head))
    }

    pub(super) fn get(&mut self, head: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(head))
    }

    /// The heads of the requests in flight.
    pub(super) fn taken(&self) -> Vec<u16> {
        (0u16..).zip(&self.slots).filter(|(_, slot)| slot.taken).map(|(head, _)| head).collect()
    }

    /// Requests in flight.
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
        let take = |slots: &mut Slots, head| slots.take(head).is_some();
        assert_eq!([3, 0, 4].map(|head| take(&mut slots, head)), [true, true, false]);
        assert!(!take(&mut slots, 3), "it is in flight");
        assert_eq!(slots.in_use(), 2);
        slots.give_back(3);
        assert_eq!((slots.in_use(), take(&mut slots, 3)), (1, true));
        let mut largest = Slots::new(32768);
        assert_eq!((0..40000).filter(|head| take(&mut largest, *head)).count(), 32768);
    }
}
