//! Frontends that wait, and those that they wait for.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::common::disk::{Disk, Setup};
use crate::common::eventually;
use crate::common::foreign::{Foreign, Kind};
use crate::common::frontend::{Frontend, Options};
use crate::common::model::assert_ok;
use crate::common::proto::{Conn, ConnError, msg, words};
use crate::common::request::{Req, Status};

fn message(request: u32) -> Vec<u8> {
    words(&[request, 1, 0])
}

/// A disk without a frontend.
fn idle() -> Disk {
    let mut disk = Disk::small();
    disk.disconnect();
    disk
}

#[test]
fn who_comes_what_it_accepts_and_that_it_goes_is_in_the_log() {
    let mut disk = Disk::small();
    let me = format!("process {}", std::process::id());
    disk.daemon.await_log(&["INFO", "a frontend is connected", &me]);
    disk.daemon.await_log(&["INFO", "the frontend has accepted features 0x", "ZONED", "FLUSH"]);
    disk.disconnect();
    disk.daemon.await_log(&["INFO", "the frontend is gone", &me]);
}

#[test]
fn a_second_frontend_waits_is_told_of_and_is_served_when_the_first_goes() {
    let mut disk = Disk::small();
    let me = format!("process {}", std::process::id());
    for _ in 0..3 {
        let second = UnixStream::connect(disk.daemon.socket()).unwrap();
        disk.daemon.await_log(&["INFO", "a frontend waits, because the disk is in use by another one", &me]);
        // The first is served meanwhile, and stays, however long it says nothing.
        assert_ok(disk.flush());
        disk.disconnect();
        let mut front = Frontend::connect(second, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
        drop(front);
        disk.reconnect();
    }
    disk.finish_clean();
}

#[test]
fn a_frontend_that_waits_no_more_is_told_of_and_makes_way_for_the_next_one_that_waits() {
    let mut disk = Disk::small();
    let second = UnixStream::connect(disk.daemon.socket()).unwrap();
    disk.daemon.await_log(&["a frontend waits, because"]);
    drop(second);
    disk.daemon.await_log(&["a frontend waits no more"]);
    let third = UnixStream::connect(disk.daemon.socket()).unwrap();
    eventually("the third to be told of", || {
        (disk.daemon.log().matches("a frontend waits, because").count() == 2).then_some(())
    });
    disk.disconnect();
    let mut front = Frontend::connect(third, &Options::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(front.call(0, &Req::flush()).status, Status::Ok);
}

#[test]
fn a_connection_that_says_nothing_gives_way_to_one_that_waits() {
    for bytes in [&[][..], &message(msg::GET_FEATURES)[..7]] {
        let mut disk = idle();
        let mut silent = UnixStream::connect(disk.daemon.socket()).unwrap();
        silent.write_all(bytes).unwrap();
        disk.daemon.await_log(&["a frontend is connected"]);
        disk.reconnect();
        disk.assert_works();
        disk.daemon.await_log(&["WARN", "is closed", "it has said nothing for 3 s, and another frontend waits"]);
        assert!(matches!(silent.read(&mut [0; 1]), Ok(0) | Err(_)));
        disk.finish_clean();
    }
}

#[test]
fn a_connection_that_has_said_something_or_that_nobody_waits_for_stays() {
    let disk = idle();
    let mut alone = Conn::new(UnixStream::connect(disk.daemon.socket()).unwrap());
    std::thread::sleep(Duration::from_secs(4));
    alone.ask_u64(msg::GET_FEATURES).unwrap();
    let _second = UnixStream::connect(disk.daemon.socket()).unwrap();
    disk.daemon.await_log(&["a frontend waits, because"]);
    std::thread::sleep(Duration::from_secs(4));
    alone.ask_u64(msg::GET_FEATURES).unwrap();
}

/// Asks and asks, and reads no answer, until the daemon takes no more.
fn never_read(socket: &UnixStream) {
    socket.set_nonblocking(true).unwrap();
    let asked = message(msg::GET_FEATURES).repeat(50);
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(500) {
        match (&*socket).write(&asked) {
            Ok(_) => since = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_frontend_that_does_not_read_its_answers_neither_keeps_the_daemon_from_its_end_nor_stays() {
    let mut disk = idle();
    let deaf = UnixStream::connect(disk.daemon.socket()).unwrap();
    never_read(&deaf);
    assert!(disk.daemon.terminate().success(), "while it is connected");
    disk.start_again();
    disk.disconnect();
    let deaf = UnixStream::connect(disk.daemon.socket()).unwrap();
    never_read(&deaf);
    disk.daemon.await_log(&["WARN", "is closed", "it does not read the answers to its messages"]);
    disk.reconnect();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn a_message_with_more_descriptors_than_any_has_ends_its_connection_only() {
    let mut disk = idle();
    for (count, sent) in [(33, 20), (253, 20), (33, 12), (253, 5)] {
        let mut conn = Conn::new(disk.daemon.connect());
        let zero = Foreign::new(Kind::Zero);
        let fds: Vec<RawFd> = vec![zero.as_raw_fd(); count];
        let bytes = [words(&[msg::SET_VRING_CALL, 1, 8]), vec![0; 8]].concat();
        conn.send_bytes(&bytes[..sent], &fds).unwrap();
        assert!(conn.is_closed_by_peer(), "{count} descriptors with {sent} bytes");
        disk.daemon.await_log(&[
            "WARN",
            "is closed",
            &format!("a message with {count} descriptors: expected at most 32"),
        ]);
    }
    disk.reconnect();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn a_message_whose_descriptors_find_no_room_in_the_process_ends_its_connection_only() {
    let mut disk = idle();
    let limit = libc::rlimit { rlim_cur: disk.daemon.open_files() as u64 + 6, rlim_max: libc::RLIM_INFINITY };
    let set = |limit: &libc::rlimit| {
        // SAFETY: the structure is valid during the call; the old limit is not asked for.
        let set = unsafe { libc::prlimit(disk.daemon.pid(), libc::RLIMIT_NOFILE, limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    };
    set(&libc::rlimit { rlim_max: 1024, ..limit });
    let mut conn = Conn::new(UnixStream::connect(disk.daemon.socket()).unwrap());
    conn.ask_u64(msg::GET_FEATURES).unwrap();
    let zero = Foreign::new(Kind::Zero);
    conn.send(msg::SET_VRING_CALL, 1, &[0; 8], &[zero.as_raw_fd(); 20]).unwrap();
    assert!(conn.is_closed_by_peer());
    disk.daemon.await_log(&["WARN", "the descriptors of a message did not all arrive"]);
    set(&libc::rlimit { rlim_cur: 1024, rlim_max: 1024 });
    disk.reconnect();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn bad_connections_make_a_few_lines_however_many_they_are() {
    let mut disk = idle();
    let lines = |disk: &Disk| disk.daemon.log().lines().count();
    let before = lines(&disk);
    let began = Instant::now();
    for _ in 0..500 {
        let mut bad = Conn::new(UnixStream::connect(disk.daemon.socket()).unwrap());
        bad.send_bytes(&[0xff; 100], &[]).unwrap();
        assert!(bad.is_closed_by_peer());
    }
    // 25 lines in ten seconds, and one for those left out.
    let (made, windows) = (lines(&disk) - before, began.elapsed().as_secs() / 10 + 1);
    assert!(made as u64 <= 30 * windows, "{made} lines in {:?}", began.elapsed());
    assert!(disk.daemon.terminate().success());
    assert!(disk.daemon.log().contains("more lines like the last ones were left out"));
    disk.start_again();
    disk.finish_clean();
}

#[test]
fn queues_that_break_make_a_few_lines_however_often_they_are_set_up_anew() {
    let mut disk = Disk::small();
    let began = Instant::now();
    for _ in 0..60 {
        let front = disk.front();
        let broken = EventFd::new(EFD_NONBLOCK).unwrap();
        front.conn.tell_queue_fd(msg::SET_VRING_ERR, 0, broken.as_raw_fd()).unwrap();
        front.queues[0].offer(&front.mem, 9999);
        front.queues[0].publish(&front.mem);
        eventually("the error descriptor's signal", || broken.read().ok());
        disk.reconnect();
    }
    let (made, windows) =
        (disk.daemon.log().matches("its ring is broken").count() as u64, began.elapsed().as_secs() / 10 + 1);
    assert!(made <= 5 * windows, "{made} lines in {:?}", began.elapsed());
}

#[test]
fn memory_that_its_owner_has_cut_ends_the_daemon_by_sigbus_and_the_log_says_so() {
    use std::os::unix::process::ExitStatusExt;
    let mut disk = Setup::default().start();
    assert_ok(disk.flush());
    let front = disk.front();
    let avail = front.queues[0].avail;
    // SAFETY: plain system call on an own descriptor. This process does not touch the memory after it.
    assert_eq!(unsafe { libc::ftruncate(front.mem.regions()[0].fd(), 0) }, 0);
    assert_ne!(avail, 0);
    front.queues[0].force_kick();
    let status = disk.daemon.wait();
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    disk.daemon.await_log(&["memory that is shared with this process was taken away"]);
    // Its rings are gone with it, so the frontend is forgotten without a look at them.
    disk.disconnect();
    disk.start_again();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn a_refused_connection_is_no_refusal_to_the_next() {
    let mut disk = idle();
    let mut conn = Conn::new(disk.daemon.connect());
    conn.send(999, 1, &[], &[]).unwrap();
    assert!(conn.is_closed_by_peer());
    let gone = conn.ask_u64(msg::GET_FEATURES);
    assert!(matches!(gone, Err(ConnError::Gone)), "{gone:?}");
    disk.reconnect();
    disk.assert_works();
}
