//! How sure a share of right answers is: the lower bound of Clopper and Pearson, which is exact for
//! any number of tries. Must not know: what is right.

/// The largest chance that the bound is above the true share.
const CHANCE: f64 = 0.05;

/// Halvings of the interval: beyond the last bit of the result.
const STEPS: usize = 60;

/// The share of right answers that is reached with a confidence of 95%, given `right` of `of`: the
/// share at which so many or more are right with a chance of 5%. 0 when none was right.
pub(super) fn lower(right: usize, of: usize) -> f64 {
    if right == 0 || right > of {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        if at_least(right, of, middle) < CHANCE {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The chance of `right` or more of `of`, each with the chance `share`.
fn at_least(right: usize, of: usize, share: f64) -> f64 {
    (right..=of).map(|count| exactly(count, of, share)).sum()
}

/// The chance of exactly `count` of `of`: by logarithms, since the factors leave the range of
/// numbers for some hundreds of tries.
fn exactly(count: usize, of: usize, share: f64) -> f64 {
    let choose: f64 = (1..=count).map(|k| ((of - count + k) as f64 / k as f64).ln()).sum();
    let power = |base: f64, times: usize| if times == 0 { 0.0 } else { base.ln() * times as f64 };
    (choose + power(share, count) + power(1.0 - share, of - count)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against tables of the exact interval. 59 of 59 is where 95% is reached first.
    #[test]
    fn the_bound_is_that_of_the_tables() {
        for (right, of, expected) in [
            (59, 59, 0.9505),
            (58, 58, 0.9497),
            (10, 10, 0.7411),
            (9, 10, 0.6058),
            (92, 93, 0.9500),
            (1, 1, 0.05),
            (0, 10, 0.0),
            (0, 0, 0.0),
            (500, 1_000, 0.4735),
        ] {
            let found = lower(right, of);
            assert!((found - expected).abs() < 1e-3, "{right} of {of}: {found}");
        }
    }

    #[test]
    fn more_right_answers_never_lower_it() {
        for of in 1..40 {
            let bounds: Vec<f64> = (0..=of).map(|right| lower(right, of)).collect();
            assert!(bounds.windows(2).all(|two| two[0] < two[1] || two[1] == 0.0), "{bounds:?}");
            assert!(bounds.iter().enumerate().all(|(right, it)| *it <= right as f64 / of as f64));
        }
    }
}
