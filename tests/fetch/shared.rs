//! One cache, many daemons: each chunk comes once, in bounded space, whoever dies.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::common::Rng;
use super::rig::{CHUNK, MIB, Rig};
use super::server::{Manner, Server};

#[test]
fn twenty_daemons_that_share_a_cache_fetch_each_chunk_once() {
    let len = 24 * MIB + 1234;
    let server = Server::start(Manner { late: Duration::from_millis(5), ..Manner::of(len) });
    let rig = Rig::new(1 << 40);
    let together = Barrier::new(20);
    std::thread::scope(|scope| {
        for seed in 0..20 {
            let (rig, server, together) = (&rig, &server, &together);
            scope.spawn(move || {
                let daemon = rig.open(&server.url()).unwrap();
                let mut random = Rng::new(seed);
                together.wait();
                for _ in 0..200 {
                    let at = random.below(len);
                    daemon.check(1, at, random.below(600 * 1024) as usize + 1);
                }
                (0..len).step_by(3 << 20).for_each(|at| daemon.check(1, at, 3 << 20));
            });
        }
    });
    let counts = server.counts(CHUNK);
    assert_eq!(counts.len() as u64, len.div_ceil(CHUNK));
    assert!(counts.values().all(|count| *count == 1), "fetched more than once: {counts:?}");
    assert_eq!(server.heads(), 20);
    // Those that come later fetch nothing.
    rig.open(&server.url()).unwrap().check(1, 0, len as usize);
    assert_eq!(server.counts(CHUNK), counts);
}

#[test]
fn a_cache_that_is_too_small_for_its_objects_stays_within_its_size_and_shows_right_bytes() {
    let size = 8 * MIB;
    let servers = [20, 30].map(|mib| Server::start(Manner::of(mib * MIB)));
    let rig = Rig::new(size);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (rig, servers) = (&rig, &servers);
            scope.spawn(move || {
                let mut random = Rng::new(seed);
                let daemon = rig.open(&servers[seed as usize % 2].url()).unwrap();
                for _ in 0..300 {
                    let at = random.below(daemon.link.identity().len);
                    daemon.check(1, at, random.below(300 * 1024) as usize + 1);
                    assert!(rig.space() <= size, "{} of {size}", rig.space());
                }
            });
        }
    });
}

#[test]
fn objects_that_nobody_uses_are_given_up_before_chunks_of_one_in_use() {
    let servers = [4, 4, 6].map(|mib| Server::start(Manner::of(mib * MIB)));
    let rig = Rig::new(10 * MIB);
    rig.open(&servers[0].url()).unwrap().check(1, 0, 4 << 20);
    let used = rig.open(&servers[1].url()).unwrap();
    used.check(1, 0, 4 << 20);
    // Fetchers in threads end a moment after their daemons.
    std::thread::sleep(Duration::from_millis(200));
    rig.open(&servers[2].url()).unwrap().check(1, 0, 5 << 20);
    let before = servers[1].requests();
    used.check(1, 0, 4 << 20);
    assert_eq!(servers[1].requests(), before, "what is in use was given up");
}

#[test]
fn a_killed_fetcher_is_started_again_and_what_was_asked_for_is_answered() {
    let server = Server::start(Manner { late: Duration::from_millis(20), ..Manner::of(16 * MIB) });
    let rig = Rig::new(1 << 40);
    let daemon = rig.open_process(&server.url()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(200));
                kill_fetchers(&server.url());
            }
        });
        for at in (0..16 * MIB).step_by(1 << 19) {
            daemon.check(1, at, 1 << 19);
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    assert!(server.counts(CHUNK).len() == 64);
}

/// Kills the fetchers, not their keepers, of a URL.
fn kill_fetchers(url: &str) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if words.get(1) == Some(&&b"fetcher"[..]) && words.get(2) == Some(&url.as_bytes()) {
            // SAFETY: takes no memory.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

#[test]
fn a_fetcher_ends_with_its_daemon() {
    let server = Server::start(Manner::of(MIB));
    let rig = Rig::new(1 << 40);
    let daemon = rig.open_process(&server.url()).unwrap();
    daemon.check(1, 0, 100);
    drop(daemon);
    let running = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&server.url())).count()
    };
    let since = Instant::now();
    while running() > 0 {
        assert!(since.elapsed() < Duration::from_secs(10), "it runs on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
