//! Rules and zones taken away as a file has them, and as they are listed.

use serde::{Deserialize, Serialize};

use super::words::RuleWords;

/// What a file of rules holds, and what a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The version of these fields, where a list has been made a file.
    #[serde(default, skip_serializing)]
    pub schema_version: Option<u32>,
    /// The rules, in the order in which they were added. A file that people write has words without progress.
    #[serde(default)]
    pub rules: Vec<RuleWords>,
    /// The zones that were taken away, in order.
    #[serde(default)]
    pub zones: Vec<SavedZone>,
}

/// A zone that was taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedZone {
    /// Its number.
    pub zone: u32,
    /// read-only or offline.
    pub state: String,
    /// The zone comes back when the device is reset.
    #[serde(default)]
    pub comes_back: bool,
}
