//! The drawing: a bar of how many zones are in each state, the legend, and the cells in rows, each filled from below as
//! far as it is written.

use std::fmt::{self, Write};

use super::super::look::{fill, hue, label, power, present, scale, telling, volatile};
use super::{EMPTY, css, tell};
use crate::cli::disk::Disk;
use crate::observe::summary::{Cell, Summary, Tally};
use crate::picture::shell::escape;
use crate::zone::State;

/// What a row of cells takes. All lengths are pixels at the picture's own size.
const WIDTH: u32 = 1024;
/// Room for the number of a row's first zone.
const GUTTER: u32 = 80;
const MARGIN: u32 = 24;
/// The ground of a picture that stands alone.
const PAGE: &str = ".zones .page{fill:#fff}@media(prefers-color-scheme:dark){.zones .page{fill:#16181c}}";
/// What the lines above the drawing take.
const HEADING: u32 = 84;
const BAR: u32 = 14;
const LEGEND_LINE: u32 = 22;
/// A character of the legend, somewhat more than it takes in common fonts.
const CHARACTER: u32 = 8;

/// An SVG file.
pub(in crate::cli::map) fn picture(disk: &Disk, summary: &Summary) -> String {
    let mut out = String::new();
    let (width, height) = (MARGIN + GUTTER + WIDTH + MARGIN, MARGIN + HEADING + body_height(summary) + MARGIN);
    let name = escape(&disk.name);
    let shape = escape(&disk.shape());
    let usage = disk.usage(&summary.totals);
    let usage = escape(&power(summary).map_or_else(|| usage.clone(), |power| format!("{usage}, {power}")));
    // Writing to memory does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"zones\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>Zones of {name}</title>\n<desc>{shape}; {usage}</desc>\n\
         <style>{style}{PAGE}</style>\n<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"name\" x=\"{MARGIN}\" y=\"{}\">{name}</text>\n<text x=\"{MARGIN}\" y=\"{}\">{shape}</text>\n\
         <text x=\"{MARGIN}\" y=\"{}\">{usage}</text>",
        MARGIN + 18,
        MARGIN + 42,
        MARGIN + 62,
        style = style(),
    );
    let _ = body(&mut out, summary, MARGIN, MARGIN + HEADING);
    out.push_str("</svg>\n");
    out
}

/// An `svg` element without heading and margins, to stand in a page.
pub(super) fn element(disk: &Disk, summary: &Summary) -> String {
    let mut out = String::new();
    let (width, height) = (GUTTER + WIDTH, body_height(summary));
    // Writing to memory does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"zones\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-label=\"Zones of {}\">\n<style>{}</style>",
        escape(&disk.name),
        style(),
    );
    let _ = body(&mut out, summary, 0, 0);
    out.push_str("</svg>\n");
    out
}

/// The colours, as classes: `t` is a cell, `f` what is written of it, `v` what of that a power cut may take.
fn style() -> String {
    let mut style = String::from(
        ".zones text{font:14px system-ui,sans-serif;fill:#24272c}.zones .name{font-size:20px;font-weight:bold}\
         .zones .row{font-size:11px;text-anchor:end;fill:#6a7078}.zones .t{fill-opacity:.28}",
    );
    for state in State::ALL {
        let _ = write!(style, ".zones .{} rect{{fill:{}}}", state.name(), css(hue(state).direct));
    }
    let [light, dark] = EMPTY.map(css);
    let _ = write!(
        style,
        ".zones .empty .t,.zones .not-wp .t{{fill-opacity:1}}.zones .empty rect{{fill:{light}}}\
         .zones g .v{{fill:#fff;fill-opacity:.45}}\
         @media(prefers-color-scheme:dark){{.zones text{{fill:#e4e6ea}}.zones .row{{fill:#98a0a8}}\
         .zones .empty rect{{fill:{dark}}}}}",
    );
    style
}

/// How many cells are in a row, and how far they are apart.
fn grid(cells: usize) -> (u32, u32) {
    let per_row = match cells {
        0..=64 => 16,
        65..=512 => 32,
        513..=4096 => 64,
        _ => 128,
    };
    (per_row, WIDTH / per_row)
}

fn body_height(summary: &Summary) -> u32 {
    let (per_row, pitch) = grid(summary.cells.len());
    let rows = u32::try_from(summary.cells.len()).unwrap_or(u32::MAX).div_ceil(per_row);
    above_cells(summary) + rows.saturating_mul(pitch)
}

/// What bar, legend and scale take.
fn above_cells(summary: &Summary) -> u32 {
    let lines = legend_places(&summary.totals).last().map_or(1, |(_, line, ..)| line + 1);
    let lines = lines + u32::from(scale(summary).is_some());
    BAR + 8 + lines * LEGEND_LINE + 10
}

fn body(out: &mut String, summary: &Summary, x: u32, y: u32) -> fmt::Result {
    bar(out, &summary.totals, x, y)?;
    let legend = y + BAR + 8;
    let mut next = 0;
    for (at, line, state, text) in legend_places(&summary.totals) {
        let (left, top) = (x + at, legend + line * LEGEND_LINE);
        writeln!(
            out,
            "<g class=\"{}\"><rect class=\"f\" x=\"{left}\" y=\"{}\" width=\"14\" height=\"14\" rx=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{text}</text></g>",
            state.name(),
            top + 3,
            left + 20,
            top + 15,
        )?;
        next = line + 1;
    }
    if let Some(scale) = scale(summary) {
        writeln!(out, "<text x=\"{x}\" y=\"{}\">{scale}</text>", legend + next * LEGEND_LINE + 15)?;
    }
    cells(out, &summary.cells, x, y + above_cells(summary))
}

/// How many zones are in each state, as one bar.
fn bar(out: &mut String, totals: &Tally, x: u32, y: u32) -> fmt::Result {
    let zones = totals.states.sum(|_| true).max(1) as f64;
    let mut at = f64::from(x);
    for (state, count) in present(totals) {
        let width = f64::from(GUTTER + WIDTH) * count as f64 / zones;
        writeln!(
            out,
            "<g class=\"{}\"><title>{} {}</title><rect class=\"f\" x=\"{at:.1}\" y=\"{y}\" width=\"{width:.1}\" \
             height=\"{BAR}\"/></g>",
            state.name(),
            count,
            label(state),
        )?;
        at += width;
    }
    Ok(())
}

/// The entries of the legend: how far from the left, in which line, for which state, and their text.
fn legend_places(totals: &Tally) -> impl Iterator<Item = (u32, u32, State, String)> {
    let (mut at, mut line) = (0, 0);
    present(totals).map(move |(state, count)| {
        let text = format!("{} {count}", label(state));
        let width = 20 + 24 + CHARACTER * u32::try_from(text.len()).unwrap_or(0);
        if at + width > GUTTER + WIDTH {
            (at, line) = (0, line + 1);
        }
        let place = (at, line, state, text);
        at += width;
        place
    })
}

fn cells(out: &mut String, cells: &[Cell], x: u32, y: u32) -> fmt::Result {
    let (per_row, pitch) = grid(cells.len());
    let (gap, round) = (pitch.div_ceil(12), pitch / 8);
    let side = pitch - gap;
    // A number takes twelve pixels.
    let numbered = 12u32.div_ceil(pitch) as usize;
    for (row, cells) in cells.chunks(per_row as usize).enumerate() {
        let top = y + u32::try_from(row).unwrap_or(0) * pitch;
        if let (Some(first), 0) = (cells.first(), row % numbered) {
            let middle = top + side / 2 + 4;
            writeln!(out, "<text class=\"row\" x=\"{}\" y=\"{middle}\">{}</text>", x + GUTTER - 12, first.first)?;
        }
        for (left, cell) in (x + GUTTER..).step_by(pitch as usize).zip(cells) {
            let state = telling(&cell.tally.states);
            write!(
                out,
                "<g class=\"{}\"><title>{}</title><rect class=\"t\" x=\"{left}\" y=\"{top}\" width=\"{side}\" \
                 height=\"{side}\" rx=\"{round}\"/>",
                state.name(),
                tell(cell),
            )?;
            let height = fill(&cell.tally) * f64::from(side);
            if height > 0.0 {
                // A little of it is to be seen of whatever is written.
                let height = height.max(1.0);
                let from = f64::from(top + side) - height;
                let round = f64::from(round).min(height / 2.0);
                write!(
                    out,
                    "<rect class=\"f\" x=\"{left}\" y=\"{from:.1}\" width=\"{side}\" height=\"{height:.1}\" \
                     rx=\"{round:.1}\"/>"
                )?;
                let volatile = volatile(&cell.tally) * height;
                if volatile > 0.0 {
                    write!(
                        out,
                        "<rect class=\"v\" x=\"{left}\" y=\"{from:.1}\" width=\"{side}\" height=\"{volatile:.1}\"/>"
                    )?;
                }
            }
            out.push_str("</g>\n");
        }
    }
    Ok(())
}
