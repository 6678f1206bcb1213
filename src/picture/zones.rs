//! How far each zone is written, followed through events.
//!
//! A trace does not say where the write pointers were when it began. A write that was answered with OK says where its zone's pointer stood
//! before it; until the first of these, a reset, or a refusal, which is noted with the pointer, it is not known.

use std::collections::{BTreeSet, HashMap};

use super::event::{Request, What};
use crate::observe::Kind;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{Geometry, ZoneKind};

/// What has become of one zone by an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The zone.
    pub zone: ZoneIndex,
    /// Bytes written of it before, as far as earlier events have said.
    pub known: Option<u64>,
    /// The same, or what this event says of it; none where that is not known.
    pub before: Option<u64>,
    /// Bytes written of it now.
    pub after: Option<u64>,
    /// A request, or a cut of the power, was about this zone.
    pub touched: bool,
}

/// How far each zone is written.
#[derive(Debug)]
pub struct Zones {
    geometry: Geometry,
    known: HashMap<ZoneIndex, u64>,
    /// What holds for all other sequential zones.
    others: Option<u64>,
    /// The zones that may have something in them, of those that events were about.
    not_empty: BTreeSet<ZoneIndex>,
    /// Zones whose pointers a cut of the power may have taken back: their next write says where they stand.
    unsure: BTreeSet<ZoneIndex>,
}

impl Zones {
    /// The zones of a disk, of which nothing is known.
    pub fn new(geometry: Geometry) -> Self {
        Self { geometry, known: HashMap::new(), others: None, not_empty: BTreeSet::new(), unsure: BTreeSet::new() }
    }

    /// Says how far a zone was written at the beginning.
    pub fn begin_with(&mut self, zone: ZoneIndex, written: u64) {
        self.known.insert(zone, written);
        self.note(zone, Some(written));
    }

    /// Bytes written of a zone; none where that is not known, and of conventional zones.
    pub fn written(&self, zone: ZoneIndex) -> Option<u64> {
        match self.geometry.kind(zone) {
            ZoneKind::Conventional => None,
            ZoneKind::SequentialWriteRequired => self.known.get(&zone).copied().or(self.others),
        }
    }

    /// Follows an event. Each zone that it is about is shown, and each that it has changed.
    pub fn take(&mut self, what: &What, each: &mut dyn FnMut(Change)) {
        match what {
            What::Request(request) => self.request(request, each),
            What::Session { pointers, .. } => self.stand(pointers, each),
            What::PowerCut(pointers) => {
                for (zone, pointer) in pointers {
                    self.state(*zone, *pointer, true, each);
                }
                if pointers.is_empty() {
                    self.unsure.clone_from(&self.not_empty);
                }
            }
            _ => {}
        }
    }

    fn request(&mut self, request: &Request, each: &mut dyn FnMut(Change)) {
        let Some(zone) = request.zone.filter(|zone| zone.0 < self.geometry.nr_zones()) else {
            if request.kind == Kind::ResetAll && request.refused.is_none() {
                self.empty_all_but(&HashMap::new(), each);
            }
            return;
        };
        let known = self.written(zone);
        let (before, after) = match self.geometry.kind(zone) {
            ZoneKind::Conventional => (None, None),
            ZoneKind::SequentialWriteRequired => self.effect(zone, request, known),
        };
        self.set(zone, after);
        each(Change { zone, known, before: known.or(before), after, touched: true });
    }

    /// Bytes written of a zone before a request, as far as the request says it, and after it.
    fn effect(&mut self, zone: ZoneIndex, request: &Request, known: Option<u64>) -> (Option<u64>, Option<u64>) {
        let within = |at: Bytes| at.0.saturating_sub(self.geometry.start(zone).0).min(self.geometry.capacity(zone).0);
        if request.refused.is_some() {
            let noted = request.pointer.map(within);
            return (noted, noted.or(known));
        }
        match (request.kind, request.place) {
            (Kind::Write | Kind::Append, Some(place)) => {
                let (start, end) = (within(place), within(Bytes(place.0.saturating_add(request.len.0))));
                // Writes that were in flight together may be answered in another order.
                let furthest = known.filter(|_| !self.unsure.remove(&zone)).map_or(end, |known| known.max(end));
                (Some(start), Some(furthest))
            }
            (Kind::Reset | Kind::ResetAll, _) => (None, Some(0)),
            (Kind::Finish, _) => (None, Some(self.geometry.capacity(zone).0)),
            _ => (None, known),
        }
    }

    /// Takes it that these zones stand there, and that all others are empty.
    fn stand(&mut self, pointers: &[(ZoneIndex, Bytes)], each: &mut dyn FnMut(Change)) {
        let named: HashMap<ZoneIndex, Bytes> = pointers.iter().copied().collect();
        for (zone, pointer) in pointers {
            self.state(*zone, *pointer, false, each);
        }
        self.empty_all_but(&named, each);
    }

    /// Takes it that a zone stands there. One that was known to stand elsewhere was touched, whoever did that.
    fn state(&mut self, zone: ZoneIndex, pointer: Bytes, touched: bool, each: &mut dyn FnMut(Change)) {
        if zone.0 >= self.geometry.nr_zones() || self.geometry.kind(zone) == ZoneKind::Conventional {
            return;
        }
        let known = self.written(zone);
        let after = pointer.0.saturating_sub(self.geometry.start(zone).0).min(self.geometry.capacity(zone).0);
        self.set(zone, Some(after));
        let moved = known.is_some_and(|known| known != after);
        each(Change { zone, known, before: known, after: Some(after), touched: touched || moved });
    }

    /// Each zone is emptied once for what was written to it before, so this costs no more in all than the events.
    fn empty_all_but(&mut self, named: &HashMap<ZoneIndex, Bytes>, each: &mut dyn FnMut(Change)) {
        let (stay, go) = std::mem::take(&mut self.not_empty).into_iter().partition(|zone| named.contains_key(zone));
        self.not_empty = stay;
        for zone in go {
            let known = self.written(zone);
            self.known.insert(zone, 0);
            each(Change { zone, known, before: known, after: Some(0), touched: true });
        }
        self.unsure.clear();
        // Those that nothing was known of are empty now; the zones that something was known of have it still.
        self.others = Some(0);
    }

    fn set(&mut self, zone: ZoneIndex, written: Option<u64>) {
        if let Some(written) = written {
            self.known.insert(zone, written);
        }
        self.note(zone, written);
    }

    fn note(&mut self, zone: ZoneIndex, written: Option<u64>) {
        match written {
            _ if self.geometry.kind(zone) == ZoneKind::Conventional => {}
            Some(0) => {
                self.not_empty.remove(&zone);
                self.unsure.remove(&zone);
            }
            _ => _ = self.not_empty.insert(zone),
        }
    }
}
