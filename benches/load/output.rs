//! The result, as one line for people or one JSON object.

use serde_json::{Value, json};

use crate::histogram::Histogram;
use crate::run::Outcome;

/// What the run was asked to do.
#[derive(Debug)]
pub(crate) struct Labels {
    pub(crate) job: String,
    pub(crate) len: u64,
    pub(crate) depth: u16,
    pub(crate) queues: u16,
}

fn latencies(of: &Histogram) -> Value {
    let us = |time: std::time::Duration| rounded(time.as_secs_f64() * 1e6, 100.0);
    json!({
        "count": of.count(),
        "p50_us": us(of.quantile(500)),
        "p99_us": us(of.quantile(990)),
        "p999_us": us(of.quantile(999)),
        "max_us": us(of.longest()),
    })
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

/// The result as a JSON object.
pub(crate) fn to_json(labels: &Labels, outcome: &Outcome) -> Value {
    let stats = &outcome.stats;
    let (requests, seconds) = (stats.requests.count(), outcome.time.as_secs_f64());
    let each = |value: f64, steps: f64| rounded(value / requests.max(1) as f64, steps);
    let cpu = |time: std::time::Duration| each(time.as_secs_f64() * 1e6, 1000.0);
    json!({
        "job": labels.job,
        "bs": labels.len,
        "qd": labels.depth,
        "queues": labels.queues,
        "requests": requests,
        "seconds": rounded(seconds, 1e6),
        "requests_per_s": rounded(requests as f64 / seconds, 10.0),
        "mib_per_s": rounded(stats.bytes as f64 / seconds / f64::from(1 << 20), 10.0),
        "cpu_us_per_request": outcome.backend_cpu.map(cpu),
        "load_cpu_us_per_request": cpu(outcome.own_cpu),
        "kicks_per_request": each(stats.kicks as f64, 1e4),
        "waits_per_request": each(stats.waits as f64, 1e4),
        "latency": latencies(&stats.requests),
        "flushes": latencies(&stats.flushes),
        "resets": latencies(&stats.resets),
    })
}

/// The result as a line.
pub(crate) fn to_line(labels: &Labels, outcome: &Outcome) -> String {
    let stats = &outcome.stats;
    let all = to_json(labels, outcome);
    let cpu = outcome.backend_cpu.map_or(String::new(), |_| format!(", {} us CPU each", all["cpu_us_per_request"]));
    let some = |name: &str, of: &Histogram| match of.count() {
        0 => String::new(),
        count => {
            let us = |per_mille| of.quantile(per_mille).as_secs_f64() * 1e6;
            format!("; {count} {name}, p50 {:.1} p99 {:.1} us", us(500), us(990))
        }
    };
    let latency = &all["latency"];
    format!(
        "{} bs={} qd={} queues={}: {:.1} k/s, {:.1} MiB/s{cpu}; p50 {} p99 {} p99.9 {} max {} us; {} requests in {:.2} s{}{}",
        labels.job,
        labels.len,
        labels.depth,
        labels.queues,
        stats.requests.count() as f64 / outcome.time.as_secs_f64() / 1e3,
        stats.bytes as f64 / outcome.time.as_secs_f64() / f64::from(1 << 20),
        latency["p50_us"],
        latency["p99_us"],
        latency["p999_us"],
        latency["max_us"],
        stats.requests.count(),
        outcome.time.as_secs_f64(),
        some("flushes", &stats.flushes),
        some("resets", &stats.resets),
    )
}
