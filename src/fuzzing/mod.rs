//! Hostile input: a function for each place where bytes of others come in. Each takes any bytes whatever and panics
//! where a rule is broken. libFuzzer drives them (`fuzz/`, tests/fuzz.sh), and a test replays its seeds.
//!
//! Compiled for these two only.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a rule that is broken is told by panicking")]

mod image;
pub(crate) mod input;
pub(crate) mod layout_b;
mod metered;
mod request;

pub use image::image;
pub(crate) use input::Input;
pub(crate) use metered::Metered;
pub use request::request;

pub use crate::vhost::fuzzing::{inflight, messages, ring};

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]);

    /// By the names of their seed folders.
    const TARGETS: [(&str, Target); 5] =
        [("image", image), ("request", request), ("ring", ring), ("messages", messages), ("inflight", inflight)];

    #[test]
    fn every_seed_of_the_fuzzers_keeps_the_rules() {
        for (name, target) in TARGETS {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
            let seeds: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
            for seed in seeds {
                println!("{}", seed.display());
                target(&std::fs::read(&seed).unwrap());
            }
            target(&[]);
        }
    }
}
