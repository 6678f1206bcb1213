//! How long a worker looks for work before it waits for a wake-up.
//!
//! Waking a thread takes longer than serving a small request. A worker that finds work within `bound` of its last one
//! saves that; one that does not has burnt the time. So the window is what the last waits say: a wait shorter than the
//! bound would have been saved by looking, and opens the window; a longer one closes it. A queue with little to do never
//! looks, and an idle one costs nothing.

use std::time::{Duration, Instant};

/// The smallest window that is opened.
const FIRST: Duration = Duration::from_micros(10);

/// The state of one worker.
#[derive(Debug)]
pub(super) struct Idle {
    bound: Duration,
    window: Duration,
    /// When there was nothing to do for the first time.
    since: Option<Instant>,
}

impl Idle {
    /// Looks for at most `bound`; zero for never.
    pub(super) fn new(bound: Duration) -> Self {
        Self { bound, window: Duration::ZERO, since: None }
    }

    /// There was work.
    pub(super) fn worked(&mut self) {
        self.since = None;
    }

    /// There was none: whether to look again.
    pub(super) fn may_poll(&mut self) -> bool {
        if self.window.is_zero() {
            return false;
        }
        let now = Instant::now();
        now.duration_since(*self.since.get_or_insert(now)) < self.window
    }

    /// A wait begins.
    pub(super) fn sleeps(&mut self) -> Option<Instant> {
        (!self.bound.is_zero()).then(Instant::now)
    }

    /// A wait that began at `asleep` is over.
    pub(super) fn slept(&mut self, asleep: Option<Instant>) {
        if let Some(asleep) = asleep {
            self.adjust(asleep.elapsed());
        }
        self.since = None;
    }

    fn adjust(&mut self, waited: Duration) {
        self.window = if waited <= self.bound {
            (2 * self.window).clamp(FIRST.min(self.bound), self.bound)
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_open_the_window_up_to_the_bound_and_a_long_one_closes_it() {
        let mut idle = Idle::new(Duration::from_micros(35));
        assert!(!idle.may_poll(), "nothing is known yet");
        let windows = [1, 35, 20, 5].map(|waited| {
            idle.adjust(Duration::from_micros(waited));
            idle.window.as_micros()
        });
        assert_eq!(windows, [10, 20, 35, 35]);
        assert!(idle.may_poll());
        idle.adjust(Duration::from_micros(36));
        assert!(idle.window.is_zero() && !idle.may_poll());
    }

    #[test]
    fn a_bound_of_zero_never_looks() {
        let mut idle = Idle::new(Duration::ZERO);
        let asleep = idle.sleeps();
        idle.slept(asleep);
        assert!(!idle.may_poll());
    }
}
