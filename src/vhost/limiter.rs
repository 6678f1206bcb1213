//! Keeps a guest or frontend from filling the host's log: a few lines at a time, then one that counts the rest.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(10);
const LINES: u32 = 5;

/// The log lines that one connection or one queue may cause.
#[derive(Debug)]
pub(super) struct LogLimiter {
    opened: Instant,
    lines: u32,
    dropped: u64,
}

impl LogLimiter {
    pub(super) fn new() -> Self {
        Self { opened: Instant::now(), lines: 0, dropped: 0 }
    }

    /// Whether one more line may be written now.
    pub(super) fn allow(&mut self) -> bool {
        if self.opened.elapsed() >= WINDOW {
            if self.dropped != 0 {
                log::warn!("{} more lines like the last ones were left out", self.dropped);
            }
            *self = Self::new();
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > LINES {
            self.dropped += 1;
        }
        self.lines <= LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_few_lines_pass_in_a_window() {
        let mut limiter = LogLimiter::new();
        assert_eq!((0..100).filter(|_| limiter.allow()).count(), LINES as usize);
    }
}
