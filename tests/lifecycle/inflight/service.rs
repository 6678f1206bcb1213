//! The same under a service manager, which stops, kills and starts the daemon: tests/service.sh runs this inside.

use std::process::Command;
use std::time::Duration;

use crate::common::disk::{Disk, Setup};
use crate::common::eventually;

use super::GEO;
use super::traffic::{Traffic, Until};

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name}: expected in the environment; see tests/service.sh"))
}

/// `ZBD_SOCKET`: of a service that serves an image of this shape. `ZBD_ENDS`: lines, each a command that ends it.
#[test]
#[ignore = "tests/service.sh runs it against a service"]
fn what_is_in_flight_when_the_service_ends_is_answered_once_and_rightly_by_the_next() {
    let mut setup = Setup::new(GEO);
    setup.options.queues = 2;
    let mut traffic = Traffic::new(Disk::of_service(setup, variable("ZBD_SOCKET").as_ref()), 7, 64);
    for end in variable("ZBD_ENDS").lines() {
        traffic.run(Until::Answers(500));
        let mut ending = Command::new("sh").args(["-c", end]).spawn().unwrap();
        // The guest goes on making requests whatever happens to the daemon.
        let ended = eventually(end, || {
            traffic.run(Until::Time(Duration::from_millis(1)));
            ending.try_wait().unwrap()
        });
        assert!(ended.success(), "{end}: {ended}");
        assert!(traffic.in_flight() > 0, "{end}: nothing is in flight");
        println!("{end}: {} requests in flight after {} answers", traffic.in_flight(), traffic.answered);
        // The socket is systemd's, so that a connection waits there for the daemon. One may still go down with the old.
        eventually("another daemon", || {
            let joined = traffic.disk.rejoin();
            if joined.is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
            joined.ok()
        });
        traffic.drain_and_verify();
    }
}
