//! Events brought into the order of their times.
//!
//! Each queue writes its records to a trace in batches, so that those of several queues stand in the file a little out of order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::event::Event;

/// Events that are held back, in which those of all queues of a batch have room.
const HELD: usize = 1 << 14;

/// Events in the order of their times, those of one time in the order in which they came. One that comes later than so many events
/// behind its time stays behind it.
pub struct Ordered<I> {
    events: I,
    held: BinaryHeap<Reverse<Held>>,
    count: u64,
    is_over: bool,
}

struct Held {
    number: u64,
    event: Event,
}

impl Held {
    fn key(&self) -> (u64, u64) {
        (self.event.at, self.number)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<I> Ordered<I> {
    /// Puts events into order.
    pub fn new(events: I) -> Self {
        Self { events, held: BinaryHeap::new(), count: 0, is_over: false }
    }
}

impl<I: Iterator<Item = Result<Event, E>>, E> Iterator for Ordered<I> {
    type Item = Result<Event, E>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over && self.held.len() < HELD {
            match self.events.next() {
                Some(Ok(event)) => {
                    self.held.push(Reverse(Held { number: self.count, event }));
                    self.count += 1;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => self.is_over = true,
            }
        }
        self.held.pop().map(|Reverse(held)| Ok(held.event))
    }
}
