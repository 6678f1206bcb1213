//! The whole process below its threads, simulated: rings, queues, requests, store, image and notes for a successor over a
//! simulated disk, from one seed. What happens next is drawn: a request is issued, a queue goes round, an operation of the disk
//! ends, the housekeeper takes a turn, queues stop, the guest's memory moves, the process dies, the power goes.
//!
//! A queue goes round only when something wakes it: a kick that its driver was asked for, another thread, the end of an
//! operation. The guest looks at answers only when it is interrupted. So whatever is left out or done twice shows: as a request
//! without an answer, one with two, or a block that is not what it has to be.
//!
//! `SIMULATED_SEEDS=10000 SIMULATED_FROM=1 cargo test --release --lib simulation -- --nocapture` is the long form. A failure
//! prints its seed, which repeats it exactly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../../tests/sim/disk.rs"]
#[allow(dead_code, unreachable_pub, reason = "the simulations share it")]
mod disk;
mod driver;
mod guest;
mod oracle;
mod path;
#[path = "../../../tests/common/rng.rs"]
#[allow(unreachable_pub, reason = "all tests share it")]
mod rng;
mod seen;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Requests of one seed.
const REQUESTS: usize = 1000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

#[test]
fn whatever_happens_in_whatever_order_each_request_is_answered_once_and_rightly() {
    let (from, seeds) = (number("SIMULATED_FROM", 1), number("SIMULATED_SEEDS", 40));
    let mut seen = seen::Seen::default();
    for seed in from..from + seeds {
        let run = AssertUnwindSafe(|| world::World::new(seed).run(REQUESTS));
        match catch_unwind(run) {
            Ok(this) => seen.add(&this),
            Err(_) => panic!("SIMULATED_FROM={seed} SIMULATED_SEEDS=1 repeats this"),
        }
    }
    println!("{seeds} seeds from {from}: {seen:?}");
    assert!(seeds < 40 || seen.is_all(), "not all that can happen has happened: {seen:?}");
}

#[test]
fn a_seed_repeats_itself_exactly() {
    let run = || world::World::new(7).run(300);
    assert_eq!(run(), run());
}
