//! What is served, and how: what does not change while a process serves, and who uses it.

use serde::{Deserialize, Serialize};

use super::Versioned;
use crate::power::{CutOutcome, PowerStatus};

/// The answer to `info`. Lengths are in bytes; limits of 0 are none.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Info {
    /// The image: an absolute path.
    pub image: String,
    /// The images that it builds on, each above the one that it builds on itself; with --snapshot the image itself is the first.
    #[serde(default)]
    pub bases: Vec<String>,
    /// This program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// The disk.
    pub virtual_size: u64,
    /// From one zone to the next.
    pub zone_size: u64,
    /// What can be written of a zone.
    pub zone_capacity: u64,
    /// Zones.
    pub nr_zones: u32,
    /// Those of them, from the first, that are conventional.
    pub conventional_zones: u32,
    /// Zones that may be open.
    pub max_open_zones: u32,
    /// Zones that may be active.
    pub max_active_zones: u32,
    /// The longest append.
    pub max_append_bytes: u64,
    /// The unit of writes.
    pub block_size: u32,
    /// Queues that the driver is told of.
    pub num_queues: u16,
    /// writeback, none or writethrough.
    pub cache: String,
    /// How long a queue's thread looks for work before it sleeps.
    pub poll_us: u64,
    /// Nothing can be changed.
    pub read_only: bool,
    /// What the guest sees as the serial number.
    pub serial: String,
    /// A frontend is connected.
    pub frontend: bool,
    /// Its driver knows that the disk is zoned.
    pub zoned_negotiated: bool,
    /// How the volatile cache stands, where the disk has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerInfo>,
}

/// How the volatile cache stands, and what it has lost.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PowerInfo {
    /// How it stands.
    #[serde(flatten)]
    pub now: PowerStatus,
    /// What the last cut has left, as that has printed it.
    pub last_cut: Option<Versioned<CutOutcome>>,
}
