//! Where messages go: a terminal or file, with times; or the journal, which has its own times and reads how important
//! a line is from its beginning (sd-daemon(3)).
//!
//! How much is said is what an option asks for, or else `RUST_LOG`, until somebody asks a running daemon for another
//! level, which then holds for all of this program. Once the log is started, no thread waits for whoever reads it.

mod stderr;
mod wanted;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use env_logger::{Builder, Logger, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};

use stderr::Stderr;
use wanted::Wanted;

/// The variable that says how much is said.
const VARIABLE: &str = "RUST_LOG";

/// How long the last lines of a program wait for a reader of theirs.
const LAST_PATIENCE: Duration = Duration::from_millis(300);

/// A level was asked for by other means: the environment counts no more.
static OVERRIDDEN: AtomicBool = AtomicBool::new(false);

/// What the started log writes to.
static OUTPUT: OnceLock<Mutex<Stderr>> = OnceLock::new();

fn lock(output: &Mutex<Stderr>) -> MutexGuard<'_, Stderr> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`OUTPUT`], which is given one message at a time.
struct Output;

impl Write for Output {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        if let Some(output) = OUTPUT.get() {
            lock(output).put(message);
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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

/// Starts the log of a command that has one, at this level or as the environment says.
pub fn start(level: Option<LevelFilter>) {
    let journal = is_journal();
    let prefix = if journal { "<4>" } else { "vhost-user-zbd: " };
    let style = style();
    let format = |mut builder: Builder| {
        if journal {
            builder.format(|out, record| {
                let text = record.args().to_string();
                text.lines().try_for_each(|line| writeln!(out, "<{}>{line}", priority(record.level())))
            });
        }
        builder.write_style(style).target(Target::Pipe(Box::new(Output))).build()
    };
    let asked = Wanted::parse(&std::env::var_os(VARIABLE).unwrap_or_default().to_string_lossy());
    let mut some = Builder::new();
    some.filter_level(asked.all);
    for (module, level) in &asked.modules {
        some.filter_module(module, *level);
    }
    let by_environment = format(some);
    let mut all = Builder::new();
    all.filter_module(env!("CARGO_CRATE_NAME"), LevelFilter::Trace);
    let most = by_environment.filter();
    OUTPUT.get_or_init(|| Mutex::new(Stderr::new(prefix)));
    // Fails where a log was started before, which then goes on.
    if log::set_boxed_logger(Box::new(Both { by_environment, everything: format(all) })).is_ok() {
        log::set_max_level(most);
    }
    match level {
        Some(level) => set_level(level),
        None => asked.unknown.iter().for_each(|word| {
            log::warn!(
                "{VARIABLE}: '{word}' is no level: expected error, warn, info, debug, trace or off, or MODULE=LEVEL"
            );
        }),
    }
}

/// Says as much as this level from now on.
pub fn set_level(level: LevelFilter) {
    OVERRIDDEN.store(true, Ordering::Relaxed);
    log::set_max_level(level);
}

/// Ends the log: says what is left to say of it.
pub fn end() {
    if let Some(output) = OUTPUT.get() {
        // Nothing is left to do where it cannot be said.
        let _ = lock(output).put_notice();
    }
}

/// The line that a command that has failed ends with.
pub fn failure(error: impl Display) {
    say(Level::Error, error);
}

/// A line beside what a command without a log does.
pub fn warning(text: impl Display) {
    say(Level::Warn, text);
}

fn say(level: Level, text: impl Display) {
    let line =
        if is_journal() { format!("<{}>{text}\n", priority(level)) } else { format!("vhost-user-zbd: {text}\n") };
    match OUTPUT.get() {
        Some(output) => lock(output).put_last(line.as_bytes(), LAST_PATIENCE),
        // Nothing is left to do where it cannot be said.
        None => drop(io::stderr().write_all(line.as_bytes())),
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

/// Whether lines have colours: on a terminal that shows them and whose user has not said otherwise.
fn style() -> WriteStyle {
    let value = |name| std::env::var(name).unwrap_or_default();
    let shown = io::stderr().is_terminal() && value("NO_COLOR").is_empty() && value("TERM") != "dumb";
    match value("RUST_LOG_STYLE").as_str() {
        "always" => WriteStyle::Always,
        "never" => WriteStyle::Never,
        _ if shown => WriteStyle::Always,
        _ => WriteStyle::Never,
    }
}

/// Whether standard error is the stream to the journal that systemd has named, and has not been led elsewhere since.
pub fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = || -> io::Result<_> { File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata() };
    stderr().is_ok_and(|stderr| named == format!("{}:{}", stderr.dev(), stderr.ino()))
}
