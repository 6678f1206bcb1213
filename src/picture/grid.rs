//! The second reading of events: what each cell of the picture shows, a row's zones in a column's time.

use std::collections::BTreeMap;

use super::axis::Axis;
use super::cell::{Cell, Column, Count, Line};
use super::event::{Event, Request, What};
use super::pack;
use super::rows::Rows;
use super::survey::Survey;
use super::zones::{Change, Zones};
use crate::observe::Kind;
use crate::units::ZoneIndex;

/// Bytes that all cells may take, packed. A page has four thirds of that, and some text.
pub const MOST_PACKED: usize = 3 << 19;
/// Ticks on the axis that are kept with their text.
pub const MOST_TICKS: usize = 1000;
/// Characters of a tick's text that are kept.
const MOST_TEXT: usize = 120;

/// A tick on the axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// When.
    pub at: u64,
    /// What it is, in the words of the page's script: mark, cut, back, reset, fault, session or end.
    pub kind: &'static str,
    /// Its text, where it has one.
    pub text: String,
}

/// A picture: all that its cells show.
#[derive(Debug)]
pub struct Grid {
    /// Times to columns.
    pub axis: Axis,
    /// Zones to rows.
    pub rows: Rows,
    /// What the rows show, one for each.
    pub lines: Vec<Line>,
    /// What happened in each column in all.
    pub columns: Vec<Column>,
    /// Ticks, in order, the first [`MOST_TICKS`] of them.
    pub ticks: Vec<Tick>,
    /// Ticks that are left out.
    pub more_ticks: u64,
    /// Why requests were answered with an error.
    pub reasons: Vec<&'static str>,
    /// The bytes of all cells, as the page has them.
    pub packed: Vec<u8>,
}

impl Grid {
    /// Fills the picture with the events that were surveyed, which come in the same order again.
    pub fn of<E>(survey: &Survey, events: impl IntoIterator<Item = Result<Event, E>>) -> Result<Self, E> {
        let (first, last) = survey.span.unwrap_or((0, 0));
        let axis = Axis::new(first, last);
        let touched: Vec<ZoneIndex> = survey.touched.keys().copied().collect();
        let rows = Rows::of(&survey.geometry, &touched);
        let mut grid = Self {
            axis,
            lines: vec![Line::default(); rows.all().len()],
            rows,
            columns: vec![Column::default(); axis.columns() as usize],
            ticks: Vec::new(),
            more_ticks: 0,
            reasons: Vec::new(),
            packed: Vec::new(),
        };
        let mut zones = Zones::new(survey.geometry);
        for (zone, begin) in &survey.touched {
            let Some(written) = *begin else { continue };
            zones.begin_with(*zone, written);
            if let Some(line) = grid.rows.row(*zone).and_then(|row| grid.lines.get_mut(row)) {
                line.add(None, zones.written(*zone));
            }
        }
        for line in &mut grid.lines {
            line.begin = line.value();
        }
        // What a daemon has written meanwhile was not surveyed.
        for (_, event) in (0..survey.events).zip(events) {
            grid.take(event?, &mut zones);
        }
        grid.pack();
        Ok(grid)
    }

    fn take(&mut self, event: Event, zones: &mut Zones) {
        let column = self.axis.column(event.at);
        let request = if let What::Request(request) = &event.what { Some(request) } else { None };
        let reason = request.and_then(|request| request.refused).map_or(0, |why| self.reason(why));
        if let (Some(request), Some(all)) = (request, self.columns.get_mut(column as usize)) {
            count(request, all);
        }
        let (rows, lines) = (&self.rows, &mut self.lines);
        zones.take(&event.what, &mut |change| {
            if let Some(line) = rows.row(change.zone).and_then(|row| lines.get_mut(row)) {
                show(line, column, &change, request, reason);
            }
        });
        if let Some((kind, text)) = tick(event.what) {
            self.tick(event.at, kind, &text);
        }
    }

    fn reason(&mut self, why: &'static str) -> u8 {
        let place = self.reasons.iter().position(|known| *known == why);
        let place = place.unwrap_or_else(|| {
            self.reasons.push(why);
            self.reasons.len() - 1
        });
        u8::try_from(place).unwrap_or(u8::MAX)
    }

    fn tick(&mut self, at: u64, kind: &'static str, text: &str) {
        if self.ticks.len() == MOST_TICKS {
            self.more_ticks += 1;
            return;
        }
        let mut kept: String = text.chars().take(MOST_TEXT).collect();
        if kept.len() < text.len() {
            kept.push('\u{2026}');
        }
        self.ticks.push(Tick { at, kind, text: kept });
    }

    /// Packs the cells. While that takes too many bytes each two columns become one.
    fn pack(&mut self) {
        self.packed = pack::lines(&self.lines);
        while self.packed.len() > MOST_PACKED && self.axis.halve() {
            self.columns = self.columns.chunks(2).map(together).collect();
            for line in &mut self.lines {
                halve(&mut line.cells);
            }
            self.packed = pack::lines(&self.lines);
        }
    }
}

/// Shows in a row what has become of one of its zones.
fn show(line: &mut Line, column: u32, change: &Change, request: Option<&Request>, reason: u8) {
    line.add(change.known, change.after);
    if !change.touched {
        return;
    }
    let value = line.value();
    let Some(cell) = line.cell(column) else { return };
    cell.written = value;
    let Some(request) = request else { return };
    let count = Count::of(request);
    if let Some(count) = cell.counts.get_mut(count as usize) {
        *count = count.saturating_add(1);
    }
    match count {
        Count::Writes => cell.bytes = cell.bytes.saturating_add(request.len.0),
        Count::Refused => cell.reason = reason,
        _ => {}
    }
}

fn count(request: &Request, all: &mut Column) {
    let count = match (request.refused, request.kind) {
        (Some(_), _) => &mut all.refused,
        (None, Kind::Flush) => &mut all.flushes,
        (None, Kind::Write | Kind::Append | Kind::Reset | Kind::ResetAll | Kind::Finish) => &mut all.changes,
        (None, _) => &mut all.others,
    };
    *count = count.saturating_add(1);
}

fn tick(what: What) -> Option<(&'static str, String)> {
    Some(match what {
        What::Request(_) | What::Session { again: false, .. } => return None,
        What::Mark(text) => ("mark", text),
        What::Fault(text) => ("fault", text),
        What::PowerCut(_) => ("cut", String::new()),
        What::PowerBack => ("back", String::new()),
        What::DeviceReset => ("reset", String::new()),
        What::Session { again: true, .. } => ("session", String::new()),
        What::End(why) => ("end", why.to_owned()),
    })
}

fn together(columns: &[Column]) -> Column {
    columns.iter().fold(Column::default(), |sum, one| Column {
        changes: sum.changes.saturating_add(one.changes),
        others: sum.others.saturating_add(one.others),
        refused: sum.refused.saturating_add(one.refused),
        flushes: sum.flushes.saturating_add(one.flushes),
    })
}

fn halve(cells: &mut Vec<Cell>) {
    let mut halved: BTreeMap<u32, Cell> = BTreeMap::new();
    for cell in cells.drain(..) {
        let sum = halved.entry(cell.column / 2).or_default();
        for (count, more) in sum.counts.iter_mut().zip(cell.counts) {
            *count = count.saturating_add(more);
        }
        let refused = cell.counts[Count::Refused as usize] > 0;
        *sum = Cell {
            column: cell.column / 2,
            written: cell.written,
            counts: sum.counts,
            bytes: sum.bytes.saturating_add(cell.bytes),
            reason: if refused { cell.reason } else { sum.reason },
        };
    }
    cells.extend(halved.into_values());
}
