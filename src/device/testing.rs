//! What tests of the layers above have in common.

use std::sync::atomic::{AtomicBool, Ordering};

use super::router::Bell;

/// A bell that remembers that it was rung.
#[derive(Default)]
pub(crate) struct Rung(AtomicBool);

impl Bell for Rung {
    fn ring(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Rung {
    /// Whether it was rung since the last [`take`](Self::take).
    pub(crate) fn is_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The same, and forgets it.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
