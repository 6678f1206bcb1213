//! `ctl`: one question to a running daemon, or one order.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use super::{output, report, size};
use crate::control::client::Client;
use crate::control::{Command, MAX_CELLS};
use crate::observe::stats::{HotZone, Operation, RefusedLately, Stats};
use crate::units::Bytes;

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
        /// How much: the later, the more.
        #[arg(value_parser = ["error", "warn", "info", "debug", "trace"])]
        level: Option<String>,
    },
    /// What is known, in Prometheus' text format.
    Metrics,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut client = Client::connect(&args.socket)?;
    let mut out = output::stdout();
    let printed = match &args.order {
        Order::Report { first, count } => report::print_served(&mut client, *first, *count, args.json, &mut out)?,
        Order::Stats if !args.json => print_stats(&mut out, &client.ask(&Command::Stats {})?),
        order => {
            let answer: Value = client.ask(&order.command())?;
            match (answer, args.json) {
                (Value::String(text), false) => write!(out, "{text}"),
                (answer, false) => print_tree(&mut out, &answer, 0),
                (answer, true) => writeln!(out, "{answer:#}"),
            }
        }
    };
    output::finish(out, printed)?;
    Ok(ExitCode::SUCCESS)
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

/// Durations in microseconds; at most so long for half, and for 99 of a hundred.
fn print_stats(out: &mut impl Write, stats: &Stats) -> io::Result<()> {
    let limit = |limit: u32| if limit == 0 { "no limit".to_owned() } else { format!("of {limit}") };
    writeln!(
        out,
        "serving for {} s, {}",
        stats.uptime_ms / 1000,
        match stats.frontend {
            true => "a frontend is connected",
            false => "no frontend is connected",
        }
    )?;
    writeln!(out, "open zones: {} ({})", stats.open_zones, limit(stats.max_open_zones))?;
    writeln!(out, "active zones: {} ({})", stats.active_zones, limit(stats.max_active_zones))?;
    if !stats.operations.is_empty() {
        writeln!(
            out,
            "\n{:<10}{:>12}{:>8}{:>16}{:>10}{:>10}{:>10}",
            "request", "answered", "errors", "bytes", "50% us", "99% us", "max us"
        )?;
    }
    for (kind, Operation { count, bytes, errors, latency }) in &stats.operations {
        let micros = |ns: Option<u64>| ns.map_or(0.0, |ns| ns as f64 / 1000.0);
        let (half, most, max) =
            (micros(latency.at_most(0.5)), micros(latency.at_most(0.99)), micros(Some(latency.max_ns)));
        writeln!(out, "{kind:<10}{count:>12}{errors:>8}{bytes:>16}{half:>10.1}{most:>10.1}{max:>10.1}")?;
    }
    let refused: Vec<_> = stats.statuses.iter().filter(|(status, count)| *status != "OK" && **count != 0).collect();
    if !refused.is_empty() {
        let counts: Vec<_> = refused.iter().map(|(status, count)| format!("{status} {count}")).collect();
        writeln!(out, "\nanswered with an error: {}", counts.join(", "))?;
    }
    for RefusedLately { ago_ms, queue, text } in &stats.refusals {
        writeln!(out, "  {:.1} s ago, queue {queue}: {text}", *ago_ms as f64 / 1000.0)?;
    }
    if !stats.hot_zones.is_empty() {
        writeln!(out, "\nwritten most:")?;
    }
    for HotZone { zone, bytes } in stats.hot_zones.iter().take(8) {
        writeln!(out, "  zone {zone}: {}", size::show(Bytes(*bytes)))?;
    }
    Ok(())
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
