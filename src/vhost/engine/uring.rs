//! The io_uring engine.
//!
//! The kernel reads the iovecs while it submits, and the memory they name until the completion. The engine is
//! dropped only after the last completion; see `Drop`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::merge::Merger;
use super::{Completion, Files, Inline, Transfer};

/// Most entries submitted by one system call; more are submitted in several.
const MAX_ENTRIES: u32 = 256;

/// Reads of this length and more are shared with a thread of the kernel's when there are several: copying one takes
/// longer than handing it over. (Writes to one file exclude each other.)
const SHARED_READ: u64 = 64 * 1024;

/// Most completions the ring holds; the kernel keeps more until they are asked for.
const MAX_COMPLETIONS: u32 = 4096;

pub(in crate::vhost) struct Uring {
    ring: IoUring,
    files: Arc<Files>,
    inline: Inline,
    merger: Merger,
    /// What is over and was not handed out.
    done: Vec<Completion>,
    /// Transfers and syncs whose completion is still to come from the kernel.
    in_flight: usize,
    /// Entries for which the ring had no room.
    waiting: VecDeque<squeue::Entry>,
    /// A long read that waits for another one to be done beside it, or for the end of the batch.
    held: Option<Transfer>,
    /// A read is with a thread of the kernel's and was not seen back.
    shared: bool,
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
        Ok(Self {
            ring,
            inline: Inline::new(files.buffered_file()),
            files,
            merger: Merger::default(),
            done: Vec::new(),
            in_flight: 0,
            waiting: VecDeque::new(),
            held: None,
            shared: false,
        })
    }

    /// # Safety
    ///
    /// As for [`Engine::transfer`](super::Engine::transfer).
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        if transfer.write || transfer.direct || transfer.len < SHARED_READ {
            // SAFETY: the caller promises that buffers and memory are valid.
            if let Some(before) = unsafe { self.merger.add(&transfer) } {
                self.at_once(before);
            }
        } else if let Some(before) = self.held.replace(transfer) {
            self.share(before);
        }
    }

    /// Does a read, or has a thread of the kernel's do it while this one does the next, if that thread is free.
    fn share(&mut self, read: Transfer) {
        if self.shared && self.ring.completion().is_empty() {
            return self.at_once(read);
        }
        self.shared = true;
        self.submit(read, squeue::Flags::ASYNC);
        // Where this fails it is submitted with the batch.
        let _ = self.ring.submit();
    }

    /// Starts what was collected to be done as one.
    fn start_run(&mut self) {
        // SAFETY: the caller of `transfer` promises that buffers and memory are valid.
        if let Some(transfer) = unsafe { self.merger.close() } {
            self.at_once(transfer);
        }
    }

    fn at_once(&mut self, transfer: Transfer) {
        // SAFETY: as above.
        match unsafe { self.inline.try_now(&transfer) } {
            Some(result) => self.merger.over(transfer.token, result, &mut self.done),
            None => self.submit(transfer, squeue::Flags::empty()),
        }
    }

    /// Does by themselves those that were started as one and did not all get through.
    fn start_rest(&mut self) {
        while let Some(transfer) = self.merger.rest() {
            self.at_once(transfer);
        }
    }

    fn submit(&mut self, transfer: Transfer, flags: squeue::Flags) {
        let Transfer { token, write, fd, direct: _, offset, buffers, count, len: _ } = transfer;
        let fd = types::Fd(fd);
        // No request has more than MAX_DESCRIPTORS buffers, and a transfer at most 1024 of them.
        let count = count as u32;
        let entry = if write {
            opcode::Writev::new(fd, buffers, count).offset(offset).build()
        } else {
            opcode::Readv::new(fd, buffers, count).offset(offset).build()
        };
        self.in_flight += 1;
        self.push(entry.user_data(token).flags(flags));
    }

    pub(super) fn sync(&mut self, token: u64) {
        let fd = types::Fd(self.files.buffered());
        let entry = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        self.in_flight += 1;
        self.push(entry.user_data(token));
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(held) = self.held.take() {
            self.at_once(held);
        }
        self.start_run();
        let submitted = self.submit_all();
        done.append(&mut self.done);
        submitted
    }

    fn submit_all(&mut self) -> io::Result<()> {
        loop {
            self.start_rest();
            self.fill();
            if self.is_due() && !self.enter(0)? {
                // Interrupted: what was to be submitted stays queued.
                return Ok(());
            }
            self.reap();
            if self.waiting.is_empty() && !self.merger.has_rest() {
                return Ok(());
            }
        }
    }

    pub(super) fn descriptor(&self) -> Option<RawFd> {
        (self.in_flight > 0).then(|| self.ring.as_raw_fd())
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
            // SAFETY: the caller of `transfer` keeps iovecs and memory valid until the completion; the descriptors
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

    fn reap(&mut self) {
        for entry in self.ring.completion() {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.shared = false;
            self.merger.over(entry.user_data(), entry.result(), &mut self.done);
        }
    }
}

impl Drop for Uring {
    /// Waits for what is in flight: closing a ring does not end operations that write to the guest's memory.
    fn drop(&mut self) {
        self.start_run();
        while self.in_flight > 0 {
            self.fill();
            if let Err(error) = self.enter(1) {
                log::error!("io_uring failed with I/O in flight: {error}");
                // Going on would free memory that the kernel still writes to.
                std::process::abort();
            }
            self.reap();
        }
    }
}
