//! The guest's side of one queue: a driver that kicks only where it was asked to, and looks at answers only when it was
//! interrupted, as drivers do. A kick or an interrupt that is left out leaves a request unanswered for ever.

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::rng::Rng;
use crate::vhost::notify::Notifier;
use crate::vhost::ring::RingSetup;
use crate::virtio::memory::Memory;

/// Descriptors of a ring.
pub(super) const RING: u16 = 64;
/// Descriptors of a chain, at most: header, three of data, the sector of an append, status.
const CHAIN: u16 = 6;
/// Requests in flight, at most.
pub(super) const PLACES: usize = (RING / CHAIN) as usize;
/// Bytes of data of a request, at most.
pub(super) const MOST: usize = 16 << 10;
/// Guest memory of a queue.
pub(super) const MEMORY: u64 = 1 << 20;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const HEADERS: u64 = 0x10000;
const DATA: u64 = 0x20000;

/// A request as it lies in memory.
pub(super) struct Chain<'a> {
    pub(super) kind: u32,
    pub(super) sector: u64,
    /// Read by the device.
    pub(super) out: &'a [u8],
    /// Bytes for the device to write.
    pub(super) room: usize,
}

/// A chain that came back.
pub(super) struct Answer {
    pub(super) place: usize,
    pub(super) status: u8,
    /// What the device has written, status left out.
    pub(super) data: Vec<u8>,
}

/// One queue's driver.
pub(super) struct Driver {
    base: u64,
    event_idx: bool,
    available: u16,
    used: u16,
    /// How much room there is in each place that is in flight.
    places: [Option<usize>; PLACES],
    interrupt: EventFd,
}

impl Driver {
    /// The driver of a queue whose indices begin at `first`.
    pub(super) fn new(queue: u16, event_idx: bool, first: u16, mem: &Memory) -> Self {
        let base = u64::from(queue) * MEMORY;
        let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
        let driver = Self { base, event_idx, available: first, used: first, places: [None; PLACES], interrupt };
        driver.put(mem, AVAILABLE, 0u16);
        driver.put(mem, AVAILABLE + 2, first);
        driver.put(mem, AVAILABLE + 4 + 2 * u64::from(RING), first);
        driver.put(mem, USED, 0u16);
        driver.put(mem, USED + 2, first);
        driver.put(mem, USED + 4 + 8 * u64::from(RING), first);
        driver
    }

    pub(super) fn setup(&self, next_available: u16) -> RingSetup {
        RingSetup {
            size: RING,
            descriptors: GuestAddress(self.base),
            available: GuestAddress(self.base + AVAILABLE),
            used: GuestAddress(self.base + USED),
            next_available,
            event_idx: self.event_idx,
        }
    }

    /// What the device interrupts through.
    pub(super) fn call(&self) -> Arc<Notifier> {
        // SAFETY: the descriptor is a new one, and nobody else's.
        let file = unsafe { File::from_raw_fd(self.interrupt.try_clone().unwrap().into_raw_fd()) };
        Arc::new(Notifier::to_tell(file).unwrap())
    }

    /// A place that is free.
    pub(super) fn free_place(&self) -> Option<usize> {
        self.places.iter().position(Option::is_none)
    }

    /// Makes a request available in a free place. Returns whether the device has to be kicked.
    pub(super) fn ask(&mut self, mem: &Memory, place: usize, chain: &Chain<'_>, rng: &mut Rng) -> bool {
        let header = self.base + HEADERS + 64 * place as u64;
        let data = self.base + DATA + (place * MOST) as u64;
        mem.write_obj([u64::from(chain.kind), chain.sector], GuestAddress(header)).unwrap();
        mem.write_obj(0xee_u8, GuestAddress(header + 32)).unwrap();
        let mut parts = vec![(header, 16, false)];
        mem.write_slice(chain.out, GuestAddress(data)).unwrap();
        cut(&mut parts, data, chain.out.len(), false, rng);
        if chain.room == 8 {
            parts.push((header + 16, 8, true));
        } else {
            mem.write_slice(&vec![0xdb; chain.room], GuestAddress(data)).unwrap();
            cut(&mut parts, data, chain.room, true, rng);
        }
        parts.push((header + 32, 1, true));
        let head = CHAIN * place as u16;
        let last = parts.len() - 1;
        for (index, (addr, len, writable)) in parts.into_iter().enumerate() {
            let at = head + index as u16;
            let mut flags = if writable { VRING_DESC_F_WRITE } else { 0 };
            flags |= if index == last { 0 } else { VRING_DESC_F_NEXT };
            let descriptor = Descriptor::new(addr, len as u32, flags as u16, at + 1);
            mem.write_obj(descriptor, GuestAddress(self.base + 16 * u64::from(at))).unwrap();
        }
        self.put(mem, AVAILABLE + 4 + 2 * u64::from(self.available % RING), head);
        let old = self.available;
        self.available = old.wrapping_add(1);
        self.put(mem, AVAILABLE + 2, self.available);
        self.places[place] = Some(chain.room);
        if self.event_idx {
            // virtio 1.3, 2.7.10: the event index was passed by this entry.
            let event: u16 = self.get(mem, USED + 4 + 8 * u64::from(RING));
            self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(old)
        } else {
            self.get::<u16>(mem, USED) & 1 == 0
        }
    }

    /// The chains that came back, if the device has interrupted since the last time.
    pub(super) fn answers(&mut self, mem: &Memory) -> Vec<Answer> {
        let mut answers = Vec::new();
        if self.interrupt.read().is_err() {
            return answers;
        }
        loop {
            let end: u16 = self.get(mem, USED + 2);
            if end == self.used {
                return answers;
            }
            while self.used != end {
                let [head, written]: [u32; 2] = self.get(mem, USED + 4 + 8 * u64::from(self.used % RING));
                let (place, rest) = (head as usize / usize::from(CHAIN), head as usize % usize::from(CHAIN));
                assert_eq!(rest, 0, "head {head} was never made available");
                answers.push(self.answer(mem, place, written as usize));
                self.used = self.used.wrapping_add(1);
            }
            if self.event_idx {
                self.put(mem, AVAILABLE + 4 + 2 * u64::from(RING), self.used);
            }
        }
    }

    fn answer(&mut self, mem: &Memory, place: usize, written: usize) -> Answer {
        let room = self.places[place].take();
        let room = room.unwrap_or_else(|| panic!("the request in place {place} was answered twice"));
        assert!(written <= room + 1, "{written} bytes written of {room}, and a status");
        let header = self.base + HEADERS + 64 * place as u64;
        let data = if room == 8 { header + 16 } else { self.base + DATA + (place * MOST) as u64 };
        let status = mem.read_obj(GuestAddress(header + 32)).unwrap();
        let mut bytes = vec![0; room];
        mem.read_slice(&mut bytes, GuestAddress(data)).unwrap();
        Answer { place, status, data: bytes }
    }

    fn put<T: vm_memory::ByteValued>(&self, mem: &Memory, at: u64, value: T) {
        mem.write_obj(value, GuestAddress(self.base + at)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, mem: &Memory, at: u64) -> T {
        mem.read_obj(GuestAddress(self.base + at)).unwrap()
    }
}

/// Cuts a buffer into up to three parts, anywhere.
fn cut(parts: &mut Vec<(u64, usize, bool)>, mut at: u64, mut len: usize, writable: bool, rng: &mut Rng) {
    for _ in 0..rng.below(3) {
        if len > 1 {
            let part = 1 + rng.below(len as u64 - 1) as usize;
            parts.push((at, part, writable));
            (at, len) = (at + part as u64, len - part);
        }
    }
    if len > 0 {
        parts.push((at, len, writable));
    }
}
