//! A data path over the simulated disk: operations end in any order, late, in part, or not at all.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use super::disk::SimDisk;
use super::rng::Rng;
use crate::io::{self, Completion, DataPath, Transfer};
use crate::storage::Medium;

/// The unit in which a transfer can end early.
const BLOCK: u64 = 512;

/// What all paths of a world have in common.
pub(super) struct Weather {
    pub(super) rng: Rng,
    /// One transfer in so many fails; none where 0.
    pub(super) failures: u64,
    /// One sync in so many fails; none where 0.
    pub(super) failed_syncs: u64,
    /// A sync of the present process has failed.
    pub(super) sync_has_failed: bool,
}

enum Operation {
    Transfer(Transfer),
    Sync(u64),
}

/// The data path of one queue.
pub(super) struct SimPath {
    disk: Arc<SimDisk>,
    weather: Rc<RefCell<Weather>>,
    taken: Vec<Operation>,
}

impl SimPath {
    pub(super) fn new(disk: &Arc<SimDisk>, weather: &Rc<RefCell<Weather>>) -> Self {
        Self { disk: Arc::clone(disk), weather: Rc::clone(weather), taken: Vec::new() }
    }

    /// Whether something could be completed.
    pub(super) fn is_busy(&self) -> bool {
        !self.taken.is_empty()
    }

    /// The process dies: of what is under way anything may still happen, and nobody learns of it.
    pub(super) fn die(&mut self) {
        for operation in std::mem::take(&mut self.taken) {
            if let Operation::Transfer(transfer) = operation
                && transfer.write
            {
                let blocks = transfer.len / BLOCK;
                let landed = self.weather.borrow_mut().rng.below(blocks + 1) * BLOCK;
                self.carry(&transfer, landed);
            }
        }
    }

    fn complete(&mut self, operation: Operation) -> Completion {
        let weather = Rc::clone(&self.weather);
        let weather = &mut *weather.borrow_mut();
        let fails = |one_in: u64, rng: &mut Rng| one_in != 0 && rng.below(one_in) == 0;
        match operation {
            Operation::Sync(token) if fails(weather.failed_syncs, &mut weather.rng) => {
                weather.sync_has_failed = true;
                Completion { token, result: -libc::EIO }
            }
            Operation::Sync(token) => {
                let result = self.disk.flush().map_or(-libc::EIO, |()| 0);
                Completion { token, result }
            }
            Operation::Transfer(transfer) => {
                let token = transfer.token;
                if weather.rng.below(16) == 0 {
                    // Harmless: it is to be tried again.
                    return Completion { token, result: *weather.rng.pick(&[-libc::EINTR, -libc::EAGAIN]) };
                }
                let blocks = transfer.len / BLOCK;
                if fails(weather.failures, &mut weather.rng) {
                    let landed = weather.rng.below(blocks + 1) * BLOCK;
                    self.carry(&transfer, landed);
                    return Completion { token, result: *weather.rng.pick(&[-libc::EIO, -libc::ENOSPC]) };
                }
                let short = blocks > 1 && weather.rng.below(8) == 0;
                let len = if short { (1 + weather.rng.below(blocks - 1)) * BLOCK } else { transfer.len };
                Completion { token, result: self.carry(&transfer, len) as i32 }
            }
        }
    }

    /// Carries the first bytes of a transfer; returns how many there were to carry.
    fn carry(&self, transfer: &Transfer, len: u64) -> u64 {
        let end = self.disk.len().unwrap().0;
        let len = if transfer.write { len } else { len.min(end.saturating_sub(transfer.offset)) };
        // SAFETY: whoever submitted the transfer keeps iovecs and memory valid until it is completed.
        unsafe { io::carry(&*self.disk, transfer, len, &mut Vec::new()) }.unwrap();
        len
    }
}

impl DataPath for SimPath {
    unsafe fn submit(&mut self, transfer: Transfer) {
        self.taken.push(Operation::Transfer(transfer));
    }

    fn sync(&mut self, token: u64) {
        self.taken.push(Operation::Sync(token));
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> std::io::Result<()> {
        let mut at = 0;
        while at < self.taken.len() {
            if self.weather.borrow_mut().rng.below(2) == 0 {
                at += 1;
                continue;
            }
            // The last one takes its place, so that they end in any order.
            let operation = self.taken.swap_remove(at);
            let completion = self.complete(operation);
            done.push(completion);
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<RawFd> {
        self.is_busy().then_some(-1)
    }
}
