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

/// How far a rule has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleProgress {
    /// By which notes of requests in flight know the rule.
    pub number: u16,
    /// Requests that the rule was about.
    pub matched: u64,
    /// Those that it has acted on.
    pub acted: u64,
    /// Requests that it holds back now.
    #[serde(default)]
    pub held: u64,
    /// The mark that it waits for has come, or there is none.
    pub awake: bool,
    /// Of each zone the requests that the rule was about, where which of them is a matter of chance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_zone: Vec<(u32, u64)>,
    /// Of an unreadable range what is readable again: bytes of the disk, from the first to behind the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub healed: Vec<(u64, u64)>,
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
