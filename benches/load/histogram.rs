//! Latencies by their logarithm: 64 steps for each power of two, so a percentile is right to 1.6 %.

use std::time::Duration;

const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
/// Durations from 2^40 ns (18 minutes) on count as the longest.
const LARGEST: u64 = (1 << 40) - 1;
const BUCKETS: usize = STEPS * (40 - STEP_BITS as usize + 1);

/// How often each latency was seen.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    longest: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: 0 }
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let value = nanoseconds.min(LARGEST);
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.longest = self.longest.max(value);
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        (self.count, self.longest) = (0, 0);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, its)| *mine += its);
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }

    /// The latency that `per_mille` of all did not exceed.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_end(at).min(self.longest));
            }
        }
        self.longest()
    }
}

fn bucket(value: u64) -> usize {
    let magnitude = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    // The top seven bits of a larger value are 64 to 127: each magnitude has the 64 buckets behind the last one's.
    (magnitude as usize) * STEPS + (value >> magnitude) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let magnitude = (bucket / STEPS).saturating_sub(1);
    let step = (bucket - magnitude * STEPS) as u64;
    ((step + 1) << magnitude) - 1
}
