//! Mailboxes: how an event of the store reaches the worker whose request it is about.
//!
//! Whoever calls the store gets events of any request back; those of other queues go into the mailbox of their
//! worker and wake it. A mailbox lives as long as the daemon. It is empty whenever its queue does not run, since a
//! worker stops only after its last request had its outcome.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::wake::Waker;
use crate::store::Event;

struct Mailbox {
    events: Mutex<Vec<Event>>,
    waker: Arc<Waker>,
}

impl Mailbox {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // Nothing that could panic is done while it is held.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One mailbox a queue.
pub(super) struct Router {
    mailboxes: Vec<Mailbox>,
}

impl Router {
    pub(super) fn new(queues: u16) -> io::Result<Self> {
        let mailbox = |_| Ok(Mailbox { events: Mutex::new(Vec::new()), waker: Arc::new(Waker::new()?) });
        Ok(Self { mailboxes: (0..queues).map(mailbox).collect::<io::Result<_>>()? })
    }

    /// What wakes the worker of `queue`.
    pub(super) fn waker(&self, queue: u16) -> Option<&Arc<Waker>> {
        self.mailboxes.get(usize::from(queue)).map(|mailbox| &mailbox.waker)
    }

    /// Delivers events to their workers.
    pub(super) fn deliver(&self, events: impl Iterator<Item = Event>) {
        for event in events {
            let queue = queue_of(&event);
            let Some(mailbox) = self.mailboxes.get(usize::from(queue)) else {
                log::error!("an event for queue {queue}, which does not exist: {event:?}");
                continue;
            };
            let mut waiting = mailbox.events();
            waiting.push(event);
            let first = waiting.len() == 1;
            drop(waiting);
            if first {
                mailbox.waker.ring();
            }
        }
    }

    /// Appends what has come for `queue`.
    pub(super) fn collect(&self, queue: u16, into: &mut Vec<Event>) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(queue)) {
            into.append(&mut mailbox.events());
        }
    }
}

/// The queue whose request an event is about.
pub(super) fn queue_of(event: &Event) -> u16 {
    match event {
        Event::Finished { tag, .. } | Event::Retry { tag } => tag.queue,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::store::Tag;

    #[test]
    fn an_event_reaches_the_mailbox_of_its_queue_and_wakes_it() {
        let router = Router::new(3).unwrap();
        let event = |queue, slot| Event::Retry { tag: Tag { queue, slot } };
        router.deliver([event(2, 7), event(1, 1), event(2, 8), event(9, 0)].into_iter());
        let mut events = Vec::new();
        router.collect(2, &mut events);
        assert_eq!(events, [event(2, 7), event(2, 8)]);
        assert!(router.waker(2).unwrap().take() && !router.waker(0).unwrap().take());
    }
}
