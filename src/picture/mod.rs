//! Pictures of what has become of a disk's zones: one page of HTML that needs nothing else, no network, no font, no script of others.
//!
//! | module | subject |
//! | --- | --- |
//! | [`event`] | what happened, to which zone, when |
//! | [`traced`] | the events of a trace |
//! | [`recorded`] | the events of a recording |
//! | [`order`] | events brought into the order of their times |
//! | [`zones`] | how far each zone is written, followed through events |
//! | [`survey`] | the first reading: which zones and times there are, and what happened in all |
//! | [`axis`] | times to columns |
//! | [`rows`] | zones to rows |
//! | [`cell`] | what a picture is made of: rows of cells, and columns |
//! | [`grid`] | the second reading: what each cell of the picture shows |
//! | [`pack`] | the cells as few bytes |
//! | [`timeline`] | the page of a grid |
//! | [`explored`] | the page of an exploration |
//! | [`shell`] | what pages have in common |
//!
//! Nothing in here has a file or a clock. Events are read twice: the first time for the shape of the picture, the second time to fill it.
//! Memory is bounded by the zones that were touched and by the cells, [`rows::MOST_ROWS`] by [`axis::MOST_COLUMNS`]; the page by
//! [`grid::MOST_PACKED`], for which columns are put together where that has to be.

pub mod axis;
pub mod cell;
pub mod event;
pub mod explored;
pub mod grid;
pub mod order;
pub mod pack;
pub mod recorded;
pub mod rows;
pub mod shell;
pub mod survey;
pub mod timeline;
pub mod traced;
pub mod zones;

pub use event::{Event, Request, What};
pub use grid::Grid;
pub use order::Ordered;
pub use survey::Survey;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests;
