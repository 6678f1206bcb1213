//! The eventfds of a queue, which the frontend shares and can do anything with.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::common::disk::{Disk, Setup};
use crate::common::foreign::{Foreign, Kind};
use crate::common::model::assert_ok;
use crate::common::proto::{ConnError, msg};
use crate::common::request::{Req, Status};
use crate::common::{PATIENCE, eventually};

const FULL: Kind = Kind::Eventfd { blocking: true, semaphore: false, full: true };
const ALWAYS_READABLE: Kind = Kind::Eventfd { blocking: true, semaphore: true, full: true };

/// Waits for a request whose interrupt may never come.
fn answered(disk: &mut Disk, queue: usize, req: &Req) -> Status {
    let token = disk.submit(queue, req);
    eventually("an answer in the ring", || disk.front().poll(token)).status
}

#[test]
fn a_call_descriptor_that_takes_nothing_more_holds_up_no_answer() {
    for size in [0, 1] {
        let mut disk = Setup::default().queues(2).start();
        let full = Foreign::new(FULL);
        disk.front().conn.tell_queue_fd(msg::SET_VRING_CALL, 0, full.as_raw_fd()).unwrap();
        for _ in 0..10 {
            assert_ok(answered(&mut disk, 0, &Req::flush()));
        }
        if size == 1 {
            assert_eq!(disk.front().stop_queue(0).unwrap(), 10);
        }
        disk.reconnect();
        disk.assert_works();
        disk.finish_clean();
    }
}

#[test]
fn an_error_descriptor_that_takes_nothing_more_holds_up_nobody() {
    let mut disk = Setup::default().queues(2).start();
    let full = Foreign::new(FULL);
    let front = disk.front();
    front.conn.tell_queue_fd(msg::SET_VRING_ERR, 0, full.as_raw_fd()).unwrap();
    front.queues[0].offer(&front.mem, 9999);
    front.queues[0].publish(&front.mem);
    disk.daemon.await_log(&["queue 0 is stopped", "9999"]);
    assert_ok(answered(&mut disk, 1, &Req::flush()));
    disk.reconnect();
    disk.assert_works();
    disk.finish_clean();
}

/// User-mode Linux is told through a socketpair.
fn tells(kind: Kind, request: u32) -> bool {
    kind == Kind::Socket && request != msg::SET_VRING_KICK
}

#[test]
fn what_is_no_eventfd_is_not_taken_and_the_queue_goes_on_with_those_it_has() {
    let mut disk = Disk::small();
    for kind in Kind::OTHERS {
        let other = Foreign::new(kind);
        let requests = [msg::SET_VRING_CALL, msg::SET_VRING_ERR, msg::SET_VRING_KICK];
        for request in requests.into_iter().filter(|request| !tells(kind, *request)) {
            let refused = disk.front().conn.tell_queue_fd(request, 0, other.as_raw_fd());
            assert!(matches!(refused, Err(ConnError::Refused(_))), "{kind:?} as message {request}: {refused:?}");
        }
        // An answer with its interrupt, after a kick.
        assert_eq!(disk.call(&Req::flush()).status, Status::Ok, "{kind:?}");
    }
    disk.daemon.await_log(&["the call descriptor of queue 0 is a pipe: expected an eventfd"]);
    disk.finish_clean();
}

#[test]
fn the_flags_of_a_frontends_descriptors_stay_as_they_are() {
    let mut disk = Disk::small();
    let flags = |fd: &Foreign| {
        // SAFETY: plain system call on an own descriptor.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
    };
    for blocking in [true, false] {
        let event = Foreign::new(Kind::Eventfd { blocking, semaphore: false, full: false });
        let before = flags(&event);
        for request in [msg::SET_VRING_CALL, msg::SET_VRING_ERR, msg::SET_VRING_KICK] {
            disk.front().conn.tell_queue_fd(request, 0, event.as_raw_fd()).unwrap();
        }
        // The same descriptor for both: an answer kicks, which does no harm.
        let token = disk.submit(0, &Req::flush());
        let word = 1u64.to_ne_bytes();
        // SAFETY: eight valid bytes.
        assert_eq!(unsafe { libc::write(event.as_raw_fd(), word.as_ptr().cast(), 8) }, 8);
        assert_ok(eventually("an answer in the ring", || disk.front().poll(token)).status);
        assert_eq!(flags(&event), before, "blocking: {blocking}");
    }
}

#[test]
fn another_kick_descriptor_takes_the_place_of_the_first_while_the_queue_runs() {
    let mut disk = Disk::small();
    for _ in 0..3 {
        disk.front().queues[0].renew_events();
        let front = disk.front();
        front.conn.tell_queue_fd(msg::SET_VRING_CALL, 0, front.queues[0].call.as_raw_fd()).unwrap();
        front.conn.tell_queue_fd(msg::SET_VRING_KICK, 0, front.queues[0].kick.as_raw_fd()).unwrap();
        assert_ok(disk.flush());
    }
    disk.finish_clean();
}

#[test]
fn a_kick_descriptor_that_is_never_quiet_keeps_no_processor_busy_and_requests_are_served() {
    let mut disk = Disk::small();
    let endless = Foreign::new(ALWAYS_READABLE);
    disk.front().conn.tell_queue_fd(msg::SET_VRING_KICK, 0, endless.as_raw_fd()).unwrap();
    assert_ok(answered(&mut disk, 0, &Req::flush()));
    let (began, before) = (Instant::now(), disk.daemon.cpu_ticks());
    std::thread::sleep(Duration::from_secs(2));
    // A hundred ticks a second of one busy processor; the queue looks at its ring a hundred times a second.
    let (ticks, waited) = (disk.daemon.cpu_ticks() - before, began.elapsed());
    assert!(ticks <= 60, "{ticks} ticks in {waited:?}");
    // The first kick after it is seen all the same.
    let token = disk.submit(0, &Req::flush());
    assert_ok(eventually("an answer in the ring", || disk.front().poll(token)).status);
    assert!(began.elapsed() < PATIENCE);
    disk.finish_clean();
}
