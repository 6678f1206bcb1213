//! `serve URL --snapshot`: a golden image that is reached by network, through the built daemon.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::common::cli::{Geo, Image, SMALL, fails, program};
use super::common::daemon::Daemon;
use super::common::disk::{Disk, Setup};
use super::common::model::{assert_ok, pattern};
use super::common::request::Status;
use super::rig::{CHUNK, MIB, Rig};
use super::server::{Manner, Server};

const GEO: Geo = Geo { size: 32 * MIB, zone: 4 * MIB, cap: 4 * MIB, ..SMALL };

/// Zones that are full, one after another.
const FULL: std::ops::Range<usize> = 2..6;

fn golden() -> Arc<Vec<u8>> {
    let mut disk = Setup::new(GEO).start();
    FULL.for_each(|zone| disk.fill(zone, GEO.zone));
    assert!(disk.stop().success());
    Arc::new(std::fs::read(disk.image.path()).unwrap())
}

fn serving(bytes: &Arc<Vec<u8>>) -> Manner {
    Manner { bytes: Some(Arc::clone(bytes)), ..Manner::of(bytes.len() as u64) }
}

/// A daemon on the server's object, with the frontend.
struct Served {
    disk: Disk,
    daemon: Daemon,
}

fn socket(rig: &Rig, name: &str) -> PathBuf {
    rig.folder.path().join(format!("{name}.socket"))
}

fn command(rig: &Rig, url: &str, name: &str) -> Command {
    let mut command = Command::new(program());
    command.args(["serve", url, "--snapshot", "--cache-dir"]).arg(rig.cache()).arg("--socket-path");
    command.arg(socket(rig, name)).env("TMPDIR", rig.folder.path());
    command
}

fn serve(rig: &Rig, url: &str, name: &str) -> Served {
    let socket = socket(rig, name);
    let mut daemon = Daemon::spawn_program(&mut command(rig, url, name), &socket);
    daemon.await_socket();
    drop(daemon.connect());
    Served { disk: Disk::of_service(Setup::new(GEO), &socket), daemon }
}

/// Reads a zone that is full, and what was written there.
fn check(disk: &mut Disk, zone: usize) {
    let expected = pattern(zone as u64, 0, 64 << 10);
    for part in 0..GEO.zone >> 16 {
        assert_eq!(disk.read(GEO.start(zone) + part * 128, 64 << 10), Ok(expected.clone()), "zone {zone}, part {part}");
    }
}

/// Reads the beginning of such a zone, which is not enough for anything to be fetched ahead.
fn glance(disk: &mut Disk, zone: usize) {
    assert!(disk.read(GEO.start(zone), 4096) == Ok(pattern(zone as u64, 0, 4096)));
}

#[test]
fn a_guest_sees_the_image_of_a_server_and_what_it_writes_stays_here() {
    let server = Server::start(Manner { late: Duration::from_millis(20), ..serving(&golden()) });
    let rig = Rig::new(1 << 40);
    let begun = Instant::now();
    let Served { mut disk, mut daemon } = serve(&rig, &server.url(), "one");
    let wp: Vec<u64> = disk.zones().iter().map(|zone| zone.wp).collect();
    let first = begun.elapsed();
    eprintln!("first zone report after {first:?}, {} requests of 20 ms", server.heads() + server.requests());
    assert!(first < Duration::from_secs(3), "{first:?}");
    assert_eq!(wp[FULL.start], GEO.start(FULL.start) + GEO.zone / 512);
    FULL.for_each(|zone| check(&mut disk, zone));
    assert_ok(disk.reset(3));
    assert_ok(disk.write(GEO.start(3), &[9; 4096]));
    assert_eq!(disk.read(GEO.start(3), 8192).map(|bytes| (bytes[0], bytes[4095], bytes[4096])), Ok((9, 9, 0)));
    check(&mut disk, 4);
    drop(disk);
    assert!(daemon.terminate().success());
    assert!(server.counts(CHUNK).values().all(|count| *count == 1), "{:?}", server.counts(CHUNK));
    let Served { mut disk, mut daemon } = serve(&rig, &server.url(), "two");
    check(&mut disk, 3);
    drop(disk);
    assert!(daemon.terminate().success());
}

#[test]
fn a_server_that_dies_fails_reads_until_it_is_back_and_holds_no_end_up() {
    let mut server = Server::start(serving(&golden()));
    let rig = Rig::new(1 << 40);
    let Served { mut disk, mut daemon } = serve(&rig, &server.url(), "one");
    glance(&mut disk, 2);
    server.kill();
    assert_eq!(disk.read(GEO.start(5), 4096).map(drop), Err(Status::IoErr));
    glance(&mut disk, 2);
    daemon.await_log(&["reads fail", &server.url()]);
    server.revive();
    check(&mut disk, 5);
    daemon.await_log(&["reads succeed again", &server.url()]);
    server.kill();
    drop(disk);
    assert!(daemon.terminate().success());
}

#[test]
fn twenty_daemons_share_a_cache_and_each_chunk_comes_once() {
    let server = Server::start(Manner { late: Duration::from_millis(5), ..serving(&golden()) });
    let rig = Rig::new(1 << 40);
    let together = Barrier::new(20);
    std::thread::scope(|scope| {
        for number in 0..20 {
            let (rig, server, together) = (&rig, &server, &together);
            scope.spawn(move || {
                let Served { mut disk, mut daemon } = serve(rig, &server.url(), &number.to_string());
                together.wait();
                FULL.for_each(|zone| check(&mut disk, if number % 2 == 0 { zone } else { 7 - zone }));
                drop(disk);
                assert!(daemon.terminate().success());
            });
        }
    });
    let counts = server.counts(CHUNK);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

#[test]
fn a_base_that_changes_under_a_guest_is_named_and_only_what_was_not_fetched_is_lost() {
    let server = Server::start(serving(&golden()));
    let rig = Rig::new(1 << 40);
    let Served { mut disk, mut daemon } = serve(&rig, &server.url(), "one");
    glance(&mut disk, 2);
    server.change(|manner| manner.version = 2);
    assert_eq!(disk.read(GEO.start(5), 4096).map(drop), Err(Status::IoErr));
    daemon.await_log(&[&server.url(), "the base has changed: expected etag \"version-1\""]);
    glance(&mut disk, 2);
    drop(disk);
    assert!(daemon.terminate().success());
}

#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let rig = Rig::new(1 << 40);
    let cache = rig.cache().to_str().unwrap().to_owned();
    let socket = socket(&rig, "no").to_str().unwrap().to_owned();
    let server = Server::start(Manner::of(MIB));
    let with = |url: &str, more: &[&str], expected: &[&str]| {
        let args = ["serve", url, "--socket-path", &socket, "--cache-dir", &cache];
        fails(&[&args[..], more].concat(), expected);
    };
    with(&server.url(), &[], &[&server.url(), "expected --snapshot"]);
    with(&server.url(), &["--snapshot"], &[&server.url(), "expected"]);
    with(&server.url(), &["--snapshot", "--cache-size", "1M"], &["--cache-size", "expected at least 64"]);
    server.change(|manner| manner.status = Some(404));
    with(&server.url(), &["--snapshot"], &[&server.url(), "no such object"]);
    with("http://127.0.0.1:1/golden", &["--snapshot"], &["http://127.0.0.1:1/golden", "refused"]);
}

#[test]
fn a_file_url_is_the_file_itself() {
    let image = Image::create(&GEO);
    let rig = Rig::new(1 << 40);
    let Served { mut disk, mut daemon } = serve(&rig, &format!("file://{}", image.name()), "file");
    assert_ok(disk.write(GEO.start(2), &[5; 4096]));
    drop(disk);
    assert!(daemon.terminate().success());
    assert!(!rig.cache().exists());
}
