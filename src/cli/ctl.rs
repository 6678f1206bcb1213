//! `ctl`: one question to a running daemon, or one order.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, json};

use super::{cut, fault, info, map, output, report, size, snapshot};
use crate::control::client::Client;
use crate::control::{Command, MAX_CELLS};
use crate::observe::stats::{HotZone, Operation, RefusedLately, Stats};
use crate::observe::versioned;
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
    /// The zones drawn, as "map --socket" draws them.
    Map {
        /// Cells, at most; when not given as many as there is room for, and 4096 in JSON.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CELLS)))]
        cells: Option<u32>,
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
    /// Cut the power of a disk with a volatile cache, now or later: what was not flushed is lost as the words say.
    PowerCut {
        /// lose=all|nothing|zone:N,N, keep=zone:N,N, seed=N or state=FILE; at=request:N|flush:N[+K]|zone:N,wp>=BYTES|bytes:N|
        /// mark:NAME, or at=never alone, which calls off the one that waits; then=dead|fail|exit; model=prefix|virtio;
        /// mgmt=volatile|stable.
        #[arg(value_name = "NAME=VALUE")]
        words: Vec<String>,
    },
    /// Fail requests, delay them, have them bring wrong bytes, take zones away: by rules.
    Fault {
        #[command(subcommand)]
        order: fault::Order,
    },
    /// Keep the disk as it is now, and have it be that again.
    Snapshot {
        #[command(subcommand)]
        order: snapshot::Order,
    },
    /// Set a mark, which stands in a recording; a power cut and rules for faults may wait for it.
    Mark {
        /// Its name.
        name: String,
    },
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    // How an answer that is not to be JSON is shown; what cannot be shown so is not an answer of this version's daemon.
    type Show = fn(Value) -> Result<String>;
    let (command, show): (Command, Show) = match &args.order {
        Order::Snapshot { order } => {
            return snapshot::run(&args.socket, order, args.json).map(|()| ExitCode::SUCCESS);
        }
        Order::Map { cells } => return map::print_served(&args.socket, *cells, args.json),
        Order::Report { first, count } => {
            return report::print_served(&mut Client::connect(&args.socket)?, *first, *count, args.json);
        }
        Order::Info => (Command::Info {}, |answer| Ok(info::served(&serde_json::from_value(answer)?))),
        Order::Stats => (Command::Stats {}, |answer| Ok(in_words(&serde_json::from_value(answer)?))),
        Order::Flush => (Command::Flush {}, |_| Ok(String::new())),
        Order::Quit => (Command::Quit {}, |_| Ok(String::new())),
        Order::LogLevel { level } => {
            (Command::LogLevel { level: level.clone() }, |answer| Ok(format!("level: {}\n", text(&answer["level"]))))
        }
        Order::PowerCut { words } => {
            let words = cut::words(words.iter().map(String::as_str))?;
            (Command::PowerCut(words), |answer| match (answer["at"].as_str(), answer.get("called_off")) {
                (Some(at), _) => Ok(format!("the power is cut at {at}\n")),
                (None, Some(at)) => Ok(at.as_str().map_or_else(
                    || "no cut was waiting\n".to_owned(),
                    |at| format!("the cut at {at} is called off\n"),
                )),
                (None, None) => Ok(cut::in_words(&serde_json::from_value(answer)?)),
            })
        }
        Order::Fault { order } => (order.command(), |answer| match answer.get("rules") {
            Some(_) => Ok(fault::in_words(&serde_json::from_value(answer)?)),
            None => Ok(String::new()),
        }),
        Order::Mark { name } => (Command::Mark { name: name.clone() }, |answer| match answer.get("digest") {
            Some(_) => Ok(cut::in_words(&serde_json::from_value(answer)?)),
            None => Ok(String::new()),
        }),
        Order::Metrics => (Command::Metrics {}, |answer| Ok(text(&answer).to_owned())),
    };
    let answer: Value = Client::connect(&args.socket)?.ask(&command)?;
    output::print(match answer {
        Value::String(text) if args.json => pretty(&versioned(json!({ "metrics": text })))?,
        answer if args.json => pretty(&answer)?,
        answer => show(answer).with_context(|| args.socket.display().to_string())?,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn pretty(answer: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(answer)? + "\n")
}

/// Durations in microseconds; at most so long for half, and for 99 of a hundred.
fn in_words(stats: &Stats) -> String {
    let limit = |limit: u32| if limit == 0 { "no limit".to_owned() } else { format!("of {limit}") };
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    let frontend = if stats.frontend { "a frontend is connected" } else { "no frontend is connected" };
    line(format!("serving for {} s, {frontend}", stats.uptime_ms / 1000));
    line(format!("requests in flight: {}", stats.in_flight));
    line(format!("open zones: {} ({})", stats.open_zones, limit(stats.max_open_zones)));
    line(format!("active zones: {} ({})", stats.active_zones, limit(stats.max_active_zones)));
    if !stats.operations.is_empty() {
        line(format!(
            "\n{:<10}{:>12}{:>8}{:>16}{:>10}{:>10}{:>10}",
            "request", "answered", "errors", "bytes", "50% us", "99% us", "max us"
        ));
    }
    for (kind, Operation { count, bytes, errors, latency }) in &stats.operations {
        let micros = |ns: Option<u64>| ns.map_or(0.0, |ns| ns as f64 / 1000.0);
        let (half, most, max) =
            (micros(latency.at_most(0.5)), micros(latency.at_most(0.99)), micros(Some(latency.max_ns)));
        line(format!("{kind:<10}{count:>12}{errors:>8}{bytes:>16}{half:>10.1}{most:>10.1}{max:>10.1}"));
    }
    let refused: Vec<_> = stats.statuses.iter().filter(|(status, count)| *status != "OK" && **count != 0).collect();
    if !refused.is_empty() {
        let counts: Vec<_> = refused.iter().map(|(status, count)| format!("{status} {count}")).collect();
        line(format!("\nanswered with an error: {}", counts.join(", ")));
    }
    for RefusedLately { ago_ms, queue, text } in &stats.refusals {
        line(format!("  {:.1} s ago, queue {queue}: {text}", *ago_ms as f64 / 1000.0));
    }
    if !stats.hot_zones.is_empty() {
        line("\nwritten most:".to_owned());
    }
    for HotZone { zone, bytes } in stats.hot_zones.iter().take(8) {
        line(format!("  zone {zone}: {}", size::show(Bytes(*bytes))));
    }
    text
}
