//! The engine of tests that say when a sync is over. Transfers are done at once.

use std::sync::Arc;

use super::{Completion, Files, SyncEngine, Transfer};

pub(in crate::vhost) struct Held {
    engine: SyncEngine,
    syncs: Vec<u64>,
}

impl Held {
    pub(in crate::vhost) fn new(files: Arc<Files>) -> Self {
        Self { engine: SyncEngine::new(files), syncs: Vec::new() }
    }

    /// Lets the syncs that were taken so far end.
    pub(in crate::vhost) fn release(&mut self) {
        self.syncs.drain(..).for_each(|token| self.engine.sync(token));
    }

    /// # Safety
    ///
    /// The iovecs and the memory they name are valid.
    pub(super) unsafe fn transfer(&mut self, transfer: Transfer) {
        // SAFETY: the caller promises the same.
        unsafe { self.engine.transfer(transfer) };
    }

    pub(super) fn sync(&mut self, token: u64) {
        self.syncs.push(token);
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Completion>) {
        self.engine.poll(done);
    }
}
