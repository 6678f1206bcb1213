//! Where messages go: a terminal or file, with times; or the journal, which has its own times and reads how important
//! a line is from its beginning (sd-daemon(3)).

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use env_logger::{Builder, Env};
use log::Level;

/// Starts the log of a command that has one.
pub(super) fn start() {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    if to_journal() {
        builder.format(|out, record| {
            let text = record.args().to_string();
            text.lines().try_for_each(|line| writeln!(out, "<{}>{line}", priority(record.level())))
        });
    }
    builder.init();
}

/// The line that a command that has failed ends with.
pub(super) fn failure(error: impl Display) {
    if to_journal() {
        eprintln!("<{}>{error}", priority(Level::Error));
    } else {
        eprintln!("vhost-user-zbd: {error}");
    }
}

/// syslog's number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether standard error is the stream to the journal that systemd has named, and has not been led elsewhere since.
fn to_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = || -> io::Result<_> { File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata() };
    stderr().is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}
