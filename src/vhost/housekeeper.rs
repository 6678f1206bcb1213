//! The thread that does the store's blocking metadata work, so that no worker waits for it.
//!
//! It lives as long as the daemon, across connections: what one frontend set in motion is finished whoever comes
//! next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::ServeError;
use super::device::Device;
use crate::sandbox::Role;
use crate::storage::Storage;
use crate::store::Batch;

#[derive(Default)]
struct Orders {
    work: bool,
    stop: bool,
}

#[derive(Default)]
struct Bell {
    orders: Mutex<Orders>,
    changed: Condvar,
}

impl Bell {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.orders().stop
    }

    fn ring(&self) {
        self.orders().work = true;
        self.changed.notify_one();
    }

    /// Waits for work; false when it is time to stop and no work is left.
    fn wait(&self) -> bool {
        let mut orders = self.orders();
        while !orders.work && !orders.stop {
            orders = self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut orders.work)
    }
}

pub(super) struct Housekeeper {
    bell: Arc<Bell>,
    thread: JoinHandle<()>,
}

impl Housekeeper {
    /// Starts the thread and has the store ring for it. Once a store, since a doorbell stays.
    pub(super) fn start<S: Storage + 'static>(device: Arc<Device<S>>) -> Result<Self, ServeError> {
        let bell = Arc::new(Bell::default());
        let ringer = Arc::clone(&bell);
        device.store.set_doorbell(Box::new(move || ringer.ring()));
        // Work may have been asked for before there was a bell.
        bell.ring();
        let listener = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("housekeeper".into())
            .spawn(move || {
                if let Err(error) = device.sandbox.confine(Role::Housekeeper) {
                    log::warn!("the housekeeper's thread may do all that the process may: {error}");
                }
                let mut batch = Batch::default();
                while listener.wait() {
                    keep(&device, &listener, &mut batch);
                }
            })
            .map_err(ServeError::system("start the housekeeper thread"))?;
        Ok(Self { bell, thread })
    }

    /// Ends the thread after the step it is at; closing the store does what must not be left. Workers must be gone: their
    /// requests may wait for it.
    pub(super) fn stop(self) {
        self.bell.orders().stop = true;
        self.bell.changed.notify_one();
        if self.thread.join().is_err() {
            log::error!("the housekeeper thread has panicked");
        }
    }
}

fn keep<S: Storage>(device: &Device<S>, bell: &Bell, batch: &mut Batch) {
    loop {
        let worked = device.store.housekeep(batch);
        device.store.commit(batch);
        device.router.deliver(batch.events.drain(..));
        if !worked || bell.is_stopping() {
            return;
        }
    }
}
