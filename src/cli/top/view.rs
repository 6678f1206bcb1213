//! What is shown: lines made of two answers of a daemon and the size of the screen, and of nothing else.

use std::time::Duration;

use super::palette::{BAD, CLOSE, DATA, GOOD, HEADING, HEADING_TEXT, TRACK};
use super::rates::{Rate, elapsed, rates};
use super::refusals;
use super::words::{end_of, nanoseconds, number, time};
use crate::cli::disk::{Disk, written};
use crate::cli::map::look::{fill, scale};
use crate::cli::map::terminal::{Layout, TILE, legend, rows};
use crate::cli::screen::{Colour, Colours, Line, Size, Style, printable};
use crate::cli::size;
use crate::observe::stats::Stats;
use crate::observe::summary::Summary;
use crate::units::Bytes;

/// What the table of requests takes; what is beside it begins behind a gap of [`GAP`].
const TABLE: usize = 71;
const GAP: usize = 4;
/// From so many columns on the zones written most are beside the table.
const WIDE: usize = 116;

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
    /// Rows of the zones written most; 0 leaves them out, 1 has some on one line.
    hot: usize,
    /// There is an empty line above a heading.
    spaced: bool,
}

impl Plan {
    /// The map gets what others leave, a quarter of the screen and more; what it does not need goes back to the others.
    fn new(disk: &Disk, stats: &Stats, size: Size, colours: Colours) -> Self {
        // Two lines of heading, the table's heading, three gauges.
        const ABOVE: usize = 6;
        const SPACES: usize = 2;
        let spaced = size.rows >= 30;
        let left = size.rows.saturating_sub(ABOVE + if spaced { SPACES } else { 0 });
        let kinds = stats.operations.len().max(1).min((left / 3).max(2));
        let left = left.saturating_sub(kinds);
        let mut hot = usize::from(size.columns < WIDE && !stats.hot_zones.is_empty() && left > 8);
        let left = left.saturating_sub(hot);
        let refused = |rows| refusals::lines(&stats.refusals, size, rows).len();
        let mut refusals = if left < 8 { 0 } else { refused(left / 3) };
        let left = left.saturating_sub(if refusals > 0 { refusals + 1 } else { 0 });
        let map = left.saturating_sub(1 + legend_rows(size));
        let needed = Layout::fit(disk.geometry.nr_zones(), None, size.columns, map, colours).rows();
        let mut spare = map.saturating_sub(needed);
        if refusals > 0 {
            let more = refused(refusals + spare);
            spare -= more - refusals;
            refusals = more;
        }
        if hot > 0 {
            // A line each, below a heading.
            hot += spare.min(stats.hot_zones.len());
        }
        Self { kinds, map, refused: refusals, hot, spaced }
    }
}

/// What the map's legend may take.
fn legend_rows(size: Size) -> usize {
    if size.columns < WIDE { 2 } else { 1 }
}

/// How many cells of zones there is room for.
pub(super) fn cells(disk: &Disk, stats: &Stats, size: Size, colours: Colours) -> u32 {
    let map = Plan::new(disk, stats, size, colours).map;
    Layout::fit(disk.geometry.nr_zones(), None, size.columns, map, colours).cells
}

/// The screen, from top to bottom.
pub(super) fn lines(shown: &Shown, size: Size, colours: Colours) -> Vec<Line> {
    let plan = Plan::new(shown.disk, shown.now, size, colours);
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
    match plan.hot {
        0 => {}
        1 => lines.push(hot_line(shown.now, size)),
        rows => {
            let mut hot = hot_zones(shown.now, size.columns, colours).into_iter().take(rows);
            lines.extend(hot.next().map(|title| heading(title, size)));
            lines.extend(hot);
        }
    }
    if plan.refused > 0 {
        lines.extend(plan.spaced.then_some(space));
        lines.push(heading(Line::plain("refused last"), size));
        lines.extend(refusals::lines(&shown.now.refusals, size, plan.refused));
    }
    lines.truncate(size.rows);
    lines.iter_mut().for_each(|line| line.cut(size.columns));
    lines
}

/// What a screen waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The next answer.
    Answer,
    /// A key.
    Key,
    /// A daemon: that of before has ended.
    Daemon,
}

/// The last row of a screen: the keys, and what the rates are of, or what is waited for.
pub(super) fn footer(shown: Option<&Shown>, interval: Duration, awaits: Awaits, size: Size) -> Line {
    let mut keys = Line::default();
    let pause = if awaits == Awaits::Key { "go on" } else { "pause" };
    let interval = format!("interval {}", time(interval));
    for (key, what) in [("q", "quit"), ("p", pause), ("+ -", &interval), ("?", "help")] {
        keys.push(Style::bold(), key);
        keys.push(Style::default(), format!(" {what}   "));
    }
    let strong = |colour, text: &str| Line::default().with(Style { bold: true, ..Style::text(colour) }, text);
    let right = match awaits {
        Awaits::Answer => Line::plain(shown.map_or(String::new(), period)),
        Awaits::Key => strong(CLOSE, "paused"),
        Awaits::Daemon => strong(BAD, "no daemon: waiting for one"),
    };
    let mut line = ends(keys, right, size.columns);
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
    let (style, frontend) = match (now.frontend, now.power_off) {
        (_, Some(true)) => (Style::text(BAD), "the power is off"),
        (true, _) => (Style::text(GOOD), "frontend connected"),
        (false, _) => (Style::text(CLOSE), "no frontend"),
    };
    let serving = format!("serving for {}, ", time(Duration::from_millis(now.uptime_ms)));
    let right = Line::plain(serving).with(style, frontend);
    let name = end_of(&printable(&shown.disk.name), size.columns.saturating_sub(right.width() + 2));
    let name = Line::default().with(Style::bold(), name);
    let volatile = |bytes| format!("{} volatile", crate::cli::size::show(Bytes(bytes)));
    let volatile = now.volatile_bytes.map_or(String::new(), volatile);
    let shape = Line::plain(shown.disk.shape());
    vec![ends(name, right, size.columns), ends(shape, Line::plain(volatile), size.columns)]
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
written most since the start
zone 3 ########################################    3 MiB
zone 2 #############...........................    1 MiB
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
                        for awaits in [Awaits::Answer, Awaits::Key, Awaits::Daemon] {
                            let footer = footer(Some(&shown), Duration::from_secs(1), awaits, size);
                            assert!(footer.width() <= columns, "{size:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_map_has_a_good_part_of_a_common_screen() {
        let (disk, now) = (disk(5000, 1), busy(10));
        for (columns, rows, least) in [(80, 23, 3), (120, 39, 8), (200, 49, 15)] {
            let plan = Plan::new(&disk, &now, Size { columns, rows }, Colours::None);
            assert!(plan.map >= least, "{columns} x {rows}: {plan:?}");
            assert!(cells(&disk, &now, Size { columns, rows }, Colours::Direct) >= 128, "{plan:?}");
        }
    }

    #[test]
    fn rows_that_the_map_does_not_need_show_more_of_what_was_refused_and_written() {
        let (disk, zones, mut now) = (disk(8, 1), summary(&ZONES, 8), busy(2));
        let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
        let refused = |(at, word): (usize, &&str)| RefusedLately {
            ago_ms: 100 * at as u64,
            queue: 0,
            text: format!("refused for reason {word}"),
        };
        now.refusals = words.iter().enumerate().map(refused).collect();
        let shown = Shown { disk: &disk, before: None, now: &now, zones: &zones };
        let drawn = |rows| text(&lines(&shown, Size { columns: 80, rows }, Colours::None), Colours::None);
        let high = drawn(49);
        assert!(words.iter().all(|word| high.contains(&format!("reason {word}\n"))), "{high}");
        assert!(high.contains("\nzone 3 ") && high.contains("\nzone 2 "), "a line for each zone: {high}");
        let low = drawn(23);
        assert!(low.lines().count() <= 23 && low.contains("reason twelve"), "{low}");
    }

    #[test]
    fn the_footer_has_the_keys_and_what_the_rates_are_of() {
        let (disk, zones, now) = (disk(8, 1), summary(&ZONES, 8), busy(1));
        let before = Stats { uptime_ms: 58_500, ..busy(1) };
        let shown = Shown { disk: &disk, before: Some(&before), now: &now, zones: &zones };
        let said = |shown, awaits| {
            let footer = footer(shown, Duration::from_secs(2), awaits, Size { columns: 80, rows: 23 });
            text(&[footer], Colours::None)
        };
        let keys = "q quit   p pause   + - interval 2.0 s   ? help";
        assert_eq!(said(Some(&shown), Awaits::Answer), format!("{keys:<57}rates of the last 1.5 s\n"));
        let keys_paused = keys.replace("pause", "go on");
        assert_eq!(said(None, Awaits::Key), format!("{keys_paused:<74}paused\n"));
        assert_eq!(said(Some(&shown), Awaits::Daemon), format!("{keys:<54}no daemon: waiting for one\n"));
    }
}
