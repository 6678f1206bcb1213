#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;
use crate::vhost::files::DataFiles;

struct Rig {
    engine: Engine,
    file: File,
    kick: Arc<File>,
    wake: Arc<EventFd>,
}

fn rig(mode: AioMode, depth: u16) -> Rig {
    let file = tempfile::tempfile().unwrap();
    let data = DataFiles { data: file.try_clone().unwrap(), buffered: file.try_clone().unwrap() };
    // SAFETY: the descriptor is new and nobody else's.
    let kick = Arc::new(unsafe { File::from_raw_fd(EventFd::new(EFD_NONBLOCK).unwrap().into_raw_fd()) });
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
    let wakers = Wakers { kick: Arc::clone(&kick), wake: Arc::clone(&wake) };
    Rig { engine: Engine::new(mode, Arc::new(Files::new(data)), wakers, depth).unwrap(), file, kick, wake }
}

const MODES: [AioMode; 2] = [AioMode::IoUring, AioMode::Sync];

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn kick(rig: &Rig) {
    (&*rig.kick).write_all(&1u64.to_ne_bytes()).unwrap();
}

#[test]
fn transfers_come_back_with_their_token_and_length() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        let (mut first, mut second) = (vec![1; 1000], vec![2; 24]);
        let buffers = [iovec(&mut first), iovec(&mut second)];
        let fd = rig.file.as_raw_fd();
        let transfer = Transfer { token: 9, write: true, fd, offset: 512, buffers: buffers.as_ptr(), count: 2 };
        // SAFETY: buffers and vectors outlive the wait below.
        unsafe { rig.engine.transfer(transfer) };
        rig.engine.sync(10);
        let mut done = Vec::new();
        while done.len() < 2 {
            rig.engine.wait(true, &mut done).unwrap();
        }
        assert!(done.contains(&Completion::Io { token: 9, result: 1024 }), "{done:?}");
        assert!(done.contains(&Completion::Io { token: 10, result: 0 }), "{done:?}");
        let mut read = vec![0; 1024];
        rig.file.read_exact_at(&mut read, 512).unwrap();
        assert_eq!((read[999], read[1000]), (1, 2));
    }
}

#[test]
fn a_read_past_the_end_is_short_and_a_bad_descriptor_is_an_error() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        rig.file.write_all_at(&[7; 100], 0).unwrap();
        let mut bytes = vec![0; 512];
        let buffers = [iovec(&mut bytes)];
        let (fd, buffers, count) = (rig.file.as_raw_fd(), buffers.as_ptr(), 1);
        // SAFETY: the buffer outlives the waits below.
        unsafe {
            rig.engine.transfer(Transfer { token: 1, write: false, fd, offset: 50, buffers, count });
            rig.engine.transfer(Transfer { token: 2, write: false, fd: -1, offset: 0, buffers, count });
        }
        let mut done = Vec::new();
        while done.len() < 2 {
            rig.engine.wait(true, &mut done).unwrap();
        }
        assert!(done.contains(&Completion::Io { token: 1, result: 50 }), "{done:?}");
        assert!(done.contains(&Completion::Io { token: 2, result: -libc::EBADF }), "{done:?}");
    }
}

#[test]
fn every_kick_and_wake_is_seen_and_silence_is_not() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        for round in 0..50 {
            let mut done = Vec::new();
            kick(&rig);
            rig.engine.wait(true, &mut done).unwrap();
            assert_eq!(done, [Completion::Kick], "{mode:?} round {round}");
            done.clear();
            rig.wake.write(1).unwrap();
            rig.engine.wait(true, &mut done).unwrap();
            assert_eq!(done, [Completion::Wake], "{mode:?} round {round}");
            done.clear();
            rig.engine.wait(false, &mut done).unwrap();
            assert_eq!(done, []);
        }
    }
}

#[test]
fn a_kick_from_before_the_engine_is_seen() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        kick(&rig);
        kick(&rig);
        let mut done = Vec::new();
        rig.engine.wait(true, &mut done).unwrap();
        assert_eq!(done, [Completion::Kick]);
    }
}

#[test]
fn more_transfers_than_the_ring_holds_all_complete() {
    for mode in MODES {
        let mut rig = rig(mode, 8);
        let mut bytes = vec![3; 1 << 16];
        let buffers: Vec<_> = bytes.chunks_mut(64).map(iovec).collect();
        let fd = rig.file.as_raw_fd();
        for (index, buffer) in buffers.iter().enumerate() {
            let (token, offset) = (index as u64, 64 * index as u64);
            // SAFETY: the buffers outlive the loop below.
            unsafe { rig.engine.transfer(Transfer { token, write: true, fd, offset, buffers: buffer, count: 1 }) };
        }
        let mut done = Vec::new();
        while done.len() < buffers.len() {
            rig.engine.wait(true, &mut done).unwrap();
        }
        assert_eq!(done.len(), 1024);
        assert!(done.iter().all(|one| matches!(one, Completion::Io { result: 64, .. })));
        assert_eq!(rig.file.metadata().unwrap().len(), 1 << 16);
    }
}

#[test]
fn an_engine_is_dropped_only_after_its_last_transfer() {
    let mut rig = rig(AioMode::IoUring, 8);
    let mut bytes = vec![5; 1 << 20];
    let buffers = [iovec(&mut bytes)];
    let transfer =
        Transfer { token: 0, write: true, fd: rig.file.as_raw_fd(), offset: 0, buffers: buffers.as_ptr(), count: 1 };
    // SAFETY: the buffer outlives the engine.
    unsafe { rig.engine.transfer(transfer) };
    drop(rig.engine);
    assert_eq!(rig.file.metadata().unwrap().len(), 1 << 20);
}
