//! The options that say how much a daemon logs.

use clap::{ArgAction, ValueEnum};
use log::LevelFilter;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Off,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verbosity {
    /// Log this much. It goes before RUST_LOG in the environment, and "ctl log-level" before both; where none says anything
    /// it is info.
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
    /// Log more: debug, or trace where it is given twice.
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "log_level")]
    verbose: u8,
    /// Log less: warn, or error where it is given twice.
    #[arg(short, long, action = ArgAction::Count, conflicts_with_all = ["log_level", "verbose"])]
    quiet: u8,
}

impl Verbosity {
    /// The level that is asked for, if one is.
    pub(super) fn level(&self) -> Option<LevelFilter> {
        match (self.log_level, self.verbose, self.quiet) {
            (Some(level), ..) => Some(match level {
                LogLevel::Error => LevelFilter::Error,
                LogLevel::Warn => LevelFilter::Warn,
                LogLevel::Info => LevelFilter::Info,
                LogLevel::Debug => LevelFilter::Debug,
                LogLevel::Trace => LevelFilter::Trace,
                LogLevel::Off => LevelFilter::Off,
            }),
            (None, 0, 0) => None,
            (None, 0, 1) => Some(LevelFilter::Warn),
            (None, 0, _) => Some(LevelFilter::Error),
            (None, 1, _) => Some(LevelFilter::Debug),
            (None, ..) => Some(LevelFilter::Trace),
        }
    }
}
