//! What the key `?` shows.

use crate::cli::screen::{Line, Style};

const KEYS: [(&str, &str); 5] = [
    ("q, Escape, Control-C", "end"),
    ("p, space", "pause, and go on"),
    ("+", "a longer interval"),
    ("-", "a shorter interval"),
    ("?", "this page, and back"),
];

const WORDS: [(&str, &str); 8] = [
    ("a second, data", "requests and bytes in the interval, divided by its seconds"),
    ("p50, p99, max", "half, 99 of a hundred, all of the requests took at most so long"),
    ("errors", "requests a second that were refused or failed"),
    ("written", "what is below the write pointers, of what the sequential zones hold"),
    ("open, active", "zones in these states, against the disk's limits"),
    ("zones", "one cell a zone, or equally many zones a cell; the legend is below"),
    ("written most", "the zones with the most bytes since the daemon's start"),
    ("refused last", "the last 16 refused requests; those alike but for numbers are one"),
];

/// The page.
pub(super) fn lines() -> Vec<Line> {
    let entry = |(word, meaning): &(&str, &str)| {
        Line::default().with(Style::bold(), format!("{word:<22}")).with(Style::default(), *meaning)
    };
    let mut lines = vec![Line::default().with(Style::bold(), "Keys")];
    lines.extend(KEYS.iter().map(entry));
    lines.extend([Line::default(), Line::default().with(Style::bold(), "What is shown")]);
    lines.extend(WORDS.iter().map(entry));
    lines
}
