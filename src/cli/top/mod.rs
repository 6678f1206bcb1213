//! `top`: a running daemon, watched through its control socket.
//!
//! | module | subject |
//! | --- | --- |
//! | [`rates`] | what was done between two answers |
//! | [`view`] | what is shown, made of two answers and the size of the screen |
//! | [`refusals`] | the refused requests among that |
//! | [`help`] | what the key `?` shows |
//! | [`palette`] | the colours |
//! | [`words`] | numbers and durations in few characters |
//! | [`terminal`] | the terminal while it is drawn on |
//!
//! One thread asks the daemon and one reads keys; what they have comes to the thread that draws, so keys work while a
//! daemon does not answer. Where the daemon ends, its last answer stays on the screen, and the thread that asks tries to
//! connect to the next one each time it is to ask.

mod help;
mod palette;
mod rates;
mod refusals;
mod terminal;
mod view;
mod words;

use std::io::{IsTerminal, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use termion::event::Key;
use termion::input::TermRead;

use super::disk::Disk;
use super::output;
use super::screen::{self, Colours, Line, Size};
use crate::control::Command;
use crate::control::client::{Client, ClientError};
use crate::observe::info::Info;
use crate::observe::stats::Stats;
use crate::observe::summary::Summary;
use crate::zone::GeometryError;
use terminal::Screen;
use view::{Awaits, Shown};

/// The intervals that the keys go through, in milliseconds; the first and the last are the least and the most.
const INTERVALS_MS: [u64; 11] = [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 600_000, 3_600_000];
/// How often it is looked whether the terminal has another size, and whether a signal has come.
const GLANCE: Duration = Duration::from_millis(100);
/// How often a daemon is looked for, at least, where there is none.
const RETRY: Duration = Duration::from_secs(1);
/// Rows of what is printed and not drawn.
const PRINTED_ROWS: usize = 40;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The control socket: what "serve --control-path" says.
    socket: PathBuf,
    /// Seconds between two looks, from 0.1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    interval: Duration,
    /// Print what was done in one interval, and exit; so it is, too, where the output is no terminal.
    #[arg(long)]
    once: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let [least, .., most] = INTERVALS_MS.map(Duration::from_millis);
    let seconds: Result<f64, _> = text.parse();
    seconds
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|interval| (least..=most).contains(interval))
        .ok_or_else(|| format!("'{text}' is no interval: expected seconds, from 0.1 to 3600"))
}

/// What a daemon says at one time.
struct Sample {
    disk: Disk,
    stats: Stats,
    zones: Summary,
}

/// What the thread that draws waits for.
enum Event {
    Key(Key),
    Answer(Box<Result<Sample, ClientError>>),
}

/// Who asks: whichever daemon is at the socket.
struct Asker {
    path: PathBuf,
    colours: Colours,
    daemon: Option<(Client, Disk)>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let asker = Asker::connect(&args.socket, Colours::of_stdout())?;
    let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if args.once || is_dumb || !std::io::stdout().is_terminal() || !stdin().is_terminal() {
        return once(asker, args.interval);
    }
    Watch::new(asker, args.interval)?.run()
}

/// Prints what was done in one interval.
fn once(mut asker: Asker, interval: Duration) -> Result<ExitCode> {
    let size = Size { columns: screen::size().0, rows: PRINTED_ROWS };
    let before = asker.ask(size)?;
    thread::sleep(interval);
    let now = asker.ask(size)?;
    let shown = Shown { disk: &now.disk, before: Some(&before.stats), now: &now.stats, zones: &now.zones };
    let mut lines = view::lines(&shown, size, asker.colours);
    lines.insert(1, Line::plain(view::period(&shown)));
    output::print(screen::text(&lines, asker.colours))?;
    Ok(ExitCode::SUCCESS)
}

impl Asker {
    fn connect(path: &Path, colours: Colours) -> Result<Self, ClientError> {
        Ok(Self { path: path.into(), colours, daemon: Some(connect(path)?) })
    }

    /// Asks for what fits this size. A daemon that does not answer is given up for the next one.
    fn ask(&mut self, size: Size) -> Result<Sample, ClientError> {
        let daemon = self.daemon.take();
        let (mut client, disk) = daemon.map_or_else(|| connect(&self.path), Ok)?;
        let stats = client.ask(&Command::Stats {})?;
        let cells = view::cells(&disk, &stats, size, self.colours);
        let zones = client.ask(&Command::Map { cells })?;
        self.daemon = Some((client, disk.clone()));
        Ok(Sample { disk, stats, zones })
    }
}

fn connect(path: &Path) -> Result<(Client, Disk), ClientError> {
    let mut client = Client::connect(path)?;
    let info: Info = client.ask(&Command::Info {})?;
    let strange = |error: GeometryError| ClientError::Strange { path: path.into(), reason: error.to_string() };
    Ok((client, Disk::served(&info).map_err(strange)?))
}

/// A daemon watched on a terminal.
struct Watch {
    interval: Duration,
    colours: Colours,
    paused: bool,
    /// The page that explains the others is shown.
    helping: bool,
    /// The daemon has ended.
    alone: bool,
    /// A signal says that it is to end.
    ended: Arc<AtomicBool>,
    /// Asks the daemon for an answer that fits this size.
    ask: Sender<Size>,
    events: Receiver<Event>,
    /// What the last answer is compared with.
    before: Option<Stats>,
    now: Option<Sample>,
}

/// A question that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The interval is over.
    InTime,
    /// The terminal has another size: the answer takes the place of the last one.
    Again,
}

impl Watch {
    fn new(mut asker: Asker, interval: Duration) -> Result<Self> {
        let (tell, events) = mpsc::channel();
        let (ask, questions) = mpsc::channel();
        let (colours, answers) = (asker.colours, tell.clone());
        let answer = move || {
            for size in questions {
                // Whoever does not listen any more has ended.
                let _ = answers.send(Event::Answer(Box::new(asker.ask(size))));
            }
        };
        thread::Builder::new().name("ask".into()).spawn(answer)?;
        let read_keys = move || {
            for key in stdin().keys().map_while(Result::ok) {
                // As above.
                let _ = tell.send(Event::Key(key));
            }
        };
        thread::Builder::new().name("keys".into()).spawn(read_keys)?;
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&ended)).context("signals cannot be handled")?;
        }
        let (paused, helping, alone) = (false, false, false);
        Ok(Self { interval, colours, paused, helping, alone, ended, ask, events, before: None, now: None })
    }

    fn run(mut self) -> Result<ExitCode> {
        let screen = Screen::enter().context("the terminal cannot be drawn on")?;
        let watched = self.watch(&screen);
        drop(screen);
        watched.map(|()| ExitCode::SUCCESS)
    }

    fn watch(&mut self, screen: &Screen) -> Result<()> {
        let (mut drawn, mut last, mut resized) = (size(), Instant::now(), false);
        let mut asked = Some(self.question(drawn, Asked::InTime));
        self.draw(screen, drawn)?;
        while !self.ended.load(Ordering::Relaxed) {
            let interval = if self.alone { self.interval.min(RETRY) } else { self.interval };
            let left = interval.saturating_sub(last.elapsed());
            let patience = if asked.is_some() || self.paused { GLANCE } else { left.min(GLANCE) };
            let mut news = true;
            match self.events.recv_timeout(patience) {
                Ok(Event::Key(Key::Char('q') | Key::Esc | Key::Ctrl('c'))) => return Ok(()),
                Ok(Event::Key(key)) => self.press(key),
                Ok(Event::Answer(answer)) => self.take(*answer, asked.take())?,
                Err(RecvTimeoutError::Timeout) => news = false,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let size = size();
            resized |= size != drawn;
            if asked.is_none() && !self.paused && last.elapsed() >= interval {
                (asked, last, resized) = (Some(self.question(size, Asked::InTime)), Instant::now(), false);
            } else if asked.is_none() && resized {
                (asked, resized) = (Some(self.question(size, Asked::Again)), false);
            }
            if news || size != drawn {
                self.draw(screen, size)?;
                drawn = size;
            }
        }
        Ok(())
    }

    fn question(&self, size: Size, why: Asked) -> Asked {
        // Where nobody takes questions any more there is no answer either, and the last one said why.
        let _ = self.ask.send(size);
        why
    }

    fn take(&mut self, answer: Result<Sample, ClientError>, asked: Option<Asked>) -> Result<()> {
        match answer {
            Ok(answer) => {
                let last = self.now.replace(answer);
                if self.alone {
                    // The counts are of another daemon.
                    (self.alone, self.before) = (false, None);
                } else if asked == Some(Asked::InTime) {
                    self.before = last.map(|last| last.stats);
                }
            }
            // What does not speak as expected will not do so later.
            Err(error @ (ClientError::Strange { .. } | ClientError::Refused { .. })) => return Err(error.into()),
            Err(_) => self.alone = true,
        }
        Ok(())
    }

    fn press(&mut self, key: Key) {
        let (now, mut intervals) = (self.interval, INTERVALS_MS.map(Duration::from_millis).into_iter());
        match key {
            Key::Char('?') => self.helping = !self.helping,
            Key::Char('p' | ' ') => self.paused = !self.paused,
            Key::Char('+' | '=') => self.interval = intervals.find(|interval| *interval > now).unwrap_or(now),
            Key::Char('-') => self.interval = intervals.rfind(|interval| *interval < now).unwrap_or(now),
            _ => {}
        }
    }

    fn draw(&self, screen: &Screen, size: Size) -> Result<()> {
        let shown = self.now.as_ref().map(|Sample { disk, stats: now, zones }| Shown {
            disk,
            before: self.before.as_ref(),
            now,
            zones,
        });
        let mut lines = match &shown {
            _ if self.helping => help::lines(),
            Some(shown) => view::lines(shown, size, self.colours),
            None => Vec::new(),
        };
        lines.iter_mut().for_each(|line| line.cut(size.columns));
        lines.resize(size.rows, Line::default());
        let awaits = match (self.alone, self.paused) {
            (true, _) => Awaits::Daemon,
            (false, true) => Awaits::Key,
            (false, false) => Awaits::Answer,
        };
        lines.push(view::footer(shown.as_ref(), self.interval, awaits, size));
        screen.show(&lines, size.columns, self.colours).context("the terminal cannot be drawn on")
    }
}

/// The terminal's size, without the last row, which is the footer's.
fn size() -> Size {
    let (columns, rows) = screen::size();
    Size { columns, rows: rows.unwrap_or(PRINTED_ROWS).saturating_sub(1) }
}
