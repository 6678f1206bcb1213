//! Where messages go: a terminal or file, with times; or the journal, which has its own times and reads how important
//! a line is from its beginning (sd-daemon(3)).
//!
//! How much is said is what `RUST_LOG` asks for, until somebody asks a running daemon for another level, which then
//! holds for all of this program.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use env_logger::{Builder, Env, Logger};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// A level was asked for since the start: the environment counts no more.
static OVERRIDDEN: AtomicBool = AtomicBool::new(false);

/// Two loggers that write alike: one filters as the environment says, one lets all of this program through.
struct Both {
    by_environment: Logger,
    everything: Logger,
}

impl Both {
    fn chosen(&self) -> &Logger {
        if OVERRIDDEN.load(Ordering::Relaxed) { &self.everything } else { &self.by_environment }
    }
}

impl Log for Both {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.chosen().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.chosen().log(record);
    }

    fn flush(&self) {
        self.chosen().flush();
    }
}

/// Starts the log of a command that has one.
pub fn start() {
    let journal = to_journal();
    let format = |mut builder: Builder| {
        if journal {
            builder.format(|out, record| {
                let text = record.args().to_string();
                text.lines().try_for_each(|line| writeln!(out, "<{}>{line}", priority(record.level())))
            });
        }
        builder.build()
    };
    let by_environment = format(Builder::from_env(Env::default().default_filter_or("info")));
    let mut all = Builder::new();
    all.filter_module(env!("CARGO_CRATE_NAME"), LevelFilter::Trace);
    let level = by_environment.filter();
    // Fails where a log was started before, which then goes on.
    if log::set_boxed_logger(Box::new(Both { by_environment, everything: format(all) })).is_ok() {
        log::set_max_level(level);
    }
}

/// Says as much as this level from now on.
pub fn set_level(level: LevelFilter) {
    OVERRIDDEN.store(true, Ordering::Relaxed);
    log::set_max_level(level);
}

/// The line that a command that has failed ends with.
pub fn failure(error: impl Display) {
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
