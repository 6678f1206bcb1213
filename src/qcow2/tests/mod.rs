//! Tests of the image as a whole, on files in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop there")]

mod campaign;
mod compare;
mod create_open;
mod damage;
mod faults;
mod foreign;
mod grow;
mod layouts;
mod length;
mod mapping;
mod pointers;
mod redo;
mod repair;
mod sound;
mod support;
