//! Every request of a zoned virtio-blk device, asked over the real socket of the real program: what it answers, what
//! it changes, what it must not change. The names state the rules; most are rows of the specification's text.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;

/// Makes two tests of each function: with the engine that `serve` chooses, and with plain reads and writes. Such a
/// function takes the [`common::disk::Setup`] to begin with.
macro_rules! with_each_engine {
    ($($name:ident),+ $(,)?) => {
        mod with_the_default_engine {
            $(#[test] fn $name() { super::$name(|geo| super::Setup::new(geo)); })+
        }
        mod with_the_sync_engine {
            $(#[test] fn $name() { super::$name(|geo| super::Setup::new(geo).args(&["--aio", "sync"])); })+
        }
    };
}

mod append;
mod chaos;
mod config;
mod data;
mod descriptors;
mod durability;
mod faults;
mod features;
mod framing;
mod full;
mod limits;
mod malformed;
mod matrix;
mod queues;
mod refused;
mod report;
mod zones;
