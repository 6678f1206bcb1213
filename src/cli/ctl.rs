//! `ctl`: one question to a running daemon, or one order.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::Value;

use crate::control::client::Client;
use crate::control::{Command, MAX_CELLS};

use super::report;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The control socket: what "serve --control-path" says.
    socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// What is served, and how.
    Info,
    /// The zones as they are now, as blkzone report prints them.
    Report {
        /// Begin with this zone.
        #[arg(long, value_name = "N", default_value_t = 0)]
        first: u32,
        /// List this many zones at most.
        #[arg(long, value_name = "N", default_value_t = u32::MAX, hide_default_value = true)]
        count: u32,
    },
    /// What was done since the daemon began to serve.
    Stats,
    /// All zones, summed up in so many cells; "map --socket" draws them.
    Map {
        /// Cells, at most.
        #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CELLS)))]
        cells: u32,
    },
    /// Make all that was acknowledged stable.
    Flush,
    /// Stop the daemon, as SIGTERM does.
    Quit,
    /// Say how much is logged, or change it.
    LogLevel {
        /// error, warn, info, debug or trace.
        level: Option<String>,
    },
    /// What is known, in Prometheus' text format.
    Metrics,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut client = Client::connect(&args.socket)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = match &args.order {
        Order::Report { first, count } => report::print_served(&mut client, *first, *count, args.json, &mut out)?,
        order => {
            let answer: Value = client.ask(&order.command())?;
            match (answer, args.json) {
                (Value::String(text), false) => write!(out, "{text}"),
                (answer, false) => print_tree(&mut out, &answer, 0),
                (answer, true) => writeln!(out, "{answer:#}"),
            }
        }
    };
    match printed.and_then(|()| out.flush()) {
        // `ctl ... report | head` is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        printed => printed.map(|()| ExitCode::SUCCESS).context("the answer cannot be written"),
    }
}

impl Order {
    fn command(&self) -> Command {
        match self {
            Self::Info => Command::Info {},
            Self::Report { first, count } => Command::Report { first: *first, count: *count },
            Self::Stats => Command::Stats {},
            Self::Map { cells } => Command::Map { cells: *cells },
            Self::Flush => Command::Flush {},
            Self::Quit => Command::Quit {},
            Self::LogLevel { level } => Command::LogLevel { level: level.clone() },
            Self::Metrics => Command::Metrics {},
        }
    }
}

/// One line a value, what is inside another one further in.
fn print_tree(out: &mut impl Write, value: &Value, depth: usize) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| match value {
            Value::Object(_) => {
                writeln!(out, "{indent}{name}:")?;
                print_tree(out, value, depth + 1)
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                writeln!(out, "{indent}{name}:")?;
                items.iter().try_for_each(|item| writeln!(out, "{indent}  {}", one_line(item)))
            }
            _ => writeln!(out, "{indent}{name}: {}", one_line(value)),
        }),
        value => writeln!(out, "{indent}{}", one_line(value)),
    }
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name} {}", one_line(value))).collect();
            fields.join(", ")
        }
        Value::Array(items) => items.iter().map(one_line).collect::<Vec<_>>().join(" "),
        value => value.to_string(),
    }
}
