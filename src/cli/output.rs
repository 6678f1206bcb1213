//! Standard output, the only way to which is through here: a `println!` panics where a reader has gone or a device is
//! full, so lints of the library forbid it.
//!
//! A reader that has seen enough, as in `map | head`, is no error: the command ends without a word and with the status
//! that it would have had. Whatever else keeps the output from being written is an error like any other.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::{Context, Result};

/// Standard output for text of any length. What has become of all writing to it is for [`finish`] to judge.
pub(super) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// How much [`held`] holds back.
const HELD: usize = 1 << 20;

/// Standard output that holds back its first megabyte, so that an error which comes before that many lines leaves none.
pub(super) fn held() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(HELD, io::stdout().lock())
}

/// Drops what `out` still holds.
pub(super) fn discard(out: BufWriter<StdoutLock<'static>>) {
    drop(out.into_parts());
}

/// Writes out what `out` still holds and tells what has become of it and of `written`, the writing before.
pub(super) fn finish(mut out: impl Write, written: io::Result<()>) -> Result<()> {
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output cannot be written"),
    }
}

/// Writes this to standard output.
pub(super) fn print(text: impl Display) -> Result<()> {
    let mut out = stdout();
    let written = write!(out, "{text}");
    finish(out, written)
}
