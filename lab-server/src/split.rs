//! How a sent packet is split: the double-mean rule.

use rand::Rng;

/// The next share of a packet with `left` cents for `shares` more shares: uniform between 1 cent
/// and twice the mean of what is left, the last share takes the rest. No share is so large that a
/// later one would get nothing, so the sum is exact and every share at least 1 cent.
///
/// The expectation of each share is about the mean, in any order of claims, which is the point of
/// the rule; the prototype's `rand.Intn(left / shares)` has an expectation of half the mean and
/// leaves most of the money to the last claimer.
///
/// `shares` must be at least 1 and `left` at least `shares`.
pub(crate) fn next_share(left: u32, shares: u32, random: &mut impl Rng) -> u32 {
    assert!(shares >= 1 && left >= shares, "{left} cents for {shares} shares");
    if shares == 1 {
        return left;
    }
    let double_mean = u64::from(left) * 2 / u64::from(shares);
    let most = double_mean.min(u64::from(left - (shares - 1)));
    random.random_range(1..=most as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn split(amount: u32, shares: u32, seed: u64) -> Vec<u32> {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let mut left = amount;
        (1..=shares)
            .rev()
            .map(|shares| {
                let share = next_share(left, shares, &mut random);
                left -= share;
                share
            })
            .collect()
    }

    proptest! {
        #[test]
        fn shares_are_positive_bounded_and_add_up(
            shares in 1u32..1_000, extra in 0u32..1_000_000, seed in any::<u64>(),
        ) {
            let amount = shares + extra;
            let mut left = amount;
            let parts = split(amount, shares, seed);
            for (given, part) in parts.iter().enumerate() {
                let waiting = shares - given as u32;
                prop_assert!(*part >= 1);
                let double_mean = u64::from(left) * 2 / u64::from(waiting);
                prop_assert!(waiting == 1 || u64::from(*part) <= double_mean);
                left -= part;
            }
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn a_cent_each_is_all_there_is(shares in 1u32..1_000, seed in any::<u64>()) {
            prop_assert!(split(shares, shares, seed).iter().all(|share| *share == 1));
        }
    }

    #[test]
    fn the_order_of_claims_favours_no_user() {
        // 3 shares of 300 cents, 20,000 packets: the mean of each place is within 2% of 100 cents.
        // A uniform share over 1 to 200 has a standard deviation of 58, that of the mean is 0.4.
        let mut sums = [0u64; 3];
        for seed in 0..20_000 {
            for (sum, share) in sums.iter_mut().zip(split(300, 3, seed)) {
                *sum += u64::from(share);
            }
        }
        for sum in sums {
            let mean = sum as f64 / 20_000.0;
            assert!((98.0..102.0).contains(&mean), "{sums:?}");
        }
    }
}
