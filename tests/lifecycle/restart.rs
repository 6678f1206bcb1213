//! Frontends one after another, and orderly ends.

use std::time::Instant;

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::Options;
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{Req, State, Status};
use crate::common::{MIB, PATIENCE};
use crate::load::Load;

const SEQ: usize = 2;

#[test]
fn one_frontend_after_another_is_served_on_the_same_socket() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let files = disk.daemon.open_files();
    for round in 0..20_u64 {
        assert_ok(disk.write(start + 8 * round, &pattern(round, 0, 4096)));
        disk.reconnect_with(&Options { queue_size: [128, 256, 16][round as usize % 3], ..Options::default() });
        assert_eq!(disk.zone(SEQ).written(), 8 * (round + 1));
    }
    let all: Vec<u8> = (0..20).flat_map(|round| pattern(round, 0, 4096)).collect();
    assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
    let now = disk.daemon.open_files();
    assert!(now <= files + 3, "descriptors leak with each connection: {files}, then {now}");
    disk.finish_clean();
}

#[test]
fn explicitly_open_zones_stay_open_for_the_next_frontend() {
    let mut disk = Disk::small();
    assert_ok(disk.open(SEQ));
    disk.fill(SEQ + 1, 4096);
    disk.reconnect();
    assert_eq!((disk.state(SEQ), disk.state(SEQ + 1)), (State::ExplicitOpen, State::ImplicitOpen));
}

#[test]
fn a_frontend_that_hangs_up_with_requests_in_flight_leaves_whole_ones() {
    let mut disk = Setup::default().queues(2).queue_size(256).start();
    for round in 0..10_u64 {
        let start = disk.geo().start(SEQ);
        for at in 0..64 {
            disk.submit(0, &Req::write(start + 8 * at, pattern(100 + at, 0, 4096)));
            disk.submit(1, &Req::append(disk.geo().start(SEQ + 1), pattern(200 + at, 0, 4096)));
        }
        disk.reconnect();
        for zone in [SEQ, SEQ + 1] {
            let written = disk.zone(zone).written();
            assert_eq!(written % 8, 0, "round {round}");
            if zone == SEQ {
                let expected: Vec<u8> = (0..written / 8).flat_map(|at| pattern(100 + at, 0, 4096)).collect();
                if !expected.is_empty() {
                    assert_same(&disk.read(start, expected.len()).unwrap(), &expected, start);
                }
            }
        }
        assert_ok(disk.reset_all());
    }
    disk.finish_clean();
}

#[test]
fn a_second_frontend_waits_until_the_first_has_gone() {
    let mut disk = Disk::small();
    let mut second = std::os::unix::net::UnixStream::connect(disk.daemon.socket()).unwrap();
    second.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let ask = [crate::common::proto::words(&[1, 1, 0])].concat();
    std::io::Write::write_all(&mut second, &ask).unwrap();
    // Waiting or turned away, but the first is served on.
    let mut byte = [0];
    let answered = matches!(std::io::Read::read(&mut second, &mut byte), Ok(1));
    assert!(!answered, "two frontends are served at once");
    disk.assert_works();
    drop(second);
    disk.assert_works();
}

#[test]
fn a_restart_keeps_contents_and_pointers_and_closes_open_zones() {
    let mut disk = Disk::small();
    disk.fill(SEQ, 8192);
    assert_ok(disk.open(SEQ + 1));
    assert_ok(disk.open(SEQ + 2));
    disk.fill(SEQ + 2, 4096);
    disk.fill(SEQ + 3, SMALL.cap);
    disk.fill(SEQ + 4, 4096);
    assert_ok(disk.finish(SEQ + 4));
    let data = pattern(3, 0, 65536);
    assert_ok(disk.write(MIB / 512 - 8, &data));
    disk.restart();
    let states: Vec<State> = disk.zones().iter().map(|zone| zone.state).collect();
    use State::{Closed, Empty, Full, NotWp};
    assert_eq!(states, [NotWp, NotWp, Closed, Empty, Closed, Full, Full, Empty]);
    assert_eq!((disk.zone(SEQ).written(), disk.zone(SEQ + 2).written()), (16, 8));
    assert_same(&disk.read(MIB / 512 - 8, 65536).unwrap(), &data, MIB / 512 - 8);
    disk.finish_clean();
}

#[test]
fn random_load_survives_restarts() {
    let geo = Geo { size: 12 * MIB, open: 4, ..SMALL };
    let disk = Setup::new(geo).queues(3).queue_size(256).start();
    let mut load = Load::new(disk, 11, 40);
    for _ in 0..4 {
        load.run(300);
        load.drain();
        load.model.verify(&mut load.disk, true);
        load.disk.restart();
        load.model.verify(&mut load.disk, false);
    }
    load.disk.finish_clean();
}

#[test]
fn sigterm_and_sigint_end_the_daemon_with_success_and_without_its_socket() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for connected in [false, true] {
            let mut disk = Disk::small();
            disk.fill(SEQ, 4096);
            if !connected {
                disk.disconnect();
            }
            let begun = Instant::now();
            disk.daemon.signal(signal);
            let status = disk.daemon.wait();
            assert!(begun.elapsed() < PATIENCE / 3, "the end took {:?}", begun.elapsed());
            assert!(status.success(), "signal {signal}, connected: {connected}: {status}");
            assert!(!disk.daemon.socket().exists(), "the socket is left behind");
            disk.disconnect();
            disk.assert_image_sound();
        }
    }
}

#[test]
fn sigterm_under_load_finishes_what_was_taken() {
    let disk = Setup::default().queues(2).queue_size(256).start();
    let mut load = Load::new(disk, 13, 64);
    for round in 0..3 {
        load.run(100);
        load.disk.daemon.signal(libc::SIGTERM);
        assert!(load.disk.daemon.wait().success(), "round {round}");
        load.compare_after_end();
    }
    load.drain();
    load.disk.finish_clean();
}

#[test]
fn a_daemon_that_no_frontend_ever_used_ends_as_well() {
    let mut disk = Disk::small();
    assert!(disk.stop().success());
    disk.assert_image_sound();
    let status = disk.daemon.wait();
    assert!(status.success());
}

#[test]
fn nothing_is_printed_but_the_log() {
    let mut disk = Setup::new(SMALL).start();
    assert_ok(disk.flush());
    disk.daemon.await_log(&["socket"]);
    let socket = disk.daemon.socket().display().to_string();
    assert!(disk.daemon.log().contains(&socket), "a line of the log names the socket");
    assert_eq!(disk.write(disk.geo().end(), &[0; 512]), Status::IoErr);
    assert!(disk.stop().success());
}
