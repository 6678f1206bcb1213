//! A frontend that says what user-mode Linux says, and no more: neither RESET_DEVICE nor GET_VRING_BASE, no in-flight
//! region, one memory table, one queue of 256 entries, a socketpair for interrupts. Its driver is unbound and bound again on
//! one connection; the guest after a killed one comes on another, at once.

use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::eventfd::EventFd;

use crate::common::cli::SMALL;
use crate::common::disk::{Disk, Setup};
use crate::common::eventually;
use crate::common::frontend::{Frontend, feature};
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::proto::{Talk, msg, pf, words};
use crate::common::request::{Req, State, Status};

const SEQ: usize = 2;

/// What this project's frontend knows of the protocol and user-mode Linux does not.
const UNKNOWN: u64 = pf::INFLIGHT_SHMFD | pf::RESET_DEVICE | pf::CONFIGURE_MEM_SLOTS;

fn setup() -> Setup {
    Setup::new(SMALL).queue_size(256).without_protocol(UNKNOWN)
}

/// What its virtio_uml does when a driver is bound: features, memory and the queue from nothing.
fn bind(front: &mut Frontend) -> Talk<()> {
    let (interrupt, call) = UnixStream::pair().unwrap();
    // In this order: a socket is not to be read that has nothing.
    front.queues[0].renew_events();
    front.queues[0].clear(&front.mem);
    // SAFETY: the descriptor is this socket's and goes over to the queue.
    front.queues[0].call = unsafe { EventFd::from_raw_fd(interrupt.into_raw_fd()) };
    front.conn.tell_u64(msg::SET_FEATURES, front.features)?;
    front.set_mem_table()?;
    start_queue(front, &call)
}

fn start_queue(front: &mut Frontend, call: &UnixStream) -> Talk<()> {
    let Frontend { conn, mem, queues, .. } = front;
    let queue = &queues[0];
    conn.tell_queue_fd(msg::SET_VRING_CALL, 0, call.as_raw_fd())?;
    conn.tell_queue(msg::SET_VRING_NUM, 0, 256)?;
    conn.tell_queue(msg::SET_VRING_BASE, 0, 0)?;
    let mut addresses = words(&[0, 0]);
    for gpa in [queue.desc, queue.used, queue.avail] {
        addresses.extend(mem.to_user(gpa).to_le_bytes());
    }
    // The address of a log that is not kept.
    addresses.extend(u64::MAX.to_le_bytes());
    conn.tell(msg::SET_VRING_ADDR, &addresses, &[])?;
    conn.tell_queue_fd(msg::SET_VRING_KICK, 0, queue.kick.as_raw_fd())?;
    conn.tell_queue(msg::SET_VRING_ENABLE, 0, 1)
}

/// What it does when a driver is unbound, and all that it does.
fn unbind(front: &mut Frontend) -> Talk<()> {
    front.conn.tell_queue(msg::SET_VRING_ENABLE, 0, 0)?;
    front.conn.ask_u64(msg::GET_FEATURES).map(|_| ())
}

fn start() -> Disk {
    let mut disk = setup().start();
    again(&mut disk);
    disk
}

/// A driver that is unbound and bound again.
#[track_caller]
fn again(disk: &mut Disk) {
    let front = disk.front();
    unbind(front).and_then(|()| bind(front)).unwrap_or_else(|e| panic!("binding again: {e}"));
}

#[test]
fn a_configuration_that_is_asked_for_from_its_start_has_what_lies_at_each_field() {
    let mut disk = start();
    let all = disk.config(0, 96);
    for (offset, len) in [(0, 8), (20, 4), (34, 2), (72, 4), (76, 4), (92, 1)] {
        assert_eq!(disk.config(0, offset + len)[offset as usize..], all[offset as usize..][..len as usize]);
    }
}

#[test]
fn a_driver_that_is_bound_again_on_one_connection_finds_the_zones_as_they_were() {
    let mut disk = start();
    let start = disk.geo().start(SEQ);
    let files = disk.daemon.open_files();
    for round in 0..20_u64 {
        assert_ok(disk.write(start + 8 * round, &pattern(round, 0, 4096)));
        again(&mut disk);
        assert_eq!((disk.state(SEQ), disk.zone(SEQ).written()), (State::ImplicitOpen, 8 * (round + 1)));
    }
    let all: Vec<u8> = (0..20).flat_map(|round| pattern(round, 0, 4096)).collect();
    assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
    let now = disk.daemon.open_files();
    assert!(now <= files, "descriptors leak with each binding: {files}, then {now}");
    disk.finish_clean();
}

#[test]
fn a_driver_that_is_unbound_with_requests_in_flight_leaves_whole_ones() {
    let mut disk = start();
    let start = disk.geo().start(SEQ);
    for round in 0..10 {
        for at in 0..64 {
            disk.submit(0, &Req::write(start + 8 * at, pattern(100 + at, 0, 4096)));
        }
        unbind(disk.front()).unwrap();
        // What was taken from the ring is done, what was not is forgotten with it.
        let geo = disk.geo();
        disk.front().collect();
        let left = disk.front().in_flight_count();
        disk.reconnect();
        again(&mut disk);
        let written = disk.zone(SEQ).written();
        assert_eq!(written, 8 * (64 - left as u64), "round {round}: {left} were not answered");
        if written > 0 {
            let expected: Vec<u8> = (0..written / 8).flat_map(|at| pattern(100 + at, 0, 4096)).collect();
            assert_same(&disk.read(geo.start(SEQ), expected.len()).unwrap(), &expected, start);
        }
        assert_ok(disk.reset(SEQ));
    }
    disk.finish_clean();
}

#[test]
fn the_guest_after_a_killed_one_is_served_at_once() {
    let mut disk = start();
    let start = disk.geo().start(SEQ);
    for round in 0..20 {
        for at in 0..64 {
            disk.submit(0, &Req::write(start + 8 * at, pattern(200 + at, 0, 4096)));
        }
        disk.reconnect();
        again(&mut disk);
        let written = disk.zone(SEQ).written();
        assert_eq!(written % 8, 0, "round {round}");
        if written > 0 {
            let expected: Vec<u8> = (0..written / 8).flat_map(|at| pattern(200 + at, 0, 4096)).collect();
            assert_same(&disk.read(start, expected.len()).unwrap(), &expected, start);
        }
        assert_ok(disk.reset(SEQ));
    }
    disk.finish_clean();
}

/// A socketpair without room, whose writing end waits.
fn full_pair() -> (UnixStream, UnixStream) {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    while writer.write(&[0; 4096]).is_ok() {}
    // One byte at a time, until not even that fits.
    while writer.write(&[0]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    (reader, writer)
}

/// Hands a full pair over by `messages`, and shows that its requests are done and the next frontend is served.
fn goes_on_with_a_full_pair(messages: &[u32]) {
    let mut disk = setup().without(feature::EVENT_IDX).start();
    let (_reader, writer) = full_pair();
    for message in messages {
        disk.front().conn.tell_queue_fd(*message, 0, writer.as_raw_fd()).unwrap();
    }
    let start = disk.geo().start(SEQ);
    for at in 0..4 {
        let token = disk.submit(0, &Req::write(start + 8 * at, pattern(at, 0, 4096)));
        let done = eventually("a request is done, though nobody can be told", || disk.front().poll(token));
        assert_eq!(done.status, Status::Ok);
    }
    disk.reconnect();
    assert_eq!(disk.zone(SEQ).written(), 32);
    disk.finish_clean();
}

#[test]
fn a_call_or_an_error_descriptor_without_room_holds_nobody_up() {
    goes_on_with_a_full_pair(&[msg::SET_VRING_CALL, msg::SET_VRING_ERR]);
}
