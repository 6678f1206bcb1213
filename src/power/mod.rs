//! An honest volatile cache: a layer over the device that can lose, on command, what was not flushed, as a drive may whose
//! power goes.
//!
//! | module | subject |
//! | --- | --- |
//! | [`rules`] | what a loss of power may leave of a zone, and the choice among it (R1 to R11). Pure |
//! | `history` | what was done to one sequential zone since its last stable state |
//! | `blocks` | the old versions of blocks of conventional zones |
//! | [`words`] | a cut as it is commanded: what is lost, when, what follows |
//! | `trigger` | the moment of a cut that comes later |
//! | [`outcome`] | what a cut has left, as it is told |
//! | [`switch`] | whether there is power; the gates of the queues |
//! | `notes` | the histories of all zones, from the store's notes |
//! | [`cache`] | the layer |
//! | [`losable`] | what a loss of power may take at one moment |
//! | `choice` | what a cut leaves |
//!
//! # The fact it rests on
//!
//! Below its write pointer a sequential zone does not change until its next reset. So losing unflushed writes takes no old
//! data, only an older pointer; of a reset that is not stable it takes the zone's space, which is why such a zone is not
//! cleared before a flush covers its reset ([`ZonedDevice::let_go`](crate::store::ZonedDevice::let_go)). Conventional zones
//! are written in place: their blocks' old versions are read before the first write after a flush.
//!
//! # A cut
//!
//! 1. *Frozen*: nothing is begun or gone on with any more, I/O in flight is waited for, no answer goes out.
//! 2. With no round of any queue under way and no I/O in flight, the housekeeper's thread chooses what is left and has the store
//!    change to it, at once: a process that dies leaves the state of before or of after.
//! 3. *Off* until the device is reset: queues drop what they had, or answer it with an error.

mod blocks;
pub mod cache;
mod choice;
mod history;
pub mod losable;
mod notes;
pub mod outcome;
pub mod rules;
pub mod switch;
mod trigger;
pub mod words;

pub use cache::{Commanded, CutError, VolatileCache};
pub use losable::Losable;
pub use outcome::{CutConventional, CutOutcome, CutZone, PowerStatus};
pub use switch::{Power, Switch, Then};
pub use words::{At, Cut, Loss, Words};
