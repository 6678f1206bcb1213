//! The driver's side of a split virtqueue.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering, fence};

use anyhow::{Context, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{Area, GuestMemory};

const _: () = assert!(cfg!(target_endian = "little"), "ring fields are little-endian and written as they are");

/// The chain goes on with `next`.
pub(crate) const DESC_NEXT: u16 = 1;
/// The device writes here.
pub(crate) const DESC_WRITE: u16 = 2;
/// The descriptor holds a table of descriptors.
pub(crate) const DESC_INDIRECT: u16 = 4;

/// A descriptor as it stands in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// A virtqueue and the driver's own place in it.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) descriptors: Area,
    pub(crate) avail: Area,
    pub(crate) used: Area,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    event_idx: bool,
    avail_idx: u16,
    published: u16,
    used_idx: u16,
    /// How often the device was kicked.
    pub(crate) kicks: u64,
    /// How often the driver blocked.
    pub(crate) waits: u64,
}

impl Ring {
    pub(crate) fn new(memory: &mut GuestMemory, size: u16, event_idx: bool) -> Result<Self> {
        let n = u64::from(size);
        // Blocking: the thread sleeps in read(2), which costs one system call a wake-up.
        let event = || EventFd::new(libc::EFD_CLOEXEC).context("eventfd");
        Ok(Self {
            size,
            descriptors: memory.alloc(16 * n)?,
            avail: memory.alloc(6 + 2 * n)?,
            used: memory.alloc(6 + 8 * n)?,
            kick: event()?,
            call: event()?,
            event_idx,
            avail_idx: 0,
            published: 0,
            used_idx: 0,
            kicks: 0,
            waits: 0,
        })
    }

    fn shared(area: &Area, at: u64) -> &AtomicU16 {
        let place = area.part(at, 2).here;
        // SAFETY: inside the area, which stays mapped; areas begin on pages and `at` is even.
        unsafe { AtomicU16::from_ptr(place.cast()) }
    }

    /// Writes descriptor `at` of the table.
    pub(crate) fn set_descriptor(&mut self, at: u16, descriptor: Descriptor) {
        let place = self.descriptors.part(16 * u64::from(at), 16).here;
        // SAFETY: inside the area, aligned, and no request in flight uses this descriptor.
        unsafe { place.cast::<Descriptor>().write(descriptor) };
    }

    /// Puts the chain that begins at `head` into the available ring; the device sees it after [`Ring::publish`].
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        Self::shared(&self.avail, 4 + 2 * slot).store(head, Ordering::Relaxed);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    /// Lets the device see what was offered, and kicks it if it wants to be kicked.
    pub(crate) fn publish(&mut self) -> Result<()> {
        let before = self.published;
        if before == self.avail_idx {
            return Ok(());
        }
        Self::shared(&self.avail, 2).store(self.avail_idx, Ordering::Release);
        self.published = self.avail_idx;
        // The device stores its wish and then looks at the index; this side does it the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = Self::shared(&self.used, 4 + 8 * u64::from(self.size)).load(Ordering::Relaxed);
            need_event(event, self.avail_idx, before)
        } else {
            Self::shared(&self.used, 0).load(Ordering::Relaxed) & 1 == 0
        };
        if wanted {
            self.kicks += 1;
            self.kick.write(1).context("kick")?;
        }
        Ok(())
    }

    /// How many entries of the used ring were not yet taken.
    pub(crate) fn used_waiting(&self) -> u16 {
        Self::shared(&self.used, 2).load(Ordering::Acquire).wrapping_sub(self.used_idx)
    }

    /// Takes one of them: its head. Only after [`Ring::used_waiting`] has counted it.
    pub(crate) fn take_used(&mut self) -> u32 {
        let slot = 4 + 8 * u64::from(self.used_idx % self.size);
        self.used_idx = self.used_idx.wrapping_add(1);
        // SAFETY: inside the area and aligned; the device wrote it before the index that was read.
        unsafe { self.used.part(slot, 4).here.cast::<u32>().read() }
    }

    /// Blocks until the device has used something. It is asked for a notification only here, as a driver does that
    /// is out of its interrupt handler.
    pub(crate) fn wait(&mut self) -> Result<()> {
        if self.event_idx {
            let used_event = Self::shared(&self.avail, 4 + 2 * u64::from(self.size));
            used_event.store(self.used_idx, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        while self.used_waiting() == 0 {
            self.waits += 1;
            match self.call.read() {
                Ok(_) => {}
                // A backend can have made the shared open file non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.poll()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading the call event"),
            }
        }
        Ok(())
    }

    fn poll(&self) -> Result<()> {
        let mut fd = libc::pollfd { fd: self.call.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid structure.
        let ready = unsafe { libc::poll(&mut fd, 1, -1) };
        let error = io::Error::last_os_error();
        if ready < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("poll");
        }
        Ok(())
    }
}

/// The specification's vring_need_event.
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
