//! The map as lines for a terminal: rows of cells, each with the number of its first zone.
//!
//! With colours a cell is a block, as wide as there is room for; without, one character.

use super::look::{fill, hue, label, power, present, scale, shades, symbol, symbols, volatile_zones};
use crate::cli::disk::Disk;
use crate::cli::screen::{Colours, Line, Style, printable};
use crate::observe::summary::{Cell, Summary, Tally};
use crate::zone::State;

/// Cells between which there is no gap.
const GROUP: usize = 16;
/// The least columns from one cell to the next with which there is space around each.
const SPACED: usize = 3;
/// A column of a cell or a bar with space around it: three quarters of the height, so that rows are apart too.
pub(in crate::cli) const TILE: &str = "\u{2586}";
/// Columns between a row's number and its cells.
const MARGIN: usize = 2;

/// How cells are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Layout {
    /// How many cells there is room for.
    pub(in crate::cli) cells: u32,
    /// Cells in a row.
    per_row: usize,
    /// Columns from one cell to the next.
    pitch: usize,
    /// Columns of the row's number.
    label: usize,
}

impl Layout {
    /// The widest cells with which `zones` zones fit into `columns` and `rows`, each zone with a cell of its own where
    /// that is possible, or else a power of two of zones in each; or as many cells as `cells` says, in whatever rows
    /// that takes.
    pub(in crate::cli) fn fit(zones: u32, cells: Option<u32>, columns: usize, rows: usize, colours: Colours) -> Self {
        let rows = rows.max(1);
        let label = zones.saturating_sub(1).to_string().len();
        let room = columns.saturating_sub(label + MARGIN);
        let wanted = cells.unwrap_or(zones).clamp(1, zones.max(1));
        let pitches: &[usize] = if colours == Colours::None { &[1] } else { &[9, 5, SPACED, 2, 1] };
        let fitting = pitches.iter().map(|pitch| (*pitch, per_row(room, *pitch)));
        let mut fitting = fitting.filter(|(pitch, per_row)| {
            // Cells with space around them are for when they are few.
            (wanted as usize).div_ceil(*per_row) <= if *pitch < SPACED { rows } else { rows / 2 }
        });
        let (pitch, per_row) = fitting.next().unwrap_or_else(|| (1, per_row(room, 1)));
        let most = u32::try_from(per_row.saturating_mul(rows)).unwrap_or(u32::MAX);
        let cells = if cells.is_some() || wanted <= most {
            wanted
        } else {
            zones.div_ceil(zones.div_ceil(most).next_power_of_two())
        };
        Self { cells, per_row, pitch, label }
    }

    /// How many rows the cells take.
    pub(in crate::cli) fn rows(&self) -> usize {
        (self.cells as usize).div_ceil(self.per_row)
    }
}

/// How many cells go into a row of `room` columns: a round number.
fn per_row(room: usize, pitch: usize) -> usize {
    let columns = |cells: usize| cells * pitch + (cells - 1) / GROUP;
    let wide = (1..=room / (2 * GROUP)).map(|times| times * 2 * GROUP).rev();
    let narrow = [GROUP, 8, 4, 2];
    wide.chain(narrow).find(|cells| columns(*cells) <= room).unwrap_or(1)
}

/// The whole map, as the command shows it.
pub(super) fn draw(disk: &Disk, summary: &Summary, layout: &Layout, columns: usize, colours: Colours) -> Vec<Line> {
    let mut lines = vec![
        Line::default().with(Style::bold(), printable(&disk.name)),
        Line::plain(disk.shape()),
        Line::plain(disk.usage(&summary.totals)),
    ];
    lines.extend(power(summary).map(Line::plain));
    lines.push(Line::default());
    lines.extend(rows(summary, layout, colours));
    lines.push(Line::default());
    lines.extend(legend(&summary.totals, columns, colours));
    lines.extend(notes(summary, layout, colours));
    lines
}

/// The rows of cells.
pub(in crate::cli) fn rows(summary: &Summary, layout: &Layout, colours: Colours) -> Vec<Line> {
    let row = |cells: &[Cell]| {
        let first = cells.first().map_or(0, |cell| cell.first);
        let mut line = Line::plain(format!("{first:>width$}{:MARGIN$}", "", width = layout.label));
        for (at, cell) in cells.iter().enumerate() {
            if at > 0 && at % GROUP == 0 {
                line.push(Style::default(), " ");
            }
            line.append(block(&cell.tally, layout.pitch, colours));
        }
        line
    };
    summary.cells.chunks(layout.per_row).map(row).collect()
}

fn block(tally: &Tally, pitch: usize, colours: Colours) -> Line {
    if colours == Colours::None {
        return Line::plain(symbol(tally));
    }
    let mut line = Line::default();
    if pitch < SPACED {
        shades(tally, 1).for_each(|shade| line.push(Style::ground(shade), " ".repeat(pitch)));
    } else {
        shades(tally, pitch - 1).for_each(|shade| line.push(Style::text(shade), TILE));
        line.push(Style::default(), " ");
    }
    line
}

/// What the cells mean and how many zones are in each state, in lines of `columns`.
pub(in crate::cli) fn legend(totals: &Tally, columns: usize, colours: Colours) -> Vec<Line> {
    const GAP: &str = "   ";
    let entry = |(state, count): (State, u64)| {
        let line = match colours {
            Colours::None => Line::plain(symbols(state)),
            _ => Line::default().with(Style::ground(hue(state)), "  "),
        };
        line.with(Style::default(), format!(" {} {count}", label(state)))
    };
    let mut lines: Vec<Line> = Vec::new();
    for entry in present(totals).map(entry) {
        match lines.last_mut() {
            Some(line) if line.width() + GAP.len() + entry.width() <= columns => {
                line.push(Style::default(), GAP);
                line.append(entry);
            }
            _ => lines.push(entry),
        }
    }
    lines
}

/// What else there is to know for reading the cells.
fn notes(summary: &Summary, layout: &Layout, colours: Colours) -> Vec<Line> {
    let partly = summary.cells.iter().any(|cell| (0.0..1.0).contains(&fill(&cell.tally)) && cell.tally.written > 0);
    let mut notes: Vec<String> = scale(summary).into_iter().collect();
    if partly || summary.totals.states.sum(State::is_active) > 0 {
        notes.push(match colours {
            Colours::None => "letters and digits go by tenths written: a, A and 0 are less than one".to_owned(),
            _ if layout.pitch < SPACED => "the brighter, the more is written".to_owned(),
            _ => "cells brighten from the left as they are written".to_owned(),
        });
    }
    notes.extend(volatile_zones(summary));
    notes.into_iter().map(Line::plain).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{disk, summary, volatile};
    use super::*;
    use crate::cli::screen::text;
    use crate::power::PowerStatus;
    use crate::zone::State::{Closed, Empty, ExplicitOpen, Full, ImplicitOpen, NotWp};

    fn drawn(zones: &[(State, u64)], conventional: u32, columns: usize, rows: usize) -> String {
        let disk = disk(zones.len() as u32, conventional);
        let layout = Layout::fit(zones.len() as u32, None, columns, rows, Colours::None);
        text(&draw(&disk, &summary(zones, layout.cells), &layout, columns, Colours::None), Colours::None)
    }

    #[test]
    fn a_small_disk_is_a_row_of_characters_that_the_legend_explains() {
        let zones = [
            (NotWp, 0),
            (Full, 1024),
            (Closed, 300),
            (ImplicitOpen, 512),
            (ExplicitOpen, 0),
            (Empty, 0),
            (Empty, 0),
            (Empty, 0),
        ];
        let expected = "\
a disk
32 KiB: 8 zones of 4 KiB, 2 KiB of each writable, 1 conventional
written 3.59 KiB of 14 KiB (25.6 %), open 2 of 3, active 3 of 4

0  =#2fA...

= conventional 1   # full 1   0-9 closed 1   a-j implicitly open 1   A-J explicitly open 1   . empty 3
letters and digits go by tenths written: a, A and 0 are less than one
";
        assert_eq!(drawn(&zones, 1, 120, 32), expected);
        let narrow = drawn(&zones, 1, 40, 32);
        let legend: Vec<&str> = narrow.lines().skip(6).take(4).collect();
        assert_eq!(
            legend,
            [
                "= conventional 1   # full 1",
                "0-9 closed 1   a-j implicitly open 1",
                "A-J explicitly open 1   . empty 3",
                "letters and digits go by tenths written: a, A and 0 are less than one",
            ]
        );
    }

    #[test]
    fn a_disk_with_a_volatile_cache_says_how_its_power_is_and_which_zones_may_lose_something() {
        let power = PowerStatus { state: "off".to_owned(), at: None, volatile_bytes: 2048 };
        let zones = [(Closed, 512), (Closed, 512), (Full, 1024), (Empty, 0)];
        let layout = Layout::fit(4, None, 80, 32, Colours::None);
        let lines = draw(&disk(4, 0), &volatile(&zones, 4, 1, power), &layout, 80, Colours::None);
        let expected = "\
a disk
16 KiB: 4 zones of 4 KiB, 2 KiB of each writable
written 4 KiB of 8 KiB (50.0 %), open 0 of 3, active 2 (no limit)
power off; volatile 2 KiB

0  55#.

# full 1   0-9 closed 2   . empty 1
letters and digits go by tenths written: a, A and 0 are less than one
volatile in zones 1 to 2
";
        assert_eq!(text(&lines, Colours::None), expected);
    }

    #[test]
    fn an_empty_disk_needs_no_more_than_it_shows() {
        let expected = "\
a disk
4 KiB: 1 zone of 4 KiB, 2 KiB of each writable
written 0 B of 2 KiB (0.0 %), open 0 (no limit), active 0 (no limit)

0  .

. empty 1
";
        assert_eq!(drawn(&[(Empty, 0)], 0, 80, 32), expected);
    }

    #[test]
    fn rows_begin_with_their_first_zone_and_groups_are_apart() {
        let mut zones = vec![(Full, 1024); 100];
        zones[64] = (Closed, 1000);
        let text = drawn(&zones, 0, 80, 32);
        let rows: Vec<&str> = text.lines().skip(4).take(2).collect();
        let group = "#".repeat(GROUP);
        let expected =
            [format!(" 0  {group} {group} {group} {group}"), format!("64  9{} {group} ####", "#".repeat(GROUP - 1))];
        assert_eq!(rows, expected);
    }

    #[test]
    fn more_zones_than_fit_share_cells() {
        let zones: Vec<_> = (0..1000).map(|zone| if zone < 500 { (Full, 1024) } else { (Empty, 0) }).collect();
        let text = drawn(&zones, 0, 80, 2);
        assert!(text.contains("\n  0  ################ "), "{text}");
        assert!(text.contains("\n512  ................ "), "{text}");
        assert!(text.contains("one cell is 8 zones"), "{text}");
    }

    #[test]
    fn the_map_stays_within_the_room_it_has() {
        for colours in [Colours::None, Colours::Indexed] {
            for zones in [1, 2, 12, 80, 300, 16384] {
                let states = vec![(Closed, 512); zones as usize];
                for (columns, rows) in [(0, 0), (9, 1), (20, 5), (80, 15), (120, 31), (200, 41)] {
                    let layout = Layout::fit(zones, None, columns, rows, colours);
                    let drawn = super::rows(&summary(&states, layout.cells), &layout, colours);
                    let widest = drawn.iter().map(Line::width).max().unwrap_or(0);
                    let what = format!("{zones} zones in {columns} x {rows}, {colours:?}: {layout:?}");
                    assert!(drawn.len() <= rows.max(1), "{} rows for {what}", drawn.len());
                    assert!(widest <= columns.max(8), "{widest} columns for {what}");
                }
            }
        }
    }

    #[test]
    fn cells_that_are_asked_for_are_drawn_in_the_rows_they_take() {
        let layout = Layout::fit(16384, Some(4096), 80, 10, Colours::None);
        assert_eq!((layout.cells, layout.per_row), (4096, 64));
        assert_eq!(Layout::fit(12, Some(4096), 80, 10, Colours::None).cells, 12);
    }
}
