//! What the layer over the device shares with the notes that pass it, and with the layers over data paths.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::patches::Patches;
use super::state::State;
use crate::store::{Doorbell, Journal, Note, Outcome, Tag};
use crate::units::{Bytes, ZoneIndex};

/// What the layer shares with the notes that pass it and the data paths.
#[derive(Default)]
pub(super) struct Shared {
    /// Whether requests have to be looked at.
    busy: AtomicBool,
    state: Mutex<State>,
    pub(super) journal: OnceLock<Box<dyn Journal>>,
    pub(super) bell: OnceLock<Doorbell>,
    pub(super) patches: Patches,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // In the daemon a panic ends the process, so poison exists only in tests that caught one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and what follows for whoever looks on.
    pub(super) fn with<R>(&self, with: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let result = with(&mut state);
        self.busy.store(state.is_busy(), Ordering::Relaxed);
        result
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(super) fn journal(&self, with: impl FnOnce(&dyn Journal)) {
        if let Some(journal) = self.journal.get() {
            with(journal.as_ref());
        }
    }

    pub(super) fn ring(&self) {
        if let Some(ring) = self.bell.get() {
            ring();
        }
    }
}

/// The notes of the device below, on their way to whoever keeps them.
pub(super) struct Noting(pub(super) Arc<Shared>);

impl Journal for Noting {
    fn note(&self, tag: Tag, note: Note) {
        self.0.journal(|journal| journal.note(tag, note));
    }

    fn settled(&self, tag: Tag, outcome: &Outcome) {
        let failure = match self.0.is_busy() && outcome.is_ok() {
            true => self.0.state().failure_of(tag),
            false => None,
        };
        self.0.journal(|journal| journal.settled(tag, &failure.map_or(*outcome, Err)));
    }

    fn chosen(&self, tag: Tag, choice: u64) {
        self.0.journal(|journal| journal.chosen(tag, choice));
    }

    fn emptied(&self, zone: ZoneIndex, from: Bytes) {
        self.0.journal(|journal| journal.emptied(zone, from));
    }

    fn filled(&self, zone: ZoneIndex, from: Bytes) {
        self.0.journal(|journal| journal.filled(zone, from));
    }

    fn explicitly_open(&self, zone: ZoneIndex, open: bool) {
        self.0.journal(|journal| journal.explicitly_open(zone, open));
    }

    fn power_lost(&self, fails: bool) {
        self.0.with(State::forget_requests);
        self.0.journal(|journal| journal.power_lost(fails));
    }
}
