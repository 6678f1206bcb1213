//! Times to columns.

/// Columns of a picture at most.
pub const MOST_COLUMNS: u64 = 1200;

/// The time axis: columns of equally many units of time, nanoseconds or answered requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    from: u64,
    len: u64,
    step: u64,
}

impl Axis {
    /// The axis from the first to the last moment, both on it.
    pub fn new(first: u64, last: u64) -> Self {
        let len = last.saturating_sub(first).saturating_add(1);
        Self { from: first, len, step: len.div_ceil(MOST_COLUMNS) }
    }

    /// The first moment.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// Units of time from the first moment to the last, both counted.
    pub fn span(&self) -> u64 {
        self.len
    }

    /// Units of time in a column; the last one may have fewer.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How many columns there are, at least one and at most [`MOST_COLUMNS`].
    pub fn columns(&self) -> u32 {
        u32::try_from(self.len.div_ceil(self.step)).unwrap_or(u32::MAX)
    }

    /// The column of a moment; one that is not on the axis has the nearest.
    pub fn column(&self, at: u64) -> u32 {
        let column = at.saturating_sub(self.from) / self.step;
        u32::try_from(column).unwrap_or(u32::MAX).min(self.columns() - 1)
    }

    /// Puts each two columns together, the first with the second. Returns false where there is one alone.
    pub fn halve(&mut self) -> bool {
        let can = self.columns() > 1;
        if can {
            self.step = self.step.saturating_mul(2);
        }
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_has_a_column_and_every_column_a_moment() {
        for (first, last) in [(0, 0), (5, 5), (0, 1199), (0, 1200), (7, 123_456_789), (0, u64::MAX), (u64::MAX, 0)] {
            let mut axis = Axis::new(first, last);
            loop {
                let columns = axis.columns();
                assert!((1..=MOST_COLUMNS as u32).contains(&columns), "{axis:?}");
                assert_eq!((axis.column(first), axis.column(last.max(first))), (0, columns - 1), "{axis:?}");
                let starts = (0..u64::from(columns)).map(|column| axis.column(first + column * axis.step()));
                assert!(starts.eq(0..columns), "{axis:?}");
                let fine = axis;
                if !axis.halve() {
                    break;
                }
                for at in [first, first / 2 + last / 2, last].map(|at| at.max(first)) {
                    assert_eq!(axis.column(at), fine.column(at) / 2, "{at} on {axis:?}");
                }
            }
        }
    }
}
