//! The control socket: asking a running daemon, and telling it.
//!
//! A client sends lines, each one JSON object with a command, and gets a line of JSON for each, in order:
//! `{"result": ...}` or `{"error": "..."}`. Commands about snapshots come with the descriptor of a file (SCM_RIGHTS), since this
//! process may be able to open none. A client that begins with `GET /metrics` is a scraper: it gets one answer of
//! HTTP and the connection ends. Nothing a client sends changes a zone, but a power cut, where the disk has a
//! volatile cache, rules for faults that take zones away, and a revert to a snapshot.
//!
//! | module | subject |
//! | --- | --- |
//! | [`server`] | the daemon's side: one thread for all clients |
//! | [`client`] | the side of whoever asks |

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::fault::RuleWords;
use crate::power::{Then, Words};
use crate::store::ZoneInfo;
use crate::units::{Bytes, ZoneIndex};
use crate::zone::{State, ZoneKind};

/// Zones in one answer to `report`, at most; a client asks again for those behind.
pub const MAX_REPORTED: u32 = 4096;

/// Cells in one answer to `map`, at most.
pub const MAX_CELLS: u32 = 65536;

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What is served, and how.
    Info {},
    /// Zones, each as it is at that moment, from `first` on: at most `count` and at most [`MAX_REPORTED`].
    Report {
        /// The first zone.
        #[serde(default)]
        first: u32,
        /// How many.
        #[serde(default = "all")]
        count: u32,
    },
    /// What was done since the start: [`Stats`](crate::observe::stats::Stats).
    Stats {},
    /// All zones in at most `cells` cells: [`Summary`](crate::observe::summary::Summary).
    Map {
        /// How many, from 1 to [`MAX_CELLS`].
        cells: u32,
    },
    /// Makes all that was acknowledged stable.
    Flush {},
    /// Stops as on SIGTERM.
    Quit {},
    /// Says how much is logged, or sets it.
    LogLevel {
        /// error, warn, info, debug or trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
    /// The text that a scraper gets.
    Metrics {},
    /// Cuts the power: [`CutOutcome`](crate::power::CutOutcome), or, where that is to come later, when.
    PowerCut(Words),
    /// Adds a rule for faults, or changes zones where the words have no requests.
    FaultAdd {
        /// The rule.
        rule: RuleWords,
        /// Zones are restored without waiting for the device to be reset.
        #[serde(default)]
        now: bool,
    },
    /// The rules for faults and the zones taken away: [`Saved`](crate::fault::Saved).
    FaultList {},
    /// Removes a rule for faults.
    FaultClear {
        /// Its name; all where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Lets the requests go on that a rule for faults holds back.
    FaultRelease {
        /// Its name.
        name: String,
    },
    /// Sets a mark, which a power cut and rules for faults may wait for.
    Mark {
        /// Its name.
        name: String,
    },
    /// Copies the image, as one flush leaves it, into the file that comes along, which is empty: [`Snapshot`]. It is not
    /// durable then.
    SnapshotSave {},
    /// Has the image become what the file that comes along holds, which is a copy of an earlier state of it: [`Snapshot`].
    SnapshotRevert {
        /// What the file is called.
        name: String,
        /// What becomes of requests until the device is reset: dead or fail.
        #[serde(default = "dead")]
        then: Then,
    },
}

fn dead() -> Then {
    Then::Dead
}

impl Command {
    /// Whether it may take as long as copying the image does.
    pub fn is_long(&self) -> bool {
        matches!(self, Self::SnapshotSave {} | Self::SnapshotRevert { .. })
    }
}

/// The answer to the commands about snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// For how many microseconds no request was begun or answered. Of a revert: how long it took, from then on until the image
    /// was there again.
    pub held_us: u64,
    /// reflink where the files share their blocks, data where these were copied.
    pub method: String,
}

fn all() -> u32 {
    u32::MAX
}

/// The answer to a command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Result(serde_json::Value),
    /// It was not: why.
    Error(String),
}

/// One zone in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRow {
    /// Its number.
    pub index: u32,
    /// conventional or seq-write-required.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub state: String,
    /// Its first byte on the disk.
    pub start: u64,
    /// Bytes to the next zone.
    pub length: u64,
    /// Bytes that can be written.
    pub capacity: u64,
    /// Where the next write goes, in bytes of the disk.
    pub write_pointer: u64,
    /// What of it a loss of power cannot take, where the disk has a volatile cache and there is anything to lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_write_pointer: Option<u64>,
}

impl From<&ZoneInfo> for ZoneRow {
    fn from(zone: &ZoneInfo) -> Self {
        Self {
            index: zone.index.0,
            kind: zone.kind.name().to_owned(),
            state: zone.state.name().to_owned(),
            start: zone.start.0,
            length: zone.len.0,
            capacity: zone.capacity.0,
            write_pointer: zone.write_pointer.0,
            stable_write_pointer: None,
        }
    }
}

impl ZoneRow {
    /// The zone that the row is of; none where a name in it is not known.
    pub fn to_info(&self) -> Option<ZoneInfo> {
        let kinds = [ZoneKind::Conventional, ZoneKind::SequentialWriteRequired];
        Some(ZoneInfo {
            index: ZoneIndex(self.index),
            kind: kinds.into_iter().find(|kind| kind.name() == self.kind)?,
            state: State::ALL.into_iter().find(|state| state.name() == self.state)?,
            start: Bytes(self.start),
            len: Bytes(self.length),
            capacity: Bytes(self.capacity),
            write_pointer: Bytes(self.write_pointer),
        })
    }
}

/// The answer to `report`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Zones {
    /// The zones asked for, or the first of them.
    pub zones: Vec<ZoneRow>,
    /// The first zone that is left of those asked for.
    pub next: Option<u32>,
}
