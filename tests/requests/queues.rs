//! Queues: sizes, numbers, notifications, stopping and starting, and the memory they live in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::common::cli::{Geo, SMALL};
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::{Options, feature};
use crate::common::mem::GuestMem;
use crate::common::model::{assert_ok, assert_same, pattern};
use crate::common::request::{Req, State, Status, kind};
use crate::common::ring::{DESC_NEXT, DESC_WRITE, Desc, Queue};
use crate::common::{KIB, MIB, PATIENCE};

with_each_engine! {
    many_queues_serve_at_the_same_time,
    queues_of_any_size_are_served,
    a_queue_that_is_never_empty_does_not_keep_another_from_getting_on,
}

const SEQ: usize = 2;

fn many_queues_serve_at_the_same_time(setup: impl Fn(Geo) -> Setup) {
    let geo = Geo { size: 24 * MIB, zone: 2 * MIB, cap: 2 * MIB, conv: 2, ..SMALL };
    let mut disk = setup(geo).queues(6).queue_size(64).start();
    let mut tokens = Vec::new();
    for at in 0..64_u64 {
        for queue in 0..6 {
            // Each queue has a zone for itself, and a strip of the conventional zones.
            let zone = geo.start(SEQ + queue);
            tokens.push(disk.submit(queue, &Req::write(zone + 8 * at, pattern(at, queue as u32, 4096))));
            let strip = at * 48 + queue as u64 * 8;
            tokens.push(disk.submit(queue, &Req::write(strip, pattern(at + 1000, queue as u32, 4096))));
        }
    }
    for done in disk.front().wait_all(&tokens) {
        assert_eq!(done.status, Status::Ok);
    }
    for queue in 0..6 {
        let start = geo.start(SEQ + queue);
        let expected: Vec<u8> = (0..64).flat_map(|at| pattern(at, queue as u32, 4096)).collect();
        // Read through another queue than wrote.
        let done = disk.front().call(5 - queue, &Req::read(start, expected.len()));
        assert_same(&done.data, &expected, start);
    }
    let strips: Vec<u8> = (0..64).flat_map(|at| (0..6).flat_map(move |q| pattern(at + 1000, q, 4096))).collect();
    assert_same(&disk.read(0, strips.len()).unwrap(), &strips, 0);
    disk.finish_clean();
}

fn a_queue_that_is_never_empty_does_not_keep_another_from_getting_on(setup: impl Fn(Geo) -> Setup) {
    const EACH: u64 = 3000;
    let geo = Geo { size: 64 * MIB, zone: 4 * MIB, cap: 4 * MIB, ..SMALL };
    let mut disk = setup(geo).queues(2).start();
    let (mut asked, mut done) = ([0, 0], [0, 0]);
    let mut in_flight = [VecDeque::new(), VecDeque::new()];
    let deadline = Instant::now() + PATIENCE;
    while done.iter().any(|done| *done < EACH) {
        for queue in [0, 1] {
            // A zone after the other, reset before it is written: there is work for the housekeeper, too.
            while in_flight[queue].len() < 32 {
                let (block, zone) = (asked[queue] % 257, asked[queue] / 257 % 7);
                let start = geo.start(SEQ + 2 * zone as usize + queue);
                let req = match block {
                    0 => Req::bare(kind::ZONE_RESET, start),
                    _ => Req::write(start + 8 * (block - 1), vec![block as u8; 4096]),
                };
                in_flight[queue].push_back(disk.submit(queue, &req));
                asked[queue] += 1;
            }
        }
        assert!(disk.front().collect_until(deadline), "answered of each queue: {done:?}");
        assert!(Instant::now() < deadline, "answered of each queue: {done:?}");
        for queue in [0, 1] {
            while let Some(answer) = in_flight[queue].front().and_then(|token| disk.front().poll(*token)) {
                assert_ok(answer.status);
                in_flight[queue].pop_front();
                done[queue] += 1;
            }
        }
    }
}

/// From the smallest that carries a request without and with a table, over QEMU's 128, 256 and 1024, to crosvm's.
fn queues_of_any_size_are_served(setup: impl Fn(Geo) -> Setup) {
    let mut disk = setup(SMALL).start();
    for size in [1, 2, 4, 16, 128, 256, 1024] {
        // A queue of one or two has no room for the descriptors of a request but in a table.
        disk.reconnect_with(&Options { queue_size: size, indirect: size < 4, ..Options::default() });
        let start = disk.geo().start(SEQ);
        assert_ok(disk.reset(SEQ));
        // More requests than the queue has room for: the ring goes round several times where it is small.
        for at in 0..150_u64 {
            let status = disk.write(start + 8 * at, &pattern(at, 0, 4096));
            assert_eq!(status, Status::Ok, "queue of {size}, request {at}");
        }
        let all: Vec<u8> = (0..150).flat_map(|at| pattern(at, 0, 4096)).collect();
        assert_same(&disk.read(start, all.len()).unwrap(), &all, start);
    }
}

#[test]
fn a_queue_of_32768_is_served_to_its_full_depth() {
    let mut disk = Setup::new(SMALL).args(&["--queue-size", "32768"]).queue_size(32768).memory(512 * MIB).start();
    let start = disk.geo().start(SEQ);
    // Ring indices pass 65535 on the way.
    for round in 0..3 {
        disk.front().plug();
        let mut tokens: Vec<_> =
            (0..150).map(|at| disk.submit(0, &Req::write(start + 8 * at, pattern(at, 0, 4096)))).collect();
        tokens.extend((0..10_000).map(|_| disk.submit(0, &Req::get_id())));
        disk.front().unplug();
        for (at, done) in disk.front().wait_all(&tokens).iter().enumerate() {
            assert_eq!(done.status, Status::Ok, "round {round}, request {at}");
        }
        assert_ok(disk.reset(SEQ));
    }
    let again: Vec<_> = (0..20_000).map(|_| disk.submit(0, &Req::get_id().indirect())).collect();
    assert!(disk.front().wait_all(&again).iter().all(|done| done.status == Status::Ok));
    disk.assert_works();
}

#[test]
fn with_and_without_event_idx_every_request_is_noticed_and_announced() {
    for without in [0, feature::EVENT_IDX] {
        let mut disk = Setup::new(SMALL).without(without).queue_size(64).start();
        // Bursts of all lengths, and pauses that let the device fall asleep in between.
        for burst in [1, 2, 3, 5, 8, 13, 20] {
            for _ in 0..10 {
                let tokens: Vec<_> = (0..burst).map(|_| disk.submit(0, &Req::get_id())).collect();
                assert!(disk.front().wait_all(&tokens).iter().all(|done| done.status == Status::Ok));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // 70000 requests take the 16-bit indices round.
        let mut asked = 0;
        while asked < 70_000 {
            let tokens: Vec<_> = (0..20).map(|_| disk.submit(0, &Req::get_id())).collect();
            asked += disk.front().wait_all(&tokens).len();
        }
        disk.assert_works();
    }
}

#[test]
fn kicks_without_requests_do_nothing() {
    let mut disk = Setup::default().queues(2).start();
    for _ in 0..200 {
        disk.front().queues[0].force_kick();
        disk.front().queues[1].force_kick();
    }
    disk.assert_works();
}

#[test]
fn a_stopped_queue_says_where_it_stopped_and_goes_on_from_there() {
    for without in [0, feature::EVENT_IDX] {
        let mut disk = Setup::default().without(without).queues(2).start();
        let start = disk.geo().start(SEQ);
        let mut written = 0;
        for round in 0..6 {
            let count = 7 * round + 1;
            let tokens: Vec<_> =
                (0..count).map(|at| disk.submit(0, &Req::write(start + 8 * (written + at), vec![3; 4096]))).collect();
            // Stopped with requests in flight: those that were taken are finished first, the others are not lost.
            let base = disk.front().stop_queue(0).unwrap();
            let front = disk.front();
            front.collect();
            let used = front.queues[0].used_idx;
            assert_eq!(base, used, "round {round}: requests were taken and not finished when the queue stopped");
            // The other queue does not notice.
            assert_ok(disk.front().call(1, &Req::flush()).status);
            disk.front().start_queue(0, base).unwrap();
            disk.front().queues[0].force_kick();
            assert!(disk.front().wait_all(&tokens).iter().all(|done| done.status == Status::Ok), "round {round}");
            written += count;
        }
        assert_eq!(disk.zone(SEQ).written(), 8 * written);
    }
}

#[test]
fn a_stopped_queue_may_move_and_change_its_size() {
    let mut disk = Disk::small();
    assert_ok(disk.flush());
    for size in [64, 1024, 16, 256] {
        disk.front().stop_queue(0).unwrap();
        let front = disk.front();
        let event_idx = front.features & feature::EVENT_IDX != 0;
        let moved = Queue::new(&mut front.mem, 0, size, event_idx);
        // The old rings are filled with what must no longer be read.
        let old = std::mem::replace(&mut front.queues[0], moved);
        front.mem.write(old.desc, &vec![0xff; 16 * usize::from(old.size)]);
        front.mem.write(old.avail, &vec![0xff; 6 + 2 * usize::from(old.size)]);
        front.start_queue(0, 0).unwrap();
        disk.assert_works();
    }
}

#[test]
fn requests_made_before_a_queue_is_enabled_are_served_when_it_is() {
    let mut disk = Disk::small();
    let front = disk.front();
    front.conn.tell_queue(crate::common::proto::msg::SET_VRING_ENABLE, 0, 0).unwrap();
    let token = front.submit(0, &Req::get_id());
    assert!(front.wait_for(token, Duration::from_millis(300)).is_none(), "a disabled queue was served");
    front.conn.tell_queue(crate::common::proto::msg::SET_VRING_ENABLE, 0, 1).unwrap();
    assert_ok(front.wait(token).status);
    disk.assert_works();
}

#[test]
fn a_call_descriptor_that_comes_late_is_told_of_what_was_used_without_it() {
    let mut disk = Disk::small();
    let front = disk.front();
    front.stop_queue(0).unwrap();
    // Bit 8: no descriptor; the driver polls.
    front.conn.tell_u64(crate::common::proto::msg::SET_VRING_CALL, 1 << 8).unwrap();
    let base = front.queues[0].used_idx;
    front.start_queue_without_call(0, base).unwrap();
    let token = front.submit(0, &Req::get_id());
    crate::common::eventually("a request to be used", || front.queues[0].has_used(&front.mem).then_some(()));
    let call = std::os::fd::AsRawFd::as_raw_fd(&front.queues[0].call);
    front.conn.tell_queue_fd(crate::common::proto::msg::SET_VRING_CALL, 0, call).unwrap();
    let queue = &front.queues[0];
    crate::common::eventually("the late call descriptor to be rung", || queue.call.read().ok());
    assert_ok(front.wait(token).status);
    disk.assert_works();
}

#[test]
fn memory_that_is_added_later_can_be_used_and_what_was_taken_away_is_not_touched() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    let front = disk.front();
    let region = front.mem.add_region(4 * MIB);
    // Header and status in the old memory, data in the new one.
    let data = pattern(3, 0, 64 * KIB as usize);
    let there = front.mem.alloc_in(region, data.len() as u64, 4096);
    front.mem.write(there, &data);
    let header = front.mem.alloc(32, 16);
    let chain = |front: &crate::common::frontend::Frontend, kind: u32| {
        front.mem.write(header, &Req::bare(kind, start).readable_bytes());
        front.mem.write(header + 16, &[0xee]);
        let data_flags = if kind == 0 { DESC_NEXT | DESC_WRITE } else { DESC_NEXT };
        [
            Desc { addr: header, len: 16, flags: DESC_NEXT, next: 1 },
            Desc { addr: there, len: data.len() as u32, flags: data_flags, next: 2 },
            Desc { addr: header + 16, len: 1, flags: DESC_WRITE, next: 0 },
        ]
    };
    let run = |front: &mut crate::common::frontend::Frontend, kind: u32| {
        let descs = chain(front, kind);
        let token = front.submit_raw(0, &descs);
        front.wait(token);
        Status::from(front.mem.read(header + 16, 1)[0])
    };
    assert_ne!(run(front, 1), Status::Ok, "the daemon was not told of that memory");
    front.announce_region(region).unwrap();
    assert_eq!(run(front, 1), Status::Ok);
    front.mem.write(there, &vec![0; data.len()]);
    assert_eq!(run(front, 0), Status::Ok);
    assert_same(&front.mem.read(there, data.len()), &data, start);
    front.withdraw_region(region).unwrap();
    front.mem.write(there, &vec![0x11; data.len()]);
    assert_ne!(run(front, 0), Status::Ok, "that memory was taken away");
    assert!(front.mem.read(there, data.len()).iter().all(|b| *b == 0x11), "memory that was taken away was written");
    // And once more, with regions coming and going while requests are in flight.
    let mut writes = Vec::new();
    let sector = start + data.len() as u64 / 512;
    for at in 0..64 {
        writes.push(front.submit(0, &Req::write(sector + 8 * at, vec![9; 4096])));
        if at % 8 == 0 {
            front.announce_region(region).unwrap();
            front.withdraw_region(region).unwrap();
        }
    }
    assert!(front.wait_all(&writes).iter().all(|done| done.status == Status::Ok));
    disk.assert_works();
}

#[test]
fn a_device_reset_keeps_every_zone_as_it_is() {
    let mut disk = Setup::default().queues(2).start();
    disk.fill(SEQ, 8192);
    assert_ok(disk.open(SEQ + 1));
    disk.fill(SEQ + 2, SMALL.cap);
    let before = disk.zones();
    for _ in 0..4 {
        disk.front().reset_device().unwrap();
        assert_eq!(disk.zones(), before);
    }
    assert_eq!(disk.state(SEQ + 1), State::ExplicitOpen);
    // With requests in flight: they are finished or forgotten, and the pointer stands behind one of them.
    let start = disk.geo().start(SEQ);
    let _: Vec<_> = (0..32).map(|at| disk.submit(0, &Req::write(start + 16 + 8 * at, vec![1; 4096]))).collect();
    disk.front().reset_device().unwrap();
    let written = disk.zone(SEQ).written();
    assert!((16..=16 + 32 * 8).contains(&written) && written % 8 == 0, "{written} sectors");
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn guest_memory_is_the_test_s_own() {
    // The allocator under all these tests: no two buffers overlap, and what was given back comes again.
    let mut mem = GuestMem::new(MIB);
    for _ in 0..3 {
        let all: Vec<u64> = (0..15).map(|_| mem.alloc(65536, 4096)).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 65536));
        all.iter().rev().for_each(|at| mem.release(*at));
    }
}
