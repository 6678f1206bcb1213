//! How a worker sleeps and what wakes it: the driver's kick, another thread of this process, a completion.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

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

    /// Wakes the worker, or has it look before it next sleeps.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        // The one error is EAGAIN when nobody has read it 2^64 - 2 times; it is readable then.
        let _ = self.event.write(1);
    }

    /// Whether it was rung since the last time.
    pub(super) fn take(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }
}

/// What a worker waits on. Neither may block when it is read.
#[derive(Debug)]
pub(super) struct Sleeper {
    /// Written by the driver when it has filled its ring.
    kick: Arc<File>,
    waker: Arc<Waker>,
    /// The kick descriptor is no eventfd and at its end: it would never let sleep again.
    kick_ended: bool,
}

impl Sleeper {
    pub(super) fn new(kick: Arc<File>, waker: Arc<Waker>) -> Self {
        Self { kick, waker, kick_ended: false }
    }

    /// Whether another thread has something for the worker.
    pub(super) fn is_woken(&self) -> bool {
        self.waker.take()
    }

    /// Waits for a kick, for the waker, or until `other` is readable; a signal ends it as well.
    pub(super) fn sleep(&mut self, other: Option<RawFd>) -> io::Result<()> {
        let watch = |fd: Option<RawFd>| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
        let kick = (!self.kick_ended).then(|| self.kick.as_raw_fd());
        let mut fds = [watch(kick), watch(Some(self.waker.event.as_raw_fd())), watch(other)];
        // SAFETY: an array of three valid pollfds.
        if unsafe { libc::poll(fds.as_mut_ptr(), 3, -1) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let [kicked, woken, _] = fds.map(|fd| fd.revents != 0);
        if kicked {
            self.kick_ended = !drain(&self.kick);
        }
        if woken {
            let _ = self.waker.event.read();
        }
        Ok(())
    }
}

/// Empties an eventfd, so that it is readable again only after the next write. False when it has come to its end,
/// as only something that is no eventfd does.
fn drain(fd: &File) -> bool {
    use std::io::Read;
    !matches!((&mut &*fd).read(&mut [0; 8]), Ok(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Write;
    use std::os::fd::{FromRawFd, IntoRawFd};

    use super::*;

    fn sleeper() -> (Sleeper, Arc<File>, Arc<Waker>) {
        // SAFETY: the descriptor is new and nobody else's.
        let kick = Arc::new(unsafe { File::from_raw_fd(EventFd::new(EFD_NONBLOCK).unwrap().into_raw_fd()) });
        let waker = Arc::new(Waker::new().unwrap());
        (Sleeper::new(Arc::clone(&kick), Arc::clone(&waker)), kick, waker)
    }

    #[test]
    fn every_kick_and_every_ring_ends_one_sleep_even_if_it_came_before() {
        let (mut sleeper, kick, waker) = sleeper();
        for _ in 0..50 {
            (&*kick).write_all(&1u64.to_ne_bytes()).unwrap();
            sleeper.sleep(None).unwrap();
            assert!((&mut &*kick).write(&0u64.to_ne_bytes()).is_ok() && !waker.take());
            waker.ring();
            waker.ring();
            sleeper.sleep(None).unwrap();
            assert!(waker.take() && !waker.take(), "it is told once");
        }
    }

    #[test]
    fn a_kick_descriptor_at_its_end_is_not_waited_on_any_more() {
        let end = Arc::new(tempfile::tempfile().unwrap());
        let waker = Arc::new(Waker::new().unwrap());
        let mut sleeper = Sleeper::new(end, Arc::clone(&waker));
        sleeper.sleep(None).unwrap();
        waker.ring();
        sleeper.sleep(None).unwrap();
        assert!(sleeper.kick_ended && waker.take());
    }
}
