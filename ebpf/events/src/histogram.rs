//! Log-linear histogram of nanoseconds: eight buckets per octave, so a bucket's middle is within
//! 6.25% of every value in it.

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
}

impl Histogram {
    /// Nothing counted.
    pub const EMPTY: Self = Self { counts: [0; BUCKETS] };
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

layout!(Histogram, 2048, counts at 0);

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
    fn buckets_are_an_eighth_of_their_octave() {
        for bucket in 8..255 {
            let (low, high) = (lower_edge_ns(bucket), lower_edge_ns(bucket + 1));
            assert!((high - low) * 8 <= low, "{bucket}: {low} to {high}");
        }
    }
}
