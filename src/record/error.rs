//! Why a log cannot be done again.

use std::io;

use crate::power::CutError;
use crate::store::{OpenError, Refusal};
use crate::units::{Bytes, ZoneIndex};

/// Why a log cannot be done again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The image cannot be opened.
    #[error(transparent)]
    Open(#[from] Box<OpenError>),
    /// The image is not the one that the recording began with.
    #[error(
        "the write pointer of zone {zone} is {found}, where it was {expected} when the recording began: expected a copy of \
         the image as it was then"
    )]
    OtherBase {
        /// The zone.
        zone: ZoneIndex,
        /// Its pointer in the image.
        found: Bytes,
        /// Its pointer then.
        expected: Bytes,
    },
    /// The log says of a later moment what does not follow from it.
    #[error(
        "record {record}: the write pointer of zone {zone} is {expected} there, and {found} by what was recorded before"
    )]
    Diverged {
        /// The record that says so.
        record: u64,
        /// The zone.
        zone: ZoneIndex,
        /// Its pointer here.
        found: Bytes,
        /// Its pointer then.
        expected: Bytes,
    },
    /// A request that was accepted is not.
    #[error("record {record}: the disk does not take this request again: {why}")]
    Refused {
        /// What had accepted it.
        record: u64,
        /// Why not.
        why: Refusal,
    },
    /// A request is not done that was.
    #[error("record {record}: the request that was answered here does not come to its end")]
    Stuck {
        /// The answer.
        record: u64,
    },
    /// A record speaks of one that is not there.
    #[error("record {record} says what cannot be after those before it")]
    Senseless {
        /// The record.
        record: u64,
    },
    /// The power cannot be cut so.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The image cannot be read or written.
    #[error("the image cannot be written: {0}")]
    Io(#[from] io::Error),
}
