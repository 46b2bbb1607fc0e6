//! The statistics of comparisons against simulations: how often equal sets are said to differ, how
//! often a difference of known size is found, how often the interval holds the truth. All of it
//! seeded; rates are compared with their own uncertainty (Clopper and Pearson, Biometrika 26,
//! 1934).

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use statrs::distribution::{Beta, ContinuousCDF};

use super::{Difference, Estimate, Scale, holm};

/// Comparisons simulated of each kind.
const MANY: usize = 10_000;

/// Compares two lists of values of the same figure, one for each run.
pub(super) fn compare(first: &[f64], second: &[f64], scale: Scale) -> Option<Difference> {
    let (first, second) = (Estimate::of(first, scale)?, Estimate::of(second, scale)?);
    Some(Difference::between(&first, &second, scale, 0.0))
}

/// How the figures of runs may vary around their truth.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Normally.
    Normal,
    /// Skewed to the right, as latencies are.
    LogNormal,
    /// Normally, but one run in five varies five times as much, as when a neighbour was busy.
    Disturbed,
    /// By 0, 1 or 2 steps of a coarse scale.
    Steps,
}

fn normal(random: &mut Pcg64) -> f64 {
    // Box and Muller, "A note on the generation of random normal deviates", 1958.
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

impl Shape {
    /// A value around 1.
    fn draw(self, random: &mut Pcg64, spread: f64) -> f64 {
        let z = normal(random);
        match self {
            Shape::Normal => 1.0 + spread * z,
            Shape::LogNormal => (4.0 * spread * z).exp(),
            Shape::Disturbed => {
                1.0 + spread * z * if random.random::<f64>() < 0.2 { 5.0 } else { 1.0 }
            }
            Shape::Steps => 1.0 + 0.01 * f64::from(random.random_range(0_u8..3)),
        }
    }

    /// The step of its scale.
    fn resolution(self) -> f64 {
        if matches!(self, Shape::Steps) { 0.01 } else { 0.0 }
    }

    fn runs(self, random: &mut Pcg64, spread: f64, runs: usize, factor: f64) -> Vec<f64> {
        (0..runs).map(|_| self.draw(random, spread) * factor).collect()
    }
}

/// Between what the true rate of something seen `hits` times in `of` lies, with 99% confidence.
fn bounds(hits: usize, of: usize) -> (f64, f64) {
    let (k, n) = (hits as f64, of as f64);
    let beta = |a: f64, b: f64, at| Beta::new(a, b).expect("positive").inverse_cdf(at);
    let low = if hits == 0 { 0.0 } else { beta(k, n - k + 1.0, 0.005) };
    let high = if hits == of { 1.0 } else { beta(k + 1.0, n - k, 0.995) };
    (low, high)
}

/// The bounds of the rate at which so many trials hit.
fn rate(what: &str, trials: usize, mut hit: impl FnMut() -> bool) -> (f64, f64) {
    let hits = (0..trials).filter(|_| hit()).count();
    let (low, high) = bounds(hits, trials);
    println!(
        "{what}: {hits} of {trials}, {:.2}% to {:.2}% with 99% confidence",
        low * 100.0,
        high * 100.0
    );
    (low, high)
}

#[test]
fn bounds_are_as_published() {
    // Zero of n: the upper bound of 99% two-sided is 1 - 0.005^(1/n).
    let (low, high) = bounds(0, 100);
    assert!(low == 0.0 && (high - (1.0 - 0.005_f64.powf(0.01))).abs() < 1e-6, "{high}");
    let (low, high) = bounds(50, 100);
    assert!((low - 0.3688).abs() < 2e-3 && (high - 0.6312).abs() < 2e-3, "{low} {high}");
}

#[test]
fn equal_sets_are_seldom_said_to_differ() {
    let mut random = Pcg64::seed_from_u64(1);
    for shape in [Shape::Normal, Shape::LogNormal, Shape::Disturbed, Shape::Steps] {
        for (first, second) in [(5, 5), (3, 5), (10, 10), (2, 2), (1, 5)] {
            let what = format!("{shape:?}, {first} and {second} equal runs, said to differ");
            let (low, _) = rate(&what, MANY, || {
                let [a, b] = [first, second].map(|runs| {
                    let values = shape.runs(&mut random, 0.03, runs, 1.0);
                    Estimate::of(&values, Scale::Ratio).expect("an estimate")
                });
                Difference::between(&a, &b, Scale::Ratio, shape.resolution()).is_shown()
            });
            // A single run of a kind that is disturbed once in five is disturbed itself once in
            // five, and five others need not have shown that it can be.
            let allowed = if matches!((shape, first), (Shape::Disturbed, 1)) { 0.1 } else { 0.05 };
            assert!(low <= allowed, "{what}: {low}");
        }
    }
}

#[test]
fn intervals_hold_the_truth() {
    let mut random = Pcg64::seed_from_u64(2);
    let (_, high) = rate("5 and 5 runs that differ by 5%: intervals that hold it", MANY, || {
        let a = Shape::Normal.runs(&mut random, 0.03, 5, 1.0);
        let b = Shape::Normal.runs(&mut random, 0.03, 5, 1.05);
        let (low, high) = compare(&a, &b, Scale::Ratio).expect("compared").interval.expect("one");
        (low..=high).contains(&0.05)
    });
    assert!(high >= 0.95, "{high}");
}

#[test]
fn many_figures_at_once_do_not_invent_a_difference() {
    const FIGURES: usize = 18;
    let mut random = Pcg64::seed_from_u64(3);
    // Half of what varies is common to all figures of a run, as a slow minute is.
    let mut family = |adjusted: bool| {
        let mut set = || -> Vec<Vec<f64>> {
            let runs = (0..5).map(|_| {
                let common = normal(&mut random);
                (0..FIGURES).map(|_| 1.0 + 0.02 * (common + normal(&mut random))).collect()
            });
            runs.collect()
        };
        let (a, b) = (set(), set());
        let figure =
            |set: &[Vec<f64>], at: usize| set.iter().map(|run| run[at]).collect::<Vec<_>>();
        let compared = |at| compare(&figure(&a, at), &figure(&b, at), Scale::Ratio);
        let mut p: Vec<f64> =
            (0..FIGURES).map(|at| compared(at).and_then(|it| it.p).expect("p")).collect();
        if adjusted {
            holm(&mut p);
        }
        p.iter().any(|p| *p < 0.05)
    };
    let (_, high) = rate("18 figures with Holm, any said to differ", MANY, || family(true));
    assert!(high <= 0.05, "{high}");
    let (low, _) = rate("18 figures without, any said to differ", MANY, || family(false));
    assert!(low > 0.15, "the correction has something to correct: {low}");
}

#[test]
fn a_single_unit_and_the_jackknife_agree_with_what_they_stand_for() {
    // The jackknife of a ratio of sums: runs of unequal length, weighed by it.
    let mut random = Pcg64::seed_from_u64(4);
    let set = |random: &mut Pcg64| -> Vec<(f64, f64)> {
        let run = |_| {
            let seconds = f64::from(random.random_range(5_u8..15));
            (Shape::Normal.draw(random, 0.03) * seconds, seconds)
        };
        (0..5).map(run).collect()
    };
    let estimate = |runs: &[(f64, f64)]| {
        let figure = |out: Option<usize>| {
            let kept = runs.iter().enumerate().filter(|(i, _)| Some(*i) != out);
            let sums = kept.fold((0.0, 0.0), |sum, (_, run)| (sum.0 + run.0, sum.1 + run.1));
            Some(sums.0 / sums.1)
        };
        Estimate::jackknife(runs.len(), Scale::Ratio, figure).expect("an estimate")
    };
    let (low, high) = rate("unequal runs, weighed, said to differ", MANY, || {
        let (a, b) = (set(&mut random), set(&mut random));
        Difference::between(&estimate(&a), &estimate(&b), Scale::Ratio, 0.0).is_shown()
    });
    assert!(low <= 0.06 && high >= 0.03, "{low} {high}");
}
