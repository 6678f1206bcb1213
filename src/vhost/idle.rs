//! How long a worker looks for work before it waits for a wake-up.
//!
//! Waking a thread takes longer than serving a small request. A worker that finds work within `bound` of its last one
//! saves that; one that does not has burnt the time. So the window is what the last waits say: a wait shorter than the
//! bound would have been saved by looking, and opens the window; a longer one closes it. Waits for the file and waits for
//! the driver differ, and have a window each. A queue with little to do never looks, and an idle one costs nothing.

use std::time::{Duration, Instant};

/// The smallest window that is opened.
const FIRST: Duration = Duration::from_micros(10);

/// What there is to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The driver.
    Requests,
    /// I/O, or the driver.
    Completions,
}

/// The state of one worker.
#[derive(Debug)]
pub(super) struct Idle {
    bound: Duration,
    requests: Duration,
    completions: Duration,
    /// When there was nothing to do for the first time.
    since: Option<Instant>,
}

impl Idle {
    /// Looks for at most `bound`; zero for never.
    pub(super) fn new(bound: Duration) -> Self {
        Self { bound, requests: Duration::ZERO, completions: Duration::ZERO, since: None }
    }

    /// There was work.
    pub(super) fn worked(&mut self) {
        self.since = None;
    }

    /// There was none: whether to look again.
    pub(super) fn may_poll(&mut self, awaited: Awaited) -> bool {
        if self.bound.is_zero() {
            return false;
        }
        let window = *self.window(awaited);
        let now = Instant::now();
        now.duration_since(*self.since.get_or_insert(now)) < window
    }

    /// The worker has slept, and was woken.
    pub(super) fn slept(&mut self, awaited: Awaited) {
        if let Some(since) = self.since.take() {
            self.adjust(awaited, since.elapsed());
        }
    }

    fn window(&mut self, awaited: Awaited) -> &mut Duration {
        match awaited {
            Awaited::Requests => &mut self.requests,
            Awaited::Completions => &mut self.completions,
        }
    }

    fn adjust(&mut self, awaited: Awaited, waited: Duration) {
        let bound = self.bound;
        let window = self.window(awaited);
        *window = if waited <= bound { (2 * *window).clamp(FIRST.min(bound), bound) } else { Duration::ZERO };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_open_the_window_up_to_the_bound_and_a_long_one_closes_it() {
        let mut idle = Idle::new(Duration::from_micros(35));
        assert!(!idle.may_poll(Awaited::Requests), "nothing is known yet");
        let windows = [1, 35, 20, 5].map(|waited| {
            idle.adjust(Awaited::Requests, Duration::from_micros(waited));
            idle.requests.as_micros()
        });
        assert_eq!(windows, [10, 20, 35, 35]);
        assert!(idle.completions.is_zero(), "another wait, another window");
        idle.adjust(Awaited::Requests, Duration::from_micros(36));
        assert!(idle.requests.is_zero());
    }

    #[test]
    fn a_bound_of_zero_never_looks() {
        let mut idle = Idle::new(Duration::ZERO);
        assert!(!idle.may_poll(Awaited::Requests));
        idle.slept(Awaited::Requests);
        assert!(!idle.may_poll(Awaited::Requests));
    }
}
