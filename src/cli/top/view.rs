//! What is shown: lines made of two answers of a daemon and the size of the screen, and of nothing else.

use std::time::Duration;

use super::rates::{Rate, elapsed, rates};
use crate::cli::disk::{Disk, written};
use crate::cli::map::look::{fill, scale};
use crate::cli::map::terminal::{Layout, TILE, legend, rows};
use crate::cli::screen::{Colour, Colours, Line, Rgb, Style, printable};
use crate::cli::size;
use crate::observe::stats::Stats;
use crate::observe::summary::Summary;
use crate::units::Bytes;

const HEADING: Colour = Colour { direct: Rgb(44, 50, 60), indexed: 236 };
const HEADING_TEXT: Colour = Colour { direct: Rgb(228, 231, 236), indexed: 254 };
const TRACK: Colour = Colour { direct: Rgb(58, 62, 70), indexed: 238 };
const GOOD: Colour = Colour { direct: Rgb(0, 178, 130), indexed: 35 };
const CLOSE: Colour = Colour { direct: Rgb(240, 160, 30), indexed: 214 };
const BAD: Colour = Colour { direct: Rgb(225, 86, 40), indexed: 166 };
const DATA: Colour = Colour { direct: Rgb(66, 133, 224), indexed: 33 };

/// What the table of requests takes; what is beside it begins behind a gap of [`GAP`].
const TABLE: usize = 71;
const GAP: usize = 4;
/// From so many columns on the zones written most are beside the table.
const WIDE: usize = 116;

/// The screen. Lines are cut to `columns`; there are `rows` of them exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What is known.
pub(super) struct Shown<'a> {
    pub(super) disk: &'a Disk,
    /// An earlier answer; none at first, where what is shown is of the time since the daemon's start.
    pub(super) before: Option<&'a Stats>,
    pub(super) now: &'a Stats,
    pub(super) zones: &'a Summary,
}

/// How the rows are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Kinds of request.
    kinds: usize,
    /// Rows of the map; 0 leaves it out.
    map: usize,
    /// Rows of refused requests; 0 leaves them out.
    refused: usize,
    /// The zones written most have a row of their own.
    hot: bool,
    /// There is an empty line above a heading.
    spaced: bool,
}

impl Plan {
    /// The map gets what others leave: a quarter of the screen and more.
    fn new(stats: &Stats, size: Size) -> Self {
        // Two lines of heading, the table's heading, three gauges.
        const ABOVE: usize = 6;
        const SPACES: usize = 2;
        let spaced = size.rows >= 30;
        let left = size.rows.saturating_sub(ABOVE + if spaced { SPACES } else { 0 });
        let kinds = stats.operations.len().max(1).min((left / 3).max(2));
        let left = left.saturating_sub(kinds);
        let hot = size.columns < WIDE && !stats.hot_zones.is_empty() && left > 8;
        let left = left.saturating_sub(usize::from(hot));
        let refused = if left < 8 { 0 } else { refusals(stats, size, left / 3).len() };
        let left = left.saturating_sub(if refused > 0 { refused + 1 } else { 0 });
        let map = left.saturating_sub(1 + legend_rows(size));
        Self { kinds, map, refused, hot, spaced }
    }
}

/// What the map's legend may take.
fn legend_rows(size: Size) -> usize {
    if size.columns < WIDE { 2 } else { 1 }
}

/// How many cells of zones there is room for.
pub(super) fn cells(disk: &Disk, stats: &Stats, size: Size, colours: Colours) -> u32 {
    let map = Plan::new(stats, size).map;
    Layout::fit(disk.geometry.nr_zones(), None, size.columns, map, colours).cells
}

/// The screen, from top to bottom.
pub(super) fn lines(shown: &Shown, size: Size, colours: Colours) -> Vec<Line> {
    let plan = Plan::new(shown.now, size);
    let start = Stats::default();
    let before = shown.before.unwrap_or(&start);
    let mut lines = header(shown, size);
    let mut above = vec![table_heading()];
    above.extend(rates(before, shown.now, plan.kinds).iter().map(table_row));
    if shown.now.operations.is_empty() {
        above.push(Line::plain("no request has come yet"));
    }
    above.extend(gauges(shown, if size.columns < WIDE { size.columns } else { TABLE }, colours));
    if size.columns >= WIDE {
        beside(&mut above, &hot_zones(shown.now, size.columns - TABLE - GAP, colours));
    }
    let [first, rest @ ..] = above.as_slice() else { return lines };
    lines.push(heading(first.clone(), size));
    lines.extend_from_slice(rest);
    let space = Line::default();
    if plan.map > 0 {
        lines.extend(plan.spaced.then(|| space.clone()));
        lines.extend(zones(shown, plan, size, colours));
    }
    if plan.hot {
        lines.push(hot_line(shown.now, size));
    }
    if plan.refused > 0 {
        lines.extend(plan.spaced.then_some(space));
        lines.push(heading(Line::plain("refused last"), size));
        lines.extend(refusals(shown.now, size, plan.refused));
    }
    lines.truncate(size.rows);
    lines.iter_mut().for_each(|line| line.cut(size.columns));
    lines
}

/// The last row of a screen: the keys, and what the rates are of.
pub(super) fn footer(shown: Option<&Shown>, interval: Duration, paused: bool, size: Size) -> Line {
    let mut keys = Line::default();
    let (pause, interval) = (if paused { "go on" } else { "pause" }, format!("interval {}", time(interval)));
    for (key, what) in [("q", "quit"), ("p", pause), ("+ -", &interval)] {
        keys.push(Style::bold(), key);
        keys.push(Style::default(), format!(" {what}   "));
    }
    if paused {
        keys.push(Style { bold: true, ..Style::text(CLOSE) }, "paused");
    }
    let mut line = ends(keys, Line::plain(shown.map_or(String::new(), period)), size.columns);
    line.cut(size.columns);
    line
}

/// What the rates are of.
pub(super) fn period(shown: &Shown) -> String {
    match shown.before {
        Some(before) => format!("rates of the last {}", time(elapsed(before, shown.now))),
        None => "rates since the start".to_owned(),
    }
}

fn header(shown: &Shown, size: Size) -> Vec<Line> {
    let now = shown.now;
    let (style, frontend) = match now.frontend {
        true => (Style::text(GOOD), "frontend connected"),
        false => (Style::text(CLOSE), "no frontend"),
    };
    let serving = format!("serving for {}, ", time(Duration::from_millis(now.uptime_ms)));
    let right = Line::plain(serving).with(style, frontend);
    let name = end_of(&printable(&shown.disk.name), size.columns.saturating_sub(right.width() + 2));
    let name = Line::default().with(Style::bold(), name);
    vec![ends(name, right, size.columns), Line::plain(shown.disk.shape())]
}

/// The end of a path, which says more than its beginning, where all of it is too long. Some of it there always is.
fn end_of(path: &str, columns: usize) -> String {
    const LEAST: usize = 16;
    let (len, columns) = (path.chars().count(), columns.max(LEAST));
    if len <= columns {
        return path.to_owned();
    }
    let end: String = path.chars().skip(len + 3 - columns).collect();
    format!("...{end}")
}

/// Two pieces at the ends of a line; the right one only where there is room for both.
fn ends(mut left: Line, right: Line, columns: usize) -> Line {
    let width = left.width() + right.width();
    if width < columns {
        left.push(Style::default(), " ".repeat(columns - width));
        left.append(right);
    }
    left
}

fn heading(line: Line, size: Size) -> Line {
    let mut heading = Line::default();
    let free = size.columns.saturating_sub(line.width());
    heading.push_heading(HEADING_TEXT, HEADING, line);
    heading.push_heading(HEADING_TEXT, HEADING, Line::plain(" ".repeat(free)));
    heading
}

fn table_heading() -> Line {
    Line::plain(format!(
        "{:<11}{:>9}{:>14}{:>9}{:>9}{:>9}{:>10}",
        "requests", "a second", "data", "p50", "p99", "max", "errors"
    ))
}

fn table_row(rate: &Rate) -> Line {
    let duration = |of: Option<u64>| of.map_or("-".to_owned(), nanoseconds);
    let latency = rate.latency;
    let data = if rate.bytes > 0.0 { format!("{}/s", size::brief(Bytes(rate.bytes as u64))) } else { "-".to_owned() };
    let errors = if rate.errors > 0.0 { number(rate.errors) } else { "-".to_owned() };
    let mut line = Line::plain(format!(
        "{:<11}{:>9}{data:>14}{:>9}{:>9}{:>9}",
        printable(&rate.name),
        if rate.requests > 0.0 { number(rate.requests) } else { "-".to_owned() },
        duration(latency.map(|latency| latency.half)),
        duration(latency.map(|latency| latency.most)),
        duration(latency.map(|latency| latency.all)),
    ));
    let style = if rate.errors > 0.0 { Style::text(BAD) } else { Style::default() };
    line.push(style, format!("{errors:>10}"));
    line
}

/// Puts `right` at the right of `left`, as far as that goes down.
fn beside(left: &mut [Line], right: &[Line]) {
    for (left, right) in left.iter_mut().zip(right) {
        let width = left.width();
        left.push(Style::default(), " ".repeat((TABLE + GAP).saturating_sub(width)));
        left.append(right.clone());
    }
}

/// The zones written most, one a line, behind a heading.
fn hot_zones(stats: &Stats, columns: usize, colours: Colours) -> Vec<Line> {
    let most = stats.hot_zones.first().map_or(0, |zone| zone.bytes);
    let digits = stats.hot_zones.iter().map(|zone| zone.zone.to_string().len()).max().unwrap_or(1);
    let room = columns.saturating_sub(digits + 18).min(40);
    let line = |zone: &crate::observe::stats::HotZone| {
        let mut line = Line::plain(format!("zone {:>digits$} ", zone.zone));
        let part = if most == 0 { 0.0 } else { zone.bytes as f64 / most as f64 };
        line.append(bar(part, room, DATA, colours));
        line.push(Style::default(), format!(" {:>8}", size::brief(Bytes(zone.bytes))));
        line
    };
    let title = if most == 0 { Line::default() } else { Line::plain("written most since the start") };
    std::iter::once(title).chain(stats.hot_zones.iter().map(line)).collect()
}

/// As many of them as a line has room for.
fn hot_line(stats: &Stats, size: Size) -> Line {
    let mut line = Line::default().with(Style::bold(), "written most:");
    for (at, zone) in stats.hot_zones.iter().enumerate() {
        let text = format!(" zone {} {}", zone.zone, size::brief(Bytes(zone.bytes)));
        let comma = if at > 0 { "," } else { "" };
        if line.width() + comma.len() + text.len() > size.columns {
            break;
        }
        line.push(Style::default(), format!("{comma}{text}"));
    }
    line
}

/// What a gauge takes without its bar.
const GAUGE_TEXT: usize = 46;

fn gauges(shown: &Shown, columns: usize, colours: Colours) -> Vec<Line> {
    let Stats { open_zones, max_open_zones, active_zones, max_active_zones, .. } = *shown.now;
    let totals = &shown.zones.totals;
    let room = columns.saturating_sub(GAUGE_TEXT).min(60);
    let line = |name: &str, part: Option<f64>, colour: Colour, text: String| {
        let mut line = Line::plain(format!("{name:<9}"));
        if let (Some(part), true) = (part, room >= 8) {
            line.append(bar(part, room, colour, colours));
            line.push(Style::default(), " ");
        }
        line.push(Style::default(), text);
        line
    };
    let limited = |name, count: u32, limit: u32| {
        let part = (limit > 0).then(|| f64::from(count) / f64::from(limit));
        let colour = match part {
            Some(part) if part >= 1.0 => BAD,
            Some(part) if part >= 0.8 => CLOSE,
            _ => GOOD,
        };
        let text = if limit == 0 { format!("{count}, no limit") } else { format!("{count} of {limit}") };
        line(name, part, colour, text)
    };
    vec![
        line("written", Some(fill(totals)), DATA, written(totals).trim_start_matches("written ").to_owned()),
        limited("open", open_zones, max_open_zones),
        limited("active", active_zones, max_active_zones),
    ]
}

/// A bar of which a part, 0.0 to 1.0, is filled.
fn bar(part: f64, columns: usize, colour: Colour, colours: Colours) -> Line {
    let filled = ((part.clamp(0.0, 1.0) * columns as f64).round() as usize).max(usize::from(part > 0.0)).min(columns);
    let (full, free) = if colours == Colours::None { ("#", ".") } else { (TILE, TILE) };
    let line = Line::default().with(Style::text(colour), full.repeat(filled));
    line.with(Style::text(TRACK), free.repeat(columns - filled))
}

fn zones(shown: &Shown, plan: Plan, size: Size, colours: Colours) -> Vec<Line> {
    let count = u32::try_from(shown.zones.cells.len()).unwrap_or(u32::MAX);
    let layout = Layout::fit(shown.zones.zones, Some(count), size.columns, plan.map, colours);
    let title = match scale(shown.zones) {
        Some(scale) => format!("zones: {scale}"),
        None => "zones".to_owned(),
    };
    let mut lines = vec![heading(Line::plain(title), size)];
    lines.extend(rows(shown.zones, &layout, colours).into_iter().take(plan.map));
    lines.extend(legend(&shown.zones.totals, size.columns, colours).into_iter().take(legend_rows(size)));
    lines
}

/// The requests that were refused last, the newest first: as many as go wholly into so many rows, or the beginning of
/// one.
fn refusals(stats: &Stats, size: Size, rows: usize) -> Vec<Line> {
    /// What "how long ago" takes.
    const AGO: usize = 12;
    let mut lines: Vec<Line> = Vec::new();
    for refused in stats.refusals.iter().rev() {
        let ago = format!("{} ago", time(Duration::from_millis(refused.ago_ms)));
        let texts = wrap(&printable(&refused.text), size.columns.saturating_sub(AGO));
        if !lines.is_empty() && lines.len() + texts.len() > rows {
            break;
        }
        for (at, text) in texts.into_iter().enumerate() {
            let ago = if at == 0 { ago.as_str() } else { "" };
            lines.push(Line::plain(format!("{ago:<AGO$}{text}")));
        }
    }
    lines.truncate(rows);
    lines
}

/// The words of `text` in lines of `columns`; a word that is longer has a line of its own.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A rate, with two digits at least.
fn number(rate: f64) -> String {
    match rate {
        rate if rate < 9.95 => format!("{rate:.1}"),
        rate if rate < 999_999.5 => format!("{rate:.0}"),
        rate => format!("{:.2} M", rate / 1e6),
    }
}

/// A duration with two or three digits.
fn nanoseconds(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// How long, for people.
fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::map::testing::{disk, summary};
    use crate::cli::screen::text;
    use crate::observe::histogram::Latency;
    use crate::observe::stats::{HotZone, Operation, RefusedLately};
    use crate::zone::State::{self, Closed, Empty, Full, ImplicitOpen, NotWp};

    fn operation(count: u64, bytes: u64, errors: u64) -> Operation {
        let latency = Latency { max_ns: 1_234_567, total_ns: 0, buckets: vec![(9_999, count), (2_000_000, errors)] };
        Operation { count, bytes, errors, latency }
    }

    /// A daemon that has served for a minute, with so many kinds of request.
    fn busy(kinds: usize) -> Stats {
        let names = ["write", "read", "flush", "append", "reset", "report", "open", "close", "finish", "reset-all"];
        let count = |at: usize| operation(60_000 >> at, (60_000 << 12) >> at, u64::from(at == 0) * 60);
        let refused = |ago_ms, text: &str| RefusedLately { ago_ms, queue: 0, text: text.to_owned() };
        Stats {
            uptime_ms: 60_000,
            frontend: true,
            open_zones: 2,
            max_open_zones: 3,
            active_zones: 3,
            max_active_zones: 3,
            operations: names
                .iter()
                .enumerate()
                .take(kinds)
                .map(|(at, name)| ((*name).to_owned(), count(at)))
                .collect(),
            hot_zones: [(3, 3 << 20), (2, 1 << 20)].map(|(zone, bytes)| HotZone { zone, bytes }).to_vec(),
            refusals: vec![
                refused(125_000, "the older one"),
                refused(
                    1_250,
                    "write at 8 of 8 sectors: ZONE_UNALIGNED_WP: the write pointer is 16: expected a write there",
                ),
            ],
            ..Stats::default()
        }
    }

    const ZONES: [(State, u64); 8] = [
        (NotWp, 0),
        (Full, 1024),
        (ImplicitOpen, 512),
        (ImplicitOpen, 256),
        (Closed, 128),
        (Empty, 0),
        (Empty, 0),
        (Empty, 0),
    ];

    #[test]
    fn a_screen_says_all_that_is_known_in_its_place() {
        let (disk, zones, now) = (disk(8, 1), summary(&ZONES, 8), busy(2));
        let shown = Shown { disk: &disk, before: None, now: &now, zones: &zones };
        let drawn = text(&lines(&shown, Size { columns: 80, rows: 23 }, Colours::None), Colours::None);
        let expected = "\
a disk                                      serving for 60 s, frontend connected
32 KiB: 8 zones of 4 KiB, 2 KiB of each writable, 1 conventional
requests    a second          data      p50      p99      max    errors
read             500    1.95 MiB/s    10 us    10 us    10 us         -
write           1000    3.91 MiB/s    10 us    10 us   1.2 ms       1.0
written  #########......................... 3.75 KiB of 14 KiB (26.8 %)
open     #######################........... 2 of 3
active   ################################## 3 of 3
zones
0  =#fc1...
= conventional 1   # full 1   0-9 closed 1   a-j implicitly open 2   . empty 3
written most: zone 3 3 MiB, zone 2 1 MiB
refused last
1.2 s ago   write at 8 of 8 sectors: ZONE_UNALIGNED_WP: the write pointer is 16:
            expected a write there
2 min ago   the older one
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn on_a_wide_screen_the_zones_written_most_are_beside_the_requests() {
        let (disk, zones, now) = (disk(8, 1), summary(&ZONES, 8), busy(1));
        let shown = Shown { disk: &disk, before: None, now: &now, zones: &zones };
        let drawn = text(&lines(&shown, Size { columns: 120, rows: 40 }, Colours::None), Colours::None);
        let rows: Vec<&str> = drawn.lines().skip(2).take(3).collect();
        let beside = [
            "requests    a second          data      p50      p99      max    errors    written most since the start",
            "write           1000    3.91 MiB/s    10 us    10 us   1.2 ms       1.0    zone 3 ##########################    3 MiB",
            "written  #######.................. 3.75 KiB of 14 KiB (26.8 %)             zone 2 #########.................    1 MiB",
        ];
        assert_eq!(rows, beside);
        assert!(drawn.contains("\n\nzones\n"), "no space above a heading: {drawn}");
    }

    #[test]
    fn a_screen_of_any_size_is_kept_to() {
        let states: Vec<_> = (0..5000).map(|zone| ZONES[zone % ZONES.len()]).collect();
        let disk = disk(5000, 1);
        let idle = Stats::default();
        for kinds in [0, 1, 4, 10] {
            let now = busy(kinds);
            for (columns, rows) in
                [(0, 0), (1, 1), (10, 3), (30, 8), (60, 16), (80, 23), (115, 30), (116, 30), (200, 49)]
            {
                for colours in [Colours::None, Colours::Direct] {
                    let size = Size { columns, rows };
                    for now in [&now, &idle] {
                        let zones = summary(&states, cells(&disk, now, size, colours));
                        let shown = Shown { disk: &disk, before: Some(&idle), now, zones: &zones };
                        let drawn = lines(&shown, size, colours);
                        let widest = drawn.iter().map(Line::width).max().unwrap_or(0);
                        assert!(drawn.len() <= rows && widest <= columns, "{} x {widest} on {size:?}", drawn.len());
                        let footer = footer(Some(&shown), Duration::from_secs(1), true, size);
                        assert!(footer.width() <= columns, "{size:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_map_has_a_good_part_of_a_common_screen() {
        let (disk, now) = (disk(5000, 1), busy(10));
        for (columns, rows, least) in [(80, 23, 3), (120, 39, 8), (200, 49, 15)] {
            let plan = Plan::new(&now, Size { columns, rows });
            assert!(plan.map >= least, "{columns} x {rows}: {plan:?}");
            assert!(cells(&disk, &now, Size { columns, rows }, Colours::Direct) >= 128, "{plan:?}");
        }
    }

    #[test]
    fn the_footer_has_the_keys_and_what_the_rates_are_of() {
        let (disk, zones, now) = (disk(8, 1), summary(&ZONES, 8), busy(1));
        let before = Stats { uptime_ms: 58_500, ..busy(1) };
        let shown = Shown { disk: &disk, before: Some(&before), now: &now, zones: &zones };
        let said = |shown, paused| {
            text(&[footer(shown, Duration::from_secs(2), paused, Size { columns: 80, rows: 23 })], Colours::None)
        };
        let keys = "q quit   p pause   + - interval 2.0 s";
        assert_eq!(said(Some(&shown), false), format!("{keys:<57}rates of the last 1.5 s\n"));
        assert_eq!(said(None, true), "q quit   p go on   + - interval 2.0 s   paused\n");
    }

    #[test]
    fn numbers_and_times_are_short() {
        for (rate, text) in [(0.04, "0.0"), (9.94, "9.9"), (9.96, "10"), (123_456.7, "123457"), (2_345_678.0, "2.35 M")]
        {
            assert_eq!(number(rate), text);
        }
        for (ns, text) in [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (99_400, "99 us"), (2_000_000_000, "2.0 s")]
        {
            assert_eq!(nanoseconds(ns), text);
        }
        for (seconds, text) in [(0, "0.0 s"), (59, "59 s"), (3599, "59 min"), (7265, "2 h 1 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(time(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn of_a_long_path_the_end_is_shown() {
        assert_eq!(end_of("/srv/disk.qcow2", 15), "/srv/disk.qcow2");
        assert_eq!(end_of("/srv/a/b/c/disk.qcow2", 17), "...b/c/disk.qcow2");
        assert_eq!(end_of("/srv/a/b/c/disk.qcow2", 0), ".../c/disk.qcow2");
    }

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable is long", 4), ["unbreakable", "is", "long"]);
        assert_eq!(wrap("", 4), [""; 0]);
    }
}
