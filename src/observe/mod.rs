//! What is told about an image and a running device. Pure: no thread, clock, file or socket.
//!
//! | module | subject |
//! | --- | --- |
//! | [`summary`] | the zones of a disk, summed up in a bounded number of cells |
//! | [`kind`] | the kinds of request that are counted apart |
//! | [`stats`] | what a queue has done |
//! | [`histogram`] | how long requests take |
//! | [`hot`] | the zones written most |
//! | [`refused`] | a refused request in words |
//! | [`info`] | what is served, and how |
//! | [`metrics`] | all of it as text for a scraper |
//! | [`trace`] | one request as a record of a trace |
//! | [`fault_names`] | what rules for faults are called, in a trace |
//! | [`versioned`] | the version of all JSON |

pub mod fault_names;
pub mod histogram;
pub mod hot;
pub mod info;
pub mod kind;
pub mod metrics;
pub mod refused;
pub mod stats;
pub mod summary;
pub mod trace;
mod versioned;

pub use kind::{Kind, Subject};
pub use refused::{Refused, Rule};
pub use versioned::{SCHEMA_VERSION, Versioned, versioned};
