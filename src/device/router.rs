//! Mailboxes: how an event of the store reaches the worker whose request it is about.
//!
//! Whoever calls the store gets events of any request back; those of other queues go into the mailbox of their
//! worker and wake it. A mailbox lives as long as the daemon. It is empty whenever its queue does not run, since a
//! worker stops only after its last request had its outcome.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::Event;

/// Wakes whoever runs a queue.
pub trait Bell: Send + Sync {
    /// Wakes it, or has it look before it next sleeps. Called with locks held: quick.
    fn ring(&self);
}

/// A bell that remembers that it was rung, for a caller that looks by itself.
#[derive(Debug, Default)]
pub struct Rung(AtomicBool);

impl Bell for Rung {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Rung {
    /// Whether it was rung since the last [`take`](Self::take).
    pub fn is_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The same, and forgets it.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

struct Mailbox {
    events: Mutex<Vec<Event>>,
    bell: Arc<dyn Bell>,
}

impl Mailbox {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        // Nothing that could panic is done while it is held.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One mailbox a queue.
pub struct Router {
    mailboxes: Vec<Mailbox>,
}

impl Router {
    /// Mailboxes with these bells.
    pub fn new(bells: Vec<Arc<dyn Bell>>) -> Self {
        let mailbox = |bell| Mailbox { events: Mutex::new(Vec::new()), bell };
        Self { mailboxes: bells.into_iter().map(mailbox).collect() }
    }

    /// Delivers events to their workers.
    pub fn deliver(&self, events: impl Iterator<Item = Event>) {
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
                mailbox.bell.ring();
            }
        }
    }

    /// Has all queues look again.
    pub fn ring_all(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.bell.ring());
    }

    /// Appends what has come for `queue`.
    pub fn collect(&self, queue: u16, into: &mut Vec<Event>) {
        if let Some(mailbox) = self.mailboxes.get(usize::from(queue)) {
            into.append(&mut mailbox.events());
        }
    }
}

/// The queue whose request an event is about.
pub fn queue_of(event: &Event) -> u16 {
    match event {
        Event::Finished { tag, .. } | Event::Retry { tag } => tag.queue,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::store::Tag;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Bell for Counting {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_event_reaches_the_mailbox_of_its_queue_and_wakes_it_once() {
        let bells = [(); 3].map(|()| Arc::new(Counting::default()));
        let router = Router::new(bells.iter().map(|bell| Arc::clone(bell) as Arc<dyn Bell>).collect());
        let event = |queue, slot| Event::Retry { tag: Tag { queue, slot } };
        router.deliver([event(2, 7), event(1, 1), event(2, 8), event(9, 0)].into_iter());
        let mut events = Vec::new();
        router.collect(2, &mut events);
        assert_eq!(events, [event(2, 7), event(2, 8)]);
        assert_eq!(bells.map(|bell| bell.0.load(Ordering::Relaxed)), [0, 1, 1]);
    }
}
