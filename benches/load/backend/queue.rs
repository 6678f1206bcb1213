//! The device's side of a queue: takes all that is there, copies, answers, notifies once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use virtio_bindings::virtio_blk as blk;

use crate::ring::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Descriptor, need_event};
use crate::slot::SECTOR;

/// So much is copied at most before what is done is shown to the driver.
const BATCH_BYTES: u64 = 256 << 10;
/// Longer chains are refused.
const MOST_DESCRIPTORS: usize = 1024;
const NO_NOTIFY: u16 = 1;

/// A region of guest memory, mapped for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) guest: u64,
    pub(super) user: u64,
    pub(super) size: u64,
    pub(super) here: *mut u8,
}

/// The disk: a range of this process's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Store {
    pub(super) here: *mut u8,
    pub(super) size: u64,
}

/// Where the rings are, in this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    pub(super) size: u16,
    pub(super) descriptors: *const Descriptor,
    pub(super) avail: *mut u8,
    pub(super) used: *mut u8,
}

/// A queue that runs.
pub(super) struct Queue {
    pub(super) rings: Rings,
    pub(super) regions: Vec<Region>,
    pub(super) store: Store,
    pub(super) kick: File,
    pub(super) call: File,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) event_idx: bool,
    pub(super) poll: Duration,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
}

// SAFETY: the pointers lead into mappings that live until the process ends. What they lead to is shared with the
// guest and other queues, and is only accessed as atomics, by volatile copies of plain data, or by memcpy.
unsafe impl Send for Queue {}

impl Region {
    /// The place of `len` bytes at guest address `at`.
    fn translate(&self, at: u64, len: u64) -> Option<*mut u8> {
        let offset = at.checked_sub(self.guest)?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size);
        // SAFETY: just checked.
        inside.then(|| unsafe { self.here.add(offset as usize) })
    }
}

/// A field of a ring that both sides use.
///
/// # Safety
///
/// `base` must lead to a ring that stays mapped, `at` must be even and inside it.
unsafe fn field<'a>(base: *mut u8, at: usize) -> &'a AtomicU16 {
    // SAFETY: the caller's promise; rings begin at even addresses, which was checked when they were set.
    unsafe { AtomicU16::from_ptr(base.add(at).cast()) }
}

impl Queue {
    fn avail(&self, at: usize) -> &AtomicU16 {
        // SAFETY: all calls are for fields of a ring of this size, which was checked to be inside a region.
        unsafe { field(self.rings.avail, at) }
    }

    fn used(&self, at: usize) -> &AtomicU16 {
        // SAFETY: as in `avail`.
        unsafe { field(self.rings.used, at) }
    }

    fn has_work(&self) -> bool {
        self.avail(2).load(Ordering::Acquire) != self.next_avail
    }

    /// Runs until it is stopped. Returns the index of the next request that it would have taken.
    pub(super) fn run(mut self) -> Result<u16> {
        while !self.stop.load(Ordering::Relaxed) {
            if self.has_work() {
                self.take_all()?;
            } else if !self.poll_for_work() {
                self.block()?;
            }
        }
        Ok(self.next_avail)
    }

    fn poll_for_work(&self) -> bool {
        if self.poll.is_zero() {
            return false;
        }
        let begin = Instant::now();
        while begin.elapsed() < self.poll {
            for _ in 0..32 {
                if self.has_work() || self.stop.load(Ordering::Relaxed) {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    fn block(&mut self) -> Result<()> {
        if self.event_idx {
            self.used(4 + 8 * usize::from(self.rings.size)).store(self.next_avail, Ordering::Relaxed);
        } else {
            self.used(0).store(0, Ordering::Relaxed);
        }
        // The driver shows a request and then looks whether it is to kick; this side does it the other way round.
        fence(Ordering::SeqCst);
        if !self.has_work() {
            match self.kick.read(&mut [0; 8]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("reading the kick event"),
            }
        }
        if !self.event_idx {
            self.used(0).store(NO_NOTIFY, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does all requests that are there.
    fn take_all(&mut self) -> Result<()> {
        let end = self.avail(2).load(Ordering::Acquire);
        let mut copied = 0;
        let mut shown = self.next_used;
        while self.next_avail != end {
            let slot = usize::from(self.next_avail % self.rings.size);
            let head = self.avail(4 + 2 * slot).load(Ordering::Relaxed);
            let (written, bytes) = self.request(head)?;
            let slot = usize::from(self.next_used % self.rings.size);
            // SAFETY: an entry of the used ring, 4-aligned, which the driver reads only after the index moved.
            unsafe {
                let entry = self.rings.used.add(4 + 8 * slot).cast::<u32>();
                entry.write(u32::from(head));
                entry.add(1).write(written);
            }
            self.next_avail = self.next_avail.wrapping_add(1);
            self.next_used = self.next_used.wrapping_add(1);
            copied += bytes;
            if copied >= BATCH_BYTES {
                self.show(&mut shown)?;
                copied = 0;
            }
        }
        self.show(&mut shown)
    }

    fn show(&mut self, shown: &mut u16) -> Result<()> {
        let before = std::mem::replace(shown, self.next_used);
        self.used(2).store(self.next_used, Ordering::Release);
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.avail(4 + 2 * usize::from(self.rings.size)).load(Ordering::Relaxed);
            need_event(event, self.next_used, before)
        } else {
            self.avail(0).load(Ordering::Relaxed) & NO_NOTIFY == 0
        };
        if wanted {
            self.call.write_all(&1_u64.to_ne_bytes()).context("notifying")?;
        }
        Ok(())
    }

    fn translate(&self, at: u64, len: u64) -> Result<*mut u8> {
        let found = self.regions.iter().find_map(|region| region.translate(at, len));
        found.with_context(|| format!("{len} bytes at {at:#x} are not in the guest's memory"))
    }

    /// Does the request at `head`: what goes into the used ring, and how much data it had.
    fn request(&self, head: u16) -> Result<(u32, u64)> {
        ensure!(head < self.rings.size, "descriptor {head} of {}", self.rings.size);
        // SAFETY: inside the table.
        let first = unsafe { self.rings.descriptors.add(usize::from(head)).read_volatile() };
        let (table, count, at) = if first.flags & DESC_INDIRECT == 0 {
            (self.rings.descriptors, usize::from(self.rings.size), head)
        } else {
            let table = self.translate(first.addr, u64::from(first.len))?.cast_const().cast();
            ensure!((table as usize).is_multiple_of(8), "an indirect table at an odd address");
            (table, first.len as usize / 16, 0)
        };
        let mut chain = Chain { table, count, at: Some(at), left: MOST_DESCRIPTORS };
        let header = chain.next()?.context("an empty chain")?;
        ensure!(header.len == 16 && header.flags & DESC_WRITE == 0, "a request without a header of its own");
        let place = self.translate(header.addr, 16)?;
        // SAFETY: sixteen bytes inside the guest's memory, at any alignment.
        let (kind, sector) =
            unsafe { (ptr::read_unaligned(place.cast::<u32>()), ptr::read_unaligned(place.add(8).cast::<u64>())) };
        let mut at = sector.saturating_mul(SECTOR);
        let (mut data, mut written) = (0, 1);
        let mut status = match kind {
            // Nothing is ever stable, and a flush costs nothing.
            blk::VIRTIO_BLK_T_IN | blk::VIRTIO_BLK_T_OUT | blk::VIRTIO_BLK_T_FLUSH => blk::VIRTIO_BLK_S_OK,
            _ => blk::VIRTIO_BLK_S_UNSUPP,
        };
        loop {
            let part = chain.next()?.context("a request without a status")?;
            let place = self.translate(part.addr, u64::from(part.len))?;
            if chain.at.is_none() {
                ensure!(part.len == 1 && part.flags & DESC_WRITE != 0, "a request without a status of its own");
                // SAFETY: one byte inside the guest's memory.
                unsafe { place.write_volatile(status as u8) };
                return Ok((written, data));
            }
            let len = u64::from(part.len);
            status = self.copy(kind, at, place, len);
            written += if part.flags & DESC_WRITE != 0 { part.len } else { 0 };
            (at, data) = (at.saturating_add(len), data + len);
        }
    }

    fn copy(&self, kind: u32, at: u64, place: *mut u8, len: u64) -> u32 {
        if at.checked_add(len).is_none_or(|end| end > self.store.size) {
            return blk::VIRTIO_BLK_S_IOERR;
        }
        // SAFETY: both ranges were checked; guest memory and the store are different mappings.
        unsafe {
            let disk = self.store.here.add(at as usize);
            match kind {
                blk::VIRTIO_BLK_T_IN => ptr::copy_nonoverlapping(disk, place, len as usize),
                blk::VIRTIO_BLK_T_OUT => ptr::copy_nonoverlapping(place, disk, len as usize),
                _ => return blk::VIRTIO_BLK_S_UNSUPP,
            }
        }
        blk::VIRTIO_BLK_S_OK
    }
}

/// The rest of a chain.
struct Chain {
    table: *const Descriptor,
    count: usize,
    at: Option<u16>,
    left: usize,
}

impl Chain {
    fn next(&mut self) -> Result<Option<Descriptor>> {
        let Some(at) = self.at else { return Ok(None) };
        if usize::from(at) >= self.count || self.left == 0 {
            bail!("a chain leaves its table or does not end");
        }
        self.left -= 1;
        // SAFETY: inside the table, just checked.
        let descriptor = unsafe { self.table.add(usize::from(at)).read_volatile() };
        self.at = (descriptor.flags & DESC_NEXT != 0).then_some(descriptor.next);
        Ok(Some(descriptor))
    }
}
