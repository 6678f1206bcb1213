//! Faults on command, asked for over the control socket and met by requests over the ring.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`rig`] | a served disk with its control socket and its file of rules |
//! | [`library`] | a disk in this process, by the same words |
//! | [`table`] | operation x state of the zone x how much lands: status, pointer, bytes, slots, the next write |
//! | [`kinds`] | each action by itself |
//! | [`zones`] | zones that are read-only or offline, and come back |
//! | [`which`] | which requests a rule acts on, also over several queues |
//! | [`scripts`] | random rules and requests: nothing is ever destroyed. `FAULT_SCRIPTS=1000` |
//! | [`late`] | requests that are late or hang: queues that stop, devices that are reset |
//! | [`kept`] | rules and zones outlive the daemon. `FAULT_KILLS=100` |
//! | [`refused`] | what is no rule |
//! | [`traced`] | the trace says which rule has refused a request |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod kept;
mod kinds;
mod late;
mod library;
mod refused;
mod rig;
mod scripts;
mod table;
mod traced;
mod which;
mod zones;
