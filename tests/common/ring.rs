//! The driver's side of a split virtqueue.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use vmm_sys_util::eventfd::EventFd;

use super::mem::GuestMem;

/// The chain goes on with `next`.
pub const DESC_NEXT: u16 = 1;
/// The device writes here.
pub const DESC_WRITE: u16 = 2;
/// The descriptor holds a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// Whether the device writes it.
    pub writable: bool,
}

/// A descriptor as it stands in memory, right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desc {
    /// Guest address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `DESC_*`.
    pub flags: u16,
    /// The next descriptor's number, with [`DESC_NEXT`].
    pub next: u16,
}

impl Desc {
    /// The 16 bytes in memory.
    pub fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.addr.to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12..14].copy_from_slice(&self.flags.to_le_bytes());
        out[14..].copy_from_slice(&self.next.to_le_bytes());
        out
    }
}

fn event() -> EventFd {
    // EFD_NONBLOCK: QEMU's frontends pass their event descriptors in this mode.
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).expect("eventfd")
}

/// One virtqueue: its rings in guest memory and the driver's own bookkeeping.
#[derive(Debug)]
pub struct Queue {
    /// Its number on the device.
    pub index: u32,
    /// Number of descriptors.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// Written to tell the device of new requests.
    pub kick: EventFd,
    /// Written by the device to tell of used ones.
    pub call: EventFd,
    /// The index after the last request that was made available.
    pub avail_idx: u16,
    /// The index of the next used entry to look at.
    pub used_idx: u16,
    /// How often the device was kicked.
    pub kicks: u64,
    published: u16,
    event_idx: bool,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl Queue {
    /// Lays out the rings in `mem`, all zeros.
    pub fn new(mem: &mut GuestMem, index: u32, size: u16, event_idx: bool) -> Self {
        let mut zeroed = |len: u64, align: u64| {
            let at = mem.alloc(len, align);
            mem.write(at, &vec![0; len as usize]);
            at
        };
        let n = u64::from(size);
        Self {
            index,
            size,
            desc: zeroed(16 * n, 4096),
            avail: zeroed(6 + 2 * n, 4096),
            used: zeroed(6 + 8 * n, 4096),
            kick: event(),
            call: event(),
            avail_idx: 0,
            used_idx: 0,
            kicks: 0,
            published: 0,
            event_idx,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
        }
    }

    /// Lets the indices of an unused ring begin at `index`, so that they need not be used 65536 times to wrap.
    pub fn begin_at(&mut self, mem: &GuestMem, index: u16) {
        mem.store_index(self.avail + 2, index);
        mem.store_index(self.used + 2, index);
        (self.avail_idx, self.used_idx, self.published) = (index, index, index);
    }

    /// Takes new event descriptors, for another daemon. Nobody kicks for what is in the ring already.
    pub fn renew_events(&mut self) {
        (self.kick, self.call) = (event(), event());
    }

    /// The device's index in the used ring: where a queue goes on that nobody has stopped in an orderly way.
    pub fn used_index(&self, mem: &GuestMem) -> u16 {
        mem.load_index(self.used + 2)
    }

    /// Forgets all requests and clears the rings, as a driver does before it starts a queue anew.
    pub fn clear(&mut self, mem: &GuestMem) {
        let n = usize::from(self.size);
        for (at, len) in [(self.desc, 16 * n), (self.avail, 6 + 2 * n), (self.used, 6 + 8 * n)] {
            mem.write(at, &vec![0; len]);
        }
        (self.avail_idx, self.used_idx, self.published) = (0, 0, 0);
        self.free = (0..self.size).rev().collect();
        self.chains.clear();
        let _ = self.call.read();
    }

    /// How many descriptors are free.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Writes descriptor `at` of the table.
    pub fn put_desc(&self, mem: &GuestMem, at: u16, desc: Desc) {
        mem.write(self.desc + 16 * u64::from(at), &desc.bytes());
    }

    /// Puts a chain of direct descriptors in the table and makes it available. Returns its head.
    pub fn add(&mut self, mem: &GuestMem, bufs: &[Buf]) -> u16 {
        assert!(bufs.len() <= self.free.len(), "the queue has no room for {} descriptors", bufs.len());
        let ids: Vec<u16> = bufs.iter().map(|_| self.free.pop().expect("counted")).collect();
        for (at, buf) in bufs.iter().enumerate() {
            let more = if at + 1 < bufs.len() { DESC_NEXT } else { 0 };
            let flags = more | if buf.writable { DESC_WRITE } else { 0 };
            let next = ids.get(at + 1).copied().unwrap_or(0);
            self.put_desc(mem, ids[at], Desc { addr: buf.addr, len: buf.len, flags, next });
        }
        self.offer(mem, ids[0]);
        self.chains.insert(ids[0], ids.clone());
        ids[0]
    }

    /// Puts `descs` in the table as they are, numbers in their `next` fields relative to the first of them, and makes
    /// the first available. Returns its head.
    pub fn add_raw(&mut self, mem: &GuestMem, descs: &[Desc]) -> u16 {
        let ids: Vec<u16> = descs.iter().map(|_| self.free.pop().expect("room")).collect();
        for (id, desc) in ids.iter().zip(descs) {
            let next = ids.get(usize::from(desc.next)).copied().unwrap_or(desc.next);
            self.put_desc(mem, *id, Desc { next, ..*desc });
        }
        self.offer(mem, ids[0]);
        self.chains.insert(ids[0], ids.clone());
        ids[0]
    }

    /// Writes `head` in the available ring; the device sees it after [`Queue::publish`].
    pub fn offer(&mut self, mem: &GuestMem, head: u16) {
        let slot = u64::from(self.avail_idx % self.size);
        mem.write(self.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    /// Lets the device see what was offered, and kicks it if it wants to be kicked.
    pub fn publish(&mut self, mem: &GuestMem) {
        let before = self.published;
        mem.store_index(self.avail + 2, self.avail_idx);
        self.published = self.avail_idx;
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = mem.load_index(self.used + 4 + 8 * u64::from(self.size));
            // The specification's vring_need_event.
            self.avail_idx.wrapping_sub(event).wrapping_sub(1) < self.avail_idx.wrapping_sub(before)
        } else {
            mem.load_index(self.used) & 1 == 0
        };
        if wanted {
            self.force_kick();
        }
    }

    /// Kicks whether the device wants it or not.
    pub fn force_kick(&mut self) {
        self.kicks += 1;
        self.kick.write(1).expect("kick");
    }

    /// The next used entry, if there is one: head and written length.
    pub fn take_used(&mut self, mem: &GuestMem) -> Option<(u32, u32)> {
        if mem.load_index(self.used + 2) == self.used_idx {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.used_idx % self.size);
        let (id, len) = (mem.read_u32(slot), mem.read_u32(slot + 4));
        self.used_idx = self.used_idx.wrapping_add(1);
        if let Some(ids) = u16::try_from(id).ok().and_then(|head| self.chains.remove(&head)) {
            self.free.extend(ids);
        }
        Some((id, len))
    }

    /// Asks to be told of the next used entry. Whoever calls this looks at the ring once more before waiting.
    pub fn arm(&self, mem: &GuestMem) {
        if self.event_idx {
            mem.store_index(self.avail + 4 + 2 * u64::from(self.size), self.used_idx);
            fence(Ordering::SeqCst);
        }
    }

    /// Whether the device has used something that was not yet taken.
    pub fn has_used(&self, mem: &GuestMem) -> bool {
        mem.load_index(self.used + 2) != self.used_idx
    }
}

/// Waits until one of the queues is notified; false when the deadline has come or the daemon has hung up.
pub fn wait_for_call(queues: &[Queue], sock: &UnixStream, deadline: Instant) -> bool {
    let pollfd = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let mut fds: Vec<libc::pollfd> = queues.iter().map(|queue| pollfd(queue.call.as_raw_fd(), libc::POLLIN)).collect();
    fds.push(pollfd(sock.as_raw_fd(), libc::POLLRDHUP));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // SAFETY: the array is valid for its length during the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, left.as_millis() as i32 + 1) };
        if ready < 0 {
            continue; // A signal.
        }
        let mut called = false;
        for (queue, fd) in queues.iter().zip(&fds) {
            if fd.revents != 0 {
                let _ = queue.call.read();
                called = true;
            }
        }
        return called;
    }
}
