//! A vhost-user frontend without a VM, and what the tests around it need: the daemon as a child process, images in
//! temporary folders, the command line, a reference for what a disk must hold.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`mem`] | the guest's memory: memfd regions that are shared with the daemon, and a small allocator in them |
//! | [`ring`] | the driver's side of a split virtqueue, also for wrong descriptors and wrong indices |
//! | [`proto`] | vhost-user messages, sent as bytes so that wrong ones can be sent too |
//! | [`frontend`] | a connection with its memory and queues; requests in flight |
//! | [`foreign`] | descriptors that no frontend should hand over |
//! | [`inflight`] | the region in which the daemon notes what is in flight, as the frontend keeps it |
//! | [`request`] | virtio-blk requests, their framing, and what came back |
//! | [`daemon`] | the program as a child process: start, log, signals, limits |
//! | [`disk`] | image + daemon + connected frontend, with one method for each request |
//! | [`cli`] | the commands, and images made by them |
//! | [`control`] | a client of the control socket |
//! | [`syncs`] | a host on which a file cannot be made durable |
//! | [`model`] | recognisable sector contents, and what each sector of a disk must read as |
//!
//! Every wait has a generous bound ([`PATIENCE`]) and fails with what was awaited; nothing else depends on time.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate uses its own part of the common modules"
)]

pub mod cli;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod foreign;
pub mod frontend;
pub mod inflight;
pub mod mem;
pub mod model;
pub mod proto;
pub mod request;
pub mod ring;
mod rng;
pub mod syncs;

pub use rng::Rng;

use std::time::{Duration, Instant};

/// The longest any single wait may last. Far more than a loaded machine needs: reaching it means a lost answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes in a virtio sector.
pub const SECTOR: u64 = 512;

/// Binary kilobytes, for geometries.
pub const KIB: u64 = 1024;

/// Binary megabytes, for geometries.
pub const MIB: u64 = 1024 * KIB;

/// Polls until `ready` gives a value. Panics with `what` when [`PATIENCE`] is over.
#[track_caller]
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
