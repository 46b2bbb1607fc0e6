//! Durations counted by the kernel.

use events::{BUCKETS, Histogram, bucket_of, lower_edge_ns};
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// Durations by bucket, eight buckets an octave: a percentile is within 6.25% of the truth. The
/// longest since the last reading is exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    counts: Vec<u64>,
    /// The longest since the last reading, in nanoseconds; `None` when it is not known.
    longest_ns: Option<u64>,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], longest_ns: None }
    }
}

impl Durations {
    /// Adds what the kernel counted up to a reading; without its number the longest stays unknown.
    pub(crate) fn add(&mut self, other: &Histogram, reading: Option<u64>) {
        let longest = reading.and_then(|reading| other.longest.of(reading));
        self.longest_ns = self.longest_ns.max(longest);
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
    }

    /// Adds another one's counts.
    pub fn merge(&mut self, other: &Self) {
        self.longest_ns = self.longest_ns.max(other.longest_ns);
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    /// What was counted since the reading before.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts);
        Self {
            counts: counts.map(|(now, then)| now.saturating_sub(*then)).collect(),
            longest_ns: self.longest_ns,
        }
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The duration that a share of them do not exceed, in nanoseconds; `None` when there are none.
    /// The middle of its bucket, and no more than the longest.
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
        let middle = middle_ns(bucket as u32);
        Some(match self.longest_in(bucket) {
            Some(longest) if self.counts[bucket] == 1 => longest,
            Some(longest) => middle.min(longest),
            None => middle,
        })
    }

    /// The longest, when it is known and of the highest bucket in use, which is this one: what came
    /// while the counts were read is of the next reading.
    fn longest_in(&self, bucket: usize) -> Option<u64> {
        let is_highest = self.counts.iter().rposition(|count| *count > 0) == Some(bucket);
        self.longest_ns.filter(|ns| is_highest && bucket_of(*ns) as usize == bucket)
    }

    /// The longest, in nanoseconds; the middle of the highest bucket in use where it is not known.
    pub fn max_ns(&self) -> Option<u64> {
        let highest = self.counts.iter().rposition(|count| *count > 0)?;
        Some(self.longest_in(highest).unwrap_or_else(|| middle_ns(highest as u32)))
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
    use super::*;

    fn durations(all_ns: &[u64], longest_ns: Option<u64>) -> Durations {
        let mut durations = Durations { longest_ns, ..Durations::default() };
        for ns in all_ns {
            durations.counts[bucket_of(*ns) as usize] += 1;
        }
        durations
    }

    #[test]
    fn the_longest_is_exact_and_nothing_is_longer() {
        const MS: u64 = 1_000_000;
        let check = |all: &[u64], longest, p50: u64, p99: u64, max: u64| {
            let found = durations(all, longest);
            let found = [found.quantile_ns(0.5), found.quantile_ns(0.99), found.max_ns()];
            assert_eq!(found, [p50, p99, max].map(Some), "{all:?} {longest:?}");
        };
        // One of half a second: without its value the middle of 469.8 to 503.3 ms.
        let middle = 486_539_264;
        check(&[500 * MS], None, middle, middle, middle);
        check(&[500 * MS], Some(500 * MS), 500 * MS, 500 * MS, 500 * MS);
        // Several in the highest bucket, and a middle that is beyond the longest.
        check(&[480 * MS; 3], Some(480 * MS), 480 * MS, 480 * MS, 480 * MS);
        check(&[500 * MS; 3], Some(500 * MS), middle, middle, 500 * MS);
        // One that is of another reading is none of these.
        check(&[500 * MS], Some(2 * MS), middle, middle, middle);
        let mut both = durations(&[3 * MS], Some(3 * MS));
        both.merge(&durations(&[500 * MS], Some(500 * MS)));
        assert_eq!((both.max_ns(), both.count()), (Some(500 * MS), 2));
    }

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
