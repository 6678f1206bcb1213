//! The events of a trace.

use super::event::{Event, Request, What};
use crate::observe::Kind;
use crate::observe::trace::{Entry, Traced};
use crate::units::{Bytes, Sector};
use crate::virtio::status::Status;

/// Returns what an entry of a trace says has happened: a request when it was answered. What only names something is no event.
pub fn event(entry: &Entry) -> Option<Event> {
    let (at, what) = match entry {
        Entry::Request(traced) => (traced.time_ns.saturating_add(traced.duration_ns), What::Request(request(traced))),
        // A trace does not say what the cut has left.
        Entry::PowerCut(cut) => (cut.time_ns, What::PowerCut(Vec::new())),
        Entry::PowerBack { time_ns } => (*time_ns, What::PowerBack),
        Entry::FaultRule(_) => return None,
    };
    Some(Event { at, what })
}

fn request(traced: &Traced) -> Request {
    let ok = traced.status == Status::Ok;
    // An append names its zone, and is told where its data went.
    let place = if traced.kind == Kind::Append { traced.position.filter(|_| ok) } else { traced.sector };
    let why = traced.refused.map_or(traced.status.name(), |(rule, _)| rule.name());
    let pointer = traced.refused.and_then(|(_, zone)| zone).map(|(_, pointer)| pointer);
    let bytes = |sector: Sector| sector.to_bytes().unwrap_or(Bytes(u64::MAX));
    Request {
        kind: traced.kind,
        zone: traced.zone,
        place: place.map(bytes),
        len: traced.len,
        refused: (!ok).then_some(why),
        pointer: pointer.map(bytes),
    }
}
