//! What is known of a device in Prometheus' text format, version 0.0.4.
//!
//! The number of series is bounded whatever the disk: a few a kind of request and a state, and the zones written most.

use std::fmt::{self, Display, Write};

use super::histogram::Latency;
use super::info::Info;
use super::stats::Stats;
use super::summary::Tally;
use crate::zone::State;

/// The bounds of the latency histogram, in nanoseconds.
const BOUNDS_NS: [u64; 10] =
    [10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000];

/// The whole text. Every series has the label `disk`, the image's path, so that one server may scrape many daemons and
/// one folder may hold the texts of many.
pub fn render(info: &Info, stats: &Stats, zones: &Tally) -> String {
    let mut text = Text { out: String::new(), disk: escape(&info.image) };
    // Writing to a string does not fail.
    let _ = text.all(info, stats, zones);
    text.out
}

struct Text {
    out: String,
    disk: String,
}

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.out, "# HELP vhost_user_zbd_{name} {help}\n# TYPE vhost_user_zbd_{name} {kind}")
    }

    /// One series: the only place that writes one.
    fn series(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) -> fmt::Result {
        write!(self.out, "vhost_user_zbd_{name}{{disk=\"{}\"", self.disk)?;
        labels.iter().try_for_each(|(label, of)| write!(self.out, ",{label}=\"{}\"", escape(of)))?;
        writeln!(self.out, "}} {value}")
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> fmt::Result {
        self.head(name, "gauge", help)?;
        self.series(name, &[], value)
    }

    fn labelled(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        mut values: impl Iterator<Item = (String, u64)>,
    ) -> fmt::Result {
        self.head(name, kind, help)?;
        values.try_for_each(|(of, value)| self.series(name, &[(label, &of)], value))
    }

    fn all(&mut self, info: &Info, stats: &Stats, zones: &Tally) -> fmt::Result {
        self.head("info", "gauge", "What is served.")?;
        self.series("info", &[("image", &info.image), ("version", &info.version)], 1)?;
        self.gauge("frontend_connected", "A frontend is connected.", u8::from(stats.frontend))?;
        let uptime = seconds(stats.uptime_ms.saturating_mul(1_000_000));
        self.gauge("uptime_seconds", "Since the daemon began to serve.", uptime)?;
        self.gauge("requests_in_flight", "Requests taken and not answered.", stats.in_flight)?;
        if let (Some(off), Some(bytes)) = (stats.power_off, stats.volatile_bytes) {
            self.gauge("power_off", "The power is cut, until the device is reset.", u8::from(off))?;
            self.gauge("volatile_bytes", "Bytes that a power cut may take.", bytes)?;
        }
        self.requests(stats)?;
        self.zones(info, stats, zones)
    }

    fn requests(&mut self, stats: &Stats) -> fmt::Result {
        let by_kind = |of: fn(&super::stats::Operation) -> u64| {
            let pairs: Vec<_> = stats.operations.iter().map(|(kind, counted)| (kind.clone(), of(counted))).collect();
            pairs.into_iter()
        };
        let counter = "counter";
        self.labelled(("requests_total", counter, "Requests answered."), "op", by_kind(|op| op.count))?;
        self.labelled(("errors_total", counter, "Requests refused or failed."), "op", by_kind(|op| op.errors))?;
        self.labelled(("bytes_total", counter, "Bytes of data moved."), "op", by_kind(|op| op.bytes))?;
        let statuses = stats.statuses.iter().map(|(status, count)| (status.clone(), *count));
        self.labelled(("responses_total", counter, "Answers by status."), "status", statuses)?;
        let help = "From a request's arrival in the ring to its answer.";
        self.head("request_seconds", "histogram", help)?;
        stats.operations.iter().try_for_each(|(kind, counted)| self.histogram(kind, &counted.latency))
    }

    fn histogram(&mut self, kind: &str, latency: &Latency) -> fmt::Result {
        let op = ("op", kind);
        for bound in BOUNDS_NS {
            let below = latency.buckets.iter().filter(|(longest, _)| *longest <= bound).map(|(_, count)| count);
            let bound_seconds = seconds(bound).to_string();
            self.series("request_seconds_bucket", &[op, ("le", &bound_seconds)], below.sum::<u64>())?;
        }
        let count: u64 = latency.buckets.iter().map(|(_, count)| count).sum();
        self.series("request_seconds_bucket", &[op, ("le", "+Inf")], count)?;
        self.series("request_seconds_sum", &[op], seconds(latency.total_ns))?;
        self.series("request_seconds_count", &[op], count)
    }

    fn zones(&mut self, info: &Info, stats: &Stats, zones: &Tally) -> fmt::Result {
        let states = State::ALL.iter().map(|state| (state.name().to_owned(), zones.states.get(*state)));
        self.labelled(("zones", "gauge", "Zones by state."), "state", states)?;
        self.gauge("written_bytes", "Bytes below the write pointers.", zones.written)?;
        self.gauge("capacity_bytes", "Bytes that sequential zones hold.", zones.capacity)?;
        self.gauge("open_zones", "Zones open now.", stats.open_zones)?;
        self.gauge("active_zones", "Zones active now.", stats.active_zones)?;
        self.gauge("max_open_zones", "Zones that may be open; 0 is no limit.", info.max_open_zones)?;
        self.gauge("max_active_zones", "Zones that may be active; 0 is no limit.", info.max_active_zones)?;
        let hot = stats.hot_zones.iter().map(|zone| (zone.zone.to_string(), zone.bytes));
        let help = "Bytes written to the zones written most; others are left out.";
        self.labelled(("zone_written_bytes_total", "counter", help), "zone", hot)
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::observe::stats::{HotZone, Operation};

    #[test]
    fn every_series_has_its_type_and_a_histogram_adds_up() {
        let latency = Latency { max_ns: 20_000, total_ns: 64_000, buckets: vec![(9_000, 4), (20_000, 2)] };
        let write = Operation { count: 6, bytes: 24576, errors: 1, latency };
        let stats = Stats {
            uptime_ms: 1500,
            in_flight: 3,
            operations: [("write".to_owned(), write)].into(),
            statuses: [("OK".to_owned(), 5)].into(),
            hot_zones: vec![HotZone { zone: 7, bytes: 24576 }],
            power_off: Some(false),
            volatile_bytes: Some(8192),
            ..Stats::default()
        };
        let info = Info { image: "a \"b\"\\c".to_owned(), ..Info::default() };
        let text = render(&info, &stats, &Tally::default());
        for line in [
            r#"vhost_user_zbd_info{disk="a \"b\"\\c",image="a \"b\"\\c",version=""} 1"#,
            r#"vhost_user_zbd_uptime_seconds{disk="a \"b\"\\c"} 1.5"#,
            r#"vhost_user_zbd_requests_in_flight{disk="a \"b\"\\c"} 3"#,
            r#"vhost_user_zbd_power_off{disk="a \"b\"\\c"} 0"#,
            r#"vhost_user_zbd_volatile_bytes{disk="a \"b\"\\c"} 8192"#,
            r#"vhost_user_zbd_requests_total{disk="a \"b\"\\c",op="write"} 6"#,
            r#"vhost_user_zbd_errors_total{disk="a \"b\"\\c",op="write"} 1"#,
            r#"vhost_user_zbd_responses_total{disk="a \"b\"\\c",status="OK"} 5"#,
            r#"vhost_user_zbd_request_seconds_bucket{disk="a \"b\"\\c",op="write",le="0.00001"} 4"#,
            r#"vhost_user_zbd_request_seconds_bucket{disk="a \"b\"\\c",op="write",le="0.00005"} 6"#,
            r#"vhost_user_zbd_request_seconds_bucket{disk="a \"b\"\\c",op="write",le="+Inf"} 6"#,
            r#"vhost_user_zbd_request_seconds_sum{disk="a \"b\"\\c",op="write"} 0.000064"#,
            r#"vhost_user_zbd_request_seconds_count{disk="a \"b\"\\c",op="write"} 6"#,
            r#"vhost_user_zbd_zones{disk="a \"b\"\\c",state="implicit-open"} 0"#,
            r#"vhost_user_zbd_zone_written_bytes_total{disk="a \"b\"\\c",zone="7"} 24576"#,
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in:\n{text}");
        }
        let series = text.lines().filter(|line| !line.starts_with('#'));
        for line in series {
            let (_, rest) = line.split_once("{disk=\"").unwrap_or_else(|| panic!("no disk: {line}"));
            assert!(rest.starts_with(r#"a \"b\"\\c""#), "{line}");
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {family} ")), "{line}");
        }
    }
}
