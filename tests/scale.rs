//! Large disks: 16 TiB in 262,144 zones, partly written; 1,048,576 zones; filled and reset again and again.
//!
//! What is asserted is behaviour and bounds of memory and space. Times are printed, not judged: see them with
//! `cargo test --release --test scale -- --nocapture --test-threads 1`. With `ZBD_SCALE=long` zones are really written
//! where the short form only says so in the write-pointer table, and the last test does its hundred passes over 1 GiB.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests fail by panicking")]

mod common;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use common::cli::{Geo, Image};
use common::disk::{Disk, Setup};
use common::frontend::Token;
use common::model::pattern;
use common::request::{Done, Req, State, Status};
use common::ring::wait_for_call;
use common::{KIB, MIB, PATIENCE, eventually};

const GEO: Geo = Geo {
    size: 16 << 40,
    zone: 64 * MIB,
    cap: 64 * MIB,
    conv: 0,
    open: 0,
    active: 0,
    append: 512 << 10,
    cluster: 64 << 10,
};

/// The first zone is conventional: writes to it go on whatever happens to the others.
const MILLION: Geo = Geo { size: 1 << 40, zone: MIB, cap: MIB, conv: 1, ..GEO };

/// The queue of the request that concerns every zone, and of the writes beside it.
const ALL: usize = 0;
const WRITES: usize = 1;

fn long() -> bool {
    std::env::var("ZBD_SCALE").is_ok_and(|form| form == "long")
}

/// Writes a block to every sequential zone, or to one in `step`.
fn write_everywhere(disk: &mut Disk, step: usize) {
    let geo = disk.geo();
    let mut asked = VecDeque::new();
    for zone in (geo.first_seq()..geo.zones()).step_by(step) {
        asked.push_back(disk.submit(0, &Req::write(geo.start(zone), pattern(zone as u64, 0, 4096))));
        if asked.len() == 64 {
            let first = asked.pop_front().unwrap();
            assert_eq!(disk.wait(first).status, Status::Ok);
        }
    }
    for token in asked {
        assert_eq!(disk.wait(token).status, Status::Ok);
    }
}

/// Every sequential zone's pointer 4 KiB into it, as if each had been written. What is not mapped reads as zeros.
fn say_all_are_written(image: &Image, geo: &Geo) {
    let table = image.be64(image.extension() + 40);
    let pointers: Vec<u8> =
        (geo.first_seq()..geo.zones()).flat_map(|zone| (zone as u64 * geo.zone + 4096).to_be_bytes()).collect();
    image.patch(table + 8 * u64::from(geo.conv), &pointers);
}

/// What was seen while a request was in flight that concerns every zone.
struct Beside {
    done: Done,
    took: Duration,
    writes: usize,
    longest: Duration,
}

/// Has a request done on one queue, and on another, one after the other, writes to the conventional zone. Neither the
/// making of the request nor looking at its answer counts.
fn beside_writes(disk: &mut Disk, req: &Req) -> Beside {
    let block = pattern(1, 0, 4096);
    let sectors = disk.geo().len(0) - 8;
    disk.front().plug();
    let token = disk.submit(ALL, req);
    disk.front().unplug();
    let begun = Instant::now();
    let (mut writes, mut longest, mut took) = (0, Duration::ZERO, None);
    while took.is_none() {
        let write = disk.submit(WRITES, &Req::write(writes as u64 * 8 % sectors, block.clone()));
        let asked = Instant::now();
        await_used(disk, WRITES);
        longest = longest.max(asked.elapsed());
        let front = disk.front();
        if front.queues[ALL].has_used(&front.mem) {
            took = Some(begun.elapsed());
        }
        assert_eq!(disk.wait(write).status, Status::Ok);
        writes += 1;
    }
    Beside { done: disk.wait(token), took: took.unwrap(), writes, longest }
}

/// Waits until a queue has an answer, and leaves it there.
fn await_used(disk: &mut Disk, queue: usize) {
    let front = disk.front();
    let one = &front.queues[queue..=queue];
    loop {
        one[0].arm(&front.mem);
        if one[0].has_used(&front.mem) {
            return;
        }
        assert!(wait_for_call(one, &front.conn.sock, Instant::now() + PATIENCE), "queue {queue}: no answer");
    }
}

/// Has a request done alone.
fn alone(disk: &mut Disk, req: &Req) -> (Done, Duration) {
    disk.front().plug();
    let token: Token = disk.submit(ALL, req);
    let begun = Instant::now();
    disk.front().unplug();
    await_used(disk, ALL);
    let took = begun.elapsed();
    (disk.wait(token), took)
}

fn assert_reports_all(done: &Done, state: State) {
    let zones = done.zones();
    assert_eq!(zones.len(), MILLION.zones());
    let right = |zone: usize| zones[zone].start == MILLION.start(zone) && zones[zone].state == state;
    assert!((MILLION.first_seq()..MILLION.zones()).all(right));
}

/// In the short form one zone in 64 is written: file systems that discard what is freed make each cost time twice.
#[test]
fn a_disk_of_16_tebibytes_with_every_zone_partly_written_is_served_in_less_than_200_mebibytes() {
    let begun = Instant::now();
    let image = Image::create(&GEO);
    println!("created in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut disk = Setup::new(GEO).start_on(image);
    println!("served in {:?}", begun.elapsed());
    let begun = Instant::now();
    let step = if long() { 1 } else { 64 };
    write_everywhere(&mut disk, step);
    println!("one zone in {step} written in {:?}, resident {} KiB", begun.elapsed(), disk.daemon.status_kib("VmRSS"));
    assert!(disk.daemon.status_kib("VmHWM") < 200 * 1024);

    let begun = Instant::now();
    assert!(disk.stop().success());
    println!("stopped in {:?}", begun.elapsed());
    let begun = Instant::now();
    disk.start_again();
    println!("served again in {:?}", begun.elapsed());
    for zone in (0..GEO.zones()).step_by(1024) {
        assert_eq!(disk.read(GEO.start(zone), 4096).unwrap(), pattern(zone as u64, 0, 4096));
        assert_eq!(disk.write(GEO.start(zone) + 8, &pattern(zone as u64, 8, 4096)), Status::Ok);
    }
    println!("resident {} KiB", disk.daemon.status_kib("VmRSS"));
    assert!(disk.daemon.status_kib("VmHWM") < 200 * 1024);
    let (done, took) = alone(&mut disk, &Req::reset_all());
    assert_eq!(done.status, Status::Ok);
    println!("all zones reset in {took:?}");
    let begun = Instant::now();
    assert_eq!(disk.write(GEO.start(GEO.zones() / 2), &pattern(3, 0, 4096)), Status::Ok);
    println!("written again after {:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(disk.stop().success());
    println!("stopped in {:?}, the image takes {} MiB", begun.elapsed(), disk.image.host_bytes() / MIB);
    let begun = Instant::now();
    disk.image.assert_clean();
    println!("checked in {:?}", begun.elapsed());
}

#[test]
fn reports_and_resets_of_a_million_zones_leave_writes_alone() {
    let image = Image::create(&MILLION);
    if !long() {
        say_all_are_written(&image, &MILLION);
    }
    let begun = Instant::now();
    let mut disk = Setup::new(MILLION).queues(2).memory(256 * MIB).start_on(image);
    println!("open: {:?}", begun.elapsed());
    if long() {
        let begun = Instant::now();
        write_everywhere(&mut disk, 1);
        println!("every zone written in {:?}", begun.elapsed());
    }
    let everything = Req::report(0, 64 + 64 * MILLION.zones());
    // The first writes find the zone's space and the guest's pages.
    beside_writes(&mut disk, &Req::report(0, 64 + 64));

    let (_, took) = alone(&mut disk, &everything);
    println!("report of all zones: {took:?}");
    let seen = beside_writes(&mut disk, &everything);
    println!("beside writes: {:?}, {} writes, the longest {:?}", seen.took, seen.writes, seen.longest);
    assert_reports_all(&seen.done, if long() { State::ImplicitOpen } else { State::Closed });

    let seen = beside_writes(&mut disk, &Req::reset_all());
    println!("reset of all zones: {:?}, {} writes beside, the longest {:?}", seen.took, seen.writes, seen.longest);
    assert_eq!(seen.done.status, Status::Ok);

    // A zone that waits to be cleared with all the others is cleared out of turn when it is written.
    for zone in [MILLION.zones() / 2, MILLION.zones() - 1, 1] {
        let begun = Instant::now();
        assert_eq!(disk.write(MILLION.start(zone), &pattern(zone as u64, 0, 4096)), Status::Ok);
        println!("zone {zone} written again after {:?}", begun.elapsed());
        assert_eq!(disk.reset(zone), Status::Ok);
    }
    let (done, took) = alone(&mut disk, &everything);
    println!("report of all zones: {took:?}");
    assert_reports_all(&done, State::Empty);
    let begun = Instant::now();
    assert!(disk.stop().success());
    println!("stopped in {:?}, the image takes {} MiB", begun.elapsed(), disk.image.host_bytes() / MIB);
}

#[test]
fn memory_follows_the_number_of_zones() {
    let private = |zones: u64| {
        let geo = Geo { size: zones * MIB, ..MILLION };
        let image = Image::create(&geo);
        say_all_are_written(&image, &geo);
        let disk = Setup::new(geo).start_on(image);
        (disk.daemon.private_kib(), disk.daemon.cpu_ticks(), disk)
    };
    let (small, _, disk) = private(16);
    drop(disk);
    let (large, _, disk) = private(1 << 20);
    let each = ((large - small) * 1024).div_ceil((1 << 20) - 16);
    println!("private memory: {small} KiB with 16 zones, {large} KiB with 1048576, {each} bytes a zone");
    assert!(small < 5 * 1024, "{small} KiB private with 16 zones");
    assert!(each <= 96, "{each} bytes a zone");
    let before = disk.daemon.cpu_ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(disk.daemon.cpu_ticks(), before, "an idle daemon takes processor time");
}

/// The first and the last pass, and how much of the host the file takes, full and empty.
#[test]
fn filling_and_resetting_the_disk_again_and_again_costs_the_same() {
    let (size, passes) = if long() { (1 << 30, 100) } else { (64 * MIB, 10) };
    let geo = Geo { size, zone: 16 * MIB, cap: 16 * MIB, conv: 0, ..GEO };
    let mut disk = Setup::new(geo).start();
    let data = pattern(7, 0, 256 * KIB as usize);
    let sectors = data.len() as u64 / 512;
    let mut times = Vec::new();
    let (mut full, mut length) = (0, 0);
    let file_length = |disk: &Disk| std::fs::metadata(disk.image.path()).unwrap().len();
    for pass in 0..passes {
        let begun = Instant::now();
        let mut asked = VecDeque::new();
        for zone in 0..geo.zones() {
            for at in 0..geo.cap(zone) / sectors {
                asked.push_back(disk.submit(0, &Req::write(geo.start(zone) + at * sectors, data.clone())));
                if asked.len() == 32 {
                    let first = asked.pop_front().unwrap();
                    assert_eq!(disk.wait(first).status, Status::Ok);
                }
            }
        }
        for token in asked {
            assert_eq!(disk.wait(token).status, Status::Ok);
        }
        times.push(begun.elapsed());
        if pass == 0 {
            (full, length) = (disk.image.host_bytes(), file_length(&disk));
        }
        assert!(disk.image.host_bytes() <= full + MIB, "the image takes more in pass {pass} than in the first");
        assert_eq!(file_length(&disk), length, "the image is longer in pass {pass} than in the first");
        assert_eq!(disk.reset_all(), Status::Ok);
    }
    let rate = |time: &Duration| size as f64 / MIB as f64 / time.as_secs_f64();
    let median = |times: &[Duration]| {
        let mut sorted = times.to_vec();
        sorted.sort();
        rate(&sorted[sorted.len() / 2])
    };
    let (first, rest) = times.split_first().unwrap();
    let tenth = (passes / 10).max(3);
    println!(
        "{passes} passes over {} MiB: first {:.0} MiB/s, passes 2 to {}: median {:.0} MiB/s, last {tenth}: median {:.0} MiB/s, last {:.0} MiB/s",
        size / MIB,
        rate(first),
        tenth + 1,
        median(&rest[..tenth]),
        median(&times[times.len() - tenth..]),
        rate(&times[times.len() - 1])
    );
    let image = disk.image.path().to_path_buf();
    let host_bytes = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(&image).unwrap().blocks() * 512
    };
    eventually("the host to have the blocks back", || (host_bytes() < full / 8).then_some(()));
    println!("the image took {} MiB full and {} MiB empty", full / MIB, host_bytes() / MIB);
    assert!(disk.stop().success());
    disk.assert_image_sound();
}
