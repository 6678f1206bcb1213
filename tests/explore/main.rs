//! Exploring crash states: those that are gone through are those that the rules allow, and what is planted is found.
//!
//! `EXPLORED_SEEDS=1000` is the long form of the comparison with an enumerator of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod again;
mod enumerated;
mod found;
mod planted;
mod tape;
mod toy;
