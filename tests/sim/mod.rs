//! The real store over a simulated disk.

#![allow(dead_code, unused_imports, reason = "each test uses a part")]

pub mod disk;
#[path = "../../src/fuzzing/layout_b.rs"]
mod layout_b;
pub mod model;
pub mod rig;
#[path = "../common/rng.rs"]
mod rng;

pub use rng::Rng;
