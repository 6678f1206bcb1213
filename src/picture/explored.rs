//! The page of an exploration: which states were checked, by what they had lost, and what has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;

use super::axis::Axis;
use super::rows::Rows;
use super::shell::{Page, escape};
use crate::units::ZoneIndex;
use crate::zone::Geometry;

const BODY: &str = include_str!("explored.html");
const STYLE: &str = include_str!("explored.css");
const SCRIPT: &str = include_str!("explored.js");

/// Cells of the picture at most; columns are put together where there would be more.
const MOST_CELLS: usize = 100_000;

/// States that were checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// How many.
    pub checked: u64,
    /// How many of them have failed.
    pub failed: u64,
}

impl States {
    fn add(&mut self, other: Self) {
        self.checked = self.checked.saturating_add(other.checked);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// The states that were checked, by the place in the recording where the power goes and by the zones that have lost something.
#[derive(Clone, Debug)]
pub struct Tried {
    axis: Axis,
    cells: BTreeMap<(ZoneIndex, u32), States>,
    columns: BTreeMap<u32, States>,
}

impl Tried {
    /// None yet, of a recording of so many records.
    pub fn new(records: u64) -> Self {
        Self { axis: Axis::new(0, records.saturating_sub(1)), cells: BTreeMap::new(), columns: BTreeMap::new() }
    }

    /// Counts a state in which the power goes behind a record, and in which something of these zones is lost.
    pub fn take(&mut self, record: u64, zones: impl IntoIterator<Item = ZoneIndex>, failed: bool) {
        let (column, one) = (self.axis.column(record), States { checked: 1, failed: failed.into() });
        self.columns.entry(column).or_default().add(one);
        for zone in zones.into_iter().collect::<BTreeSet<_>>() {
            self.cells.entry((zone, column)).or_default().add(one);
        }
    }

    /// The cells by their rows and columns. A state that has lost something of several zones of a row counts once for each.
    fn shown(&self, rows: &Rows) -> Shown {
        let mut shown = Shown { axis: self.axis, cells: BTreeMap::new(), columns: self.columns.clone() };
        for ((zone, column), states) in &self.cells {
            let Some(row) = rows.row(*zone) else { continue };
            shown.cells.entry((row, *column)).or_default().add(*states);
        }
        while shown.cells.len() > MOST_CELLS && shown.axis.halve() {
            shown.cells = halved(shown.cells, |(row, column)| (row, column / 2));
            shown.columns = halved(shown.columns, |column| column / 2);
        }
        shown
    }
}

/// What the picture shows.
struct Shown {
    axis: Axis,
    /// By row and column.
    cells: BTreeMap<(usize, u32), States>,
    /// All states, by column.
    columns: BTreeMap<u32, States>,
}

fn halved<K: Ord>(all: BTreeMap<K, States>, half: impl Fn(K) -> K) -> BTreeMap<K, States> {
    let mut halved: BTreeMap<K, States> = BTreeMap::new();
    for (key, states) in all {
        halved.entry(half(key)).or_default().add(states);
    }
    halved
}

/// A state that has failed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The record behind which the power goes.
    pub record: u64,
    /// The last mark before that.
    pub mark: Option<&'a str>,
    /// What the check said.
    pub why: &'a str,
    /// How many requests and blocks are lost.
    pub lost: u64,
    /// These requests, as far as they were found out.
    pub requests: &'a [String],
    /// No smaller loss of its kind fails.
    pub least: bool,
    /// The command that makes the state again.
    pub command: Option<&'a str>,
}

/// What the page says in words.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    /// The name of the recording.
    pub title: &'a str,
    /// Lines below the title.
    pub lines: &'a [String],
    /// Names and values of a table.
    pub facts: &'a [(&'a str, String)],
    /// How many states have failed, those that are not listed too.
    pub failed: u64,
}

/// Writes the page.
pub fn write(
    out: &mut impl Write,
    words: &Words<'_>,
    geometry: &Geometry,
    tried: &Tried,
    failures: &[Failure<'_>],
) -> io::Result<()> {
    let mut zones: Vec<ZoneIndex> = tried.cells.keys().map(|(zone, _)| *zone).collect();
    zones.dedup();
    let rows = Rows::of(geometry, &zones);
    let Shown { axis, cells, columns } = tried.shown(&rows);
    let cells: Vec<_> = cells.iter().map(|((row, column), one)| (row, column, one.checked, one.failed)).collect();
    let columns: Vec<_> = columns.iter().map(|(column, one)| (column, one.checked, one.failed)).collect();
    let data = json!({
        "axis": { "len": axis.span(), "step": axis.step(), "columns": axis.columns() },
        "rows": rows.all(),
        "cells": cells,
        "columns": columns,
        "summary": format!("States checked, by the zones that have lost something. {}", words.lines.join(". ")),
    });
    let body = format!("{}{BODY}{}", verdict(words.failed), listed(words, failures));
    Page {
        title: words.title,
        kind: "exploration of a recording",
        lines: words.lines,
        body: &body,
        style: STYLE,
        script: SCRIPT,
        data: &data.to_string(),
    }
    .write(out)
}

fn verdict(failed: u64) -> String {
    match failed {
        0 => "<p class=\"verdict good\">No state has failed.</p>\n".to_owned(),
        1 => "<p class=\"verdict bad\">1 state has failed.</p>\n".to_owned(),
        _ => format!("<p class=\"verdict bad\">{failed} states have failed.</p>\n"),
    }
}

/// The failures, and the table of facts, as HTML.
fn listed(words: &Words<'_>, failures: &[Failure<'_>]) -> String {
    let mut text = String::new();
    if !failures.is_empty() {
        text += "<section class=\"failures\">\n<h2>What has failed</h2>\n<ol>\n";
        text.extend(failures.iter().map(item));
        text += "</ol>\n";
        let more = words.failed.saturating_sub(failures.len() as u64);
        if more > 0 {
            let _ = writeln!(text, "<p>And {more} more.</p>");
        }
        text += "</section>\n";
    }
    text += "<section class=\"facts\">\n<h2>Exploration</h2>\n<table>\n<tbody>\n";
    for (name, value) in words.facts {
        let _ = writeln!(text, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    text + "</tbody>\n</table>\n</section>\n"
}

fn item(failure: &Failure<'_>) -> String {
    let mark =
        failure.mark.map_or("before any mark".to_owned(), |mark| format!("behind the mark \u{201c}{mark}\u{201d}"));
    let mut text = format!(
        "<li>\n<h3>record {}, {}</h3>\n<p class=\"why\">{}</p>\n",
        failure.record,
        escape(&mark),
        escape(failure.why)
    );
    let (least, plural) = (if failure.least { "At the least " } else { "" }, if failure.lost == 1 { "" } else { "s" });
    let _ = writeln!(
        text,
        "<p>{least}{} request{plural} or block{plural} lost{}</p>",
        failure.lost,
        if failure.requests.is_empty() { "." } else { ":" }
    );
    if !failure.requests.is_empty() {
        text += "<ul>\n";
        for request in failure.requests {
            let _ = writeln!(text, "<li>{}</li>", escape(request));
        }
        text += "</ul>\n";
    }
    if let Some(command) = failure.command {
        let _ = writeln!(text, "<p>Make it again:</p>\n<pre><code>{}</code></pre>", escape(command));
    }
    text + "</li>\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::zone::testing::geometry;

    fn page(tried: &Tried, failures: &[Failure<'_>]) -> (String, serde_json::Value) {
        let facts = [("level", "2 <of 3>".to_owned())];
        let words = Words { title: "disk.zlog", lines: &[], facts: &facts, failed: failures.len() as u64 };
        let mut out = Vec::new();
        write(&mut out, &words, &geometry(1 << 12, 2), tried, failures).unwrap();
        let text = String::from_utf8(out).unwrap();
        let data = text.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        let data = serde_json::from_str(data).unwrap();
        (text, data)
    }

    #[test]
    fn a_state_counts_once_for_each_zone_that_has_lost_something_and_once_in_all() {
        let mut tried = Tried::new(10);
        tried.take(3, [ZoneIndex(1), ZoneIndex(7), ZoneIndex(7)], false);
        tried.take(3, [ZoneIndex(7)], true);
        tried.take(9, [], false);
        let (_, data) = page(&tried, &[]);
        assert_eq!(data["cells"], serde_json::json!([[0, 3, 1, 0], [1, 3, 2, 1]]));
        assert_eq!(data["columns"], serde_json::json!([[3, 2, 1], [9, 1, 0]]));
        assert_eq!((&data["rows"][0]["first"], &data["rows"][1]["first"]), (&1.into(), &7.into()));
    }

    #[test]
    fn many_states_of_many_zones_are_bounded_and_none_is_forgotten() {
        let mut tried = Tried::new(100_000);
        for record in (0..100_000).step_by(83) {
            tried.take(record, (0..600).map(ZoneIndex), record % 2 == 0);
        }
        let (text, data) = page(&tried, &[]);
        let cells = data["cells"].as_array().unwrap();
        assert!(cells.len() <= MOST_CELLS && text.len() < 3 << 20, "{}", cells.len());
        let checked: u64 = cells.iter().filter_map(|cell| cell[2].as_u64()).sum();
        assert_eq!(checked, 100_000u64.div_ceil(83) * 600);
    }

    #[test]
    fn what_has_failed_is_listed_with_its_witness_and_its_command_as_text() {
        let requests = ["record 5: write in zone 3, 4096 bytes at <b>".to_owned()];
        let failure = Failure {
            record: 9,
            mark: Some("</script><i>"),
            why: "exit status 1 & more",
            lost: 1,
            requests: &requests,
            least: true,
            command: Some("replay 'a<b' --to record:9"),
        };
        let (text, _) = page(&Tried::new(10), &[failure]);
        for part in [
            "1 state has failed.",
            "record 9, behind the mark \u{201c}&lt;/script&gt;&lt;i&gt;\u{201d}",
            "exit status 1 &amp; more",
            "At the least 1 request or block lost:",
            "<li>record 5: write in zone 3, 4096 bytes at &lt;b&gt;</li>",
            "<code>replay &#39;a&lt;b&#39; --to record:9</code>",
            "2 &lt;of 3&gt;",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(page(&Tried::new(0), &[]).0.contains("No state has failed."));
    }
}
