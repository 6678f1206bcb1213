//! What was done between two answers of a daemon, whose counts are all from its start.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::observe::Kind;
use crate::observe::stats::{Operation, Stats};

/// The requests of one kind, or of several, over some time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rate {
    /// Of which kind.
    pub(super) name: String,
    /// Requests a second.
    pub(super) requests: f64,
    /// Bytes a second.
    pub(super) bytes: f64,
    /// Requests that failed or were refused, a second.
    pub(super) errors: f64,
    /// How long they took, where there were any.
    pub(super) latency: Option<Percentiles>,
}

/// Durations in nanoseconds, as exact as the daemon's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percentiles {
    /// At most so long for half of the requests.
    pub(super) half: u64,
    /// For 99 of a hundred.
    pub(super) most: u64,
    /// For all.
    pub(super) all: u64,
}

/// How long it was from `before` to `now`.
pub(super) fn elapsed(before: &Stats, now: &Stats) -> Duration {
    Duration::from_millis(now.uptime_ms.saturating_sub(before.uptime_ms))
}

/// What was done from `before` to `now`: a row for each kind that has ever come, in the order of their numbers. Where
/// these are more than `rows`, those that come least are one row together.
pub(super) fn rates(before: &Stats, now: &Stats, rows: usize) -> Vec<Rate> {
    let seconds = elapsed(before, now).as_secs_f64();
    let mut kinds: Vec<(&String, &Operation)> = now.operations.iter().collect();
    let mut others = Vec::new();
    if kinds.len() > rows {
        kinds.sort_by_key(|(_, total)| std::cmp::Reverse(total.count));
        others = kinds.split_off(rows.saturating_sub(1));
    }
    kinds.sort_by_key(|(name, _)| place(name));
    let done = |(name, total): (&String, &Operation)| match before.operations.get(name) {
        Some(before) => since(before, total),
        None => total.clone(),
    };
    let mut rates: Vec<Rate> = kinds.into_iter().map(|kind| rate(kind.0, &done(kind), seconds)).collect();
    if let Some(together) = others.into_iter().map(done).reduce(both) {
        rates.push(rate("others", &together, seconds));
    }
    rates
}

/// Where a kind stands among the others; what is no request, and what this program does not know, at the end.
fn place(name: &str) -> usize {
    let known = Kind::ALL.iter().position(|kind| kind.name() == name);
    known.filter(|at| *at != Kind::Other as usize).unwrap_or(usize::MAX)
}

fn since(before: &Operation, now: &Operation) -> Operation {
    let counted: BTreeMap<u64, u64> = before.latency.buckets.iter().copied().collect();
    let more = |(longest, count): &(u64, u64)| {
        let count = count.saturating_sub(counted.get(longest).copied().unwrap_or(0));
        (count > 0).then_some((*longest, count))
    };
    let mut done = now.clone();
    done.count = now.count.saturating_sub(before.count);
    done.bytes = now.bytes.saturating_sub(before.bytes);
    done.errors = now.errors.saturating_sub(before.errors);
    done.latency.buckets = now.latency.buckets.iter().filter_map(more).collect();
    done
}

fn both(one: Operation, other: Operation) -> Operation {
    let mut done = one;
    done.count = done.count.saturating_add(other.count);
    done.bytes = done.bytes.saturating_add(other.bytes);
    done.errors = done.errors.saturating_add(other.errors);
    done.latency.max_ns = done.latency.max_ns.max(other.latency.max_ns);
    done.latency.buckets.extend(other.latency.buckets);
    done.latency.buckets.sort_unstable();
    done
}

fn rate(name: &str, done: &Operation, seconds: f64) -> Rate {
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let at_most = |part| done.latency.at_most(part);
    let latency = match (at_most(0.5), at_most(0.99), at_most(1.0)) {
        (Some(half), Some(most), Some(all)) => Some(Percentiles { half, most, all }),
        _ => None,
    };
    Rate {
        name: name.to_owned(),
        requests: per_second(done.count),
        bytes: per_second(done.bytes),
        errors: per_second(done.errors),
        latency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::histogram::Latency;

    /// A kind, how many came, and their durations in buckets.
    type Came<'a> = (&'a str, u64, &'a [(u64, u64)]);

    fn stats(uptime_ms: u64, operations: &[Came]) -> Stats {
        let operation = |(name, count, buckets): &Came| {
            let latency = Latency { max_ns: 950, total_ns: 0, buckets: buckets.to_vec() };
            ((*name).to_owned(), Operation { count: *count, bytes: count * 4096, errors: count / 10, latency })
        };
        Stats { uptime_ms, operations: operations.iter().map(operation).collect(), ..Stats::default() }
    }

    #[test]
    fn rates_and_percentiles_are_those_of_the_time_between() {
        let before = stats(1000, &[("write", 100, &[(10, 90), (1000, 10)])]);
        let now = stats(3000, &[("read", 4, &[(20, 4)]), ("write", 300, &[(10, 100), (50, 180), (1000, 20)])]);
        let rates = rates(&before, &now, 9);
        let names: Vec<&str> = rates.iter().map(|rate| rate.name.as_str()).collect();
        assert_eq!(names, ["read", "write"]);
        let write = Rate {
            name: "write".to_owned(),
            requests: 100.0,
            bytes: 409_600.0,
            errors: 10.0,
            latency: Some(Percentiles { half: 50, most: 950, all: 950 }),
        };
        assert_eq!(rates[1], write);
        assert_eq!(rates[0].latency, Some(Percentiles { half: 20, most: 20, all: 20 }));
    }

    #[test]
    fn a_kind_that_did_not_come_between_stays_without_durations() {
        let (before, now) = (stats(0, &[("flush", 5, &[(9, 5)])]), stats(1000, &[("flush", 5, &[(9, 5)])]));
        let rates = rates(&before, &now, 9);
        assert_eq!((rates.len(), rates[0].requests, rates[0].latency), (1, 0.0, None));
    }

    #[test]
    fn where_there_is_no_time_between_nothing_was_done() {
        let now = stats(1000, &[("write", 5, &[(9, 5)])]);
        assert_eq!(rates(&now, &now, 9)[0].requests, 0.0);
        // Another daemon answers, which has counted less.
        let before = stats(9000, &[("write", 50, &[(9, 50)])]);
        assert_eq!(rates(&before, &now, 9)[0].requests, 0.0);
    }

    #[test]
    fn the_kinds_that_come_least_share_a_row_where_there_are_too_many() {
        let kinds: &[Came] = &[
            ("close", 1, &[(10, 1)]),
            ("flush", 50, &[(10, 50)]),
            ("other", 1, &[(40, 1)]),
            ("read", 70, &[(10, 70)]),
            ("reset", 8, &[(30, 8)]),
            ("write", 90, &[(10, 90)]),
        ];
        let now = stats(1000, kinds);
        let shown = |rows| -> Vec<(String, f64)> {
            rates(&Stats::default(), &now, rows).into_iter().map(|rate| (rate.name, rate.requests)).collect()
        };
        let expect = |names: &[(&str, f64)]| -> Vec<(String, f64)> {
            names.iter().map(|(name, requests)| ((*name).to_owned(), *requests)).collect()
        };
        assert_eq!(shown(3), expect(&[("read", 70.0), ("write", 90.0), ("others", 60.0)]));
        assert_eq!(shown(1), expect(&[("others", 220.0)]));
        assert_eq!(
            shown(6).iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["read", "write", "flush", "close", "reset", "other"]
        );
        assert_eq!(rates(&Stats::default(), &now, 3)[2].latency, Some(Percentiles { half: 10, most: 40, all: 40 }));
    }
}
