//! Exploring a recording: each state that a loss of power may have left of the disk is made as an image, and checked.
//!
//! | module | subject |
//! | --- | --- |
//! | [`choices`] | what a loss of power at one moment may leave, by the levels of an exploration. Pure |
//! | [`identity`] | which of these states are the same |
//! | [`survey`] | a recording gone through: the states at its moments |
//! | [`maker`] | a state as an image |
//! | [`check`] | the check of a state, a command |
//! | [`jobs`] | states made and checked side by side |
//! | [`witness`] | a state that has failed: what it has lost, and the least of that with which it still fails |
//!
//! # Moments
//!
//! Between two moments at which something becomes stable or cannot come back any more, what is accepted only adds to what may
//! be lost, and what may be left at the earlier moment may be left at the later one as well. So the states are those of the last
//! moment of each such *stretch* of the recording: before a flush is answered, before a reset zone is written again, before a block
//! of a conventional zone that may be lost is written again, before a daemon or a driver begins anew; and before a mark, as what was
//! promised changes there. A state that may be left on both sides of a mark is two: what is promised of it is not the same.
//!
//! One thing is left out: a version of a block of a conventional zone that was neither the stable one nor the last, together with
//! what other zones were asked for after the block was written again.

pub mod check;
pub mod choices;
pub mod identity;
pub mod jobs;
pub mod maker;
pub mod survey;
pub mod witness;

pub use check::{Check, Command, Verdict};
pub use choices::Level;
pub use maker::Maker;
pub use survey::{State, Survey};
