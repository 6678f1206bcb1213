//! Bases by network: the daemon's side and fetchers over one cache, against servers that count, die, are late and change.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(feature = "network")]

#[path = "../common/mod.rs"]
mod common;
mod held;
mod rig;
mod s3;
mod served;
mod server;
mod shared;
mod wrong;
