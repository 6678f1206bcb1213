//! The answers of a queue that wait for durability: of flushes, and under write-through of whatever has changed something.
//!
//! One sync serves all that wait when it begins. The first of these has it done in its name.

use crate::virtio::status::Status;

/// An answer that is not in the used ring yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The head of its chain.
    pub(super) head: u16,
    pub(super) status: Status,
    /// Bytes written into the chain, the status included.
    pub(super) written: u32,
}

impl Answer {
    pub(super) fn new(head: u16, status: Status, written: u64) -> Self {
        Self { head, status, written: u32::try_from(written).unwrap_or(u32::MAX) }
    }
}

/// The answers that wait for durability.
#[derive(Default)]
pub(super) struct FlushGroup {
    /// Not covered by the sync that is under way.
    waiting: Vec<Answer>,
    /// Answered when the sync that is under way is over; the first is the request that has it done.
    covered: Vec<Answer>,
}

impl FlushGroup {
    /// Has an answer wait for a sync that begins later.
    pub(super) fn wait(&mut self, answer: Answer) {
        self.waiting.push(answer);
    }

    /// Lets the next sync begin, where answers wait for one and none is under way. Returns the head of the request that has
    /// it done.
    pub(super) fn begin(&mut self) -> Option<u16> {
        if !self.covered.is_empty() {
            return None;
        }
        std::mem::swap(&mut self.waiting, &mut self.covered);
        self.covered.first().map(|answer| answer.head)
    }

    /// Whether this request has the sync done that is under way.
    pub(super) fn is_led_by(&self, head: u16) -> bool {
        self.covered.first().is_some_and(|answer| answer.head == head)
    }

    /// Ends the sync that is under way: the answers that it covers are `status` instead where that is an error.
    pub(super) fn end(&mut self, status: Status, answers: &mut Vec<Answer>) {
        answers.extend(self.covered.drain(..).map(|answer| match status {
            Status::Ok => answer,
            failed => Answer::new(answer.head, failed, 1),
        }));
    }
}
