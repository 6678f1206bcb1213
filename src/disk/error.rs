//! Why an operation of a [`Disk`](super::Disk) was not done.

use std::io;

use crate::chain::ChainError;
use crate::observe::Rule;
use crate::power::CutError;
use crate::qcow2::CreateError;
use crate::storage::lock::LockError;
use crate::store::OpenError;
use crate::units::Bytes;
use crate::virtio::config::ConfigError;
use crate::virtio::status::Status;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The request was answered, and not with OK.
    #[error("{words}")]
    Status {
        /// The status that the driver finds.
        status: Status,
        /// The rule that the request broke.
        rule: Rule,
        /// The request, its status, the rule and what was expected, in one line.
        words: String,
    },
    /// The request was not answered, and nothing is under way that would answer it. It stays in flight: it may be
    /// answered while later ones are, and is gone when the power is cut.
    #[error("the {request} is not answered, and nothing goes on that would answer it")]
    Unanswered {
        /// What was asked for.
        request: &'static str,
    },
    /// There is no memory for the data of a request, or requests that are not answered have it.
    #[error("there is no memory for a request with {bytes} bytes of data")]
    NoMemory {
        /// Bytes of data.
        bytes: Bytes,
    },
    /// The power was not cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// A rule for faults is none, or is not in force yet.
    #[error("{0}")]
    Fault(String),
    /// The image is not to be had.
    #[error("{name}: {why}")]
    Image {
        /// Which image.
        name: String,
        /// Why.
        why: ImageError,
    },
}

impl DiskError {
    /// The status of the request, where it was answered.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The rule that the request broke, where it was answered.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Status { rule, .. } => Some(*rule),
            _ => None,
        }
    }
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image that it builds on is not to be had.
    #[error(transparent)]
    Base(Box<ChainError>),
    /// Its file cannot be opened, or not be made.
    #[error("the file cannot be opened: {0}")]
    File(io::Error),
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// It is no good image.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No device can be made of it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Only two sizes of blocks are known to work with the drivers there are.
    #[error("block is {0}: expected 512 or 4096")]
    Block(Bytes),
    /// There is no memory.
    #[error("there is no memory for the requests")]
    NoMemory,
    /// It could not be closed in order; what was answered is in it all the same.
    #[error("the image could not be closed well: {0}")]
    Close(io::Error),
}
