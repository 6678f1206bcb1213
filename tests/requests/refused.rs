//! A message that is answered with an error has changed nothing.

use std::os::fd::{AsRawFd, RawFd};

use crate::common::disk::{Disk, Setup};
use crate::common::foreign::{Foreign, Kind};
use crate::common::frontend::feature;
use crate::common::model::{assert_ok, pattern};
use crate::common::proto::{ConnError, msg, pf, words};
use crate::common::request::{Req, Status};

fn refused(disk: &mut Disk, what: &str, request: u32, payload: &[u8], fds: &[RawFd]) {
    let answer = disk.front().conn.tell(request, payload, fds);
    assert!(matches!(answer, Err(ConnError::Refused(_))), "{what}: {answer:?}");
}

fn numbers(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn a_region_that_running_rings_lie_in_cannot_be_taken_away_and_the_queue_goes_on() {
    let mut disk = Disk::small();
    let region = numbers(&[0]).into_iter().chain(disk.front().mem.regions()[0].describe()).collect::<Vec<_>>();
    for _ in 0..3 {
        refused(&mut disk, "REM_MEM_REG of the rings", msg::REM_MEM_REG, &region, &[]);
        assert_ok(disk.flush());
    }
    // It is there still: another one over it would overlap.
    let fd = disk.front().mem.regions()[0].fd();
    refused(&mut disk, "the same region again", msg::ADD_MEM_REG, &region, &[fd]);
    // A table without it is refused as well.
    let other = disk.front().mem.add_region(1 << 20);
    let (there, fd) = (disk.front().mem.regions()[other].describe(), disk.front().mem.regions()[other].fd());
    let table = numbers(&[1]).into_iter().chain(there).collect::<Vec<_>>();
    refused(&mut disk, "SET_MEM_TABLE without the rings", msg::SET_MEM_TABLE, &table, &[fd]);
    let start = disk.geo().start(2);
    assert_ok(disk.write(start, &pattern(1, 0, 4096)));
    // A stopped queue needs no memory.
    disk.front().stop_queue(0).unwrap();
    disk.front().withdraw_region(0).unwrap();
    disk.front().announce_region(0).unwrap();
    let front = disk.front();
    let at = front.queues[0].used_index(&front.mem);
    front.start_queue(0, at).unwrap();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn a_message_that_is_refused_leaves_a_running_queue_as_it_is() {
    let mut disk = Setup::default().queues(2).start();
    let pipe = Foreign::new(Kind::FullPipe);
    let offered = disk.front().offered;
    let protocol = disk.front().protocol;
    let memory = disk.front().mem.regions()[0].describe();
    let fd = disk.front().mem.regions()[0].fd();
    let [gpa, size] = [0, 1].map(|at| u64::from_le_bytes(memory[8 * at..8 * at + 8].try_into().unwrap()));
    let wrong_region = numbers(&[0, gpa + size - 4096, size, 1 << 40, 0]);
    let short_file = numbers(&[0, gpa + (1 << 40), size + 4096, 1 << 40, 0]);
    let cases: Vec<(&str, u32, Vec<u8>, Vec<RawFd>)> = vec![
        ("features not offered", msg::SET_FEATURES, numbers(&[offered | feature::DISCARD]), vec![]),
        ("protocol features not offered", msg::SET_PROTOCOL_FEATURES, numbers(&[pf::STATUS]), vec![]),
        ("unknown protocol features", msg::SET_PROTOCOL_FEATURES, numbers(&[1 << 60 | 1]), vec![]),
        ("another size while it runs", msg::SET_VRING_NUM, words(&[0, 64]), vec![]),
        ("a size of no power of two", msg::SET_VRING_NUM, words(&[0, 100]), vec![]),
        ("another base while it runs", msg::SET_VRING_BASE, words(&[0, 5]), vec![]),
        ("a base of more than 16 bits", msg::SET_VRING_BASE, words(&[0, 1 << 16]), vec![]),
        ("rings elsewhere", msg::SET_VRING_ADDR, [words(&[0, 0]), numbers(&[0, 0, 0, 0])].concat(), vec![]),
        ("a pipe as call descriptor", msg::SET_VRING_CALL, numbers(&[0]), vec![pipe.as_raw_fd()]),
        ("a pipe as kick descriptor", msg::SET_VRING_KICK, numbers(&[0]), vec![pipe.as_raw_fd()]),
        ("a pipe as error descriptor", msg::SET_VRING_ERR, numbers(&[0]), vec![pipe.as_raw_fd()]),
        ("no kick descriptor", msg::SET_VRING_KICK, numbers(&[1 << 8]), vec![]),
        ("a queue that is not there", msg::SET_VRING_ENABLE, words(&[100, 1]), vec![]),
        ("an overlapping region", msg::ADD_MEM_REG, wrong_region, vec![fd]),
        ("a region beyond its file", msg::ADD_MEM_REG, short_file, vec![fd]),
        ("a region that is not there", msg::REM_MEM_REG, numbers(&[0, 7, 7, 7, 7]), vec![]),
    ];
    for (name, request, payload, fds) in &cases {
        refused(&mut disk, name, *request, payload, fds);
        for queue in 0..2 {
            assert_eq!(disk.front().call(queue, &Req::flush()).status, Status::Ok, "queue {queue} after: {name}");
        }
    }
    assert_eq!(disk.front().protocol, protocol);
    // Both still stand where they were.
    assert_eq!(disk.front().stop_queue(0).unwrap(), cases.len() as u16);
    disk.reconnect();
    disk.assert_works();
    disk.finish_clean();
}

#[test]
fn protocol_features_that_are_refused_do_not_replace_those_that_were_agreed_on() {
    let mut disk = Disk::small();
    refused(&mut disk, "too many", msg::SET_PROTOCOL_FEATURES, &numbers(&[u64::MAX]), &[]);
    // Without MQ and CONFIG, which stand in none of these bits, the connection would end here.
    refused(&mut disk, "one", msg::SET_PROTOCOL_FEATURES, &numbers(&[pf::STATUS]), &[]);
    assert!(disk.front().conn.ask_u64(msg::GET_QUEUE_NUM).is_ok());
    assert_eq!(disk.config(0, 8).len(), 8);
    disk.finish_clean();
}

#[test]
fn a_queue_that_cannot_run_is_not_enabled_and_not_kicked_into_life() {
    let mut disk = Disk::small();
    let front = disk.front();
    front.stop_queue(0).unwrap();
    // The used ring hangs over the end of memory by all but its first entry.
    let queue = &front.queues[0];
    let region = &front.mem.regions()[0];
    let end = region.user_addr() + region.size;
    let user = [front.mem.to_user(queue.desc), end - 8, front.mem.to_user(queue.avail)];
    let addresses = [words(&[0, 0]), numbers(&user), numbers(&[0])].concat();
    front.conn.tell(msg::SET_VRING_ADDR, &addresses, &[]).unwrap();
    let kick = front.queues[0].kick.as_raw_fd();
    refused(&mut disk, "a kick descriptor", msg::SET_VRING_KICK, &numbers(&[0]), &[kick]);
    // It has no kick descriptor, as it had none before: right addresses alone do not start it.
    let front = disk.front();
    let user = [queue_user(front, 0), queue_user(front, 1), queue_user(front, 2)];
    front.conn.tell(msg::SET_VRING_ADDR, &[words(&[0, 0]), numbers(&user), numbers(&[0])].concat(), &[]).unwrap();
    assert_eq!(front.stop_queue(0).unwrap(), 0);
    front.start_queue(0, 0).unwrap();
    disk.assert_works();
    disk.finish_clean();
}

fn queue_user(front: &crate::common::frontend::Frontend, which: usize) -> u64 {
    let queue = &front.queues[0];
    front.mem.to_user([queue.desc, queue.used, queue.avail][which])
}
