//! Keeps guests and frontends from filling the host's log: a few lines at a time, then one that counts the rest.
//!
//! A limit holds for the life of the device: a frontend that connects anew, or starts its queues anew, gets no new
//! lines by that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);

/// The log lines that one cause may have.
#[derive(Debug)]
pub struct LogLimiter {
    lines: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    opened: Instant,
    written: u32,
    dropped: u64,
}

impl State {
    fn new() -> Self {
        Self { opened: Instant::now(), written: 0, dropped: 0 }
    }

    fn tell_dropped(&self) {
        if self.dropped != 0 {
            log::warn!("{} more lines like the last ones were left out", self.dropped);
        }
    }
}

impl LogLimiter {
    /// Lets this many lines pass at a time.
    pub fn new(lines: u32) -> Self {
        Self { lines, state: Mutex::new(State::new()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more line may be written now.
    pub fn allow(&self) -> bool {
        let mut state = self.state();
        if state.opened.elapsed() >= WINDOW {
            state.tell_dropped();
            *state = State::new();
        }
        state.written = state.written.saturating_add(1);
        if state.written > self.lines {
            state.dropped += 1;
        }
        state.written <= self.lines
    }
}

impl Drop for LogLimiter {
    fn drop(&mut self) {
        self.state().tell_dropped();
    }
}

/// The limits of a device.
#[derive(Debug)]
pub struct Lines {
    /// Frontends that come, go, wait and agree on features: some lines each.
    pub visits: LogLimiter,
    /// Messages that were refused, and connections that were closed.
    pub refusals: LogLimiter,
    /// Drivers that do not know zones.
    pub unzoned: LogLimiter,
    queues: Vec<LogLimiter>,
    /// What names no queue of this device.
    others: LogLimiter,
}

impl Lines {
    /// The limits of a device with so many queues.
    pub fn new(queues: usize) -> Self {
        Self {
            visits: LogLimiter::new(20),
            refusals: LogLimiter::new(5),
            unzoned: LogLimiter::new(2),
            queues: (0..queues).map(|_| LogLimiter::new(5)).collect(),
            others: LogLimiter::new(5),
        }
    }

    /// The limit of one queue, whoever runs it.
    pub fn of_queue(&self, queue: u16) -> &LogLimiter {
        self.queues.get(usize::from(queue)).unwrap_or(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_lines_pass_in_a_window() {
        let limiter = LogLimiter::new(5);
        assert_eq!((0..100).filter(|_| limiter.allow()).count(), 5);
    }

    #[test]
    fn each_queue_has_a_limit_of_its_own_which_stays_with_it() {
        let lines = Lines::new(2);
        assert_eq!((0..100).filter(|_| lines.of_queue(0).allow()).count(), 5);
        assert!(lines.of_queue(1).allow() && !lines.of_queue(0).allow());
    }
}
