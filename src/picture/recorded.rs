//! The events of a recording.

use std::collections::HashMap;

use super::event::{Event, Request, What};
use crate::record::{Accepted, Ended, Entry, Record};
use crate::units::Bytes;
use crate::virtio::status::Status;

/// Follows the records of a recording. A moment is how many requests had been answered, as `replay --to request:N` counts them.
#[derive(Debug, Default)]
pub struct Follower {
    /// What was accepted and not answered, by the record that says so.
    open: HashMap<u64, Accepted>,
    answered: u64,
}

impl Follower {
    /// Takes the next record, and returns what it says has happened.
    pub fn take(&mut self, record: Record) -> Option<Event> {
        let what = match record.entry {
            Entry::Accept(accepted) => {
                self.open.insert(record.number, accepted);
                return None;
            }
            Entry::Answer { of, status, .. } => {
                let accepted = self.open.remove(&of)?;
                self.answered = self.answered.saturating_add(1);
                What::Request(request(&accepted, status))
            }
            Entry::Mark(text) => What::Mark(text),
            Entry::Fault { text, .. } => What::Fault(text),
            Entry::DeviceReset => What::DeviceReset,
            Entry::Cut { pointers, .. } => {
                self.open.clear();
                What::PowerCut(pointers)
            }
            Entry::Session { generation, pointers } => What::Session { again: generation > 0, pointers },
            Entry::End(Ended::Orderly) => What::End("the daemon has ended"),
            Entry::End(Ended::NotWritten) => What::End("the recording has ended: its file could not be written"),
            Entry::Data(_) | Entry::Failed { .. } | Entry::Flush { .. } => return None,
            Entry::Block { .. } | Entry::Poked { .. } => return None,
        };
        Some(Event { at: self.answered, what })
    }
}

fn request(accepted: &Accepted, status: Status) -> Request {
    Request {
        kind: accepted.kind,
        zone: accepted.zone,
        place: accepted.zone.map(|_| accepted.place),
        len: Bytes(accepted.len.into()),
        refused: (status != Status::Ok).then_some(status.name()),
        pointer: None,
    }
}
