//! One split virtqueue as its worker uses it: chains out, used entries in, notifications both ways (virtio 1.3, 2.7).
//!
//! A ring that breaks the rules (an index that runs away, a head outside the table, rings outside memory) is *broken*:
//! nothing more is taken from it, and its error descriptor is signalled once. Other queues do not notice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestRegionMmap};

use super::inflight::{Inflight, Tracker};
use super::notify::Notifier;
use crate::virtio::memory::Memory;

/// Why a ring cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    #[error("the ring is not inside the guest's memory")]
    Outside,
    #[error("the entry at available index {0} cannot be read")]
    Unreadable(u16),
    #[error("head {0} is outside the table or in flight already")]
    Head(u16),
    #[error("it has {entries} entries, and in-flight tracking was set up for {tracked}")]
    Tracked { entries: u16, tracked: u16 },
    #[error("there is no room for the requests that were left behind")]
    NoRoom,
    #[error(transparent)]
    Queue(#[from] virtio_queue::Error),
}

/// Where a ring lies, how long it is and where it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSetup {
    pub(super) size: u16,
    pub(super) descriptors: GuestAddress,
    pub(super) available: GuestAddress,
    pub(super) used: GuestAddress,
    /// The available index of the first chain to take.
    pub(super) next_available: u16,
    pub(super) event_idx: bool,
}

/// A running ring.
pub(super) struct Ring {
    queue: Queue,
    call: Option<Arc<Notifier>>,
    pub(super) error: Option<Arc<Notifier>>,
    broken: bool,
    /// Used entries were added since the driver was last notified.
    unannounced: bool,
    tracker: Option<Tracker>,
    /// Heads of requests that the last process took and did not give back, in the order it took them.
    left: Vec<u16>,
}

impl Ring {
    /// Checks a ring and takes it into use. The used index goes on where the driver sees it. With a region that tracks
    /// what is in flight, so does the available index: what was taken was given back or is left behind.
    pub(super) fn new(
        setup: &RingSetup,
        mem: &Memory,
        tracked: Option<(Arc<Inflight>, u16)>,
    ) -> Result<Self, RingError> {
        let mut queue = Self::queue(setup, mem)?;
        let (mut tracker, mut left) = (None, Vec::new());
        if let Some((region, index)) = tracked {
            if setup.size > region.entries() {
                return Err(RingError::Tracked { entries: setup.size, tracked: region.entries() });
            }
            let (block, behind) = Tracker::new(region, index, queue.next_used());
            queue.set_next_avail(queue.next_used().wrapping_add(behind.len() as u16));
            (tracker, left) = (Some(block), behind);
        }
        Ok(Self { queue, call: None, error: None, broken: false, unannounced: false, tracker, left })
    }

    /// Whether a ring could be used like this.
    pub(super) fn check(setup: &RingSetup, mem: &Memory) -> Result<(), RingError> {
        Self::queue(setup, mem).map(|_| ())
    }

    fn queue(setup: &RingSetup, mem: &Memory) -> Result<Queue, RingError> {
        let mut queue = Queue::new(setup.size)?;
        queue.try_set_desc_table_address(setup.descriptors)?;
        queue.try_set_avail_ring_address(setup.available)?;
        queue.try_set_used_ring_address(setup.used)?;
        queue.set_event_idx(setup.event_idx);
        queue.set_next_avail(setup.next_available);
        queue.set_ready(true);
        if !queue.is_valid(mem) {
            return Err(RingError::Outside);
        }
        let used = queue.used_idx(mem, Ordering::Acquire)?;
        queue.set_next_used(used.0);
        Ok(queue)
    }

    /// Moves the ring to other memory. Nothing of the old memory may be in use any more.
    pub(super) fn relocate(&mut self, setup: &RingSetup, mem: &Memory) -> Result<(), RingError> {
        let setup = RingSetup { next_available: self.next_available(), ..*setup };
        let next_used = self.queue.next_used();
        self.queue = Self::queue(&setup, mem)?;
        self.queue.set_next_used(next_used);
        Ok(())
    }

    /// How many descriptors it has.
    pub(super) fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The available index of the next chain.
    pub(super) fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes another call descriptor and interrupts the driver through it. Interrupts may have been lost: sent
    /// through the old descriptor after the frontend last looked at it, or due while there was none, or owed by a
    /// daemon that died before it could send them. One too many does no harm.
    pub(super) fn set_call(&mut self, call: Option<Arc<Notifier>>) {
        self.call = call;
        self.interrupt();
    }

    fn interrupt(&self) {
        if let Some(call) = &self.call {
            call.signal();
        }
    }

    /// Takes nothing more from the ring, and tells the frontend. Returns whether that is news.
    pub(super) fn break_off(&mut self) -> bool {
        let news = !self.broken;
        self.broken = true;
        if news && let Some(error) = &self.error {
            error.signal();
        }
        news
    }

    /// The next chain, if there is one.
    pub(super) fn pop<'m>(&mut self, mem: &'m Memory) -> Result<Option<DescriptorChain<&'m Memory>>, RingError> {
        let next = self.queue.next_avail();
        if self.queue.avail_idx(mem, Ordering::Acquire)?.0 == next {
            return Ok(None);
        }
        // The iterator checks that the index has not run away, and ends silently where it cannot read.
        let chain = self.queue.iter(mem)?.next();
        chain.ok_or(RingError::Unreadable(next)).map(Some)
    }

    /// Calls `with` for each chain that was left behind, in order. These stand in the available ring no more, so their
    /// heads are put into a ring of our own, in memory behind the guest's.
    pub(super) fn for_left_behind(
        &mut self,
        mem: &Memory,
        mut with: impl FnMut(DescriptorChain<&Memory>),
    ) -> Result<(), RingError> {
        const PAGE: u64 = 4096;
        let left = std::mem::take(&mut self.left);
        if left.is_empty() {
            return Ok(());
        }
        let size = self.queue.size();
        let at = GuestAddress(mem.last_addr().0.checked_next_multiple_of(PAGE).ok_or(RingError::NoRoom)?);
        let len = (6 + 2 * usize::from(size)).next_multiple_of(PAGE as usize);
        let region = GuestRegionMmap::from_range(at, len, None).map_err(|_| RingError::NoRoom)?;
        let write = |offset: u64, value: u16| {
            let place = vm_memory::MemoryRegionAddress(offset);
            region.store(value.to_le(), place, Ordering::Relaxed).map_err(|_| RingError::NoRoom)
        };
        write(2, left.len() as u16)?;
        for (entry, head) in (0u64..).zip(&left) {
            write(4 + 2 * entry, *head)?;
        }
        let all = mem.with(region).map_err(|_| RingError::NoRoom)?;
        let mut queue = Queue::new(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.queue.desc_table()))?;
        queue.try_set_avail_ring_address(at)?;
        queue.set_ready(true);
        queue.iter(&all)?.for_each(&mut with);
        Ok(())
    }

    /// A chain was taken and will be answered.
    pub(super) fn mark(&mut self, head: u16) {
        if let Some(tracker) = &mut self.tracker {
            tracker.take(head);
        }
    }

    /// Asks the driver not to kick, as the ring will be looked at anyway.
    pub(super) fn silence(&mut self, mem: &Memory) -> Result<(), RingError> {
        Ok(self.queue.disable_notification(mem)?)
    }

    /// Asks the driver to kick. True when something has come meanwhile, for which no kick will come.
    pub(super) fn listen(&mut self, mem: &Memory) -> Result<bool, RingError> {
        Ok(self.queue.enable_notification(mem)?)
    }

    /// Gives a chain back to the driver; `written` bytes of it were written.
    pub(super) fn push(&mut self, mem: &Memory, head: u16, written: u32) -> Result<(), RingError> {
        if let Some(tracker) = &self.tracker {
            tracker.before_giving_back(head);
        }
        self.queue.add_used(mem, head, written)?;
        if let Some(tracker) = &self.tracker {
            tracker.given_back(head, self.queue.next_used());
        }
        self.unannounced = true;
        Ok(())
    }

    /// Interrupts the driver for all chains given back since the last time, if it wants that.
    pub(super) fn announce(&mut self, mem: &Memory) -> Result<(), RingError> {
        if !std::mem::take(&mut self.unannounced) {
            return Ok(());
        }
        // Without event indices the crate always says yes; the driver's flag is looked at here.
        let wanted = self.queue.needs_notification(mem)?
            && (self.queue.event_idx_enabled() || !self.interrupts_unwanted(mem)?);
        if wanted {
            self.interrupt();
        }
        Ok(())
    }

    fn interrupts_unwanted(&self, mem: &Memory) -> Result<bool, RingError> {
        let flags: u16 = mem
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Acquire)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
    use std::os::fd::{FromRawFd, IntoRawFd};

    use virtio_queue::desc::split::Descriptor;
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::super::notify::Drained;
    use super::*;
    use crate::virtio::testing::memory;

    const SETUP: RingSetup = RingSetup {
        size: 4,
        descriptors: GuestAddress(0x1000),
        available: GuestAddress(0x2000),
        used: GuestAddress(0x3000),
        next_available: 0,
        event_idx: false,
    };

    fn eventfd() -> Arc<Notifier> {
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(EventFd::new(EFD_NONBLOCK).unwrap().into_raw_fd()) };
        Arc::new(Notifier::to_listen(file).unwrap())
    }

    fn signalled(notifier: &Notifier) -> bool {
        notifier.drain() == Drained::Some
    }

    fn put(mem: &Memory, addr: u64, value: u16) {
        mem.write_obj(value, GuestAddress(addr)).unwrap();
    }

    fn offer(mem: &Memory, index: u16, head: u16) {
        mem.write_obj(Descriptor::new(0x5000, 16, 0, 0), GuestAddress(0x1000 + 16 * u64::from(head))).unwrap();
        put(mem, 0x2004 + 2 * u64::from(index % 4), head);
        put(mem, 0x2002, index.wrapping_add(1));
    }

    #[test]
    fn chains_are_taken_in_order_and_given_back_across_the_wrap_of_the_index() {
        let mem = memory();
        put(&mem, 0x3002, u16::MAX);
        put(&mem, 0x2002, u16::MAX);
        let mut ring = Ring::new(&RingSetup { next_available: u16::MAX, ..SETUP }, &mem, None).unwrap();
        assert!(ring.pop(&mem).unwrap().is_none());
        offer(&mem, u16::MAX, 2);
        assert_eq!(ring.pop(&mem).unwrap().unwrap().head_index(), 2);
        assert_eq!(ring.next_available(), 0);
        ring.push(&mem, 2, 7).unwrap();
        assert_eq!(mem.read_obj::<u16>(GuestAddress(0x3002)).unwrap(), 0);
        let entry: [u32; 2] = [0x3004 + 3 * 8, 0x3008 + 3 * 8].map(|at| mem.read_obj(GuestAddress(at)).unwrap());
        assert_eq!(entry, [2, 7]);
    }

    #[test]
    fn an_index_that_runs_away_and_a_ring_outside_memory_are_errors() {
        let mem = memory();
        let mut ring = Ring::new(&SETUP, &mem, None).unwrap();
        put(&mem, 0x2002, 5);
        assert!(ring.pop(&mem).is_err());
        let outside = GuestAddress((1 << 20) - 16);
        for setup in [
            RingSetup { descriptors: outside, ..SETUP },
            RingSetup { used: outside, ..SETUP },
            RingSetup { available: GuestAddress(1 << 20), ..SETUP },
        ] {
            assert!(matches!(Ring::new(&setup, &mem, None), Err(RingError::Outside)));
        }
        assert!(Ring::new(&RingSetup { size: 3, ..SETUP }, &mem, None).is_err());
        assert!(Ring::new(&RingSetup { descriptors: GuestAddress(0x1008), ..SETUP }, &mem, None).is_err());
    }

    #[test]
    fn a_broken_ring_signals_its_error_descriptor_once() {
        let mem = memory();
        let mut ring = Ring::new(&SETUP, &mem, None).unwrap();
        let error = eventfd();
        ring.error = Some(Arc::clone(&error));
        assert!(ring.break_off());
        assert!(!ring.break_off());
        assert!(ring.is_broken() && signalled(&error));
        assert!(!signalled(&error));
    }

    #[test]
    fn without_event_indices_the_drivers_flag_decides_about_the_interrupt() {
        let mem = memory();
        let mut ring = Ring::new(&SETUP, &mem, None).unwrap();
        let call = eventfd();
        ring.set_call(Some(Arc::clone(&call)));
        assert!(signalled(&call));
        ring.announce(&mem).unwrap();
        assert!(!signalled(&call), "nothing was given back");
        ring.push(&mem, 0, 1).unwrap();
        ring.announce(&mem).unwrap();
        assert!(signalled(&call));
        put(&mem, 0x2000, 1);
        ring.push(&mem, 1, 1).unwrap();
        ring.announce(&mem).unwrap();
        assert!(!signalled(&call));
    }

    #[test]
    fn a_new_call_descriptor_is_signalled_in_case_an_interrupt_was_lost() {
        let mem = memory();
        let mut ring = Ring::new(&SETUP, &mem, None).unwrap();
        ring.push(&mem, 0, 1).unwrap();
        ring.announce(&mem).unwrap();
        let call = eventfd();
        ring.set_call(Some(Arc::clone(&call)));
        assert!(signalled(&call) && !signalled(&call));
    }

    #[test]
    fn with_event_indices_a_batch_is_one_interrupt_when_it_passes_the_drivers_mark() {
        let mem = memory();
        let mut ring = Ring::new(&RingSetup { event_idx: true, ..SETUP }, &mem, None).unwrap();
        let call = eventfd();
        ring.set_call(Some(Arc::clone(&call)));
        assert!(signalled(&call));
        // used_event, behind the available ring: interrupt for the third used entry.
        put(&mem, 0x2004 + 4 * 2, 2);
        for head in 0..2 {
            ring.push(&mem, head, 1).unwrap();
        }
        ring.announce(&mem).unwrap();
        assert!(!signalled(&call));
        for head in 2..4 {
            ring.push(&mem, head, 1).unwrap();
        }
        ring.announce(&mem).unwrap();
        assert!(signalled(&call));
    }

    #[test]
    fn listening_again_finds_what_came_without_a_kick() {
        let mem = memory();
        for event_idx in [false, true] {
            let mut ring = Ring::new(&RingSetup { event_idx, ..SETUP }, &mem, None).unwrap();
            put(&mem, 0x2002, 0);
            ring.silence(&mem).unwrap();
            assert!(!ring.listen(&mem).unwrap());
            offer(&mem, 0, 1);
            assert!(ring.listen(&mem).unwrap());
            assert_eq!(ring.pop(&mem).unwrap().unwrap().head_index(), 1);
            assert!(!ring.listen(&mem).unwrap());
            if event_idx {
                // avail_event, behind the used ring, asks for a kick for the next entry.
                assert_eq!(mem.read_obj::<u16>(GuestAddress(0x3004 + 4 * 8)).unwrap(), 1);
            }
        }
    }
}
