//! The device of the driver's view: what its queues share, and the requests of each. It knows no transport: chains come in,
//! heads go out.
//!
//! | module | subject |
//! | --- | --- |
//! | [`requests`] | a queue's requests: through the disk, through their I/O, to their answers |
//! | `recovery` | what the last process left behind of a queue |
//! | `flushes` | the answers that wait for durability |
//! | `slots` | the requests in flight of a queue |
//! | [`standstill`] | what is done while nothing moves: copies of the image, and the way back to one |
//! | [`router`] | events for requests of other queues |
//! | [`counts`] | what is noted of the requests answered |
//! | [`limiter`] | how many lines of the log a guest or a frontend may cause |

pub mod counts;
mod flushes;
pub mod limiter;
pub mod recovery;
pub mod requests;
pub mod router;
mod shared;
mod slots;
pub mod standstill;

pub use shared::{Device, Identity};
