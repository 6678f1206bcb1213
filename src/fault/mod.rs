//! Faults on command: rules that fail requests, delay them, have them bring wrong bytes, and take zones away. Nothing is ever
//! destroyed: what a rule has kept from the disk is an error that the driver saw, and everything else is as without rules.
//!
//! | module | subject |
//! | --- | --- |
//! | [`rule`] | a rule: which requests, and what becomes of them. Pure |
//! | `words` | a rule in words |
//! | `state` | what is remembered: rules, requests that they have acted on, zones that change. Pure |
//! | `layer` | the layer over the device |
//! | `shared` | what the layers share; the notes that pass |
//! | `path` | the layer over the data path: bytes changed in what reads bring |
//! | `patches` | which bytes these are: the one layer tells the other |
//! | `old` | what blocks held before they were last written |
//! | `commands` | what users tell the layer |
//! | `saved` | rules and zones as a file has them, and lists |
//!
//! Rules are told by users, never by the guest, and are data: nothing in them is a path.

mod commands;
mod layer;
mod old;
mod patches;
mod path;
pub mod rule;
mod saved;
mod shared;
mod state;
mod words;

pub use layer::{Faults, Keep};
pub use path::{FaultyPath, Reads};
pub use saved::{Saved, SavedZone};
pub use state::Done;
pub use words::{RuleProgress, RuleWords};
