//! The power goes on command: what a disk with a volatile cache is after `power-cut`, judged by rules of its own.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`block`] | what each block holds: zone, life, request, place in it, in every sector |
//! | [`rules`] | what was asked and answered, and what a cut may make of it (`rules::judge`): R1 to R11 |
//! | [`rules_tests`] | the rules against disks that break them, without a daemon |
//! | [`rig`] | a served disk with its control socket: cuts, and each way to bring the power back |
//! | [`work`] | requests from a seed, in flight when the power goes |
//! | [`campaign`] | cuts by the thousand: `POWER_CUTS=100000 cargo test --release --test power_cuts campaign` |
//! | [`timings`] | the same work on all queues at once, over and over: one state. `POWER_TIMINGS=1000` |
//! | [`kills`] | kill -9 around a cut: the state before or the state after. `POWER_KILLS=500` |
//! | [`guest`] | what the guest sees: dead, failing, and the power back |
//! | [`chosen`] | what is kept by `lose`, `keep`, `seed`, `state`, to the byte |
//! | [`stable`] | what may not be lost |
//! | [`when`] | cuts that come later |
//! | [`refused`] | what is no cut |
//!
//! The words are those of the design: *accepted*, *answered*, *stable*; a zone's *life* ends with a reset.
//!
//! - R1 A sequential zone is in the state after a prefix of its accepted operations, at least the stable ones; the write
//!   or append behind the prefix may be torn between blocks, never inside one.
//! - R2 Its pointer is so never below what is stable and never above what was accepted; all below it is of this life, all
//!   from it on reads as zeros.
//! - R3 A reset happened or did not; no zone has bytes of two lives.
//! - R4 A finish happened or did not; a zone written to its capacity is full.
//! - R5 No zone is open.
//! - R6 A reset of all zones is one reset a zone, of which any may have happened.
//! - R7 A conventional block is its last stable version or one accepted since.
//! - R8 Zones are independent, but for
//! - R9 the limit of active zones, which holds.
//! - R10 Read-only and offline zones stay so. (Nothing outside the daemon can make such a zone yet.)
//! - R11 Requests in flight are like the others. An append below a later one that was kept is whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod block;
mod campaign;
mod chosen;
mod guest;
mod kills;
mod refused;
mod rig;
mod rules;
mod rules_tests;
mod stable;
mod timings;
mod when;
mod work;
