//! What a picture is made of: rows of cells, and columns.

use super::event::Request;
use crate::observe::Kind;

/// What is counted in a cell, by its place in [`Cell::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Count {
    /// Writes and appends.
    Writes = 0,
    /// Reads.
    Reads = 1,
    /// Resets.
    Resets = 2,
    /// Finishes.
    Finishes = 3,
    /// Whatever else was answered with OK: opened, closed, reported.
    Others = 4,
    /// What was answered with an error.
    Refused = 5,
}

/// How many counts there are.
pub const COUNTS: usize = 6;

impl Count {
    pub(super) fn of(request: &Request) -> Self {
        match request.kind {
            _ if request.refused.is_some() => Self::Refused,
            Kind::Write | Kind::Append => Self::Writes,
            Kind::Read => Self::Reads,
            Kind::Reset | Kind::ResetAll => Self::Resets,
            Kind::Finish => Self::Finishes,
            _ => Self::Others,
        }
    }
}

/// What a row's zones did in a column's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The column.
    pub column: u32,
    /// Bytes written of the row's zones at the end of it; none where that is known of none of them.
    pub written: Option<u64>,
    /// Requests, by [`Count`].
    pub counts: [u32; COUNTS],
    /// Bytes that writes and appends brought.
    pub bytes: u64,
    /// Why the last of what was refused was, as a place in [`Grid::reasons`](super::Grid::reasons).
    pub reason: u8,
}

/// What happened in a column's time in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Requests that changed zones.
    pub changes: u32,
    /// All others that were answered with OK, flushes apart.
    pub others: u32,
    /// What was answered with an error.
    pub refused: u32,
    /// Flushes answered with OK.
    pub flushes: u32,
}

/// A row as it is filled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Bytes written at the beginning; none where that is known of none of its zones.
    pub begin: Option<u64>,
    /// The cells in which anything happened, in order.
    pub cells: Vec<Cell>,
    written: u64,
    known: u32,
}

impl Line {
    pub(super) fn value(&self) -> Option<u64> {
        (self.known > 0).then_some(self.written)
    }

    pub(super) fn add(&mut self, before: Option<u64>, after: Option<u64>) {
        self.known = self.known.saturating_add(after.is_some().into()).saturating_sub(before.is_some().into());
        self.written = self.written.saturating_sub(before.unwrap_or(0)).saturating_add(after.unwrap_or(0));
    }

    /// The cell of this column, or the last one where that is behind it.
    pub(super) fn cell(&mut self, column: u32) -> Option<&mut Cell> {
        if self.cells.last().is_none_or(|last| last.column < column) {
            self.cells.push(Cell { column, ..Cell::default() });
        }
        self.cells.last_mut()
    }
}
