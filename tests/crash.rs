//! Power loss at every instant (P3, P4): whatever of the unflushed is kept, nothing stable is lost, nothing of another
//! zone or an earlier generation shows, and the image is sound.
//!
//! Exhaustive over short sequences of requests, then seeded random over long ones. `CRASH_DEPTH` and `CRASH_SEEDS`, or
//! `CRASH_MINUTES` for as many seeds as that allows (environment), make the search deeper than the default, which is
//! for every test run; a failure prints what to give back.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests fail by panicking and share helpers")]

mod sim;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use sim::disk::{Crash, SimDisk};
use sim::model::{Model, ModelZone};
use sim::rig::{self, Rig};
use vhost_user_zbd::store::{Action, Op, ZoneInfo};
use vhost_user_zbd::units::{Bytes, Sector};
use vhost_user_zbd::zone::{GeometryRequest, State};

/// A disk whose first zone is conventional.
#[derive(Clone, Copy)]
struct Shape {
    zone: u64,
    capacity: u64,
    zones: u64,
}

/// Space is mapped for a whole zone at a time.
const SMALL: Shape = Shape { zone: 64 * 1024, capacity: 48 * 1024, zones: 4 };

/// Zones take space in two runs, the second of which may be mapped ahead of the writes that come to it.
const LARGE: Shape = Shape { zone: 2048 * 1024, capacity: 1280 * 1024, zones: 2 };

impl Shape {
    fn geometry(self) -> GeometryRequest {
        GeometryRequest {
            size: Bytes(self.zones * self.zone),
            zone_size: Bytes(self.zone),
            zone_capacity: Bytes(self.capacity),
            conventional_zones: 1,
            max_open_zones: 0,
            max_active_zones: 0,
            max_append_bytes: Bytes(16 * 1024),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Write { zone: u64, sectors: u64 },
    Append { zone: u64, sectors: u64 },
    Fill { zone: u64 },
    Conventional { sector: u64 },
    Manage { zone: u64, action: Action },
    ResetAll,
    Flush,
}

const ALPHABET: [Want; 14] = [
    Want::Write { zone: 1, sectors: 3 },
    Want::Write { zone: 2, sectors: 9 },
    Want::Append { zone: 1, sectors: 2 },
    Want::Append { zone: 2, sectors: 17 },
    Want::Fill { zone: 1 },
    Want::Conventional { sector: 0 },
    Want::Conventional { sector: 7 },
    Want::Manage { zone: 1, action: Action::Open },
    Want::Manage { zone: 1, action: Action::Close },
    Want::Manage { zone: 1, action: Action::Finish },
    Want::Manage { zone: 1, action: Action::Reset },
    Want::Manage { zone: 2, action: Action::Reset },
    Want::ResetAll,
    Want::Flush,
];

/// A zone as it was at some instant, with the number of resets before.
#[derive(Clone)]
struct Snapshot {
    generation: u64,
    zone: ModelZone,
}

/// What the guest knows of the requests: when each was submitted and answered, in operations of the disk.
struct History {
    /// For each request: the operation count when it was submitted and when it was answered, whether it is a flush,
    /// and the zones after it.
    steps: Vec<Step>,
    initial: Vec<Snapshot>,
    shape: Shape,
}

struct Step {
    submitted: u64,
    answered: u64,
    flush: bool,
    zones: Vec<Snapshot>,
}

struct Run {
    rig: Rig,
    model: Model,
    generations: Vec<u64>,
    history: History,
    stamp: u8,
}

impl Run {
    fn start(disk: SimDisk, model: Model, shape: Shape) -> Run {
        disk.settle();
        let rig = Rig::open(Arc::new(disk));
        let generations = vec![0; model.zones.len()];
        let initial = snapshots(&model, &generations);
        Run { rig, model, generations, history: History { steps: Vec::new(), initial, shape }, stamp: 0 }
    }

    fn request(&mut self, want: Want) -> (Op, Vec<u8>) {
        self.stamp = self.stamp % 250 + 1;
        let data = |sectors: u64| vec![self.stamp; (sectors * 512) as usize];
        let Shape { zone: zone_size, capacity, .. } = self.history.shape;
        let sector = |zone: u64, offset: u64| Sector((zone * zone_size + offset) / 512);
        let written = |zone: u64| self.model.zones[zone as usize].written;
        match want {
            Want::Write { zone, sectors } => {
                let start = sector(zone, written(zone));
                (Op::Write { start, len: Bytes(sectors * 512) }, data(sectors))
            }
            Want::Fill { zone } => {
                let left = (capacity - written(zone)) / 512;
                (Op::Write { start: sector(zone, written(zone)), len: Bytes(left * 512) }, data(left))
            }
            Want::Append { zone, sectors } => {
                (Op::Append { zone: sector(zone, 0), len: Bytes(sectors * 512) }, data(sectors))
            }
            Want::Conventional { sector: at } => (Op::Write { start: Sector(at), len: Bytes(1024) }, data(2)),
            Want::Manage { zone, action } => (Op::Manage { action, zone: sector(zone, 0) }, Vec::new()),
            Want::ResetAll => (Op::ResetAll, Vec::new()),
            Want::Flush => (Op::Flush, Vec::new()),
        }
    }

    fn step(&mut self, want: Want) {
        let (op, data) = self.request(want);
        let before = self.model.clone();
        let expected = self.model.run(op, &data);
        let submitted = self.rig.disk.operations();
        let slot = self.rig.begin(op, data);
        self.rig.finish(slot);
        let answered = self.rig.disk.operations();
        let outcome = self.rig.outcome(slot);
        assert!(outcome.is_some_and(|outcome| outcome.is_ok() == expected.is_ok()), "{op:?}: {outcome:?}");
        for (zone, generation) in self.generations.iter_mut().enumerate() {
            let was = &before.zones[zone];
            let is = &self.model.zones[zone];
            *generation += u64::from(is.state == State::Empty && was.written > 0);
        }
        let zones = snapshots(&self.model, &self.generations);
        self.history.steps.push(Step { submitted, answered, flush: matches!(want, Want::Flush), zones });
    }
}

fn snapshots(model: &Model, generations: &[u64]) -> Vec<Snapshot> {
    let snapshot = |(zone, generation): (&ModelZone, &u64)| Snapshot { generation: *generation, zone: zone.clone() };
    model.zones.iter().zip(generations).map(snapshot).collect()
}

impl History {
    /// The stable zones, and all later ones that were acknowledged or submitted, at a power loss before an operation.
    fn at(&self, before: u64) -> (Vec<Snapshot>, Vec<&[Snapshot]>) {
        let mut stable = self.initial.clone();
        let mut later: Vec<&[Snapshot]> = Vec::new();
        for step in self.steps.iter().filter(|step| step.submitted <= before) {
            if step.flush && step.answered <= before {
                stable = later.last().map_or(stable, |zones| zones.to_vec());
                later.clear();
            } else {
                later.push(&step.zones);
            }
        }
        (stable, later)
    }
}

fn sector(data: &[u8], index: usize) -> &[u8] {
    &data[index * 512..(index + 1) * 512]
}

/// Whether what a recovered zone shows is allowed, given its stable state and the later ones.
fn allowed(stable: &Snapshot, later: &[&Snapshot], written: u64, data: &[u8]) -> bool {
    let count = data.len() / 512;
    if stable.zone.state == State::NotWp {
        return (0..count).all(|index| {
            let shown = sector(data, index);
            shown == sector(&stable.zone.data, index)
                || later.iter().any(|snapshot| sector(&snapshot.zone.data, index) == shown)
        });
    }
    let all: Vec<&Snapshot> = std::iter::once(stable).chain(later.iter().copied()).collect();
    let generations = all.iter().map(|snapshot| snapshot.generation);
    generations.clone().any(|generation| {
        let of = || all.iter().filter(|snapshot| snapshot.generation == generation);
        let Some(most) = of().max_by_key(|snapshot| snapshot.zone.written) else { return false };
        let least = if stable.generation == generation { stable.zone.written } else { 0 };
        // A finish moves the pointer to the end whatever was written before it.
        let in_range = (least..=most.zone.written).contains(&written);
        in_range
            && (0..count).all(|index| {
                let shown = sector(data, index);
                let at = index as u64 * 512;
                let zero = shown.iter().all(|byte| *byte == 0);
                if at >= written {
                    return zero;
                }
                let stable_here = stable.generation == generation && at < stable.zone.written;
                of().any(|snapshot| sector(&snapshot.zone.data, index) == shown && at < snapshot.zone.written)
                    || (zero && !stable_here)
            })
    })
}

/// One in so many states is also tried with a second power loss.
const TWICE: u64 = 8;

/// What the second life of a disk does to each of its zones.
#[derive(Clone, Copy, Debug)]
enum Second {
    Writes,
    Finishes,
}

/// What the second life of a disk writes.
const AGAIN: u8 = 0xfd;

/// Goes on with the zones that a power loss left, flushes nothing, and loses power again: each sector below a pointer is
/// as the guest found it, what this life wrote, or zeros.
fn judge_twice(disk: &SimDisk, shape: Shape, second: Second) -> Result<(), String> {
    let mut rig = Rig::open(Arc::new(disk.after_kill()));
    let zones = rig.zones();
    let found: Vec<Vec<u8>> = zones.iter().map(|zone| rig.read(zone.start.0, shape.zone as usize)).collect();
    for zone in &zones {
        let room = zone.start.0 + shape.capacity >= zone.write_pointer.0 + 1024;
        let done = match (zone.state, second) {
            (State::NotWp, _) => rig.write(zone.start.0, vec![AGAIN; 1024]),
            (State::Empty | State::Closed, Second::Writes) if room => {
                rig.write(zone.write_pointer.0, vec![AGAIN; 1024])
            }
            (State::Empty | State::Closed, Second::Finishes) => {
                rig.run(Op::Manage { action: Action::Finish, zone: zone.start.to_sector() }, Vec::new()).0
            }
            _ => continue,
        };
        done.map_err(|refusal| format!("{second:?} after it: {refusal}"))?;
    }
    judge_second_loss(&rig.disk, shape, &zones, &found).map_err(|fault| format!("{second:?}, {fault}"))
}

/// Loses the power of a second life, in which zones that were `found` so were written with [`AGAIN`] from their pointers
/// on, or finished.
fn judge_second_loss(disk: &SimDisk, shape: Shape, zones: &[ZoneInfo], found: &[Vec<u8>]) -> Result<(), String> {
    let crash = disk.crash_before(disk.operations());
    for one in crash.operations() {
        let mut again = Rig::open(Arc::new(crash.keeping(|number, _| number == one)));
        for (zone, found) in zones.iter().zip(found) {
            let written = match zone.state {
                State::NotWp => 0,
                _ => (zone.write_pointer.0 - zone.start.0) as usize,
            };
            let shown = again.read(zone.start.0, shape.zone as usize);
            let strange = shown.iter().zip(found).enumerate().find(|(at, (shown, found))| {
                let stays = *shown == *found;
                let new = [0, AGAIN].contains(*shown);
                !(stays || (new && *at >= written))
            });
            if let Some((at, (shown, found))) = strange {
                let (zone, at) = (zone.index, at as u64);
                return Err(format!(
                    "power lost again with operation {one} kept alone: zone {zone} shows {shown:#x} at {at}, where the \
                     guest found {found:#x} and wrote {AGAIN:#x} from {written} on"
                ));
            }
        }
    }
    Ok(())
}

/// Opens what a power loss left, and judges it.
fn judge(disk: SimDisk, history: &History, before: u64, number: u64) -> Result<(), String> {
    let shape = history.shape;
    if number.is_multiple_of(TWICE) {
        let second = if number.is_multiple_of(2 * TWICE) { Second::Finishes } else { Second::Writes };
        judge_twice(&disk, shape, second)?;
    }
    let disk = Arc::new(disk);
    let opened = rig::look(&disk);
    let mut image = opened.map_err(|error| format!("does not open: {error}"))?;
    let report = image.check().map_err(|error| format!("cannot be checked: {error}"))?;
    if report.errors > 0 {
        return Err(format!("check: {}", report.findings[0].message));
    }
    let (stable, later) = history.at(before);
    let mut rig = Rig::open(Arc::clone(&disk));
    let zones = rig.zones();
    for zone in &zones {
        let index = zone.index.0 as usize;
        let data = rig.read(zone.start.0, shape.zone as usize);
        let written = zone.write_pointer.0 - zone.start.0;
        let later: Vec<&Snapshot> = later.iter().map(|zones| &zones[index]).collect();
        if !allowed(&stable[index], &later, written, &data) {
            return Err(format!("zone {index} shows a pointer of {written} or contents that cannot be"));
        }
    }
    // The zones go on: what is written now reads back, and nothing old appears behind it.
    for zone in zones.iter().skip(1).filter(|zone| matches!(zone.state, State::Empty | State::Closed)) {
        let written = zone.write_pointer.0 - zone.start.0;
        if written + 512 > shape.capacity {
            continue;
        }
        rig.write(zone.write_pointer.0, vec![0xfd; 512]).map_err(|refusal| format!("write after it: {refusal}"))?;
        let finish = Op::Manage { action: Action::Finish, zone: zone.start.to_sector() };
        rig.run(finish, Vec::new()).0.map_err(|refusal| format!("finish after it: {refusal}"))?;
        let rest = rig.read(zone.write_pointer.0, (shape.zone - written) as usize);
        if rest[..512].iter().any(|byte| *byte != 0xfd) || rest[512..].iter().any(|byte| *byte != 0) {
            return Err(format!("zone {} shows old bytes behind new ones", zone.index));
        }
    }
    Ok(())
}

/// The ways a power loss is decided: all, none, each one missing, each one kept, each torn.
fn decide(crash: &Crash, mut each: impl FnMut(String, SimDisk)) {
    let operations = crash.operations();
    each("all kept".into(), crash.keeping(|_, _| true));
    if operations.is_empty() {
        return;
    }
    each("none kept".into(), crash.keeping(|_, _| false));
    for one in &operations {
        if operations.len() > 1 {
            each(format!("operation {one} lost"), crash.keeping(|number, _| number != *one));
            each(format!("operation {one} kept alone"), crash.keeping(|number, _| number == *one));
        }
        each(format!("operation {one} torn"), crash.keeping(|number, sector| number != *one || sector == 0));
    }
}

/// Runs a sequence and judges every power loss in it. Returns how many there were.
fn explore(image: &SimDisk, model: &Model, wants: &[Want], cluster_size: u64, shape: Shape) -> u64 {
    let mut run = Run::start(image.after_kill(), model.clone(), shape);
    wants.iter().for_each(|want| run.step(*want));
    while run.rig.housekeep() {}
    let mut states = 0;
    for before in 0..=run.rig.disk.operations() {
        decide(&run.rig.disk.crash_before(before), |what, disk| {
            states += 1;
            if let Err(fault) = judge(disk, &run.history, before, states) {
                panic!("clusters of {cluster_size}, {wants:?}, power lost before operation {before}, {what}: {fault}");
            }
        });
    }
    states
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How a new image is made.
type Make = fn(GeometryRequest, Bytes) -> Arc<SimDisk>;

/// A new image, and one on which the zones were used before.
fn images(make: Make, cluster_size: u64) -> Vec<(SimDisk, Model)> {
    let fresh = make(SMALL.geometry(), Bytes(cluster_size));
    let fresh_model = Model::new(&SMALL.geometry());
    let mut used = Run::start(fresh.after_kill(), fresh_model.clone(), SMALL);
    let before = [
        Want::Write { zone: 1, sectors: 5 },
        Want::Fill { zone: 2 },
        Want::Write { zone: 3, sectors: 20 },
        Want::Conventional { sector: 3 },
        Want::Manage { zone: 3, action: Action::Reset },
    ];
    before.iter().for_each(|want| used.step(*want));
    used.rig.store.close().unwrap();
    vec![(fresh.after_kill(), fresh_model), (used.rig.disk.after_kill(), used.model.reopened())]
}

/// The clusters of images that others build on.
const BASE_CLUSTER: u64 = 4096;

/// An image on the used one, and one on that, in which zones were reset and written that the lowest has data in.
fn forks(make: Make, cluster_size: u64) -> Vec<(SimDisk, Model)> {
    let (used, model) = images(make, BASE_CLUSTER).swap_remove(1);
    let used = Arc::new(used);
    let fork = rig::fork(&used, Bytes(cluster_size));
    let below = rig::fork(&used, Bytes(BASE_CLUSTER));
    let mut middle = Run::start(below.after_kill(), model.clone(), SMALL);
    let before = [
        Want::Manage { zone: 2, action: Action::Reset },
        Want::Write { zone: 2, sectors: 11 },
        Want::Write { zone: 1, sectors: 4 },
        Want::Conventional { sector: 5 },
    ];
    before.iter().for_each(|want| middle.step(*want));
    middle.rig.store.close().unwrap();
    let above = rig::fork(&Arc::new(middle.rig.disk.after_kill()), Bytes(cluster_size));
    vec![(fork.after_kill(), model), (above.after_kill(), middle.model.reopened())]
}

#[test]
fn no_power_loss_in_any_short_sequence_loses_what_was_stable_or_shows_what_was_not_written() {
    explore_all(images, &[(65536, 0), (65536, 1), (4096, 0), (4096, 1)]);
}

#[test]
fn no_power_loss_of_a_fork_loses_what_was_stable_or_shows_what_its_base_has_of_a_zone_that_was_reset() {
    // Zones of many clusters, of one, and two in one.
    explore_all(forks, &[(131_072, 0), (4096, 1), (65536, 1)]);
}

/// Explores all sequences of `CRASH_DEPTH` requests on images, by their clusters and which of those made with these.
fn explore_all(made: fn(Make, u64) -> Vec<(SimDisk, Model)>, images: &[(u64, usize)]) {
    let depth = setting("CRASH_DEPTH", 2);
    let all = &|cluster_size, which| {
        let (image, model) = made(rig::create, cluster_size).swap_remove(which);
        let mut states = 0;
        for number in 0..(ALPHABET.len() as u64).pow(depth as u32) {
            let digit = |place: u32| ALPHABET[(number / 14u64.pow(place) % 14) as usize];
            let wants: Vec<Want> = (0..depth as u32).map(digit).collect();
            states += explore(&image, &model, &wants, cluster_size, SMALL);
        }
        states
    };
    let states: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> =
            images.iter().map(|(cluster_size, which)| scope.spawn(move || all(*cluster_size, *which))).collect();
        let judged = |thread: ScopedJoinHandle<'_, u64>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(judged).sum()
    });
    let sequences = images.len() * ALPHABET.len().pow(depth as u32);
    println!("{sequences} sequences of {depth} requests, {states} power losses, 0 violations");
}

#[test]
fn a_zone_that_was_full_without_a_byte_is_not_written_before_its_reset_is_stable() {
    // The first write makes the reservation, so that the last one needs no flush for its space.
    let wants = [
        Want::Write { zone: 2, sectors: 9 },
        Want::Manage { zone: 1, action: Action::Finish },
        Want::Manage { zone: 1, action: Action::Reset },
        Want::Write { zone: 1, sectors: 3 },
    ];
    let (image, model) = images(rig::create, 65536).swap_remove(0);
    assert!(explore(&image, &model, &wants, 65536, SMALL) > 0);
}

#[test]
fn no_power_loss_around_a_finish_in_layout_b_loses_what_was_stable_or_shows_what_was_not_written() {
    let [write, finish, reset, fill] = [
        Want::Write { zone: 1, sectors: 3 },
        Want::Manage { zone: 1, action: Action::Finish },
        Want::Manage { zone: 1, action: Action::Reset },
        Want::Fill { zone: 1 },
    ];
    let mut states = 0;
    for (image, model) in images(rig::create_b, 65536) {
        for wants in [[write, finish, reset, write], [finish, Want::Flush, reset, fill], [fill, reset, write, finish]] {
            states += explore(&image, &model, &wants, 65536, SMALL);
        }
    }
    println!("{states} power losses, 0 violations");
}

#[test]
fn space_that_is_mapped_ahead_of_a_zone_s_writes_survives_a_power_loss_as_any_other() {
    let zone = 1;
    let most = Want::Write { zone, sectors: 1200 };
    let reset = Want::Manage { zone, action: Action::Reset };
    let disk = rig::create(LARGE.geometry(), Bytes(65536));
    let model = Model::new(&LARGE.geometry());
    let mut states = 0;
    for wants in [
        [most, Want::Flush, Want::Fill { zone }, reset, most],
        [most, reset, Want::Write { zone, sectors: 3 }, most, Want::Fill { zone }],
    ] {
        states += explore(&disk, &model, &wants, 65536, LARGE);
    }
    println!("{states} power losses, 0 violations");
}

/// A zone with some stable sectors, and a second write of its guest landed behind one that has not: bytes above the
/// pointer that no guest can read.
fn landed_above_the_pointer() -> (Rig, u16) {
    let mut run =
        Run::start(rig::create(SMALL.geometry(), Bytes(65536)).after_kill(), Model::new(&SMALL.geometry()), SMALL);
    run.step(Want::Write { zone: 1, sectors: 3 });
    run.step(Want::Flush);
    let mut rig = run.rig;
    let write = |sector: u64| Op::Write { start: Sector(SMALL.zone / 512 + sector), len: Bytes(512) };
    let first = rig.begin(write(3), vec![0xaa; 512]);
    let second = rig.begin(write(4), vec![0xbb; 512]);
    rig.perform(second);
    (rig, first)
}

/// Writes where bytes that nobody can read may be, and loses power: they do not show.
fn judge_what_is_above_the_pointer(mut rig: Rig) {
    let zones = rig.zones();
    let found: Vec<Vec<u8>> = zones.iter().map(|zone| rig.read(zone.start.0, SMALL.zone as usize)).collect();
    assert_eq!(zones[1].write_pointer.0 - zones[1].start.0, 1536, "one write of the three was answered");
    rig.write(zones[1].write_pointer.0, vec![AGAIN; 1024]).unwrap();
    let disk = Arc::clone(&rig.disk);
    let crash = disk.crash_before(disk.operations());
    let operations = crash.operations();
    // Two operations together: the pointer, and the bytes from above it.
    for (first, second) in operations.iter().flat_map(|first| operations.iter().map(move |second| (*first, *second))) {
        let mut again = Rig::open(Arc::new(crash.keeping(|number, _| number == first || number == second)));
        let shown = again.read(zones[1].start.0, SMALL.zone as usize);
        assert_eq!(shown[..1536], found[1][..1536]);
        assert!(
            shown[1536..].iter().all(|byte| [0, AGAIN].contains(byte)),
            "operations {first} and {second} kept: what nobody could read shows"
        );
    }
}

#[test]
fn what_a_killed_process_left_above_a_pointer_never_shows() {
    let (rig, _) = landed_above_the_pointer();
    judge_what_is_above_the_pointer(Rig::open(Arc::new(rig.disk.after_kill())));
}

#[test]
fn what_landed_behind_a_failed_write_never_shows() {
    let (mut rig, first) = landed_above_the_pointer();
    rig.disk.fail_at(rig.disk.operations(), libc::EIO, false);
    rig.perform(first);
    assert!(rig.outcome(first).is_some_and(|outcome| outcome.is_err()));
    judge_what_is_above_the_pointer(rig);
}

#[test]
fn an_end_is_in_order_only_where_nothing_is_left_above_a_pointer() {
    for failing in 0..10 {
        let (killed, _) = landed_above_the_pointer();
        let rig = Rig::open(Arc::new(killed.disk.after_kill()));
        rig.disk.fail_at(rig.disk.operations() + failing, libc::EIO, false);
        let closed = rig.store.close();
        assert!(failing < 9 || closed.is_ok(), "nothing fails in a close of fewer operations: {closed:?}");
        judge_what_is_above_the_pointer(Rig::open(Arc::new(rig.disk.after_kill())));
    }
}

#[test]
fn a_zone_is_cleared_above_its_pointer_after_an_end_out_of_order_only() {
    for (orderly, operations) in [(true, 2), (false, 5)] {
        let mut run =
            Run::start(rig::create(SMALL.geometry(), Bytes(65536)).after_kill(), Model::new(&SMALL.geometry()), SMALL);
        run.step(Want::Write { zone: 1, sectors: 3 });
        run.rig.drain();
        if orderly {
            run.rig.store.close().unwrap();
        }
        let mut rig = Rig::open(Arc::new(run.rig.disk.after_kill()));
        for (at, operations) in [(1536, operations), (2048, 2)] {
            let before = rig.disk.operations();
            let op = Op::Write { start: Bytes(SMALL.zone + at).to_sector(), len: Bytes(512) };
            let slot = rig.begin(op, vec![AGAIN; 512]);
            rig.finish(slot);
            // The data and the pointer; before them the pointer's flush, the punch, the hole's flush.
            assert_eq!(rig.disk.operations() - before, operations, "orderly: {orderly}, written at {at}");
            rig.drain();
        }
    }
}

#[test]
fn no_power_loss_in_long_random_sequences_loses_what_was_stable_or_shows_what_was_not_written() {
    let first = setting("CRASH_SEED", 1);
    let mut states = 0;
    let until = Instant::now() + Duration::from_secs(60 * setting("CRASH_MINUTES", 0));
    let least = setting("CRASH_SEEDS", 6);
    let mut seeds = 0;
    while seeds < least || Instant::now() < until {
        let seed = first + seeds;
        seeds += 1;
        let mut random = sim::Rng::new(seed);
        let cluster_size = [512, 4096, 65536][random.below(3) as usize];
        let make = [rig::create as Make, rig::create_b][random.below(2) as usize];
        let made = [images, forks][random.below(2) as usize];
        let (image, model) = made(make, cluster_size).swap_remove(random.below(2) as usize);
        let mut run = Run::start(image, model, SMALL);
        for _ in 0..200 {
            run.step(ALPHABET[random.below(ALPHABET.len() as u64) as usize]);
        }
        let operations = run.rig.disk.operations();
        for _ in 0..300 {
            let before = random.below(operations + 1);
            let share = random.below(101);
            let crash = run.rig.disk.crash_before(before);
            let disk = crash.keeping(|_, _| random.below(100) < share);
            states += 1;
            if let Err(fault) = judge(disk, &run.history, before, states) {
                panic!("CRASH_SEED={seed}, power lost before operation {before}: {fault}");
            }
        }
    }
    println!("{seeds} random sequences from seed {first}, {states} power losses, 0 violations");
}
