//! Log-linear histogram of nanoseconds: eight buckets per octave, so a bucket's middle is within
//! 6.25% of every value in it; and the longest since it was read last.

use crate::layout;

/// Buckets of a histogram. The last one also takes everything above 2^41 ns (36 minutes).
pub const BUCKETS: usize = 256;

/// Values are counted in units of 2^7 = 128 ns: reading the clock alone costs tens of them.
const UNIT_SHIFT: u32 = 7;
/// 2^3 buckets per octave.
const SUB_BITS: u32 = 3;

/// Cumulative counts per bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// How many values fell into each bucket.
    pub counts: [u64; BUCKETS],
    /// The longest of them.
    pub longest: Longest,
}

/// The longest value since the last reading, and in the reading before where one goes on.
///
/// User space counts its readings in a shared number, and raises it before it reads: what comes
/// meanwhile is of the next one. So nothing has to be reset, and nothing is lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// The reading that `ns` is of.
    pub reading: u64,
    /// In nanoseconds.
    pub ns: u64,
    /// An earlier reading.
    pub before: u64,
    /// What was the longest of that one.
    pub before_ns: u64,
}

impl Longest {
    /// A value that comes while a reading is under way.
    #[inline(always)]
    pub const fn record(&mut self, reading: u64, ns: u64) {
        if self.reading != reading {
            (self.before, self.before_ns) = (self.reading, self.ns);
            (self.reading, self.ns) = (reading, 0);
        }
        if ns > self.ns {
            self.ns = ns;
        }
    }

    /// The longest of a reading; `None` when nothing came in it.
    #[must_use]
    pub const fn of(&self, reading: u64) -> Option<u64> {
        if self.reading == reading {
            return Some(self.ns);
        }
        if self.before == reading { Some(self.before_ns) } else { None }
    }
}

impl Histogram {
    /// Nothing counted.
    pub const EMPTY: Self = Self {
        counts: [0; BUCKETS],
        longest: Longest { reading: 0, ns: 0, before: 0, before_ns: 0 },
    };
}

/// The bucket of a duration.
#[inline(always)]
#[must_use]
pub const fn bucket_of(ns: u64) -> u32 {
    let units = ns >> UNIT_SHIFT;
    if units < 1 << SUB_BITS {
        return units as u32;
    }
    let shift = 63 - units.leading_zeros() - SUB_BITS;
    let bucket = (shift << SUB_BITS) + (units >> shift) as u32;
    if bucket >= BUCKETS as u32 { BUCKETS as u32 - 1 } else { bucket }
}

/// The least duration of a bucket. `lower_edge_ns(bucket + 1)` is the first one above it.
#[must_use]
pub const fn lower_edge_ns(bucket: u32) -> u64 {
    if bucket < 1 << SUB_BITS {
        return (bucket as u64) << UNIT_SHIFT;
    }
    let shift = (bucket >> SUB_BITS) - 1;
    let units = (bucket & ((1 << SUB_BITS) - 1)) as u64 + (1 << SUB_BITS);
    units << (shift + UNIT_SHIFT)
}

layout!(Longest, 32, reading at 0, before_ns at 24);
layout!(Histogram, 2080, counts at 0, longest at 2048);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_between_the_edges_of_its_bucket() {
        let mut ns = 0_u64;
        while ns < 1 << 41 {
            let bucket = bucket_of(ns);
            assert!(lower_edge_ns(bucket) <= ns, "{ns} in {bucket}");
            assert!(ns < lower_edge_ns(bucket + 1), "{ns} in {bucket}");
            ns += 1 + ns / 97;
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS as u32 - 1);
    }

    #[test]
    fn the_longest_is_of_its_reading() {
        let mut longest = Longest::default();
        longest.record(1, 500);
        longest.record(1, 300);
        assert_eq!((longest.of(1), longest.of(2)), (Some(500), None));
        longest.record(2, 70);
        assert_eq!((longest.of(1), longest.of(2)), (Some(500), Some(70)));
        longest.record(5, 60);
        assert_eq!((longest.of(1), longest.of(2), longest.of(5)), (None, Some(70), Some(60)));
    }

    #[test]
    fn buckets_are_an_eighth_of_their_octave() {
        for bucket in 8..255 {
            let (low, high) = (lower_edge_ns(bucket), lower_edge_ns(bucket + 1));
            assert!((high - low) * 8 <= low, "{bucket}: {low} to {high}");
        }
    }
}
