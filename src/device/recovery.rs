//! What the last process left behind of a queue: requests that cannot just be begun anew.

use std::sync::Arc;

use crate::store::{Ticket, ZonedDevice};
use crate::units::Sector;
use crate::virtio::status::Status;

/// How a request that was left behind is gone on with.
#[derive(Debug)]
pub enum Recovery {
    /// Its answer is known.
    Settled {
        /// The status.
        status: Status,
        /// Of an append, where its data is.
        appended: Option<Sector>,
    },
    /// It keeps its place in its zone.
    Resumes(Ticket),
}

/// The requests of one queue that the last process left behind and that cannot just be begun anew. What nobody has
/// taken when this is dropped gives up its place.
pub struct LeftBehind {
    disk: Arc<dyn ZonedDevice>,
    requests: Vec<(u16, Recovery)>,
}

impl LeftBehind {
    /// Nothing yet.
    pub fn none(disk: &Arc<dyn ZonedDevice>) -> Self {
        Self { disk: Arc::clone(disk), requests: Vec::new() }
    }

    /// The request with this head is gone on with like this.
    pub fn add(&mut self, head: u16, recovery: Recovery) {
        self.requests.push((head, recovery));
    }

    /// What is known of the request with this head.
    pub fn take(&mut self, head: u16) -> Option<Recovery> {
        let place = self.requests.iter().position(|(known, _)| *known == head)?;
        Some(self.requests.swap_remove(place).1)
    }
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        for (_, recovery) in self.requests.drain(..) {
            if let Recovery::Resumes(ticket) = recovery {
                self.disk.abandon(ticket);
            }
        }
    }
}
