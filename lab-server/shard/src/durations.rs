//! How long things took, counted in buckets: no allocation, and a count costs a nanosecond.

/// Buckets of each doubling: a bucket's bounds are at most a quarter apart.
const PARTS: usize = 4;

/// The first four for what is shorter than four units, and four for each doubling from there on;
/// what took longer than 0.47 s is in the last.
const BUCKETS: usize = PARTS * 18;

/// Nanoseconds of the unit: buckets begin at multiples of it.
const UNIT_NS: u64 = 1 << 10;

/// Durations by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durations {
    counts: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Durations {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_ns: 0 }
    }
}

fn bucket_of(ns: u64) -> usize {
    let units = ns / UNIT_NS;
    let Some(doubling) = units.checked_ilog2().filter(|doubling| *doubling >= 2) else {
        return units as usize;
    };
    let part = (units >> (doubling - 2)) as usize % PARTS;
    ((doubling as usize - 1) * PARTS + part).min(BUCKETS - 1)
}

/// The exclusive upper bound of a bucket, in nanoseconds.
fn end_ns(bucket: usize) -> u64 {
    let next = bucket + 1;
    if next <= PARTS {
        return next as u64 * UNIT_NS;
    }
    let units = (PARTS + next % PARTS) as u64;
    (units << (next / PARTS - 1)) * UNIT_NS
}

impl Durations {
    /// Counts `times` things that took so long.
    pub(crate) fn record(&mut self, ns: u64, times: u64) {
        self.counts[bucket_of(ns)] += times;
        self.sum_ns = self.sum_ns.saturating_add(ns.saturating_mul(times));
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The buckets, from the shortest to the longest: exclusive upper bound in nanoseconds, `None`
    /// for the last, and how many fell into it.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        let end = |bucket| (bucket + 1 < BUCKETS).then(|| end_ns(bucket));
        self.counts.iter().enumerate().map(move |(bucket, count)| (end(bucket), *count))
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        since.counts.iter_mut().zip(&earlier.counts).for_each(|(now, then)| *now -= then);
        since.sum_ns -= earlier.sum_ns;
        since
    }

    /// A duration that so many of a thousand do not exceed, and by a quarter at most; `None` when
    /// nothing was counted.
    pub fn per_mille_ns(&self, per_mille: u64) -> Option<u64> {
        let count = self.count();
        let rank = (count * per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        let bucket = self.counts.iter().position(|here| {
            below += here;
            below >= rank
        });
        bucket.filter(|_| count > 0).map(end_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut begin_ns = 0;
        for bucket in 0..BUCKETS - 1 {
            let end_ns = end_ns(bucket);
            assert_eq!((bucket_of(begin_ns), bucket_of(end_ns - 1)), (bucket, bucket));
            assert!(end_ns - begin_ns <= (begin_ns / 4).max(UNIT_NS), "{begin_ns} to {end_ns}");
            begin_ns = end_ns;
        }
        assert_eq!((bucket_of(begin_ns), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
        assert_eq!(begin_ns, 469_762_048);
        assert_eq!(Durations::default().per_mille_ns(500), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_that_of_the_sorted_by_a_bucket(
            mut all in proptest::collection::vec(0u64..450_000_000, 1..200),
            per_mille in 1u64..=1000,
        ) {
            let mut durations = Durations::default();
            all.iter().for_each(|ns| durations.record(*ns, 2));
            let earlier = durations.clone();
            all.iter().for_each(|ns| durations.record(*ns, 1));
            let durations = durations.since(&earlier);
            all.sort_unstable();
            let at = (all.len() * per_mille as usize).div_ceil(1000).max(1) - 1;
            let found = durations.per_mille_ns(per_mille).expect("not empty");
            prop_assert!(found > all[at] && found <= all[at] + (all[at] / 4).max(UNIT_NS));
            prop_assert_eq!(durations.sum_ns(), all.iter().sum::<u64>());
            prop_assert_eq!(durations.count(), all.len() as u64);
        }
    }
}
