//! Kills at random instants under random load.

use std::time::Duration;

use crate::common::cli::Geo;
use crate::common::disk::Setup;
use crate::common::frontend::feature;
use crate::common::proto::pf;
use crate::common::{KIB, MIB, Rng};

use super::traffic::{Traffic, Until};
use super::{GEO, finish_sound};

/// Kills of one disk before the next seed's is made.
const KILLS_A_SEED: usize = 10;

/// Kills in an ordinary test run.
const KILLS: usize = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Shapes, caches, engines, ring sizes: others with each seed.
fn setup(seed: u64) -> Setup {
    let geo = match seed % 5 {
        0 => GEO,
        1 => Geo { cluster: 512, cap: 512 * KIB, open: 3, ..GEO },
        2 => Geo { size: 9 * 4 * MIB + MIB, zone: 4 * MIB, cap: 3 * MIB, conv: 1, ..GEO },
        3 => Geo { cluster: 4 * KIB, open: 4, ..GEO },
        _ => Geo { cluster: 2 * MIB, ..GEO },
    };
    let args: &[&str] = match seed % 7 {
        0 | 1 => &[],
        2 => &["--cache", "writethrough"],
        3 => &["--cache", "none"],
        4 => &["--aio", "sync", "--cache", "writethrough"],
        _ => &["--aio", "sync"],
    };
    let mut setup = Setup::new(geo).args(args).queues([4, 1, 2][seed as usize % 3]);
    setup.options.queue_size = [256, 64, 16, 1024][seed as usize % 4];
    // The smallest rings have no room for direct chains.
    setup.options.indirect = setup.options.queue_size == 16;
    // Indices wrap soon.
    setup.options.first_index = [0, 65_500][seed as usize / 2 % 2];
    if seed % 3 == 2 {
        setup = setup.without(feature::EVENT_IDX);
    }
    println!("seed {seed}: {:?}", setup);
    setup
}

/// Starts a daemon and goes on; at random it dies in the middle of that.
fn resume(traffic: &mut Traffic, rng: &mut Rng) -> usize {
    let mut kills = 0;
    while rng.below(4) == 0 {
        kills += 1;
        traffic.disk.respawn();
        let (pid, delay) = (traffic.disk.daemon.pid(), Duration::from_micros(rng.below(4000)));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(delay);
            // SAFETY: the child is not waited for before this thread has ended, so the number is its own.
            unsafe { libc::kill(pid, libc::SIGKILL) }
        });
        // It may be done before the daemon dies, or fail anywhere.
        let _ = traffic.disk.rejoin();
        assert_eq!(killer.join().unwrap(), 0);
        traffic.disk.daemon.wait();
    }
    traffic.disk.resume();
    kills
}

fn kill_rounds(seed: u64) -> (usize, usize) {
    let mut traffic = Traffic::new(setup(seed).start(), seed, 64);
    let tracked = traffic.disk.front().protocol & pf::INFLIGHT_SHMFD != 0;
    assert!(tracked, "the daemon offers no in-flight tracking");
    let mut rng = Rng::new(0x6b69_6c6c ^ seed);
    let (mut kills, mut in_flight) = (0, 0);
    while kills < KILLS_A_SEED {
        let until = match rng.below(3) {
            0 => Until::Answers(1 + rng.below(300) as usize),
            1 => Until::Time(Duration::from_millis(rng.below(30))),
            // Within the first moments of a recovery.
            _ => Until::Time(Duration::ZERO),
        };
        traffic.run(until);
        traffic.fill();
        // Long enough now and then for the daemon to be done with all of them.
        let most = *rng.pick(&[1, 100, 400, 2000]);
        std::thread::sleep(Duration::from_micros(rng.below(most)));
        traffic.disk.daemon.kill9();
        traffic.take_answers();
        kills += 1;
        in_flight += traffic.in_flight();
        println!("seed {seed}: kill {kills} after {} answers, {} in flight", traffic.answered, traffic.in_flight());
        if rng.below(2) == 0 {
            // The guest does not know that the daemon is gone.
            traffic.fill();
        }
        kills += resume(&mut traffic, &mut rng);
        if rng.below(2) == 0 {
            traffic.drain_and_verify();
        }
    }
    traffic.drain_and_verify();
    finish_sound(&mut traffic.disk);
    (kills, in_flight)
}

/// `INFLIGHT_KILLS` (environment) asks for more kills than every test run needs, `INFLIGHT_SEED` for those of one
/// seed; a failure names its seed.
#[test]
fn whatever_is_in_flight_at_kill_9_is_answered_once_and_rightly_by_the_next_daemon() {
    if let Some(seed) = number("INFLIGHT_SEED") {
        kill_rounds(seed);
        return;
    }
    let goal = number("INFLIGHT_KILLS").map_or(KILLS, |kills| kills as usize);
    let (mut kills, mut in_flight) = (0, 0);
    for seed in 0.. {
        let (more, flying) = kill_rounds(seed);
        (kills, in_flight) = (kills + more, in_flight + flying);
        if kills >= goal {
            break;
        }
    }
    println!("{kills} kills, {in_flight} requests in flight at them");
}
