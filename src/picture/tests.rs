//! Pictures against an independent count: what a page says of a cell is what the events did by then, however they were put together.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use super::cell::{COUNTS, Column};
use super::event::{Event, Request, What};
use super::grid::{Grid, MOST_PACKED, MOST_TICKS};
use super::recorded::Follower;
use super::rows::MOST_ROWS;
use super::survey::Survey;
use super::timeline::{self, Unit, Words};
use super::{Ordered, axis};
use crate::observe::Kind;
use crate::record::{Accepted, Entry, Record};
use crate::units::{Bytes, ZoneIndex};
use crate::virtio::status::Status;
use crate::zone::Geometry;
use crate::zone::testing::geometry;

const MIB: u64 = 1 << 20;

fn request(kind: Kind, zone: u32, offset: u64, len: u64) -> Request {
    let place = Some(Bytes(u64::from(zone) * MIB + offset));
    Request { kind, zone: Some(ZoneIndex(zone)), place, len: Bytes(len), refused: None, pointer: None }
}

fn at(at: u64, request: Request) -> Event {
    Event { at, what: What::Request(request) }
}

fn whole(events: &[Event]) -> impl Iterator<Item = Result<Event, Infallible>> + '_ {
    events.iter().cloned().map(Ok)
}

fn draw(geometry: Geometry, events: &[Event]) -> (Survey, Grid) {
    let survey = Survey::of(geometry, whole(events)).unwrap();
    let grid = Grid::of(&survey, whole(events)).unwrap();
    (survey, grid)
}

fn page(survey: &Survey, grid: &Grid) -> String {
    let words = Words {
        title: "disk.trace".to_owned(),
        kind: "trace",
        lines: vec!["a disk".to_owned()],
        size: |bytes| format!("{bytes} bytes"),
    };
    let mut out = Vec::new();
    timeline::write(&mut out, &words, Unit::Nanoseconds, survey, grid).unwrap();
    String::from_utf8(out).unwrap()
}

/// A cell as the page's script reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    written: Option<u64>,
    counts: [u64; COUNTS],
    bytes: u64,
}

/// Reads what is packed as the page's script does: each row with what it shows at the beginning, and its cells.
fn unpack(grid: &Grid) -> Vec<(Option<u64>, BTreeMap<u64, Seen>)> {
    let mut bytes = grid.packed.iter();
    let mut next = || {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = u64::from(*bytes.next().unwrap());
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let told = |value: u64| value.checked_sub(1).map(|sectors| sectors * 512);
    let mut rows = Vec::new();
    for _ in grid.rows.all() {
        let mut value = next();
        let (begin, mut cells, mut after) = (told(value), BTreeMap::new(), 0);
        loop {
            let gap = next();
            if gap == 0 {
                break;
            }
            let column = after + gap - 1;
            after = column + 1;
            let by = next();
            value = if by % 2 == 1 { value - by / 2 } else { value + by / 2 };
            let mut seen = Seen { written: told(value), ..Seen::default() };
            let present = next();
            for kind in 0..COUNTS {
                if present >> kind & 1 == 1 {
                    seen.counts[kind] = next();
                }
            }
            if seen.counts[0] > 0 {
                seen.bytes = next() * 512;
            }
            if seen.counts[5] > 0 {
                next();
            }
            cells.insert(column, seen);
        }
        rows.push((begin, cells));
    }
    assert_eq!(bytes.next(), None);
    rows
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Events on sequential zones from `first` on, of which it is known at the beginning where they stand; and how far each is written behind
/// each event.
fn play(seed: u64, zones: std::ops::Range<u32>, count: u64) -> (Vec<Event>, Vec<BTreeMap<u32, u64>>) {
    let mut numbers = Numbers(seed);
    let mut now: BTreeMap<u32, u64> = zones.clone().map(|zone| (zone, numbers.below(2048) * 512)).collect();
    let pointers = now.iter().filter(|(_, written)| **written > 0);
    let pointers = pointers.map(|(zone, written)| (ZoneIndex(*zone), Bytes(u64::from(*zone) * MIB + written)));
    let first = What::Session { again: false, pointers: pointers.collect() };
    let (mut events, mut states) = (vec![Event { at: 0, what: first }], vec![now.clone()]);
    let mut time = 0;
    for _ in 0..count {
        time += numbers.below(50);
        let zone = zones.start + numbers.below((zones.end - zones.start).into()) as u32;
        let written = now.entry(zone).or_default();
        let len = (numbers.below(64) + 1) * 512;
        let event = match numbers.below(10) {
            0..=5 if *written + len <= MIB => {
                *written += len;
                request(Kind::Write, zone, *written - len, len)
            }
            6 => request(Kind::Read, zone, 0, len),
            7 => Request { refused: Some("write-pointer"), ..request(Kind::Append, zone, 0, len) },
            8 => {
                *written = MIB;
                request(Kind::Finish, zone, 0, 0)
            }
            _ => {
                *written = 0;
                request(Kind::Reset, zone, 0, 0)
            }
        };
        events.push(at(time, event));
        states.push(now.clone());
    }
    (events, states)
}

/// The cells that an independent count finds.
fn expected(grid: &Grid, events: &[Event], states: &[BTreeMap<u32, u64>]) -> Vec<BTreeMap<u64, Seen>> {
    let touched: BTreeSet<u32> = events.iter().filter_map(zone_of).collect();
    let of_row = |first: u32, last: u32| touched.range(first..=last);
    let mut rows = Vec::new();
    for row in grid.rows.all() {
        let mut cells: BTreeMap<u64, Seen> = BTreeMap::new();
        for (event, state) in events.iter().zip(states) {
            let What::Request(request) = &event.what else { continue };
            if !zone_of(event).is_some_and(|zone| (row.first..=row.last).contains(&zone)) {
                continue;
            }
            let cell = cells.entry((event.at - grid.axis.from()) / grid.axis.step()).or_default();
            cell.written = Some(of_row(row.first, row.last).map(|zone| state[zone]).sum());
            let kind = match (request.refused, request.kind) {
                (Some(_), _) => 5,
                (None, Kind::Write) => 0,
                (None, Kind::Read) => 1,
                (None, Kind::Reset) => 2,
                (None, _) => 3,
            };
            cell.counts[kind] += 1;
            if kind == 0 {
                cell.bytes += request.len.0;
            }
        }
        rows.push(cells);
    }
    rows
}

fn zone_of(event: &Event) -> Option<u32> {
    let What::Request(request) = &event.what else { return None };
    request.zone.map(|zone| zone.0)
}

#[test]
fn a_cell_shows_what_an_independent_count_says_whatever_shares_it() {
    for (seed, zones, count) in
        [(1, 0..1, 40), (2, 3..9, 900), (3, 10..300, 6000), (4, 100..1400, 9000), (5, 0..600, 20_000)]
    {
        let (events, states) = play(seed, zones.clone(), count);
        let (survey, grid) = draw(geometry(2000, 0), &events);
        let found = unpack(&grid);
        let touched: BTreeSet<u32> = events.iter().filter_map(zone_of).collect();
        assert_eq!(survey.touched.len(), touched.len());
        assert!(grid.rows.all().len() <= MOST_ROWS && u64::from(grid.axis.columns()) <= axis::MOST_COLUMNS);
        let expected = expected(&grid, &events, &states);
        assert_eq!(found.len(), expected.len(), "seed {seed}");
        for ((row, (begin, cells)), expected) in grid.rows.all().iter().zip(found).zip(expected) {
            let first: u64 = touched.range(row.first..=row.last).map(|zone| states[0][zone]).sum();
            assert_eq!((begin, cells), (Some(first), expected), "seed {seed}, {row:?}");
        }
    }
}

#[test]
fn columns_count_each_request_once_and_flushes_apart() {
    let (mut events, _) = play(7, 0..20, 3000);
    let flush = Request { zone: None, place: None, ..request(Kind::Flush, 0, 0, 0) };
    let last = events.last().unwrap().at;
    events.extend((0..50).map(|_| at(last, flush)));
    let (survey, grid) = draw(geometry(64, 0), &events);
    let sum = |of: fn(&Column) -> u32| grid.columns.iter().map(|one| u64::from(of(one))).sum::<u64>();
    assert_eq!(survey.requests, 3050);
    assert_eq!(sum(|one| one.flushes), 50);
    assert_eq!(sum(|one| one.refused), survey.refused);
    assert_eq!(sum(|one| one.changes) + sum(|one| one.others) + survey.refused + 50, 3050);
}

/// What a trace's row shows: at the beginning, and behind each event.
fn shown(events: &[Request]) -> Vec<Option<u64>> {
    let events: Vec<Event> = (0..).zip(events).map(|(time, request)| at(time, *request)).collect();
    let (_, grid) = draw(geometry(8, 2), &events);
    let (begin, cells) = unpack(&grid).remove(0);
    [begin].into_iter().chain(cells.values().map(|cell| cell.written)).collect()
}

#[test]
fn the_first_event_of_a_zone_that_tells_says_how_far_it_was_written_before() {
    let write = |offset| request(Kind::Write, 4, offset, 4096);
    let refused = Request {
        refused: Some("write-pointer"),
        pointer: Some(Bytes(4 * MIB + 512)),
        ..request(Kind::Write, 4, 0, 4096)
    };
    let read = request(Kind::Read, 4, 0, 4096);
    let (reset, finish) = (request(Kind::Reset, 4, 0, 0), request(Kind::Finish, 4, 0, 0));
    for (events, expected) in [
        (&[write(8192), write(12288)][..], &[Some(8192), Some(12288), Some(16384)][..]),
        // Two that were in flight together, answered in another order.
        (&[write(4096), write(0)], &[Some(4096), Some(8192), Some(8192)]),
        (&[refused, write(512)], &[Some(512), Some(512), Some(4608)]),
        (&[read, write(8192)], &[Some(8192), Some(8192), Some(12288)]),
        (&[read, reset, write(0)], &[None, None, Some(0), Some(4096)]),
        (&[finish, reset], &[None, Some(MIB), Some(0)]),
    ] {
        assert_eq!(shown(events), expected, "{events:?}");
    }
    // A conventional zone has no write pointer.
    assert_eq!(shown(&[request(Kind::Write, 1, 0, 4096)]), [None, None]);
}

#[test]
fn a_reset_of_all_zones_empties_those_that_held_something() {
    let all = Request { zone: None, place: None, ..request(Kind::ResetAll, 0, 0, 0) };
    let events = [
        at(0, request(Kind::Write, 3, 0, 512)),
        at(1, request(Kind::Read, 5, 0, 512)),
        at(2, all),
        at(3, request(Kind::Write, 3, 0, 1024)),
        at(4, all),
    ];
    let (_, grid) = draw(geometry(8, 0), &events);
    let rows = unpack(&grid);
    let written = |row: usize| rows[row].1.iter().map(|(column, cell)| (*column, cell.written)).collect::<Vec<_>>();
    assert_eq!(written(0), [(0, Some(512)), (2, Some(0)), (3, Some(1024)), (4, Some(0))]);
    assert_eq!(written(1), [(1, None), (2, Some(0))]);
    assert_eq!(rows[0].1[&4].counts[2], 1);
}

#[test]
fn behind_a_cut_of_the_power_a_zone_stands_where_it_is_said_to_or_where_it_is_written_next() {
    let write = |time, offset| at(time, request(Kind::Write, 3, offset, 4096));
    let cut = |time, pointers| Event { at: time, what: What::PowerCut(pointers) };
    for (pointers, expected) in [
        (Vec::new(), [4096, 8192, 8192].map(Some).to_vec()),
        (vec![(ZoneIndex(3), Bytes(3 * MIB + 4096))], [4096, 8192, 4096, 8192].map(Some).to_vec()),
    ] {
        let events = [write(0, 0), write(1, 4096), cut(2, pointers), write(3, 4096)];
        let (survey, grid) = draw(geometry(8, 0), &events);
        assert_eq!(survey.cuts, 1);
        let cells = unpack(&grid).remove(0).1;
        assert_eq!(cells.values().map(|cell| cell.written).collect::<Vec<_>>(), expected);
        assert_eq!(grid.ticks.iter().map(|tick| (tick.at, tick.kind)).collect::<Vec<_>>(), [(2, "cut")]);
    }
}

#[test]
fn a_million_zones_with_anything_in_each_are_a_page_of_few_megabytes() {
    let zones = 1 << 20;
    let mut numbers = Numbers(11);
    let kinds = [Kind::Write, Kind::Read, Kind::Reset, Kind::Finish, Kind::Open, Kind::Append];
    let mut events = Vec::new();
    for time in 0..400_000 {
        let zone = numbers.below(zones) as u32;
        let refused = (numbers.below(4) == 0).then_some("zone-full");
        let kind = kinds[numbers.below(6) as usize];
        events.push(at(time, Request { refused, ..request(kind, zone, numbers.below(1024) * 512, 512) }));
    }
    let (survey, grid) = draw(geometry(zones, 0), &events);
    assert!(survey.touched.len() > 300_000);
    assert_eq!(grid.rows.all().iter().map(|row| row.zones as usize).sum::<usize>(), survey.touched.len());
    assert!(grid.rows.all().len() <= MOST_ROWS && grid.packed.len() <= MOST_PACKED, "{}", grid.packed.len());
    let columns = unpack(&grid).into_iter().flat_map(|(_, cells)| cells.into_iter());
    let counted: u64 = columns.map(|(_, cell)| cell.counts.iter().sum::<u64>()).sum();
    assert_eq!(counted, 400_000, "columns that were put together lose nothing");
    assert!(page(&survey, &grid).len() < 5 << 19);
}

#[test]
fn nothing_at_all_makes_a_page() {
    let (survey, grid) = draw(geometry(8, 0), &[]);
    assert!(grid.rows.all().is_empty() && grid.axis.columns() == 1);
    assert!(page(&survey, &grid).ends_with("</html>\n"));
}

#[test]
fn a_mark_that_is_html_is_text_and_long_or_many_marks_are_bounded() {
    let mark = |text: &str| Event { at: 0, what: What::Mark(text.to_owned()) };
    let hostile = "</script><b onclick=alert(1)><!--\u{2028}";
    let events: Vec<Event> =
        [mark(hostile), mark(&"é".repeat(500))].into_iter().chain((0..2000).map(|_| mark("x"))).collect();
    let (survey, grid) = draw(geometry(8, 0), &events);
    assert_eq!((survey.marks, grid.ticks.len(), grid.more_ticks), (2002, MOST_TICKS, 1002));
    assert_eq!(grid.ticks[1].text.chars().count(), 121);
    let page = page(&survey, &grid);
    assert!(!page.contains("<b onclick") && !page.contains("<!--"));
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["ticks"][0]["text"], hostile);
}

#[test]
fn events_of_several_queues_are_put_into_the_order_of_their_times() {
    let read = request(Kind::Read, 0, 0, 512);
    let mixed: Vec<Event> = [3, 1, 2, 2, 9, 5].map(|time| at(time, read)).into();
    let order: Vec<u64> = Ordered::new(whole(&mixed)).map(|event| event.unwrap().at).collect();
    assert_eq!(order, [1, 2, 2, 3, 5, 9]);
}

#[test]
fn a_moment_of_a_recording_is_how_many_requests_were_answered() {
    let accepted = |kind, zone| Accepted {
        tag: None,
        kind,
        zone: Some(ZoneIndex(zone)),
        place: Bytes(u64::from(zone) * MIB),
        len: 512,
    };
    let answer = |of, status| Entry::Answer { of, status, appended: None };
    let entries = [
        Entry::Session { generation: 0, pointers: vec![(ZoneIndex(1), Bytes(MIB + 512))] },
        Entry::Accept(accepted(Kind::Write, 2)),
        Entry::Accept(accepted(Kind::Reset, 1)),
        Entry::Mark("before".to_owned()),
        answer(2, Status::Ok),
        // Answered once only.
        answer(2, Status::Ok),
        answer(1, Status::IoErr),
        Entry::Mark("behind".to_owned()),
    ];
    let mut follower = Follower::default();
    let records = (0..).zip(entries).map(|(number, entry)| Record { number, time_ns: 0, entry });
    let events: Vec<Event> = records.filter_map(|record| follower.take(record)).collect();
    assert_eq!(events.iter().map(|event| event.at).collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
    let (survey, grid) = draw(geometry(8, 0), &events);
    assert_eq!((survey.requests, survey.refused, survey.touched.len()), (2, 1, 2));
    assert_eq!(grid.reasons, [Status::IoErr.name()]);
    let rows = unpack(&grid);
    assert_eq!((rows[0].0, rows[0].1[&1].written), (Some(512), Some(0)));
    assert_eq!((rows[1].0, rows[1].1[&2].written), (Some(0), Some(0)));
}
