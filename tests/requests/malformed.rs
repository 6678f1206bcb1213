//! What no driver should send. The daemon gives the chain back without a good status, or leaves it; then everything
//! else goes on.

use std::time::Duration;

use crate::common::cli::SMALL;
use crate::common::disk::{Disk, Setup};
use crate::common::frontend::Frontend;
use crate::common::model::{assert_ok, pattern};
use crate::common::proto::{msg, words};
use crate::common::request::{Req, State, Status, UNTOUCHED};
use crate::common::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc};

const SEQ: usize = 2;

/// Addresses a bad chain is built from.
struct Parts {
    /// A write request's header.
    header: u64,
    /// 8 KiB of data.
    data: u64,
    /// A byte for the status.
    status: u64,
    /// An address in no region.
    nowhere: u64,
    /// Room for an indirect table.
    table: u64,
    /// The last 256 bytes of a region.
    edge: u64,
}

const R: u16 = DESC_NEXT;
const W: u16 = DESC_NEXT | DESC_WRITE;
const LAST_R: u16 = 0;
const LAST_W: u16 = DESC_WRITE;

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

/// A name and its descriptors.
type Case = (&'static str, fn(&Parts) -> Vec<Desc>);

/// Chains in which something is wrong. `next` counts from the first descriptor; from 4096 it is taken as it is.
const CASES: &[Case] = &[
    ("only a header", |p| vec![desc(p.header, 16, LAST_R, 0)]),
    ("only a status", |p| vec![desc(p.status, 1, LAST_W, 0)]),
    ("a short header", |p| vec![desc(p.header, 15, R, 1), desc(p.status, 1, LAST_W, 0)]),
    ("a short header in two", |p| {
        vec![desc(p.header, 8, R, 1), desc(p.header + 8, 7, R, 2), desc(p.status, 1, LAST_W, 0)]
    }),
    ("no status", |p| vec![desc(p.header, 16, R, 1), desc(p.data, 4096, LAST_R, 0)]),
    ("a status of no bytes", |p| {
        vec![desc(p.header, 16, R, 1), desc(p.data, 4096, R, 2), desc(p.status, 0, LAST_W, 0)]
    }),
    ("a readable descriptor behind a writable one", |p| {
        vec![desc(p.header, 16, R, 1), desc(p.status, 1, W, 2), desc(p.data, 4096, LAST_R, 0)]
    }),
    ("a writable header", |p| vec![desc(p.header, 16, W, 1), desc(p.data, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]),
    ("a header outside memory", |p| {
        vec![desc(p.nowhere, 16, R, 1), desc(p.data, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]
    }),
    ("data outside memory", |p| {
        vec![desc(p.header, 16, R, 1), desc(p.nowhere, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]
    }),
    ("data across the end of memory", |p| {
        vec![desc(p.header, 16, R, 1), desc(p.edge, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]
    }),
    ("data across the end of addresses", |p| {
        vec![desc(p.header, 16, R, 1), desc(u64::MAX - 2047, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]
    }),
    ("data at address 0", |p| vec![desc(p.header, 16, R, 1), desc(0, 4096, R, 2), desc(p.status, 1, LAST_W, 0)]),
    ("a status outside memory", |p| {
        vec![desc(p.header, 16, R, 1), desc(p.data, 4096, R, 2), desc(p.nowhere, 1, LAST_W, 0)]
    }),
    ("4 GiB of data", |p| vec![desc(p.header, 16, R, 1), desc(p.data, u32::MAX, R, 2), desc(p.status, 1, LAST_W, 0)]),
    ("a loop", |p| vec![desc(p.header, 16, R, 1), desc(p.data, 4096, R, 1)]),
    ("a loop to the head", |p| vec![desc(p.header, 16, R, 1), desc(p.data, 4096, R, 0)]),
    ("a next descriptor outside the table", |p| vec![desc(p.header, 16, R, 5000)]),
    ("an empty indirect table", |p| vec![desc(p.table, 0, DESC_INDIRECT, 0)]),
    ("an indirect table of half a descriptor", |p| vec![desc(p.table, 40, DESC_INDIRECT, 0)]),
    ("an indirect table outside memory", |p| vec![desc(p.nowhere, 48, DESC_INDIRECT, 0)]),
    ("an indirect table of 4 GiB", |p| vec![desc(p.table, 0xffff_fff0, DESC_INDIRECT, 0)]),
    ("an indirect table that is only zeros", |p| vec![desc(p.table, 160, DESC_INDIRECT, 0)]),
    ("an indirect table that goes on", |p| vec![desc(p.table, 160, DESC_INDIRECT | DESC_NEXT, 5000)]),
    ("zero lengths throughout", |p| vec![desc(p.header, 0, R, 1), desc(p.data, 0, R, 2), desc(p.status, 0, LAST_W, 0)]),
];

fn parts(front: &mut Frontend, sector: u64) -> Parts {
    let header = front.mem.alloc(16, 16);
    front.mem.write(header, &Req::bare(1, sector).readable_bytes());
    let data = front.mem.alloc(8192, 4096);
    front.mem.write(data, &pattern(0xbad, 0, 8192));
    let status = front.mem.alloc(16, 16);
    let table = front.mem.alloc(256, 16);
    front.mem.write(table, &[0; 256]);
    let region = &front.mem.regions()[0];
    let edge = region.gpa + region.size - 256;
    Parts { header, data, status, nowhere: front.mem.nowhere(), table, edge }
}

fn good_request_on(disk: &mut Disk, queue: usize, case: &str) {
    let done = disk.front().call(queue, &Req::get_id());
    assert_eq!(done.status, Status::Ok, "the next request on queue {queue} after: {case}");
}

#[test]
fn a_malformed_chain_has_no_good_status_and_the_next_request_works() {
    let mut disk = Setup::default().queues(2).start();
    let start = disk.geo().start(SEQ);
    let parts = parts(disk.front(), start);
    let before = disk.zones();
    for (name, build) in CASES {
        disk.front().mem.write(parts.status, &[UNTOUCHED]);
        let token = disk.front().submit_raw(0, &build(&parts));
        good_request_on(&mut disk, 1, name);
        good_request_on(&mut disk, 0, name);
        // It came back without a length or with nothing but a bad status, or it did not come back.
        let status = Status::from(disk.front().mem.read(parts.status, 1)[0]);
        if let Some(done) = disk.front().poll(token) {
            assert!(done.used_len <= 1, "{name}: {} bytes written", done.used_len);
            assert_eq!(done.used_len == 1, status != Status::Untouched, "{name}: length and status {status:?}");
        }
        assert!(matches!(status, Status::Untouched | Status::IoErr | Status::Unsupp), "{name}: {status:?}");
        assert_eq!(disk.zones(), before, "{name}");
    }
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn malformed_chains_leak_no_slot_of_the_device() {
    let mut disk = Setup::default().queue_size(64).start();
    let start = disk.geo().start(SEQ);
    let parts = parts(disk.front(), start);
    for round in 0..300 {
        let (name, build) = CASES[round % 6];
        let token = disk.front().submit_raw(0, &build(&parts));
        disk.front().wait_for(token, Duration::from_secs(30)).unwrap_or_else(|| panic!("{name} never came back"));
    }
    disk.assert_works();
}

#[test]
fn data_in_the_wrong_direction_is_refused() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    // A write with a writable buffer has no data of its own; a read with a readable one has no room for any.
    let write = Req { in_len: 4096, ..Req::bare(1, start) };
    let read = Req { out: vec![1; 4096], ..Req::bare(0, start) };
    let report = Req { out: vec![1; 4096], ..Req::bare(16, start) };
    let get_id = Req { out: vec![1; 20], ..Req::bare(8, 0) };
    for req in [write, read] {
        let done = disk.call(&req);
        assert!(!matches!(done.status, Status::Untouched | Status::Unknown(_)), "type {}: {:?}", req.kind, done.status);
    }
    assert_eq!(disk.call(&report).status, Status::InvalidCmd, "a report without room for its header");
    assert_ne!(disk.call(&get_id).status, Status::Untouched);
    assert_eq!(disk.state(SEQ), State::Empty);
    disk.assert_works();
}

#[test]
fn an_append_without_room_for_its_answer_is_refused_or_lands_whole() {
    let mut disk = Disk::small();
    let start = disk.geo().start(SEQ);
    for in_len in [0, 1, 7] {
        let before = disk.zone(SEQ).written();
        let done = disk.call(&Req { in_len, ..Req::append(start, pattern(1, 0, 4096)) });
        let after = disk.zone(SEQ).written();
        assert_eq!(after, before, "an append with {in_len} bytes for its answer: {:?}", done.status);
        assert_ne!(done.status, Status::Ok);
        assert_ne!(done.status, Status::Untouched);
    }
    disk.assert_works();
}

#[test]
fn a_head_that_is_no_descriptor_stops_at_most_its_queue() {
    for head in [128, 4000, 0xffff] {
        let mut disk = Setup::default().queues(2).start();
        let front = disk.front();
        front.queues[0].offer(&front.mem, head);
        front.queues[0].publish(&front.mem);
        good_request_on(&mut disk, 1, "a head outside the table");
        // After a reset of the device the queue works again.
        disk.front().reset_device().unwrap();
        good_request_on(&mut disk, 0, "a head outside the table and a device reset");
        disk.assert_works();
    }
}

#[test]
fn an_available_index_that_jumps_stops_at_most_its_queue() {
    for jump in [130, 1000, 0x8000, 0xffff] {
        let mut disk = Setup::default().queues(2).start();
        assert_ok(disk.flush());
        let front = disk.front();
        front.mem.store_index(front.queues[0].avail + 2, jump);
        front.queues[0].force_kick();
        good_request_on(&mut disk, 1, "an index that jumps");
        disk.front().reset_device().unwrap();
        good_request_on(&mut disk, 0, "an index that jumps and a device reset");
        disk.assert_works();
    }
}

#[test]
fn random_bytes_in_the_rings_stop_at_most_their_queue() {
    let mut rng = crate::common::Rng::new(5);
    for round in 0..20 {
        let mut disk = Setup::default().queues(2).start();
        let before = disk.zones();
        for _ in 0..5 {
            let front = disk.front();
            let noise: Vec<u8> = (0..16 * 128).map(|_| rng.next() as u8).collect();
            // Half of them with addresses in memory, so that more than the first check is reached.
            front.mem.write(front.queues[0].desc, &noise);
            for at in 0..64 {
                let addr = front.mem.regions()[0].gpa + rng.below(1 << 20);
                let (len, flags) = (rng.below(1 << 14) as u32, rng.below(8) as u16);
                front.queues[0].put_desc(&front.mem, at, desc(addr, len, flags, rng.below(128) as u16));
            }
            let heads: Vec<u16> = (0..rng.below(100)).map(|_| rng.below(128) as u16).collect();
            for head in heads {
                front.queues[0].offer(&front.mem, head);
            }
            front.queues[0].publish(&front.mem);
            front.queues[0].force_kick();
            good_request_on_other(&mut disk, round);
        }
        disk.front().reset_device().unwrap();
        assert_eq!(disk.zones().len(), before.len());
        disk.assert_works();
    }
}

/// Noise may have hit the other queue's rings and buffers as well, if it was taken for a buffer: only life is asked for.
fn good_request_on_other(disk: &mut Disk, round: usize) {
    assert!(disk.daemon.is_alive(), "the daemon died of random descriptors in round {round}");
}

#[test]
fn rings_outside_memory_are_refused_or_stop_only_themselves() {
    for which in 0..3 {
        let mut disk = Setup::default().queues(2).start();
        let front = disk.front();
        front.stop_queue(0).unwrap();
        let (queue, nowhere) = (&front.queues[0], front.mem.nowhere());
        let mut addr = words(&[0, 0]);
        for (at, gpa) in [queue.desc, queue.used, queue.avail].into_iter().enumerate() {
            addr.extend(if at == which { nowhere } else { front.mem.to_user(gpa) }.to_le_bytes());
        }
        addr.extend([0; 8]);
        if front.conn.tell(msg::SET_VRING_ADDR, &addr, &[]).is_ok() {
            let _ = front.start_queue_as_it_is(0);
            front.queues[0].force_kick();
            good_request_on(&mut disk, 1, "a ring outside memory");
        }
        disk.reconnect();
        disk.assert_works();
    }
}

#[test]
fn messages_that_make_no_sense_cost_at_most_the_connection() {
    let mut disk = Disk::small();
    let cases: &[(&str, u32, Vec<u8>)] = &[
        ("an unknown message", 999, vec![]),
        ("message 0", 0, vec![]),
        ("a short SET_FEATURES", msg::SET_FEATURES, vec![1]),
        ("a queue that is not there", msg::SET_VRING_NUM, words(&[200, 128])),
        ("a queue size of 0", msg::SET_VRING_NUM, words(&[0, 0])),
        ("a queue size that is no power of two", msg::SET_VRING_NUM, words(&[0, 100])),
        ("a queue size of 65536", msg::SET_VRING_NUM, words(&[0, 65536])),
        ("features that were not offered", msg::SET_FEATURES, vec![0xff; 8]),
        ("memory without a descriptor", msg::ADD_MEM_REG, vec![0; 40]),
        ("a memory table of 100 regions", msg::SET_MEM_TABLE, words(&[100, 0])),
        ("a region that is not there", msg::REM_MEM_REG, vec![7; 40]),
        ("a configuration of 8 KiB", msg::GET_CONFIG, words(&[0, 8192, 0])),
        ("a configuration of no bytes", msg::GET_CONFIG, words(&[0, 0, 0])),
        ("a kick descriptor that is missing", msg::SET_VRING_KICK, vec![0; 8]),
    ];
    for (name, request, payload) in cases {
        let _ = disk.front().conn.send(*request, 1, payload, &[]);
        assert!(disk.daemon.is_alive(), "{name}");
        disk.reconnect();
        disk.assert_works();
    }
    // A header that promises more than there is, and bytes that are no header.
    for bytes in [&words(&[2, 1, 0xffff_ffff])[..], &[0xff; 100], &[1, 0, 0]] {
        let _ = disk.front().conn.send_bytes(bytes, &[]);
        disk.reconnect();
        disk.assert_works();
    }
    let files = disk.daemon.open_files();
    for _ in 0..20 {
        let _ = disk.front().conn.send_bytes(&[0xff; 100], &[]);
        disk.reconnect();
    }
    disk.assert_works();
    let now = disk.daemon.open_files();
    assert!(now <= files + 3, "descriptors leak with each connection: {files}, then {now}");
    assert_eq!(SMALL.zones(), disk.zones().len());
}
