//! Load for a vhost-user block backend, from a frontend without a machine: what a guest would see, without the guest.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`connection`] | negotiation with a backend, up to running queues |
//! | [`memory`], [`ring`], [`slot`] | guest memory, the driver's side of a queue, requests that are built once |
//! | [`jobs`], [`source`], [`zones`] | which requests come next |
//! | [`worker`], [`run`] | a queue's thread; all of them, the clock and the processor time |
//! | [`verify`] | patterns by position, read back |
//! | [`histogram`], [`output`] | latencies, the result |
//! | [`backend`] | the ceiling: a block backend that only copies |

mod backend;
mod connection;
mod histogram;
mod jobs;
mod memory;
mod output;
mod ring;
mod run;
mod slot;
mod source;
mod verify;
mod worker;
mod zones;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgAction, CommandFactory, Parser, Subcommand, ValueEnum};

use connection::{Connection, Wishes};
use jobs::{FILL_LEN, Job, Shape};
use output::Labels;
use run::{Outcome, Span};
use slot::SECTOR;
use verify::{ReadBack, Written};
use worker::{Data, Manner};

#[derive(Parser)]
#[command(name = "load", about = "Load for a vhost-user block backend, without a machine")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    // cargo bench adds it.
    #[arg(long, hide = true, global = true, action = ArgAction::Count)]
    bench: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Run one job against a backend
    Run(RunArgs),
    /// Be a backend that only copies between guest memory and its own: the ceiling
    Backend(backend::Args),
}

#[derive(clap::Args)]
struct RunArgs {
    job: Job,
    /// The backend's socket
    #[arg(long)]
    socket: PathBuf,
    /// Bytes in a request
    #[arg(long, default_value = "4K", value_parser = parse_size)]
    bs: u64,
    /// Requests in flight on each queue
    #[arg(long, default_value_t = 1)]
    qd: u16,
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds that are not measured, in front
    #[arg(long, default_value_t = 0.3)]
    warm_up: f64,
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// Zones written at a time, over all queues
    #[arg(long, default_value_t = 1)]
    zones: usize,
    /// Writes in flight in each zone; Linux keeps one
    #[arg(long, default_value_t = 1)]
    per_zone: u32,
    /// A flush after each N requests of a queue
    #[arg(long, default_value_t = 0)]
    flush_every: u64,
    /// How much of the disk to use, from its beginning; all of it by default
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Write the first --size bytes before the job
    #[arg(long)]
    prefill: bool,
    /// Write patterns, read everything back afterwards and compare
    #[arg(long)]
    verify: bool,
    /// Look at the ring all the time instead of sleeping until the backend notifies
    #[arg(long)]
    spin: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// The backend's process, whose processor time is to be measured
    #[arg(long)]
    pid: Option<i32>,
    /// Descriptors in each queue
    #[arg(long, default_value_t = 256)]
    ring: u16,
    /// Most bytes in one descriptor of data
    #[arg(long, default_value = "4M", value_parser = parse_size)]
    segment: u64,
    /// Do not use indirect descriptors
    #[arg(long)]
    no_indirect: bool,
    /// Do not use EVENT_IDX
    #[arg(long)]
    no_event_idx: bool,
    /// Do not share a region in which the backend notes what is in flight
    #[arg(long)]
    no_inflight: bool,
}

/// A number of bytes with a binary suffix.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        other => return Err(format!("unknown suffix {other}")),
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

impl RunArgs {
    fn check(&self) -> Result<()> {
        ensure!(
            self.bs > 0 && self.bs.is_multiple_of(SECTOR) && self.bs <= 64 << 20,
            "--bs is not whole sectors up to 64M"
        );
        ensure!(self.segment > 0 && self.segment <= 1 << 30, "--segment is not from 1 byte to 1G");
        ensure!(self.qd > 0 && self.queues > 0 && self.zones > 0 && self.per_zone > 0, "a count is 0");
        ensure!(self.ring.is_power_of_two(), "--ring is not a power of two");
        ensure!(self.seconds > 0.0 && self.warm_up >= 0.0, "a time is negative or 0");
        Ok(())
    }

    fn wishes(&self) -> Wishes {
        let fills = self.prefill || self.job == Job::Fill;
        Wishes {
            queues: self.queues,
            ring: self.ring,
            slots: self.qd,
            indirect: !self.no_indirect,
            event_idx: !self.no_event_idx,
            inflight: !self.no_inflight,
            segment: self.segment as u32,
            data: (self.bs as u32).max(if fills { FILL_LEN } else { 4096 }),
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            len: self.bs as u32,
            size: self.size,
            queues: usize::from(self.queues),
            depth: u32::from(self.qd),
            zones: self.zones,
            per_zone: self.per_zone,
        }
    }

    fn manner(&self) -> Manner {
        let depth = usize::from(self.qd);
        Manner { depth, flush_every: self.flush_every, spin: self.spin, data: Data::Ignore }
    }
}

fn run(args: &RunArgs) -> Result<()> {
    args.check()?;
    let mut connection = Connection::open(&args.socket, &args.wishes())?;
    let shape = args.shape();
    ensure!(connection.disk.flush || args.flush_every == 0, "the backend takes no flushes");
    if args.prefill {
        let sources = jobs::sources(&mut connection, Job::Fill, &shape)?;
        let manner = Manner { flush_every: 0, ..args.manner() };
        run::run(&mut connection, sources, &manner, Span::Whole, None).context("prefill")?;
    }
    let mut manner = args.manner();
    let mut written = None;
    if args.verify {
        let sectors = connection.disk.bytes / SECTOR;
        let zone = connection.disk.zoned.map_or(0, |zoned| zoned.zone_sectors);
        ensure!(zone.is_multiple_of(args.bs / SECTOR), "zones are not a multiple of --bs, which --verify needs");
        if matches!(args.job, Job::Randread | Job::Seqread | Job::Report | Job::Fill) {
            bail!("--verify is for jobs that write");
        }
        let map = Arc::new(Written::new(sectors, args.bs as u32, zone));
        manner.data = Data::Note(Arc::clone(&map));
        written = Some(map);
    }
    let sources = jobs::sources(&mut connection, args.job, &shape)?;
    let seconds = Duration::from_secs_f64;
    let timed = Span::Timed { warm_up: seconds(args.warm_up), measured: seconds(args.seconds) };
    let span = if args.job == Job::Fill { Span::Whole } else { timed };
    let outcome = run::run(&mut connection, sources, &manner, span, args.pid)?;
    print(args, &outcome);
    if let Some(written) = written {
        let source = Box::new(ReadBack::new(Arc::clone(&written), args.bs as u32));
        let manner = Manner { flush_every: 0, data: Data::Compare(written), ..manner };
        let read = run::run(&mut connection, vec![source], &manner, Span::Whole, None).context("verify")?;
        eprintln!("verified {} blocks", read.stats.requests.count());
    }
    Ok(())
}

fn print(args: &RunArgs, outcome: &Outcome) {
    let job = args.job.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    // A fill chooses its own.
    let len = outcome.stats.bytes.checked_div(outcome.stats.requests.count()).unwrap_or(args.bs);
    let labels = Labels { job, len, depth: args.qd, queues: args.queues };
    if args.json {
        println!("{}", output::to_json(&labels, outcome));
    } else {
        println!("{}", output::to_line(&labels, outcome));
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Some(Command::Run(args)) => run(&args),
        Some(Command::Backend(args)) => backend::serve(&args),
        // As `cargo bench` runs all benches.
        None => Cli::command().print_help().context("help"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}
