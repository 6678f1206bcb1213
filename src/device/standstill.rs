//! What is done while nothing moves: the image is copied, or becomes what it was.
//!
//! 1. *Frozen*: no queue takes anything from its ring, I/O in flight comes to its end, no answer goes out.
//! 2. *Still*: with no round under way and no I/O in flight the image is the housekeeper's own. Queues do nothing, and can be asked.
//! 3. What was held goes on, as if nothing had been; or, where the image has become another one, the power is off until the device
//!    is reset, as after a cut.
//!
//! The housekeeper's thread [goes on](Standstill::go_on) with it. Lock order: the order, then the gates of the queues.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::router::Router;
use crate::power::{Switch, Then, VolatileCache};
use crate::storage::copy::Method;
use crate::storage::{FileRange, Medium};
use crate::store::{Doorbell, Reversion, RevertError, ZonedDevice};

/// Copies the image's file; is told whether to go on.
pub type Copy = Box<dyn FnMut(&dyn Fn() -> bool) -> io::Result<Method> + Send>;

/// Replaces the image's file, all but its beginning; the blocks of the range stay where they are.
pub type Replace = Box<dyn Fn(FileRange) -> io::Result<Method> + Send>;

/// Looks at what the order came with, on a thread that may: what is wrong with it, in a line.
pub type Check = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// What is to be done.
pub enum Order {
    /// Copy the image.
    Save {
        /// What copies.
        copy: Copy,
    },
    /// Have the image become what was saved.
    Revert {
        /// What it becomes.
        saved: Arc<dyn Medium>,
        /// What that is called.
        name: String,
        /// What becomes of requests until the device is reset.
        then: Then,
        /// What replaces the content.
        replace: Replace,
    },
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How long requests were held, or, of a revert, how long it took.
    pub held: Duration,
    /// How the content was copied.
    pub method: Method,
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing has changed.
    #[error("{0}")]
    Refused(String),
    /// The image is lost: the program is to end.
    #[error("{0}")]
    Lost(String),
}

/// Called at the end.
pub type Done = Box<dyn FnOnce(Result<Outcome, Failure>) + Send>;

enum Stage {
    /// What it came with was not looked at yet.
    New(Check),
    /// What is in flight is waited for, since then.
    Waits(Instant),
}

struct Pending {
    order: Order,
    stage: Stage,
    done: Done,
    hurry: Hurry,
}

/// A copy is to be given up, which means nothing once it is made.
#[derive(Clone, Debug, Default)]
pub struct Hurry(Arc<AtomicBool>);

impl Hurry {
    /// Has the copy given up.
    pub fn give_up(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is done while nothing moves, one at a time.
pub struct Standstill {
    switch: Arc<Switch>,
    pending: Mutex<Option<Pending>>,
    /// Of what is to be done now.
    hurry: Mutex<Hurry>,
    bell: OnceLock<Doorbell>,
}

impl Standstill {
    /// None is under way.
    pub fn new(switch: Arc<Switch>) -> Self {
        Self { switch, pending: Mutex::default(), hurry: Mutex::default(), bell: OnceLock::new() }
    }

    /// Sets, once, what has the housekeeper look.
    pub fn set_doorbell(&self, bell: Doorbell) {
        if self.bell.set(bell).is_err() {
            log::error!("the doorbell of the standstill was set twice; the first one stays");
        }
    }

    /// Has the housekeeper look: a queue has nothing in flight any more.
    pub fn ring(&self) {
        if let Some(ring) = self.bell.get() {
            ring();
        }
    }

    /// Has something done. None while something else is: then it never is.
    pub fn begin(&self, order: Order, check: Check, done: Done) -> Option<Hurry> {
        // What is being carried out is held by whoever does it.
        let mut pending = self.pending.try_lock().ok().filter(|pending| pending.is_none())?;
        let hurry = Hurry::default();
        *lock(&self.hurry) = hurry.clone();
        *pending = Some(Pending { order, stage: Stage::New(check), done, hurry: hurry.clone() });
        drop(pending);
        self.ring();
        Some(hurry)
    }

    /// Somebody waits for requests that are held: a copy that is under way is given up.
    pub fn give_up(&self) {
        lock(&self.hurry).give_up();
    }

    /// Goes on with what is to be done; returns whether anything was. Blocking, by the housekeeper's thread.
    pub fn go_on(&self, disk: &dyn ZonedDevice, cache: Option<&VolatileCache>, router: &Router) -> bool {
        // Kept where it is, so that nothing else begins meanwhile.
        let mut slot = lock(&self.pending);
        let Some(pending) = slot.as_mut() else { return false };
        if let Stage::New(check) = &mut pending.stage {
            let check = std::mem::replace(check, Box::new(|| Ok(())));
            if let Err(reason) = check().and_then(|()| self.freeze_for(&pending.order, disk)) {
                let failed = slot.take();
                drop(slot);
                failed.into_iter().for_each(|pending| (pending.done)(Err(Failure::Refused(reason.clone()))));
                return true;
            }
            pending.stage = Stage::Waits(Instant::now());
        }
        let Stage::Waits(since) = pending.stage else { return false };
        // A device that was reset meanwhile has power again.
        self.switch.freeze();
        let Some(gates) = self.switch.stop_rounds() else { return false };
        if !self.switch.occupy() {
            return false;
        }
        drop(gates);
        let result = self.carry_out(pending, disk, router, since);
        if matches!(result, Err(Failure::Lost(_))) {
            log::error!("nothing is answered any more: the image is lost");
        } else {
            match cache {
                Some(cache) => cache.vacate(|events| router.deliver(events)),
                None => _ = self.switch.vacate(false),
            }
        }
        router.ring_all();
        let over = slot.take();
        drop(slot);
        over.into_iter().for_each(|pending| (pending.done)(result.clone()));
        true
    }

    /// Has the queues take nothing any more, where the order makes sense.
    fn freeze_for(&self, order: &Order, disk: &dyn ZonedDevice) -> Result<(), String> {
        match order {
            Order::Revert { saved, .. } => disk.cannot_become(saved).map_or(Ok(()), Err)?,
            // Most of what the guest has written is made stable before anything is held.
            Order::Save { .. } => disk.make_durable().map_err(|refusal| refusal.to_string())?,
        }
        self.switch.freeze();
        Ok(())
    }

    fn carry_out(
        &self,
        pending: &mut Pending,
        disk: &dyn ZonedDevice,
        router: &Router,
        since: Instant,
    ) -> Result<Outcome, Failure> {
        let mut method = Method::Data;
        let hurry = pending.hurry.clone();
        match &mut pending.order {
            Order::Save { copy } => {
                disk.make_durable().map_err(|refusal| Failure::Refused(refusal.to_string()))?;
                let copied = disk.save_copy(&mut || copy(&|| !hurry.is_given_up()).map(|how| method = how));
                copied.map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Failure::Refused(GIVEN_UP.to_owned()),
                    _ => Failure::Refused(format!("the image cannot be copied: {error}")),
                })?;
            }
            Order::Revert { saved, name, then, replace } => {
                let how = std::cell::Cell::new(method);
                let decided = || {
                    self.switch.cut_occupied(*then);
                    router.ring_all();
                };
                let replace = |keep| replace(keep).map(|method| how.set(method));
                let fails = *then == Then::Fail;
                let to = Reversion { saved, name, fails, decided: &decided, replace: &replace };
                disk.revert(&to).map_err(|error| match error {
                    RevertError::Unchanged(reason) => Failure::Refused(reason),
                    RevertError::Lost(_) => Failure::Lost(error.to_string()),
                })?;
                method = how.get();
                log::info!("the image is reverted to {name:?}: the power is off until the device is reset");
            }
        }
        Ok(Outcome { held: since.elapsed(), method })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // In the daemon a panic ends the process, so poison exists only in tests that caught one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a copy was not made to its end.
const GIVEN_UP: &str = "given up: the frontend has stopped a queue, or the client has gone, while requests were held";

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#[path = "standstill_tests.rs"]
mod tests;
