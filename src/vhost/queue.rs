//! One queue without its thread: a ring and its requests, a round at a time. Nothing in here waits, so that a simulation runs
//! the same code ([`worker`](super::worker) has the thread).
//!
//! A round:
//!
//! 1. take completions to the disk, then what other threads have left, then chains from the ring (a bounded number), each
//!    to the disk; hand all new I/O to the kernel at once and take what is done already, without waiting;
//! 2. have the disk commit the whole batch, and pass on its events;
//! 3. give back the answered chains, with one interrupt for all of them.
//!
//! Kicks are asked for only before waiting ([`listen`](Queue::listen)). What the guest does wrong stops at most this queue. The
//! guest memory is replaced only while no request is in flight.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::notify::Notifier;
use super::ring::{Ring, RingError, RingSetup};
use crate::device::Device;
use crate::device::recovery::LeftBehind;
use crate::device::requests::Requests;
use crate::io::DataPath;
use crate::power::Power;
use crate::power::switch::{Gate, Seen, enter};
use crate::virtio::memory::Memory;

/// Most chains taken from the ring before what is done is given back: the driver then fills the ring again while the
/// worker goes on.
pub(super) const CHAINS_PER_ROUND: usize = 16;

/// What a round has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// There was something to do, and may be more.
    pub(super) worked: bool,
    /// Chains were in the ring.
    pub(super) took: bool,
}

/// A ring, its memory and its requests.
pub(super) struct Queue<I: ?Sized = dyn DataPath> {
    /// The first field: it is dropped first, and with it the kernel is done with the memory.
    requests: Requests<I>,
    /// That of the requests, for the ring.
    mem: Arc<Memory>,
    device: Arc<Device>,
    number: u16,
    ring: Ring,
    /// Takes no further chains: it is to stop, or to move.
    held: bool,
    gate: Gate,
    /// As they were when the last round began.
    seen: Seen,
    power: Power,
    /// What the last process left behind, as long as nothing may move.
    left: Option<LeftBehind>,
}

impl<I: DataPath + ?Sized> Queue<I> {
    pub(super) fn new(path: Box<I>, device: &Arc<Device>, number: u16, mem: Arc<Memory>, ring: Ring) -> Self {
        let requests = Requests::new(path, Arc::clone(device), number, Arc::clone(&mem), ring.size());
        let (gate, seen) = (device.switch.gate(number), device.switch.look());
        Self {
            requests,
            mem,
            device: Arc::clone(device),
            number,
            ring,
            held: false,
            gate,
            seen,
            power: Power::On,
            left: None,
        }
    }

    /// Does what there is to do. `woken` says that other threads have left something.
    pub(super) fn round(&mut self, woken: bool) -> io::Result<Round> {
        let gate = Arc::clone(&self.gate);
        let mut in_flight = enter(&gate);
        let seen = self.device.switch.look();
        let turned = std::mem::replace(&mut self.seen, seen) != seen;
        let before = std::mem::replace(&mut self.power, seen.power());
        // What was held goes on before anything that comes now.
        let woken = woken | turned;
        if turned && self.power != Power::Still {
            self.go_on_with_left();
        }
        let round = match self.power {
            Power::On => self.round_with_power(woken),
            Power::Frozen => self.round_in_frost(woken),
            Power::Still => Ok(Round::default()),
            Power::Dead | Power::Failing => {
                if !before.is_off() {
                    self.requests.lose_power(self.power == Power::Failing);
                }
                if self.power == Power::Failing { self.round_with_power(woken) } else { Ok(Round::default()) }
            }
        };
        *in_flight = self.requests.in_io();
        drop(in_flight);
        if self.power == Power::Frozen && self.requests.in_io() == 0 {
            self.device.is_at_rest();
        }
        round
    }

    /// The power is about to go: what is in flight comes to its end, and is not answered.
    fn round_in_frost(&mut self, woken: bool) -> io::Result<Round> {
        let worked = self.requests.collect()?;
        if woken {
            self.requests.read_mail();
        }
        self.requests.settle();
        Ok(Round { worked, took: false })
    }

    fn round_with_power(&mut self, woken: bool) -> io::Result<Round> {
        let mut round = Round { worked: self.requests.collect()? | woken, took: false };
        if woken {
            self.requests.read_mail();
        }
        // Requests that waited go before those that come now.
        self.requests.settle();
        if self.is_accepting() {
            let taken = self.take_chains();
            round.took = !matches!(taken, Ok(0));
            self.note_ring(taken.map(|_| ()));
        }
        round.worked |= self.requests.collect()? | round.took;
        round.worked |= self.requests.settle();
        self.publish();
        Ok(round)
    }

    /// Takes completions alone; false when there are none.
    pub(super) fn collect(&mut self) -> io::Result<bool> {
        self.requests.collect()
    }

    /// Asks the driver to kick when it has filled its ring. True when it has done so meanwhile.
    pub(super) fn listen(&mut self) -> bool {
        if !self.is_accepting() {
            return false;
        }
        let come = self.ring.listen(&self.mem);
        let more = !matches!(come, Ok(false));
        self.note_ring(come.map(|_| ()));
        more
    }

    /// Asks the driver not to kick, as the ring is looked at anyway.
    pub(super) fn silence(&mut self) {
        let silenced = self.ring.silence(&self.mem);
        self.note_ring(silenced);
    }

    /// What is readable when I/O is over; none while there is none.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.requests.descriptor()
    }

    /// Whether nothing is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.is_quiet() && self.left.is_none()
    }

    /// Takes no further chains, so that it gets quiet.
    pub(super) fn hold(&mut self) {
        self.held = true;
        self.device.disk.drain(self.number, true);
        if !self.is_quiet() {
            self.device.standstill.give_up();
        }
    }

    /// Goes on in other memory. Nothing is in flight.
    pub(super) fn move_to(&mut self, mem: Arc<Memory>, ring: &RingSetup) {
        let moved = self.ring.relocate(ring, &mem);
        self.requests.set_memory(Arc::clone(&mem));
        self.mem = mem;
        self.note_ring(moved);
    }

    /// Takes chains again.
    pub(super) fn release(&mut self) {
        self.held = false;
        self.device.disk.drain(self.number, false);
    }

    pub(super) fn set_call(&mut self, call: Option<Arc<Notifier>>) {
        self.ring.set_call(call);
    }

    pub(super) fn set_error(&mut self, error: Option<Arc<Notifier>>) {
        self.ring.error = error;
    }

    /// The available index of the next chain.
    pub(super) fn next_available(&self) -> u16 {
        self.ring.next_available()
    }

    /// Takes nothing more from the ring, and tells the frontend. Returns whether that is news.
    pub(super) fn break_off(&mut self) -> bool {
        self.ring.break_off()
    }

    /// Goes on with what the last process left behind; from now on requests are new ones.
    pub(super) fn take_left_behind(&mut self, left: LeftBehind) {
        let gate = Arc::clone(&self.gate);
        let mut in_flight = enter(&gate);
        self.power = self.device.switch.power();
        self.left = Some(left);
        if self.power != Power::Still {
            self.go_on_with_left();
        }
        *in_flight = self.requests.in_io();
    }

    fn go_on_with_left(&mut self) {
        let Some(left) = self.left.take() else { return };
        let (requests, mut parsed) = (&mut self.requests, Vec::new());
        let walked = self.ring.for_left_behind(&self.mem, |chain| requests.take_left_behind(chain, &mut parsed));
        self.note_ring(walked);
        if !parsed.is_empty() && self.device.lines.of_queue(self.number).allow() {
            log::info!("queue {}: goes on with {} requests that were in flight", self.number, parsed.len());
        }
        self.requests.resume(parsed, left);
        self.device.disk.drain(self.number, false);
    }

    /// Whether chains may be taken from the ring.
    fn is_accepting(&self) -> bool {
        let powered = matches!(self.power, Power::On | Power::Failing);
        powered && !self.held && !self.ring.is_broken()
    }

    /// Takes chains from the ring until it is empty or the round is over; returns how many.
    fn take_chains(&mut self) -> Result<usize, RingError> {
        let mut now = None;
        for taken in 0..CHAINS_PER_ROUND {
            let Some(chain) = self.ring.pop(&self.mem)? else {
                return Ok(taken);
            };
            let head = chain.head_index();
            if !self.requests.take(chain, &mut now, |head| self.ring.mark(head)) {
                return Err(RingError::Head(head));
            }
        }
        Ok(CHAINS_PER_ROUND)
    }

    /// Stops taking chains from a ring that breaks the rules.
    fn note_ring(&mut self, result: Result<(), RingError>) {
        if let Err(error) = result
            && self.ring.break_off()
            && self.device.lines.of_queue(self.number).allow()
        {
            log::error!("queue {} is stopped, its ring is broken: {error}", self.number);
        }
    }

    /// Gives all answered chains back to the driver.
    fn publish(&mut self) {
        let (ring, mem, mut pushed) = (&mut self.ring, &self.mem, Ok(()));
        self.requests.give_back(|head, written| {
            let this = ring.push(mem, head, written);
            if pushed.is_ok() {
                pushed = this;
            }
        });
        self.note_ring(pushed);
        let announced = self.ring.announce(&self.mem);
        self.note_ring(announced);
    }

    /// The data path, and the guest's memory.
    #[cfg(test)]
    pub(super) fn parts(&mut self) -> (&mut I, &Arc<Memory>) {
        (self.requests.path(), &self.mem)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
