//! The moment of a cut that comes later: counts what passes, and says when.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::words::{At, Cut};
use crate::units::ZoneIndex;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed<'a> {
    /// A request was accepted.
    Request,
    /// Bytes were accepted; of a sequential zone, up to this many from its start.
    Write(u64, Option<(ZoneIndex, u64)>),
    /// A flush was done.
    Flush,
    /// A mark was set.
    Mark(&'a str),
}

#[derive(Debug)]
struct Armed {
    cut: Cut,
    at: At,
    /// In words.
    text: String,
}

/// A cut that waits for its moment. Nothing is counted while there is none.
#[derive(Debug, Default)]
pub(super) struct Trigger {
    is_armed: AtomicBool,
    armed: Mutex<Option<Armed>>,
}

impl Trigger {
    /// Has a cut wait for its moment, in place of one that waits. `text` is the moment in words.
    pub(super) fn arm(&self, cut: Cut, at: At, text: String) {
        let mut armed = self.armed();
        *armed = Some(Armed { cut, at, text });
        self.is_armed.store(true, Ordering::Release);
    }

    /// Forgets the cut that waits: what that has waited for, in words.
    pub(super) fn disarm(&self) -> Option<String> {
        let mut armed = self.armed();
        self.is_armed.store(false, Ordering::Release);
        armed.take().map(|armed| armed.text)
    }

    /// What is waited for, in words.
    pub(super) fn waits_for(&self) -> Option<String> {
        self.armed().as_ref().map(|armed| armed.text.clone())
    }

    /// Whether a cut waits.
    pub(super) fn is_armed(&self) -> bool {
        self.is_armed.load(Ordering::Acquire)
    }

    /// Takes note of what passes. Returns the cut whose moment this is.
    pub(super) fn passes(&self, passed: Passed) -> Option<Cut> {
        if !self.is_armed() {
            return None;
        }
        let mut armed = self.armed();
        if !armed.as_mut()?.at.is_reached(passed) {
            return None;
        }
        self.is_armed.store(false, Ordering::Release);
        armed.take().map(|armed| armed.cut)
    }

    fn armed(&self) -> MutexGuard<'_, Option<Armed>> {
        // Nothing that could panic is done while it is held.
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl At {
    /// Counts down.
    fn is_reached(&mut self, passed: Passed) -> bool {
        match (self, passed) {
            (Self::Request(left), Passed::Request) => count_down(left, 1),
            (Self::Written(left), Passed::Write(bytes, _)) => count_down(left, bytes),
            (Self::Flush(0, left), Passed::Request) => count_down(left, 1),
            (Self::Flush(left @ 1.., more), Passed::Flush) => count_down(left, 1) && *more == 0,
            (Self::Zone(zone, offset), Passed::Write(_, Some((written, up_to)))) => {
                *zone == written && up_to >= *offset
            }
            (Self::Mark(name), Passed::Mark(set)) => name == set,
            _ => false,
        }
    }
}

fn count_down(left: &mut u64, by: u64) -> bool {
    *left = left.saturating_sub(by);
    *left == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::{Loss, Then};

    /// At which of what passes a cut comes.
    fn fires(at: At, passing: &[Passed]) -> Option<usize> {
        let trigger = Trigger::default();
        let cut =
            Cut { loss: Loss::All, at: None, then: Then::Dead, anything_unstable: false, stable_management: false };
        trigger.arm(cut, at, "then".to_owned());
        let fired = passing.iter().position(|passed| trigger.passes(*passed).is_some());
        assert_eq!(trigger.is_armed(), fired.is_none());
        assert_eq!(trigger.waits_for().is_none(), fired.is_some());
        fired
    }

    #[test]
    fn a_cut_comes_at_the_moment_it_waits_for() {
        let write = |bytes, zone, up_to| Passed::Write(bytes, Some((ZoneIndex(zone), up_to)));
        let passing = [
            Passed::Request,
            write(10, 3, 10),
            Passed::Request,
            Passed::Flush,
            Passed::Request,
            write(10, 4, 50),
            Passed::Mark("b"),
            Passed::Flush,
            Passed::Request,
            Passed::Mark("a"),
        ];
        for (at, expected) in [
            (At::Request(1), Some(0)),
            (At::Request(3), Some(4)),
            (At::Request(9), None),
            (At::Flush(1, 0), Some(3)),
            (At::Flush(2, 0), Some(7)),
            (At::Flush(1, 2), Some(8)),
            (At::Flush(2, 2), None),
            (At::Written(10), Some(1)),
            (At::Written(11), Some(5)),
            (At::Zone(ZoneIndex(4), 50), Some(5)),
            (At::Zone(ZoneIndex(4), 51), None),
            (At::Zone(ZoneIndex(3), 5), Some(1)),
            (At::Mark("a".to_owned()), Some(9)),
        ] {
            assert_eq!(fires(at.clone(), &passing), expected, "{at:?}");
        }
    }

    #[test]
    fn nothing_fires_that_was_disarmed() {
        let trigger = Trigger::default();
        assert_eq!(trigger.passes(Passed::Request), None);
        let cut =
            Cut { loss: Loss::All, at: None, then: Then::Dead, anything_unstable: false, stable_management: false };
        trigger.arm(cut, At::Request(1), "soon".to_owned());
        assert_eq!(trigger.waits_for().as_deref(), Some("soon"));
        assert_eq!(trigger.disarm().as_deref(), Some("soon"));
        assert_eq!(trigger.disarm(), None);
        assert_eq!(trigger.passes(Passed::Request), None);
    }
}
