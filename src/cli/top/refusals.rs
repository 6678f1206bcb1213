//! The requests that were refused last: the newest first, and those that differ only in their numbers together.

use std::time::Duration;

use super::words::{time, wrap};
use crate::cli::screen::{Line, Size, printable};
use crate::observe::stats::RefusedLately;

/// What "how long ago" takes.
const AGO: usize = 12;

/// Refused requests of one kind.
struct Group<'a> {
    newest: &'a RefusedLately,
    /// How many older ones there are.
    older: usize,
}

/// As many of them as go wholly into so many rows, or the beginning of one.
pub(super) fn lines(refused: &[RefusedLately], size: Size, rows: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for Group { newest, older } in groups(refused) {
        let ago = format!("{} ago", time(Duration::from_millis(newest.ago_ms)));
        let mut text = printable(&newest.text);
        if older > 0 {
            text += &format!(" ({older} more like it)");
        }
        let texts = wrap(&text, size.columns.saturating_sub(AGO));
        if !lines.is_empty() && lines.len() + texts.len() > rows {
            break;
        }
        for (at, text) in texts.into_iter().enumerate() {
            let ago = if at == 0 { ago.as_str() } else { "" };
            lines.push(Line::plain(format!("{ago:<AGO$}{text}")));
        }
    }
    lines.truncate(rows);
    lines
}

/// The groups, that with the newest request first. The newest is the last of `refused`.
fn groups(refused: &[RefusedLately]) -> Vec<Group<'_>> {
    let mut groups: Vec<(String, Group)> = Vec::new();
    for one in refused.iter().rev() {
        let words = without_numbers(&one.text);
        match groups.iter_mut().find(|(known, _)| *known == words) {
            Some((_, group)) => group.older += 1,
            None => groups.push((words, Group { newest: one, older: 0 })),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

fn without_numbers(text: &str) -> String {
    text.chars().filter(|one| !one.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::{Colours, text};

    fn refused(ago_ms: u64, text: &str) -> RefusedLately {
        RefusedLately { ago_ms, queue: 0, text: text.to_owned() }
    }

    #[test]
    fn refusals_that_differ_in_numbers_are_one_with_a_count() {
        let all = [
            refused(9_000, "write at 8 of 8 sectors: zone 0 is full"),
            refused(8_000, "close of 512: zone 1 is empty"),
            refused(2_000, "write at 16 of 128 sectors: zone 0 is full"),
            refused(1_000, "write at 4096 of 8 sectors: zone 12 is full"),
        ];
        let shown = |rows| text(&lines(&all, Size { columns: 80, rows: 9 }, rows), Colours::None);
        let both = "1.0 s ago   write at 4096 of 8 sectors: zone 12 is full (2 more like it)\n\
                    8.0 s ago   close of 512: zone 1 is empty\n";
        assert_eq!(shown(9), both);
        assert_eq!(shown(1).lines().count(), 1);
        assert_eq!(shown(0), "");
    }
}
