//! The first reading of events: which zones and times there are, and what happened in all.

use std::collections::BTreeMap;

use super::event::{Event, Request, What};
use super::zones::Zones;
use crate::observe::Kind;
use crate::units::ZoneIndex;
use crate::zone::Geometry;

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered with OK.
    pub done: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Bytes of data of those answered with OK.
    pub bytes: u64,
}

/// What there is to see.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The shape of the disk.
    pub geometry: Geometry,
    /// The zones that anything was about, each with how many bytes of it were written before; none where that is not known.
    pub touched: BTreeMap<ZoneIndex, Option<u64>>,
    /// The first moment and the last, if anything happened.
    pub span: Option<(u64, u64)>,
    /// How many events there are.
    pub events: u64,
    /// Requests by their kinds, in the order of [`Kind::ALL`].
    pub kinds: [Tally; Kind::ALL.len()],
    /// Requests that were answered.
    pub requests: u64,
    /// Of these, with an error.
    pub refused: u64,
    /// Bytes that writes and appends brought.
    pub written: u64,
    /// Marks that were set.
    pub marks: u64,
    /// Cuts of the power.
    pub cuts: u64,
}

impl Survey {
    /// Looks through events in the order of their times.
    pub fn of<E>(geometry: Geometry, events: impl IntoIterator<Item = Result<Event, E>>) -> Result<Self, E> {
        let mut survey = Self {
            geometry,
            touched: BTreeMap::new(),
            span: None,
            events: 0,
            kinds: Default::default(),
            requests: 0,
            refused: 0,
            written: 0,
            marks: 0,
            cuts: 0,
        };
        let mut zones = Zones::new(geometry);
        for event in events {
            survey.take(&event?, &mut zones);
        }
        Ok(survey)
    }

    fn take(&mut self, event: &Event, zones: &mut Zones) {
        self.events += 1;
        let (first, last) = self.span.unwrap_or((event.at, event.at));
        self.span = Some((first.min(event.at), last.max(event.at)));
        match &event.what {
            What::Request(request) => self.count(request),
            What::Mark(_) => self.marks += 1,
            What::PowerCut(_) => self.cuts += 1,
            _ => {}
        }
        let touched = &mut self.touched;
        zones.take(&event.what, &mut |change| {
            if change.touched {
                touched.entry(change.zone).or_insert(change.before);
            }
            if let (None, Some(begin)) = (change.known, touched.get_mut(&change.zone)) {
                *begin = begin.or(change.before);
            }
        });
    }

    fn count(&mut self, request: &Request) {
        self.requests += 1;
        let len = request.len.0;
        if let Some(tally) = self.kinds.get_mut(request.kind as usize) {
            if request.refused.is_some() {
                tally.refused += 1;
            } else {
                tally.done += 1;
                tally.bytes = tally.bytes.saturating_add(len);
            }
        }
        match request.kind {
            _ if request.refused.is_some() => self.refused += 1,
            Kind::Write | Kind::Append => self.written = self.written.saturating_add(len),
            _ => {}
        }
    }
}
