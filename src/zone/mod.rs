//! The zone model, pure: no I/O, no locks, no clock.
//!
//! | module | subject |
//! | --- | --- |
//! | [`geometry`] | the shape of a device and its rules |
//! | [`state`] | one zone: state, write pointer, what is reserved by writes in flight, what a write must satisfy |
//! | [`resources`] | open and active limits, every transition, implicit close |

pub mod geometry;
pub mod resources;
pub mod state;

pub use geometry::{Clamp, Geometry, GeometryError, GeometryRequest, ZoneKind};
pub use resources::{Resources, ZoneTable};
pub use state::{Admission, State, Zone};

/// A zone rule that a request broke. Each has its own status on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request does not fit the zone or its state.
    #[error("invalid zone command")]
    InvalidCommand,
    /// A write that does not start at the write pointer, or ends off the write granularity.
    #[error("write not at the write pointer or not in units of the write granularity")]
    UnalignedWrite,
    /// The limit of open zones is reached and none was opened implicitly.
    #[error("too many open zones")]
    OpenResource,
    /// The limit of active zones is reached.
    #[error("too many active zones")]
    ActiveResource,
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
