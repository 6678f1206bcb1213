//! How a worker sleeps and what wakes it: the driver's kick, another thread of this process, a completion.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::notify::{Drained, Notifier};
use crate::device::router::Bell;

/// After so many kicks on end that nothing came with, the kick descriptor is not waited on any more.
const VAIN_KICKS: u32 = 256;

/// How often the ring is looked at instead, until the descriptor is quiet.
const VAIN_PAUSE: Duration = Duration::from_millis(10);

/// What other threads wake a worker with. A worker that is not asleep sees it without a system call.
#[derive(Debug)]
pub(super) struct Waker {
    rung: AtomicBool,
    event: EventFd,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { rung: AtomicBool::new(false), event: EventFd::new(EFD_NONBLOCK)? })
    }

    /// Whether it was rung since the last time.
    pub(super) fn take(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }
}

impl Bell for Waker {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        // The one error is EAGAIN when nobody has read it 2^64 - 2 times; it is readable then.
        let _ = self.event.write(1);
    }
}

/// What a worker waits on.
///
/// A kick descriptor that never gets quiet would keep a processor busy, be it a counter that a frontend has filled or
/// one that it writes to without end. So kicks that bring nothing are counted.
#[derive(Debug)]
pub(super) struct Sleeper {
    /// Written by the driver when it has filled its ring.
    kick: Arc<Notifier>,
    waker: Arc<Waker>,
    /// Kicks since the last chain.
    vain: u32,
    /// The kick descriptor cannot be read: it would never let sleep again.
    ended: bool,
}

impl Sleeper {
    pub(super) fn new(kick: Arc<Notifier>, waker: Arc<Waker>) -> Self {
        Self { kick, waker, vain: 0, ended: false }
    }

    /// Waits for another kick descriptor from now on.
    pub(super) fn set_kick(&mut self, kick: Arc<Notifier>) {
        *self = Self::new(kick, Arc::clone(&self.waker));
    }

    /// Whether another thread has something for the worker.
    pub(super) fn is_woken(&self) -> bool {
        self.waker.take()
    }

    /// There was something in the ring.
    pub(super) fn found_work(&mut self) {
        self.vain = 0;
    }

    /// Waits for a kick, for the waker, or until `other` is readable; a signal ends it as well, and a pause where kicks
    /// have come in vain.
    pub(super) fn sleep(&mut self, other: Option<RawFd>) -> io::Result<()> {
        let watch = |fd: Option<RawFd>| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
        let pauses = !self.ended && self.vain >= VAIN_KICKS;
        let kick = (!self.ended && !pauses).then(|| self.kick.as_raw_fd());
        let timeout = if pauses { VAIN_PAUSE.as_millis() as i32 } else { -1 };
        let mut fds = [watch(kick), watch(Some(self.waker.event.as_raw_fd())), watch(other)];
        // SAFETY: an array of three valid pollfds.
        if unsafe { libc::poll(fds.as_mut_ptr(), 3, timeout) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let [kicked, woken, _] = fds.map(|fd| fd.revents != 0);
        if kicked || pauses {
            match self.kick.drain() {
                Drained::Some => self.vain = self.vain.saturating_add(1),
                Drained::Nothing => self.vain = 0,
                Drained::Ended => self.ended = true,
            }
        }
        if woken {
            let _ = self.waker.event.read();
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::{FromRawFd, IntoRawFd};

    use vmm_sys_util::eventfd::EFD_SEMAPHORE;

    use super::*;

    fn sleeper(flags: i32) -> (Sleeper, File, Arc<Waker>) {
        // SAFETY: the descriptor is new and nobody else's.
        let kick = unsafe { File::from_raw_fd(EventFd::new(EFD_NONBLOCK | flags).unwrap().into_raw_fd()) };
        let waker = Arc::new(Waker::new().unwrap());
        let notifier = Arc::new(Notifier::to_listen(kick.try_clone().unwrap()).unwrap());
        (Sleeper::new(notifier, Arc::clone(&waker)), kick, waker)
    }

    #[test]
    fn every_kick_and_every_ring_ends_one_sleep_even_if_it_came_before() {
        let (mut sleeper, kick, waker) = sleeper(0);
        for _ in 0..50 {
            (&kick).write_all(&1u64.to_ne_bytes()).unwrap();
            sleeper.sleep(None).unwrap();
            assert!((&kick).read(&mut [0; 8]).is_err() && !waker.take());
            waker.ring();
            waker.ring();
            sleeper.sleep(None).unwrap();
            assert!(waker.take() && !waker.take(), "it is told once");
        }
    }

    #[test]
    fn kicks_that_bring_nothing_are_not_waited_on_until_there_is_an_end_of_them() {
        let (mut sleeper, kick, _waker) = sleeper(EFD_SEMAPHORE);
        let kicks = u64::from(VAIN_KICKS) + 3;
        (&kick).write_all(&kicks.to_ne_bytes()).unwrap();
        (0..VAIN_KICKS).for_each(|_| sleeper.sleep(None).unwrap());
        let began = std::time::Instant::now();
        (0..4).for_each(|_| sleeper.sleep(None).unwrap());
        assert!(began.elapsed() >= 4 * VAIN_PAUSE, "four looks in {:?}", began.elapsed());
        assert_eq!(sleeper.vain, 0, "the descriptor is quiet");
        (&kick).write_all(&1u64.to_ne_bytes()).unwrap();
        sleeper.sleep(None).unwrap();
        assert_eq!(sleeper.vain, 1);
        sleeper.found_work();
        assert_eq!(sleeper.vain, 0);
    }
}
