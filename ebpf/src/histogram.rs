//! Durations counted by the kernel.

use events::{BUCKETS, Histogram, lower_edge_ns};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Durations by bucket, eight buckets an octave: a percentile is within 6.25% of the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    counts: Vec<u64>,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS] }
    }
}

impl Durations {
    pub(crate) fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }

    /// Adds another one's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self { counts: counts.map(|(now, then)| now.saturating_sub(*then)).collect() }
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration that a share of them do not exceed, in nanoseconds; `None` when there are none.
    /// The middle of its bucket.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut below = 0;
        let bucket = self.counts.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(middle_ns(bucket as u32))
    }

    /// The middle of the highest bucket in use, in nanoseconds.
    pub fn max_ns(&self) -> Option<u64> {
        self.counts.iter().rposition(|count| *count > 0).map(|bucket| middle_ns(bucket as u32))
    }

    /// The buckets in use: (least duration in nanoseconds, count).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counts = self.counts.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (lower_edge_ns(bucket as u32), *count))
    }
}

fn middle_ns(bucket: u32) -> u64 {
    u64::midpoint(lower_edge_ns(bucket), lower_edge_ns(bucket + 1))
}

fn microseconds(ns: Option<u64>) -> Option<f64> {
    ns.map(|ns| ns as f64 / 1000.0)
}

/// As `{count, p50, p99, p999, max}`, microseconds; null when nothing was counted.
impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Durations", 5)?;
        fields.serialize_field("count", &self.count())?;
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            fields.serialize_field(name, &microseconds(self.quantile_ns(share)))?;
        }
        fields.serialize_field("max", &microseconds(self.max_ns()))?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use events::bucket_of;

    use super::*;

    #[test]
    fn percentiles_are_within_a_sixteenth_of_the_truth() {
        let mut durations = Durations::default();
        for us in 1..=1000_u64 {
            durations.counts[bucket_of(us * 1000) as usize] += 1;
        }
        for (share, ns) in [(0.5, 500_000_f64), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let found = durations.quantile_ns(share).expect("counted") as f64;
            assert!((found / ns - 1.0).abs() < 1.0 / 16.0, "{share}: {found}");
        }
        assert_eq!(durations.count(), 1000);
        assert_eq!(Durations::default().quantile_ns(0.5), None);
        assert_eq!(durations.since(&durations).count(), 0);
    }
}
