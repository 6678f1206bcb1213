//! Durations counted in buckets of a bounded relative width, so that a percentile is known to an eighth of its value
//! without keeping a single duration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each power of two of nanoseconds is cut into this many buckets.
const PARTS: u64 = 8;
const PART_BITS: u32 = PARTS.trailing_zeros();

/// What is below one bucket of the first power that has all parts is exact; above, there are `PARTS` a power.
const BUCKETS: usize = (PARTS + (64 - PART_BITS as u64) * PARTS) as usize;

/// How often which duration was seen.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    max_ns: u64,
    total_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), max_ns: 0, total_ns: 0 }
    }
}

/// The bucket of a duration.
fn bucket_of(ns: u64) -> usize {
    if ns < PARTS {
        return ns as usize;
    }
    let power = 63 - ns.leading_zeros();
    let part = (ns >> (power - PART_BITS)) & (PARTS - 1);
    (PARTS * u64::from(power - PART_BITS + 1) + part) as usize
}

/// The longest duration of a bucket, in nanoseconds.
fn longest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    ((PARTS + bucket % PARTS) << shift) + ((1 << shift) - 1)
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.max_ns = self.max_ns.max(ns);
        self.total_ns = self.total_ns.saturating_add(ns);
        if let Some(count) = self.counts.get_mut(bucket_of(ns)) {
            *count += 1;
        }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        self.max_ns = self.max_ns.max(other.max_ns);
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
    }

    /// What was counted.
    pub fn told(&self) -> Latency {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count != 0);
        let buckets = counted.map(|(bucket, count)| (longest_in(bucket), *count)).collect();
        Latency { max_ns: self.max_ns, total_ns: self.total_ns, buckets }
    }
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Latency {
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// All of them together, in nanoseconds.
    pub total_ns: u64,
    /// The longest duration of each bucket that is not empty, in nanoseconds, and how many are in it.
    pub buckets: Vec<(u64, u64)>,
}

impl Latency {
    /// The duration, in nanoseconds, that this part (0 to 1) of those counted do not exceed, as far as the buckets tell;
    /// none where none was counted.
    pub fn at_most(&self, part: f64) -> Option<u64> {
        percentile(&self.buckets, part).map(|longest| longest.min(self.max_ns))
    }
}

/// The longest duration of the bucket that this part of all ends in.
fn percentile(buckets: &[(u64, u64)], part: f64) -> Option<u64> {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = (total as f64 * part).ceil().max(1.0) as u64;
    let mut seen = 0;
    buckets
        .iter()
        .find(|(_, count)| {
            seen += count;
            seen >= wanted
        })
        .map(|(longest, _)| *longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_longest_duration_and_the_next_one_what_is_longer() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(longest_in(bucket)), bucket);
            if let Some(longer) = longest_in(bucket).checked_add(1) {
                assert_eq!(bucket_of(longer), bucket + 1);
            }
        }
        assert_eq!(longest_in(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn a_bucket_is_never_wider_than_an_eighth_of_what_it_holds() {
        for bucket in PARTS as usize..BUCKETS {
            let (shortest, longest) = (longest_in(bucket - 1) + 1, longest_in(bucket));
            assert!(longest - shortest <= shortest / PARTS, "{shortest} to {longest}");
        }
    }

    #[test]
    fn percentiles_are_those_of_all_that_was_counted() {
        let (mut some, mut more) = (Histogram::default(), Histogram::default());
        (0..90).for_each(|_| some.record(Duration::from_nanos(3)));
        (0..9).for_each(|_| more.record(Duration::from_nanos(100)));
        more.record(Duration::from_secs(2));
        some.add(&more);
        let Latency { max_ns, total_ns, buckets } = some.told();
        assert_eq!(buckets.len(), 3);
        assert_eq!((percentile(&buckets, 0.5), percentile(&buckets, 0.9)), (Some(3), Some(3)));
        assert_eq!(percentile(&buckets, 0.99), Some(103));
        assert!(percentile(&buckets, 1.0) >= Some(2_000_000_000));
        assert_eq!((max_ns, total_ns, percentile(&[], 0.5)), (2_000_000_000, 2_000_001_170, None));
    }
}
