//! What only a disk that is looked into shows: requests that are never answered, and memory that grows.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::fd::RawFd;
use std::sync::Mutex;

use super::*;
use crate::io::{Completion, Transfer};

const BLOCK: usize = 4096;

/// A data path whose transfers end when somebody lets them.
struct Held {
    held: Arc<Mutex<Vec<Completion>>>,
    released: Arc<Mutex<Vec<Completion>>>,
}

impl DataPath for Held {
    unsafe fn submit(&mut self, transfer: Transfer) {
        self.held.lock().unwrap().push(Completion { token: transfer.token, result: transfer.len as i32 });
    }

    fn sync(&mut self, token: u64) {
        self.held.lock().unwrap().push(Completion { token, result: 0 });
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.released.lock().unwrap());
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

type Completions = Arc<Mutex<Vec<Completion>>>;

/// A disk with a data path that holds, what it holds, and what it lets go.
fn holding() -> (Disk, Completions, Completions) {
    let mut disk = Disk::in_memory(&Shape::new(3, Bytes(64 << 10))).unwrap();
    let (held, released) = (Completions::default(), Completions::default());
    let path = Box::new(Held { held: Arc::clone(&held), released: Arc::clone(&released) });
    disk.requests = Requests::new(path, Arc::clone(&disk.device), 0, Arc::clone(disk.guest.mem()), guest::RING);
    (disk, held, released)
}

#[test]
fn a_request_that_nothing_answers_is_an_error_and_may_be_answered_later() {
    let (mut disk, held, released) = holding();
    let error = disk.append(Sector(0), &[1; BLOCK]).unwrap_err();
    assert!(matches!(error, DiskError::Unanswered { request: "append" }), "{error}");
    assert_eq!(error.status(), None);
    assert_eq!(disk.report(Sector(0), 1).unwrap()[0].write_pointer, Bytes(0), "nothing has landed");
    // What is held back has its memory for itself.
    disk.read(Sector(128), Bytes(8192)).unwrap();
    let error = disk.read(Sector(128), Bytes(16 << 20)).unwrap_err();
    assert!(matches!(error, DiskError::NoMemory { .. }), "the memory cannot move now: {error}");
    released.lock().unwrap().append(&mut held.lock().unwrap());
    assert_eq!(disk.report(Sector(0), 1).unwrap()[0].write_pointer, Bytes(BLOCK as u64));
    disk.read(Sector(128), Bytes(48 << 10)).unwrap();
}

#[test]
fn as_many_requests_can_be_unanswered_as_there_are_places() {
    let (mut disk, _, _) = holding();
    for _ in 0..guest::RING / 4 {
        let error = disk.flush().unwrap_err();
        assert!(matches!(error, DiskError::Unanswered { request: "flush" }), "{error}");
    }
    assert!(matches!(disk.flush().unwrap_err(), DiskError::NoMemory { .. }));
}

#[test]
fn the_power_is_not_cut_while_a_data_path_holds_io_and_is_when_that_ends() {
    let (mut disk, held, released) = holding();
    disk.append(Sector(0), &[1; BLOCK]).unwrap_err();
    let error = disk.power_cut("lose=nothing").unwrap_err();
    assert!(matches!(error, DiskError::Unanswered { request: "power cut" }), "{error}");
    released.lock().unwrap().append(&mut held.lock().unwrap());
    // The first cut is done now.
    let error = disk.power_cut("lose=nothing").unwrap_err();
    assert!(matches!(error, DiskError::Cut(CutError::Off)), "{error}");
    assert_eq!(disk.flush().unwrap_err().status(), Some(Status::IoErr));
    disk.power_on();
    assert_eq!(disk.report(Sector(0), 1).unwrap()[0].write_pointer, Bytes(BLOCK as u64));
}

#[test]
fn memory_grows_for_a_long_request_and_stays() {
    let mut disk = Disk::in_memory(&Shape::new(2, Bytes(64 << 20))).unwrap();
    let data: Vec<u8> = (0..20usize << 20).map(|at| (at / 512) as u8).collect();
    disk.write(Sector(0), &data).unwrap();
    let grown = Arc::clone(disk.guest.mem());
    assert_eq!(disk.read(Sector(0), Bytes(20 << 20)).unwrap(), data);
    assert_eq!(disk.append(Sector(0), &data[..BLOCK]).unwrap(), Sector(20 << 11));
    assert!(Arc::ptr_eq(&grown, disk.guest.mem()));
}

#[test]
fn a_disk_can_go_to_another_thread() {
    fn check<T: Send>(_: &T) {}
    check(&Disk::in_memory(&Shape::new(1, Bytes(64 << 10))).unwrap());
}
