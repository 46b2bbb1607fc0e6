//! Percentiles of durations of which some are bounds: what was not over in time took so long or
//! longer. Must not know: whose durations they are.

use hdrhistogram::{Counter, Histogram};

/// A percentile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Percentile {
    /// It is this.
    Exactly(u64),
    /// Bounds are among what decides it: it is this or more.
    AtLeast(u64),
}

impl Percentile {
    /// A percentile of `all` values, of which those in `bounds` are bounds; `None` without values.
    pub fn of<T: Counter, U: Counter>(
        all: &Histogram<T>,
        bounds: Option<&Histogram<U>>,
        quantile: f64,
    ) -> Option<Self> {
        if all.is_empty() {
            return None;
        }
        let least = all.value_at_quantile(quantile);
        let Some(bounds) = bounds.filter(|bounds| !bounds.is_empty()) else {
            return Some(Self::Exactly(least));
        };
        // Where the percentile would be if all bounds were far beyond it.
        let rank = ((quantile * all.len() as f64).ceil() as u64).clamp(1, all.len());
        let mut below = 0_u64;
        let most = all.iter_recorded().find_map(|step| {
            let value = step.value_iterated_to();
            let known =
                all.count_at(value).as_u64().saturating_sub(bounds.count_at(value).as_u64());
            below = below.saturating_add(known);
            (below >= rank).then_some(value)
        });
        let is_known = most.is_some_and(|most| all.equivalent(most, least));
        // Values of a bucket are not told apart, and a bound must hold for the least of them.
        let bound = Self::AtLeast(all.lowest_equivalent(least));
        Some(if is_known { Self::Exactly(least) } else { bound })
    }

    /// What it is, if that is known.
    pub fn exactly(self) -> Option<u64> {
        match self {
            Self::Exactly(value) => Some(value),
            Self::AtLeast(_) => None,
        }
    }

    /// What it is at least, if no more is known.
    pub fn at_least(self) -> Option<u64> {
        match self {
            Self::Exactly(_) => None,
            Self::AtLeast(value) => Some(value),
        }
    }

    /// What it is at least in any case.
    pub fn least(self) -> u64 {
        match self {
            Self::Exactly(value) | Self::AtLeast(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::empty;

    fn of(known: &[u64], bounds: &[u64], quantile: f64) -> Option<Percentile> {
        let (mut all, mut at_least) = (empty(), empty());
        known.iter().chain(bounds).for_each(|value| all.saturating_record(*value));
        bounds.iter().for_each(|value| at_least.saturating_record(*value));
        Percentile::of(&all, Some(&at_least), quantile)
    }

    #[test]
    fn a_percentile_that_bounds_decide_is_one_itself() {
        use Percentile::{AtLeast, Exactly};
        let known = [10; 90];
        assert_eq!(of(&known, &[5_000; 10], 0.9), Some(Exactly(10)));
        assert_eq!(of(&known, &[5_000; 10], 0.91), Some(AtLeast(5_000)));
        assert_eq!(of(&known, &[5_000; 10], 1.0), Some(AtLeast(5_000)));
        // One that was given up early may have been the slowest of all.
        assert_eq!(of(&[10, 20, 30], &[1], 1.0), Some(AtLeast(30)));
        assert_eq!(of(&[10, 20, 30], &[1], 0.5), Some(AtLeast(10)));
        assert_eq!(of(&[10, 10, 10], &[1], 0.5), Some(Exactly(10)));
        assert_eq!(of(&[10, 20], &[], 1.0), Some(Exactly(20)));
        assert_eq!(of(&[], &[], 0.5), None);
        assert_eq!(
            (AtLeast(7).exactly(), AtLeast(7).at_least(), AtLeast(7).least()),
            (None, Some(7), 7)
        );
    }

    proptest! {
        /// Whatever those without an answer would have taken, the percentile is what is said.
        #[test]
        fn what_is_said_holds_for_all_that_could_have_been(
            known in prop::collection::vec(1_u64..1_000, 0..40),
            bounds in prop::collection::vec((1_u64..1_000, 0_u64..3_000), 1..20),
            quantile in 0.01_f64..=1.0,
        ) {
            let given_up: Vec<u64> = bounds.iter().map(|(at, _)| *at).collect();
            let mut truth = known.clone();
            truth.extend(bounds.iter().map(|(at, more)| at + more));
            truth.sort_unstable();
            let rank = (quantile * truth.len() as f64).ceil().max(1.0) as usize;
            let truth = truth[rank.min(truth.len()) - 1];
            match of(&known, &given_up, quantile).expect("there are values") {
                Percentile::Exactly(value) => prop_assert!(empty().equivalent(value, truth)),
                Percentile::AtLeast(least) => {
                    prop_assert!(least <= empty().highest_equivalent(truth));
                }
            }
        }
    }
}
