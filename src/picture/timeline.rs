//! The page of a grid: zones from top to bottom, time from left to right.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::json;

use super::grid::Grid;
use super::pack;
use super::shell::{Page, escape};
use super::survey::{Survey, Tally};
use crate::observe::Kind;

const BODY: &str = include_str!("timeline.html");
const STYLE: &str = include_str!("timeline.css");
const SCRIPT: &str = concat!(include_str!("cells.js"), include_str!("timeline.js"));

/// What the time axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds: of a trace.
    Nanoseconds,
    /// Requests that were answered: of a recording.
    Requests,
}

/// What the page says in words.
#[derive(Clone, Debug)]
pub struct Words {
    /// What it is a picture of: the name of the file.
    pub title: String,
    /// What kind of file that is.
    pub kind: &'static str,
    /// Lines below the title: the disk's shape, and what happened.
    pub lines: Vec<String>,
    /// A number of bytes in words.
    pub size: fn(u64) -> String,
}

/// Writes the page.
pub fn write(out: &mut impl Write, words: &Words, unit: Unit, survey: &Survey, grid: &Grid) -> io::Result<()> {
    let from = grid.axis.from();
    let ticks: Vec<_> = grid
        .ticks
        .iter()
        .map(|tick| json!({ "at": tick.at.saturating_sub(from), "kind": tick.kind, "text": tick.text }))
        .collect();
    let data = json!({
        "unit": if unit == Unit::Nanoseconds { "ns" } else { "requests" },
        "axis": { "len": grid.axis.span(), "step": grid.axis.step(), "columns": grid.axis.columns() },
        "zones": survey.geometry.nr_zones(),
        "zone_size": survey.geometry.zone_size().0,
        "rows": grid.rows.all(),
        "cells": pack::base64(&grid.packed),
        "columns": pack::base64(&pack::columns(&grid.columns)),
        "ticks": ticks,
        "reasons": grid.reasons,
        "summary": format!("Zones over time. {}", words.lines.join(". ")),
    });
    let body = format!("{BODY}{}", tables(words, survey, grid));
    Page {
        title: &words.title,
        kind: words.kind,
        lines: &words.lines,
        body: &body,
        style: STYLE,
        script: SCRIPT,
        data: &data.to_string(),
    }
    .write(out)
}

/// The requests by their kinds, as HTML.
fn tables(words: &Words, survey: &Survey, grid: &Grid) -> String {
    let mut text = String::new();
    let seen = |(_, tally): &(Kind, Tally)| *tally != Tally::default();
    let kinds: Vec<_> = Kind::ALL.into_iter().zip(survey.kinds).filter(seen).collect();
    if !kinds.is_empty() {
        text += "<div class=\"tables\">\n<section>\n<h2>Requests</h2>\n<table>\n<thead><tr><th>kind</th><th class=\"n\">answered with \
                 OK</th><th class=\"n\">with an error</th><th class=\"n\">data</th></tr></thead>\n<tbody>\n";
        for (kind, tally) in kinds {
            let bytes = if tally.bytes == 0 { String::new() } else { escape(&(words.size)(tally.bytes)) };
            let _ = writeln!(
                text,
                "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{bytes}</td></tr>",
                kind.name(),
                tally.done,
                tally.refused
            );
        }
        text += "</tbody>\n</table>\n</section>\n</div>\n";
    }
    if grid.more_ticks > 0 {
        let _ =
            writeln!(text, "<p>{} more marks and other events on the time axis are not shown.</p>", grid.more_ticks);
    }
    text
}
