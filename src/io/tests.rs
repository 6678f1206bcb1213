#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

struct Rig {
    path: Box<dyn DataPath>,
    file: File,
}

fn rig(mode: AioMode, depth: u16) -> Rig {
    rig_of(mode, depth, tempfile::tempfile().unwrap())
}

fn rig_of(mode: AioMode, depth: u16, file: File) -> Rig {
    let data = DataFiles::new(file.try_clone().unwrap(), file.try_clone().unwrap());
    Rig { path: open(mode, Arc::new(Files::new(data)), depth, Bare).unwrap(), file }
}

/// Waits until `count` transfers are done.
fn finish(path: &mut Box<dyn DataPath>, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    while done.len() < count {
        path.poll(&mut done).unwrap();
    }
    done
}

const MODES: [AioMode; 2] = [AioMode::IoUring, AioMode::Sync];

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

#[test]
fn transfers_come_back_with_their_token_and_length() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        let (mut first, mut second) = (vec![1; 1000], vec![2; 24]);
        let buffers = [iovec(&mut first), iovec(&mut second)];
        let transfer = Transfer {
            token: 9,
            write: true,
            buffered: false,
            beside: false,
            depth: Depth::TOP,
            offset: 512,
            len: 1024,
            buffers: buffers.as_ptr(),
            count: 2,
        };
        // SAFETY: buffers and vectors outlive the wait below.
        unsafe { rig.path.submit(transfer) };
        rig.path.sync(10);
        let done = finish(&mut rig.path, 2);
        assert!(done.contains(&Completion { token: 9, result: 1024 }), "{done:?}");
        assert!(done.contains(&Completion { token: 10, result: 0 }), "{done:?}");
        let mut read = vec![0; 1024];
        rig.file.read_exact_at(&mut read, 512).unwrap();
        assert_eq!((read[999], read[1000]), (1, 2));
    }
}

#[test]
fn a_read_past_the_end_is_short_and_what_the_file_refuses_is_an_error() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        rig.file.write_all_at(&[7; 100], 0).unwrap();
        let mut bytes = vec![0; 512];
        let buffers = [iovec(&mut bytes)];
        let transfer = |token, offset| {
            let (buffers, count) = (buffers.as_ptr(), 1);
            Transfer {
                token,
                write: false,
                buffered: false,
                beside: false,
                depth: Depth::TOP,
                offset,
                len: 512,
                buffers,
                count,
            }
        };
        // SAFETY: the buffer outlives the waits below.
        unsafe {
            rig.path.submit(transfer(1, 50));
            rig.path.submit(transfer(2, 1 << 63));
        }
        let done = finish(&mut rig.path, 2);
        assert!(done.contains(&Completion { token: 1, result: 50 }), "{done:?}");
        let refused = done.iter().find(|done| done.token == 2).unwrap().result;
        assert!([-libc::EINVAL, -libc::EFBIG].contains(&refused), "{done:?}");
    }
}

#[test]
fn more_transfers_than_the_ring_holds_all_complete() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        let mut bytes = vec![3; 1 << 16];
        let buffers: Vec<_> = bytes.chunks_mut(64).map(iovec).collect();
        for (index, buffer) in buffers.iter().enumerate() {
            let (token, offset) = (index as u64, 64 * index as u64);
            // SAFETY: the buffers outlive the loop below.
            unsafe {
                rig.path.submit(Transfer {
                    token,
                    write: true,
                    buffered: false,
                    beside: false,
                    depth: Depth::TOP,
                    offset,
                    len: 64,
                    buffers: buffer,
                    count: 1,
                })
            };
        }
        let done = finish(&mut rig.path, buffers.len());
        assert_eq!(done.len(), 1024);
        assert!(done.iter().all(|one| matches!(one, Completion { result: 64, .. })));
        assert_eq!(rig.file.metadata().unwrap().len(), 1 << 16);
    }
}

#[test]
fn a_ring_is_dropped_only_after_its_last_transfer() {
    let file = tempfile::tempfile().unwrap();
    let data = DataFiles::new(file.try_clone().unwrap(), file.try_clone().unwrap());
    let mut ring = Uring::new(Arc::new(Files::new(data)), 8).unwrap();
    let mut bytes = vec![5; 1 << 20];
    let buffers = [iovec(&mut bytes)];
    let (buffers, count) = (buffers.as_ptr(), 1);
    let transfer = Transfer {
        token: 0,
        write: true,
        buffered: false,
        beside: false,
        depth: Depth::TOP,
        offset: 0,
        len: 1 << 20,
        buffers,
        count,
    };
    // SAFETY: the buffer outlives the ring.
    unsafe { ring.submit(transfer) };
    drop(ring);
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn long_reads_of_a_batch_all_complete_with_their_bytes() {
    let mut rig = rig(AioMode::IoUring, 8);
    const LEN: usize = 128 << 10;
    let contents: Vec<u8> = (0..8 * LEN).map(|at| (at / 512) as u8).collect();
    rig.file.write_all_at(&contents, 0).unwrap();
    let mut read = vec![0; 8 * LEN];
    let buffers: Vec<_> = read.chunks_mut(LEN).map(iovec).collect();
    for round in 1..=8 {
        for (index, buffer) in buffers.iter().enumerate().take(round) {
            let (token, offset) = (index as u64, (index * LEN) as u64);
            let transfer = Transfer {
                token,
                write: false,
                buffered: false,
                beside: false,
                depth: Depth::TOP,
                offset,
                len: LEN as u64,
                buffers: buffer,
                count: 1,
            };
            // SAFETY: the buffers outlive the wait below.
            unsafe { rig.path.submit(transfer) };
        }
        let mut done = finish(&mut rig.path, round);
        done.sort_by_key(|completion| completion.token);
        let expected: Vec<_> = (0..round as u64).map(|token| Completion { token, result: LEN as i32 }).collect();
        assert_eq!(done, expected);
    }
    assert!(read == contents);
}

#[test]
fn what_ends_in_memory_is_done_at_once_and_nothing_is_left_in_flight() {
    let memory = memfd_create("path-test", MFdFlags::MFD_CLOEXEC).unwrap();
    let mut rig = rig_of(AioMode::IoUring, 8, File::from(memory));
    let (mut written, mut read) = (vec![9; 4096], vec![0; 4096]);
    for (token, write, buffer) in [(1, true, iovec(&mut written)), (2, false, iovec(&mut read))] {
        let transfer = Transfer {
            token,
            write,
            buffered: false,
            beside: false,
            depth: Depth::TOP,
            offset: 8192,
            len: 4096,
            buffers: &buffer,
            count: 1,
        };
        // SAFETY: the buffers outlive the poll below.
        unsafe { rig.path.submit(transfer) };
        assert_eq!(rig.path.descriptor(), None);
        let mut done = Vec::new();
        rig.path.poll(&mut done).unwrap();
        assert_eq!(done, [Completion { token, result: 4096 }]);
    }
    assert_eq!(read, written);
}

/// Blocks of a batch that go on from each other, from `offset` on, and one buffer for each.
fn in_a_row(rig: &mut Rig, write: bool, buffers: &[libc::iovec]) -> Vec<Completion> {
    for (index, buffer) in buffers.iter().enumerate() {
        let (token, offset) = (index as u64, 4096 * index as u64);
        let transfer = Transfer {
            token,
            write,
            buffered: false,
            beside: false,
            depth: Depth::TOP,
            offset,
            len: 4096,
            buffers: buffer,
            count: 1,
        };
        // SAFETY: iovecs and buffers outlive the wait below.
        unsafe { rig.path.submit(transfer) };
    }
    let mut done = finish(&mut rig.path, buffers.len());
    done.sort_by_key(|completion| completion.token);
    assert_eq!(done.iter().map(|one| one.token).collect::<Vec<_>>(), (0..buffers.len() as u64).collect::<Vec<_>>());
    assert_eq!(rig.path.descriptor(), None);
    done
}

fn results(done: &[Completion]) -> Vec<i32> {
    done.iter().map(|one| one.result).collect()
}

#[test]
fn transfers_that_go_on_from_each_other_each_have_the_result_they_would_have_alone() {
    for in_memory in [true, false] {
        for mode in MODES {
            let memory = || File::from(memfd_create("path-test", MFdFlags::MFD_CLOEXEC).unwrap());
            let file = if in_memory { memory() } else { tempfile::tempfile().unwrap() };
            let mut rig = rig_of(mode, 64, file);
            let mut written: Vec<u8> = (0..16 * 4096).map(|at| (at / 100) as u8).collect();
            let mut buffers: Vec<_> = written.chunks_mut(4096).map(iovec).collect();
            assert_eq!(results(&in_a_row(&mut rig, true, &buffers)), [4096; 16]);
            let mut contents = vec![0; 16 * 4096];
            rig.file.read_exact_at(&mut contents, 0).unwrap();
            assert!(contents == written);
            // One of them names memory that is not there.
            buffers[5] = libc::iovec { iov_base: std::ptr::without_provenance_mut(4096), iov_len: 4096 };
            let mut expected = [4096; 16];
            expected[5] = -libc::EFAULT;
            assert_eq!(results(&in_a_row(&mut rig, true, &buffers)), expected, "{mode:?}");
            // The file ends in the midst of them.
            rig.file.set_len(9 * 4096 + 100).unwrap();
            let mut read = vec![0; 16 * 4096];
            let buffers: Vec<_> = read.chunks_mut(4096).map(iovec).collect();
            let done = results(&in_a_row(&mut rig, false, &buffers));
            assert_eq!(done, [[4096; 9].as_slice(), &[100, 0, 0, 0, 0, 0, 0]].concat(), "{mode:?}");
            assert!(read[..9 * 4096 + 100] == written[..9 * 4096 + 100]);
        }
    }
}

#[test]
fn a_write_of_nothing_is_told_as_that_and_not_as_a_success() {
    assert_eq!(error_of(0).to_string(), "nothing was written, and no reason given");
    assert_eq!(error_of(-libc::ENOSPC).raw_os_error(), Some(libc::ENOSPC));
}
