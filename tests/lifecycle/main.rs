//! The life of the daemon: frontends that come and go, restarts, deaths, sockets, locks, and the image afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod absent;
mod control;
mod crash;
mod hostile;
mod inflight;
mod load;
mod lock;
mod log;
mod power;
mod restart;
mod sandbox;
mod service;
mod signals;
mod sockets;
mod space;
mod uml;
mod waiting;
