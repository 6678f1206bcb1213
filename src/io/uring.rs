//! The bottom of a data path: io_uring.
//!
//! The kernel reads the iovecs while it submits, and the memory they name until the completion. An [`Uring`]
//! is dropped only after the last completion; see `Drop`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::at_once::Landing;
use super::{Completion, DataPath, Files, Transfer};

/// Most entries submitted by one system call; more are submitted in several.
const MAX_ENTRIES: u32 = 256;

/// Most completions the ring holds; the kernel keeps more until they are asked for.
const MAX_COMPLETIONS: u32 = 4096;

/// A ring that one thread uses.
pub(super) struct Uring {
    ring: IoUring,
    files: Arc<Files>,
    /// Transfers and syncs whose completion is still to come from the kernel.
    in_flight: usize,
    /// Entries for which the ring had no room.
    waiting: VecDeque<squeue::Entry>,
}

impl Uring {
    pub(super) fn new(files: Arc<Files>, depth: u16) -> io::Result<Self> {
        let entries = u32::from(depth).next_power_of_two().clamp(8, MAX_ENTRIES);
        let ring = IoUring::builder()
            // One thread uses the ring, and has no need to be interrupted for completions. Since Linux 6.0.
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(u32::from(depth).next_power_of_two().clamp(2 * entries, MAX_COMPLETIONS))
            .build(entries)
            .or_else(|_| IoUring::new(entries))?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel may lose completions (before 5.5)"));
        }
        Ok(Self { ring, files, in_flight: 0, waiting: VecDeque::new() })
    }

    /// Whether the kernel has something to take or to give that it does with a system call only.
    fn is_due(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
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
            // SAFETY: the caller of `submit` keeps iovecs and memory valid until the completion; the descriptors
            // are held by `self`, which outlives every operation. Syncs name no memory.
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
        for entry in self.ring.completion() {
            self.in_flight = self.in_flight.saturating_sub(1);
            done.push(Completion { token: entry.user_data(), result: entry.result() });
        }
    }
}

impl DataPath for Uring {
    unsafe fn submit(&mut self, transfer: Transfer) {
        let Transfer { token, write, beside, offset, buffers, count, .. } = transfer;
        // SAFETY: the caller promises that the buffers are valid.
        let fd = types::Fd(unsafe { self.files.choose(&transfer) }.0);
        // No request has more than MAX_DESCRIPTORS buffers, and a transfer at most 1024 of them.
        let count = count as u32;
        let entry = if write {
            opcode::Writev::new(fd, buffers, count).offset(offset).build()
        } else {
            opcode::Readv::new(fd, buffers, count).offset(offset).build()
        };
        self.in_flight += 1;
        if beside {
            self.push(entry.user_data(token).flags(squeue::Flags::ASYNC));
            // Where this fails it is submitted with the batch.
            let _ = self.ring.submit();
        } else {
            self.push(entry.user_data(token));
        }
    }

    fn sync(&mut self, token: u64) {
        let fd = types::Fd(self.files.buffered());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.in_flight += 1;
        self.push(entry.user_data(token));
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            self.fill();
            if self.is_due() && !self.enter(0)? {
                // Interrupted: what was to be submitted stays queued.
                return Ok(());
            }
            self.reap(done);
            if self.waiting.is_empty() {
                return Ok(());
            }
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        (self.in_flight > 0).then(|| self.ring.as_raw_fd())
    }
}

impl Landing for Uring {
    fn has_landed(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }
}

impl Drop for Uring {
    /// Waits for what is in flight: closing a ring does not end operations that write to the guest's memory.
    fn drop(&mut self) {
        let mut nobody = Vec::new();
        while self.in_flight > 0 {
            self.fill();
            if let Err(error) = self.enter(1) {
                log::error!("io_uring failed with I/O in flight: {error}");
                // Going on would free memory that the kernel still writes to.
                std::process::abort();
            }
            self.reap(&mut nobody);
        }
    }
}
