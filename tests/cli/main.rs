//! The command line: what each command takes, prints and returns, and what it says about what it cannot take. Every
//! failure is one line on standard error that names the file or option, the value, and what was expected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../examples/pages/made/mod.rs"]
mod made;

mod completion;
mod convert;
mod create;
mod damage;
mod diff;
mod foreign;
mod fork;
mod inspect;
mod json;
mod limits;
mod manual;
mod map;
mod output;
mod packaging;
mod program;
mod qemu_img;
mod repair;
mod resize;
mod timeline;
mod top;
