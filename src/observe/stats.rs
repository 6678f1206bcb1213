//! What a queue has done: counted by the thread that runs it, added up by whoever asks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::histogram::{Histogram, Latency};
use super::hot::HotZones;
use super::kind::{Kind, Subject};
use crate::units::ZoneIndex;
use crate::virtio::status::Status;

/// The requests of one kind.
#[derive(Clone, Debug, Default)]
struct Counted {
    count: u64,
    bytes: u64,
    errors: u64,
    durations: Histogram,
}

/// All that is counted of a queue, from the start of the process.
#[derive(Clone, Debug, Default)]
pub struct QueueStats {
    /// Made when the first request of a kind comes: most kinds never come.
    kinds: [Option<Box<Counted>>; Kind::ALL.len()],
    statuses: [u64; Status::ALL.len()],
    hot: HotZones,
}

impl QueueStats {
    /// A request was answered. `duration` is from when it was taken from the ring to when its answer is put there;
    /// `zone` is the one it begins in.
    pub fn answered(&mut self, subject: &Subject, zone: Option<ZoneIndex>, status: Status, duration: Duration) {
        let ok = status == Status::Ok;
        if let Some(counted) = self.kinds.get_mut(subject.kind as usize) {
            let counted = counted.get_or_insert_default();
            counted.count += 1;
            counted.bytes += if ok { subject.len.0 } else { 0 };
            counted.errors += u64::from(!ok);
            counted.durations.record(duration);
        }
        if let Some(count) = Status::ALL.iter().position(|known| *known == status) {
            self.statuses[count] += 1;
        }
        if let (Kind::Write | Kind::Append, Some(zone), true) = (subject.kind, zone, ok) {
            self.hot.written(zone, subject.len);
        }
    }

    /// Adds what another queue has counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.kinds.iter_mut().zip(&other.kinds) {
            let Some(theirs) = theirs else { continue };
            let mine = mine.get_or_insert_default();
            mine.count += theirs.count;
            mine.bytes += theirs.bytes;
            mine.errors += theirs.errors;
            mine.durations.add(&theirs.durations);
        }
        for (mine, theirs) in self.statuses.iter_mut().zip(other.statuses) {
            *mine += theirs;
        }
        self.hot.add(&other.hot);
    }

    /// What is told of the kinds that have come, by name.
    pub fn operations(&self) -> Operations {
        let counted = Kind::ALL.iter().zip(&self.kinds);
        let told = counted.filter_map(|(kind, counted)| {
            let counted = counted.as_ref()?;
            let latency = counted.durations.told();
            let Counted { count, bytes, errors, .. } = **counted;
            Some((kind.name().to_owned(), Operation { count, bytes, errors, latency }))
        });
        told.collect()
    }

    /// How often each status was given, by name.
    pub fn statuses(&self) -> Statuses {
        Status::ALL.iter().zip(self.statuses).map(|(status, count)| (status.name().to_owned(), count)).collect()
    }

    /// The zones written most, the most written first.
    pub fn hot_zones(&self) -> Vec<HotZone> {
        self.hot.ranking().into_iter().map(|(zone, bytes)| HotZone { zone: zone.0, bytes: bytes.0 }).collect()
    }
}

/// Requests by the name of their kind.
pub type Operations = std::collections::BTreeMap<String, Operation>;

/// Answers by the name of their status.
pub type Statuses = std::collections::BTreeMap<String, u64>;

/// What is told of the requests of one kind, since the start of the process.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Operation {
    /// Requests answered.
    pub count: u64,
    /// Bytes of data of those that succeeded.
    pub bytes: u64,
    /// Those that did not.
    pub errors: u64,
    /// How long they took.
    pub latency: Latency,
}

/// How much was written to a zone, resets notwithstanding: at most, where more zones are written than are tracked.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct HotZone {
    /// Its number.
    pub zone: u32,
    /// Bytes.
    pub bytes: u64,
}

/// A request that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct RefusedLately {
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
    /// The queue it came from.
    pub queue: u16,
    /// What came, the status, what was expected.
    pub text: String,
}

/// The answer to `stats`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Stats {
    /// Since the process began to serve.
    pub uptime_ms: u64,
    /// A frontend is connected.
    pub frontend: bool,
    /// Requests that were taken from the rings and are not answered.
    pub in_flight: u64,
    /// Zones open now.
    pub open_zones: u32,
    /// Zones that may be open; 0 is no limit.
    pub max_open_zones: u32,
    /// Zones active now.
    pub active_zones: u32,
    /// Zones that may be active; 0 is no limit.
    pub max_active_zones: u32,
    /// Requests by kind.
    pub operations: Operations,
    /// Answers by status.
    pub statuses: Statuses,
    /// The zones written most, the most written first.
    pub hot_zones: Vec<HotZone>,
    /// Requests that were refused last, the newest last.
    pub refusals: Vec<RefusedLately>,
    /// Whether the power is off, where the disk has a volatile cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_off: Option<bool>,
    /// Bytes that a power cut may take, where the disk has a volatile cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volatile_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Bytes, Sector};

    #[test]
    fn what_two_queues_have_counted_adds_up() {
        let (mut one, mut two) = (QueueStats::default(), QueueStats::default());
        let write = Subject { kind: Kind::Write, sector: Some(Sector(0)), len: Bytes(4096) };
        let zone = Some(ZoneIndex(3));
        one.answered(&write, zone, Status::Ok, Duration::from_micros(5));
        two.answered(&write, zone, Status::Ok, Duration::from_micros(9));
        two.answered(&write, zone, Status::ZoneUnalignedWrite, Duration::from_micros(1));
        one.add(&two);
        let operations = one.operations();
        assert_eq!(operations.keys().collect::<Vec<_>>(), ["write"]);
        let Operation { count, bytes, errors, latency } = &operations["write"];
        assert_eq!((*count, *bytes, *errors, latency.max_ns), (3, 8192, 1, 9000));
        assert_eq!(latency.buckets.iter().map(|(_, count)| count).sum::<u64>(), 3);
        let statuses = one.statuses();
        assert_eq!((statuses["OK"], statuses["ZONE_UNALIGNED_WP"], statuses["IOERR"]), (2, 1, 0));
        assert_eq!(one.hot_zones(), [HotZone { zone: 3, bytes: 8192 }]);
    }
}
