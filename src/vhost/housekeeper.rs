//! The thread that does the store's blocking metadata work, so that no worker waits for it.
//!
//! It lives as long as the daemon, across connections: what one frontend set in motion is finished whoever comes
//! next.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::ServeError;
use super::host::Host;
use crate::device::Device;
use crate::sandbox::Role;
use crate::store::Batch;
use crate::units::Bytes;

/// How long the rate is measured for at least.
const WINDOW: Duration = Duration::from_millis(250);

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

    /// Waits for work, or until `limit` has passed where there is one; false when it is time to stop and no work is left.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let mut orders = self.orders();
        while !orders.work && !orders.stop {
            let Some(limit) = limit else {
                orders = self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (woken, timeout) = self.changed.wait_timeout(orders, limit).unwrap_or_else(PoisonError::into_inner);
            orders = woken;
            orders.work |= timeout.timed_out();
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
    pub(super) fn start(host: Arc<Host>) -> Result<Self, ServeError> {
        let bell = Arc::new(Bell::default());
        let ringer = Arc::clone(&bell);
        host.device.disk.set_doorbell(Box::new(move || ringer.ring()));
        let ringer = Arc::clone(&bell);
        host.device.standstill.set_doorbell(Box::new(move || ringer.ring()));
        // Work may have been asked for before there was a bell.
        bell.ring();
        let listener = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name("housekeeper".into())
            .spawn(move || {
                if let Err(error) = host.sandbox.confine(Role::Housekeeper) {
                    log::warn!("the housekeeper's thread may do all that the process may: {error}");
                }
                let mut batch = Batch::default();
                let begun = Instant::now();
                let mut pace = Pace::new(begun);
                while listener.wait(host.device.faults.time_is(begun.elapsed())) {
                    host.device.faults.time_is(begun.elapsed());
                    keep(&host.device, &listener, &mut pace, &mut batch);
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

/// How fast the image takes space, so that enough is reserved ahead: what a second takes. A reservation waits for the
/// host's journal, and who needs space waits for it.
struct Pace {
    since: Instant,
    drawn: Bytes,
    a_second: u64,
}

impl Pace {
    fn new(since: Instant) -> Self {
        Self { since, drawn: Bytes(0), a_second: 0 }
    }

    /// Takes note of how much was drawn in all by now. Returns what a second takes, at the end of a window. After a pause
    /// the figure falls by half at a time.
    fn measure(&mut self, now: Instant, drawn: Bytes) -> Option<Bytes> {
        let window = now.saturating_duration_since(self.since);
        if window < WINDOW {
            return None;
        }
        let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let a_second = drawn.0.saturating_sub(self.drawn.0).saturating_mul(1000) / millis;
        *self = Self { since: now, drawn, a_second: a_second.max(self.a_second / 2) };
        Some(Bytes(self.a_second))
    }
}

fn keep(device: &Device, bell: &Bell, pace: &mut Pace, batch: &mut Batch) {
    loop {
        if let Some(a_second) = pace.measure(Instant::now(), device.disk.drawn()) {
            device.disk.keep_ahead(a_second);
        }
        let worked = device.housekeep(batch);
        device.disk.commit(batch);
        device.router.deliver(batch.events.drain(..));
        if !worked || bell.is_stopping() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_pace_is_what_a_second_takes_and_falls_by_half_a_window() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(pace.measure(at(249), Bytes(1 << 20)), None, "the window is not over");
        assert_eq!(pace.measure(at(500), Bytes(1 << 20)), Some(Bytes(2 << 20)));
        assert_eq!(pace.measure(at(1000), Bytes(5 << 20)), Some(Bytes(8 << 20)));
        assert_eq!(pace.measure(at(2000), Bytes(5 << 20)), Some(Bytes(4 << 20)));
        assert_eq!(pace.measure(at(3000), Bytes(5 << 20)), Some(Bytes(2 << 20)));
    }
}
