//! Whether there is power, and the gates that the rounds of the queues pass.
//!
//! A round of a queue goes under its queue's gate, so that whoever holds all gates knows that no answer is on its way. The power is
//! read once a round, when it begins: what a round that began with power answers was answered before the cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What follows a cut, until the device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Nothing is answered.
    Dead,
    /// Every request fails.
    Fail,
    /// The program ends.
    Exit,
}

/// Whether there is power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Power {
    /// There is.
    On = 0,
    /// It is about to go: nothing is begun and nothing answered.
    Frozen = 1,
    /// It is gone; nothing is answered.
    Dead = 2,
    /// It is gone; every request fails.
    Failing = 3,
    /// There is, and nothing moves at all: the image is somebody's own for a while.
    Still = 4,
}

/// [`Power::Dead`] and [`Power::Failing`] while the image is somebody's own.
const DEAD_OCCUPIED: u8 = 5;
const FAILING_OCCUPIED: u8 = 6;

impl Power {
    fn from_number(number: u8) -> Self {
        match number {
            0 => Self::On,
            1 => Self::Frozen,
            2 | DEAD_OCCUPIED => Self::Dead,
            4 => Self::Still,
            _ => Self::Failing,
        }
    }

    /// Whether it is gone.
    pub fn is_off(self) -> bool {
        matches!(self, Self::Dead | Self::Failing)
    }
}

/// How the switch stood: different whenever it was turned in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    /// Whether there was power.
    pub fn power(self) -> Power {
        // The low byte is the state.
        Power::from_number(self.0 as u8)
    }
}

/// The switch of a device.
#[derive(Debug)]
pub struct Switch {
    /// The state, and behind that byte how often it has changed.
    power: AtomicU64,
    /// The operations of the data path that each queue has in flight.
    gates: Vec<Gate>,
}

/// What a round of a queue goes under: at its end it says how many operations of the data path are in flight.
pub type Gate = Arc<Mutex<usize>>;

impl Switch {
    /// The switch of a device of so many queues. There is power.
    pub fn new(queues: usize) -> Self {
        Self { power: AtomicU64::new(Power::On as u64), gates: (0..queues).map(|_| Gate::default()).collect() }
    }

    /// Whether there is power now.
    pub fn power(&self) -> Power {
        self.look().power()
    }

    /// How it stands now.
    pub fn look(&self) -> Seen {
        Seen(self.power.load(Ordering::Acquire))
    }

    /// The gate of a queue; of one that the device does not have, one that nobody else has.
    pub fn gate(&self, queue: u16) -> Gate {
        self.gates.get(usize::from(queue)).map(Arc::clone).unwrap_or_default()
    }

    /// Waits until no round is under way, and lets none begin. None while a queue has I/O in flight.
    pub fn stop_rounds(&self) -> Option<Vec<MutexGuard<'_, usize>>> {
        let gates: Vec<_> = self.gates.iter().map(enter).collect();
        gates.iter().all(|in_flight| **in_flight == 0).then_some(gates)
    }

    /// The power is about to go. False where there is none, or it is about to go already.
    pub fn freeze(&self) -> bool {
        self.change(Power::On, Power::Frozen)
    }

    /// The power does not go after all.
    pub fn thaw(&self) {
        self.change(Power::Frozen, Power::On);
    }

    /// The power is gone.
    pub fn cut(&self, then: Then) {
        let power = if then == Then::Fail { Power::Failing } else { Power::Dead };
        self.turn(|_| true, power as u8);
    }

    /// The device is reset: the power is back, as soon as the image is nobody's own. Returns whether there was none.
    pub fn device_reset(&self) -> bool {
        self.change(Power::Dead, Power::On)
            || self.change(Power::Failing, Power::On)
            || self.swap(DEAD_OCCUPIED, Power::Still as u8)
            || self.swap(FAILING_OCCUPIED, Power::Still as u8)
    }

    /// From here on nothing moves at all: the image is the caller's, until it [leaves](Self::vacate). Called with all
    /// [rounds stopped](Self::stop_rounds), where the power is frozen or off; false where it is not.
    pub fn occupy(&self) -> bool {
        self.change(Power::Frozen, Power::Still)
            || self.swap(Power::Dead as u8, DEAD_OCCUPIED)
            || self.swap(Power::Failing as u8, FAILING_OCCUPIED)
    }

    /// The power goes while the image is the caller's: the queues give up what they have.
    pub fn cut_occupied(&self, then: Then) {
        let power = if then == Then::Fail { FAILING_OCCUPIED } else { DEAD_OCCUPIED };
        self.turn(|_| true, power);
    }

    /// The image is nobody's own any more. `frozen`: where there is power, it is about to go. Returns how it stands.
    pub fn vacate(&self, frozen: bool) -> Power {
        let on = if frozen { Power::Frozen } else { Power::On };
        let _ = self.swap(DEAD_OCCUPIED, Power::Dead as u8)
            || self.swap(FAILING_OCCUPIED, Power::Failing as u8)
            || self.change(Power::Still, on);
        self.power()
    }

    fn change(&self, from: Power, to: Power) -> bool {
        self.swap(from as u8, to as u8)
    }

    fn swap(&self, from: u8, to: u8) -> bool {
        self.turn(|state| state == from, to)
    }

    fn turn(&self, from: impl Fn(u8) -> bool, to: u8) -> bool {
        let turned = |seen: u64| from(seen as u8).then(|| ((seen >> 8).wrapping_add(1) << 8) | u64::from(to));
        self.power.fetch_update(Ordering::AcqRel, Ordering::Acquire, turned).is_ok()
    }
}

/// Begins a round.
pub fn enter(gate: &Gate) -> MutexGuard<'_, usize> {
    // In the daemon a panic ends the process, so poison exists only in tests that caught one.
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_goes_by_way_of_a_freeze_and_comes_with_a_device_reset() {
        let switch = Switch::new(1);
        assert!(!switch.device_reset(), "there is power");
        assert!(switch.freeze() && !switch.freeze());
        assert!(!switch.device_reset(), "a reset does not undo a cut that has begun");
        switch.thaw();
        assert_eq!(switch.power(), Power::On);
        for (then, power) in [(Then::Dead, Power::Dead), (Then::Fail, Power::Failing), (Then::Exit, Power::Dead)] {
            assert!(switch.freeze());
            switch.cut(then);
            assert_eq!(switch.power(), power);
            assert!(!switch.freeze() && switch.device_reset() && !switch.device_reset());
        }
    }

    #[test]
    fn while_the_image_is_somebodys_own_a_device_reset_brings_the_power_back_only_when_that_ends() {
        let switch = Switch::new(1);
        assert!(!switch.occupy(), "it has to be frozen, or off");
        assert!(switch.freeze() && switch.occupy() && !switch.occupy());
        assert_eq!((switch.power(), switch.device_reset()), (Power::Still, false));
        let seen = switch.look();
        assert_eq!(switch.vacate(false), Power::On);
        assert!(switch.look() != seen && switch.look() == switch.look());
        let on = switch.look();
        assert!(switch.freeze() && switch.occupy());
        assert_eq!(switch.vacate(false), Power::On);
        assert_ne!(switch.look(), on, "who has seen power before and after knows that it was turned");
        assert!(switch.freeze() && switch.occupy());
        assert_eq!(switch.vacate(true), Power::Frozen, "it goes behind that");
        for (then, off) in [(Then::Dead, Power::Dead), (Then::Fail, Power::Failing)] {
            assert!(switch.occupy());
            switch.cut_occupied(then);
            assert_eq!((switch.power(), switch.freeze()), (off, false));
            assert_eq!(switch.vacate(false), off);
            assert!(switch.occupy() && switch.device_reset() && !switch.device_reset());
            assert_eq!((switch.power(), switch.vacate(false)), (Power::Still, Power::On));
            assert!(switch.freeze());
        }
    }

    #[test]
    fn rounds_are_stopped_only_when_no_queue_has_anything_in_flight() {
        let switch = Switch::new(2);
        let with = |queue, in_flight| *enter(&switch.gate(queue)) = in_flight;
        with(2, 1);
        assert!(switch.stop_rounds().is_some(), "there is no such queue");
        with(1, 3);
        assert!(switch.stop_rounds().is_none());
        with(1, 0);
        assert_eq!(switch.stop_rounds().map(|gates| gates.len()), Some(2));
    }
}
