//! Recording what a disk is asked and answers, so that each state it has had, and each that a loss of power might have left, can be
//! made again.
//!
//! | module | subject |
//! | --- | --- |
//! | [`entry`] | what a record says |
//! | [`format`] | the bytes of a log. No I/O |
//! | [`reader`] | a log that is read |
//! | [`writer`] | a log that is written |
//! | [`layer`] | the layer over the device: what is accepted and answered |
//! | [`path`] | the layer over a data path: what writes carry |
//! | [`session`] | beginning a log, or going on with one |
//! | [`scan`] | a log looked through: its flushes, answers and marks |
//! | [`machine`] | doing again what a log says |
//! | [`losing`] | what a loss of power may take there |
//! | `error` | why it cannot be done again |

pub mod entry;
mod error;
pub mod format;
pub mod layer;
pub mod losing;
pub mod machine;
pub mod path;
pub mod reader;
pub mod scan;
pub mod session;
pub mod writer;

pub use entry::{Accepted, Data, Ended, Entry, Run};
pub use error::ReplayError;
pub use layer::{Faulted, Recorder};
pub use losing::LosableBlock;
pub use machine::{Machine, Unsynced};
pub use path::{RecordedPath, Writes};
pub use reader::{ReadError, Reader, Record};
pub use scan::{Epoch, Happened, Point, Scan};
pub use session::SessionError;
pub use writer::{Clock, Log};

#[cfg(test)]
mod tests;
