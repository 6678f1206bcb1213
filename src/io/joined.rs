//! A layer that does as one those transfers that go on from each other in the file.
//!
//! A driver that reads a zone from its beginning, or appends to it, in small requests has many of them in a batch, and
//! one system call or one operation of the disk for all costs little more than one for each. Every transfer keeps a
//! completion of its own: what the common one has carried belongs to them in order, and those that it did not carry to
//! their end are done again by themselves, so that each has the result that it would have had alone. Doing again what
//! was done is harmless: nobody has been told of it yet, and the range is the transfer's own.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::{Completion, DataPath, Transfer};

/// Most buffers of one system call (IOV_MAX of Linux).
const MAX_BUFFERS: usize = 1024;

/// Transfers of this length are not joined: there is little to be saved for each, and a disk does several at a time.
const LARGE: u64 = 64 << 10;

/// Most bytes that are joined.
const MAX_BYTES: u64 = 512 << 10;

/// The tokens of joined transfers have this bit, which no other has.
const JOINED: u64 = 1 << 63;

/// Transfers of which each goes on where the one before it ends, one at least.
#[derive(Debug, Default)]
struct Run {
    members: Vec<Transfer>,
    /// Those of all members, once it is under way.
    buffers: Vec<libc::iovec>,
    bytes: u64,
    count: usize,
}

impl Run {
    /// Whether one transfer goes on where another ends.
    fn joins(last: &Transfer, next: &Transfer) -> bool {
        last.offset.checked_add(last.len) == Some(next.offset)
            && (last.write, last.buffered, last.depth) == (next.write, next.buffered, next.depth)
            && last.len < LARGE
            && next.len < LARGE
    }

    fn takes(&self, next: &Transfer) -> bool {
        self.members.last().is_none_or(|last| {
            Self::joins(last, next)
                && self.bytes.saturating_add(next.len) <= MAX_BYTES
                && self.count.saturating_add(next.count) <= MAX_BUFFERS
        })
    }

    fn add(&mut self, transfer: Transfer) {
        self.bytes = self.bytes.saturating_add(transfer.len);
        self.count = self.count.saturating_add(transfer.count);
        self.members.push(transfer);
    }

    fn clear(&mut self) {
        self.members.clear();
        self.buffers.clear();
        (self.bytes, self.count) = (0, 0);
    }
}

/// The run that transfers are added to, and those under way. Runs keep their memory when they are over, so that nothing
/// is allocated in the long run.
#[derive(Debug, Default)]
struct Merger {
    open: Run,
    under_way: Vec<Run>,
    free: Vec<usize>,
    rest: VecDeque<Transfer>,
}

impl Merger {
    /// Takes a transfer into the open run. Where it does not go on from that, it begins another, and the transfer that
    /// carries the one before is to be started, as for [`close`](Self::close).
    ///
    /// # Safety
    ///
    /// The iovecs of the transfer and of the members of the open run are valid.
    unsafe fn add(&mut self, transfer: &Transfer) -> Option<Transfer> {
        if let [last] = self.open.members.as_mut_slice()
            && !Run::joins(last, transfer)
        {
            // The one that is common where nothing is in order.
            (self.open.bytes, self.open.count) = (transfer.len, transfer.count);
            return Some(std::mem::replace(last, *transfer));
        }
        // SAFETY: the caller promises the same.
        let before = if self.open.takes(transfer) { None } else { unsafe { self.close() } };
        self.open.add(*transfer);
        before
    }

    /// Closes the open run: the transfer that carries it, if there is any. Its token is given back to
    /// [`over`](Self::over).
    ///
    /// # Safety
    ///
    /// The iovecs of the members are valid.
    unsafe fn close(&mut self) -> Option<Transfer> {
        let first = *self.open.members.first()?;
        if self.open.members.len() == 1 {
            self.open.clear();
            return Some(first);
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.under_way.push(Run::default());
            self.under_way.len() - 1
        });
        let run = self.under_way.get_mut(at)?;
        std::mem::swap(run, &mut self.open);
        for member in &run.members {
            // SAFETY: the caller promises that there are `count` valid iovecs.
            run.buffers.extend_from_slice(unsafe { member.iovecs() });
        }
        let (buffers, count) = (run.buffers.as_ptr(), run.buffers.len());
        Some(Transfer { token: JOINED | at as u64, len: run.bytes, buffers, count, ..first })
    }

    /// A transfer is over: gives out the completions of those it carried. What is to be done again by itself is in
    /// [`rest`](Self::rest).
    fn over(&mut self, token: u64, result: i32, done: &mut Vec<Completion>) {
        if token & JOINED == 0 {
            done.push(Completion { token, result });
            return;
        }
        let at = (token & !JOINED) as usize;
        let Some(run) = self.under_way.get_mut(at) else { return };
        let mut carried = u64::try_from(result).unwrap_or(0);
        for member in run.members.drain(..) {
            match carried.checked_sub(member.len) {
                Some(left) => {
                    carried = left;
                    // It was carried in one call, so its length is within what a call can tell.
                    done.push(Completion { token: member.token, result: member.len as i32 });
                }
                None => {
                    carried = 0;
                    self.rest.push_back(member);
                }
            }
        }
        run.clear();
        self.free.push(at);
    }

    /// Whether there are transfers to be done again.
    fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The next transfer to be done again by itself.
    fn rest(&mut self) -> Option<Transfer> {
        self.rest.pop_front()
    }
}

/// A data path that joins what it is given.
pub(super) struct Joined<P> {
    /// The first field: what is in flight is over before the buffers of runs are freed.
    below: P,
    merger: Merger,
    /// Completions of the path below; empty between polls.
    landed: Vec<Completion>,
}

impl<P: DataPath> Joined<P> {
    pub(super) fn new(below: P) -> Self {
        Self { below, merger: Merger::default(), landed: Vec::new() }
    }
}

impl<P: DataPath> DataPath for Joined<P> {
    unsafe fn submit(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises that buffers and memory are valid until the completion, and those of runs live as
        // long as the run is under way.
        unsafe {
            if let Some(before) = self.merger.add(&transfer) {
                self.below.submit(before);
            }
        }
    }

    fn sync(&mut self, token: u64) {
        self.below.sync(token);
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        // SAFETY: whoever submitted its members keeps buffers and memory valid until they are handed out.
        unsafe {
            if let Some(run) = self.merger.close() {
                self.below.submit(run);
            }
        }
        loop {
            let polled = self.below.poll(&mut self.landed);
            for Completion { token, result } in self.landed.drain(..) {
                self.merger.over(token, result, done);
            }
            polled?;
            if !self.merger.has_rest() {
                return Ok(());
            }
            while let Some(alone) = self.merger.rest() {
                // SAFETY: as above.
                unsafe { self.below.submit(alone) };
            }
        }
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.below.descriptor()
    }
}

#[cfg(test)]
#[path = "joined_tests.rs"]
mod tests;
