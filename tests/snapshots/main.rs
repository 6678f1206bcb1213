//! Snapshots of a disk that is served: each is the state of one moment, and the way back leads to it.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`rig`] | a served disk with its control socket, and images looked at without a daemon |
//! | [`load`] | writes and resets on all queues, each noted when it is asked for and when it is answered |
//! | [`save`] | copies under load: `SNAPSHOTS=200 cargo test --release --test snapshots under_load` |
//! | [`revert`] | the way back: what is there, what becomes of requests, how long it takes |
//! | [`kills`] | kill -9 meanwhile: `SNAPSHOT_KILLS=200` |
//! | [`refused`] | what is no snapshot |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod kills;
mod load;
mod refused;
mod revert;
mod rig;
mod save;
