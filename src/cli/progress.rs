//! How far a long command has come: one line on standard error, where that is a terminal, that is gone when the command ends.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// Nothing is shown of what takes less.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long what is shown stays.
const INTERVAL: Duration = Duration::from_millis(200);

/// The line.
pub(super) struct Progress {
    /// What is being done, in a word.
    doing: &'static str,
    /// When it is next shown; never where there is no terminal.
    due: Option<Instant>,
    /// Columns that are shown now.
    shown: usize,
}

impl Progress {
    /// Begins, without showing anything.
    pub(super) fn new(doing: &'static str) -> Self {
        let due = io::stderr().is_terminal().then(|| Instant::now() + PATIENCE);
        Self { doing, due, shown: 0 }
    }

    /// Shows that so much is done of all there is to do, unless that was shown a moment ago.
    pub(super) fn at(&mut self, done: u64, of: u64) {
        let Some(due) = self.due else { return };
        let now = Instant::now();
        if now < due {
            return;
        }
        self.due = Some(now + INTERVAL);
        let line = line(self.doing, done, of);
        self.put(&format!("\r{line:<width$}", width = self.shown));
        self.shown = self.shown.max(line.len());
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if self.shown > 0 {
            self.put(&format!("\r{:width$}\r", "", width = self.shown));
            self.shown = 0;
        }
    }

    fn put(&self, text: &str) {
        let mut stderr = io::stderr();
        // Whoever cannot be shown it does without.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(doing: &str, done: u64, of: u64) -> String {
    let part = if of == 0 { 1.0 } else { done.min(of) as f64 / of as f64 };
    format!("{doing}: {:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_done_is_shown_in_percent_and_never_more_than_all() {
        for (done, of, shown) in [(0, 8, "0.0"), (1, 8, "12.5"), (8, 8, "100.0"), (9, 8, "100.0"), (0, 0, "100.0")] {
            assert_eq!(line("comparing", done, of), format!("comparing: {shown} %"));
        }
    }
}
