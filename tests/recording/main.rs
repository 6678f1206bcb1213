//! Recordings: what a log says of a disk is what the disk has done. A run of random requests, of several queues and with many in
//! flight, is recorded; at each flush a copy of the image is kept. Then each of these states is made again from the image of
//! the beginning and the log, and compared byte by byte and pointer by pointer.
//!
//! `RECORDED_REQUESTS=10000` is the long form of the first test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod cuts;
mod live;
#[path = "../lifecycle/load.rs"]
#[allow(dead_code, reason = "the comparisons of its own are not used here")]
mod load;
mod marks;
mod replayed;
mod served;
mod sessions;
