//! The io_uring engine: transfers, and polls on the two wakers, in one ring.
//!
//! Kick and wake are polled in multishot mode: each write to them is a completion, and they need not be read. Where
//! the kernel has no multishot polls (before 5.13), they are read and polled anew each time.
//!
//! The kernel reads the iovecs while it submits, and the memory they name until the completion. The engine is
//! dropped only after the last completion; see `Drop`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::{Completion, Files, TOKEN_LIMIT, Transfer, Wakers, drain};

const KICK: u64 = TOKEN_LIMIT;
const WAKE: u64 = TOKEN_LIMIT + 1;

/// Most entries submitted by one system call; more are submitted in several.
const MAX_ENTRIES: u32 = 256;

/// Most completions the ring holds; the kernel keeps more until they are asked for.
const MAX_COMPLETIONS: u32 = 4096;

pub(in crate::vhost) struct Uring {
    ring: IoUring,
    files: Arc<Files>,
    wakers: Wakers,
    /// Transfers and syncs whose completion is still to come from the kernel.
    in_flight: usize,
    /// Entries for which the ring had no room.
    waiting: VecDeque<squeue::Entry>,
    kick_polled: bool,
    wake_polled: bool,
    multishot: bool,
}

impl Uring {
    pub(super) fn new(files: Arc<Files>, wakers: Wakers, depth: u16) -> io::Result<Self> {
        let entries = u32::from(depth).next_power_of_two().clamp(8, MAX_ENTRIES);
        let ring = IoUring::builder()
            // One thread uses the ring, and has no need to be interrupted for completions. Since Linux 6.0.
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_cqsize(u32::from(depth).next_power_of_two().clamp(2 * entries, MAX_COMPLETIONS))
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel may lose completions (before 5.5)"));
        }
        Ok(Self {
            ring,
            files,
            wakers,
            in_flight: 0,
            waiting: VecDeque::new(),
            kick_polled: false,
            wake_polled: false,
            multishot: true,
        })
    }

    /// # Safety
    ///
    /// As for [`Engine::transfer`](super::Engine::transfer).
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        let Transfer { token, write, fd, offset, buffers, count } = transfer;
        let fd = types::Fd(fd);
        // No request has more than MAX_DESCRIPTORS buffers, and a transfer at most 1024 of them.
        let count = count as u32;
        let entry = if write {
            opcode::Writev::new(fd, buffers, count).offset(offset).build()
        } else {
            opcode::Readv::new(fd, buffers, count).offset(offset).build()
        };
        self.in_flight += 1;
        self.push(entry.user_data(token));
    }

    pub(super) fn sync(&mut self, token: u64) {
        let fd = types::Fd(self.files.buffered());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.in_flight += 1;
        self.push(entry.user_data(token));
    }

    pub(super) fn wait(&mut self, block: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        self.poll_wakers();
        self.fill();
        loop {
            let before = done.len();
            self.reap(done);
            let found = done.len() > before;
            if !self.ring.submission().is_empty() || (block && !found) {
                let want = usize::from(block && !found);
                if !self.enter(want)? {
                    // Interrupted: what was to be submitted stays queued.
                    return Ok(());
                }
                self.reap(done);
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
            self.fill();
        }
    }

    /// Puts an entry into the ring, or behind those that wait for room.
    fn push(&mut self, entry: squeue::Entry) {
        self.waiting.push_back(entry);
        self.fill();
        if !self.waiting.is_empty() {
            // Full: hand the batch to the kernel. If that fails the entries wait for the next round.
            if self.ring.submit().is_ok() {
                self.fill();
            }
        }
    }

    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: the caller of `transfer` keeps iovecs and memory valid until the completion; the descriptors
            // of files and wakers are held by `self`, which outlives every operation. Polls and syncs name no memory.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Submits and waits. False when it was interrupted or the kernel is short of something for the moment.
    fn enter(&mut self, want: usize) -> io::Result<bool> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => Ok(false),
                Some(libc::EAGAIN | libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(1));
                    Ok(false)
                }
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut queue = self.ring.completion();
        for entry in &mut queue {
            let result = entry.result();
            let completion = match entry.user_data() {
                KICK => {
                    self.kick_polled = cqueue::more(entry.flags());
                    if !self.multishot {
                        drain(&self.wakers.kick);
                    }
                    Completion::Kick
                }
                WAKE => {
                    self.wake_polled = cqueue::more(entry.flags());
                    if !self.multishot {
                        let _ = self.wakers.wake.read();
                    }
                    Completion::Wake
                }
                token => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    done.push(Completion::Io { token, result });
                    continue;
                }
            };
            if result == -libc::EINVAL && self.multishot {
                self.multishot = false;
            } else {
                done.push(completion);
            }
        }
    }

    /// Has the kernel watch the wakers that it does not watch.
    fn poll_wakers(&mut self) {
        let poll = |fd, token| {
            opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).multi(self.multishot).build().user_data(token)
        };
        let kick = (!self.kick_polled).then(|| poll(self.wakers.kick.as_raw_fd(), KICK));
        let wake = (!self.wake_polled).then(|| poll(self.wakers.wake.as_raw_fd(), WAKE));
        (self.kick_polled, self.wake_polled) = (true, true);
        for entry in kick.into_iter().chain(wake) {
            self.push(entry);
        }
    }
}

impl Drop for Uring {
    /// Waits for what is in flight: closing a ring does not end operations that write to the guest's memory.
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            done.clear();
            if let Err(error) = self.wait(true, &mut done) {
                log::error!("io_uring failed with I/O in flight: {error}");
                // Going on would free memory that the kernel still writes to.
                std::process::abort();
            }
        }
    }
}
