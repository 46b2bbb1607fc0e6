//! Whether two sets of measurements differ, and by how much. Owns: estimates, differences with
//! their intervals, corrections for many questions at once. Must not know: what was measured.
//!
//! A set is made of units that vary independently: repeated runs, or batches of seconds within one
//! run. What a unit's requests do among themselves counts for nothing: they share the machine's
//! state of that minute, and a million of them would make any difference look certain.
//!
//! - **Estimate**: the figure of all units taken together, such as a percentile of their merged
//!   histogram. How it varies comes from leaving out one unit at a time, the jackknife: with θ the
//!   figure of all n and θᵢ that without unit i, the pseudo-values nθ − (n − 1)θᵢ are treated as n
//!   independent values (Tukey, "Bias and confidence in not-quite large samples", 1958; Miller,
//!   "The jackknife - a review", Biometrika 61, 1974). Of a mean this is the ordinary standard
//!   error. Of a percentile it is sound although the jackknife fails for percentiles of single
//!   values: a unit has thousands of requests, so that leaving it out shifts the merged percentile
//!   smoothly, by its own share of the distribution. The interval is then one for exactly the
//!   percentile that is printed, and holds it; percentiles of units are never averaged.
//! - **Difference**: Welch's test ("The generalization of Student's problem when several different
//!   population variances are involved", Biometrika 34, 1947) with Satterthwaite's degrees of
//!   freedom ("An approximate distribution of estimates of variance components", Biometrics
//!   Bulletin 2, 1946), on logarithms where the figure is positive, so that differences are ratios.
//!   A set of a single unit borrows the variance of the other (Crawford and Howell, "Comparing an
//!   individual's test score against norms derived from small samples", 1998).
//! - **Units in sequence**, as the batches of one run are: neighbours resemble each other, so that
//!   n of them count as n(1 − r)/(1 + r), r being the correlation of each with the next (the
//!   effective sample size of a first-order autoregression), of which 1/n is added for the bias of
//!   short series (Marriott and Pope, "Bias in the estimation of autocorrelations", Biometrika 41,
//!   1954).
//! - **Resolution**: figures are read off scales with steps. A true value may be a step away, in
//!   the same direction for all units, which no number of them averages out: the interval is a step
//!   wider on either side, and what is less than a step is no difference.
//! - **Many figures**: p-values adjusted as Holm has it ("A simple sequentially rejective multiple
//!   test procedure", Scandinavian Journal of Statistics 6, 1979), which holds however the figures
//!   depend on each other: at most 5% of the comparisons of equal sets show any difference at all.
//!
//! Resampling is not used: of the 252 ways of dividing ten runs by five none has a p below 0.8%,
//! too coarse to be corrected for many figures, and bootstraps of five runs are too narrow.

#[cfg(test)]
mod simulated;

use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// What intervals cover.
pub const CONFIDENCE: f64 = 0.95;

/// Neighbours in a sequence are never taken to be more alike than this, of which ten count as half
/// of one.
const MOST_ALIKE: f64 = 0.9;

/// A variance never counts for fewer degrees of freedom: of a sequence much like itself.
const LEAST_FREEDOM: f64 = 1.0;

/// On what scale a figure is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// As a ratio: differences are shares, 0.05 being 5% more. For what is positive.
    Ratio,
    /// In the figure's own unit. For what may be zero.
    Difference,
}

impl Scale {
    fn axis(self, value: f64) -> Option<f64> {
        match self {
            Scale::Ratio => (value > 0.0).then(|| value.ln()),
            Scale::Difference => Some(value),
        }
        .filter(|it| it.is_finite())
    }

    /// A distance on the axis, as people read it.
    fn read(self, distance: f64) -> f64 {
        match self {
            Scale::Ratio => distance.exp_m1(),
            Scale::Difference => distance,
        }
    }
}

/// A figure of a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// On the axis: a logarithm on the scale [`Scale::Ratio`].
    at: f64,
    /// Variance of a unit; `None` when there is but one.
    variance: Option<f64>,
    /// How many independent units there are, or as many as they count for.
    units: f64,
}

impl Estimate {
    /// A figure of which each unit has its own value, and the set the mean (on the scale of ratios
    /// the geometric one). `None` when there is no value, or one that does not fit the scale.
    pub(crate) fn of(values: &[f64], scale: Scale) -> Option<Self> {
        let values: Vec<f64> =
            values.iter().map(|value| scale.axis(*value)).collect::<Option<_>>()?;
        let at = mean(&values)?;
        Some(Self { at, variance: variance(&values), units: values.len() as f64 })
    }

    /// A figure of so many units taken together: `figure(None)` is that of all, `figure(Some(i))`
    /// that of all but unit i. `None` when one of these does not exist or does not fit the scale.
    pub(crate) fn jackknife(
        units: usize,
        scale: Scale,
        figure: impl Fn(Option<usize>) -> Option<f64>,
    ) -> Option<Self> {
        let (at, values) = pseudo_values(units, scale, figure)?;
        Some(Self { at, variance: variance(&values), units: units as f64 })
    }

    /// The same of units that follow each other, and resemble their neighbours.
    pub(crate) fn jackknife_in_sequence(
        units: usize,
        scale: Scale,
        figure: impl Fn(Option<usize>) -> Option<f64>,
    ) -> Option<Self> {
        let (at, values) = pseudo_values(units, scale, figure)?;
        let count = units as f64 / inflation(&values);
        Some(Self { at, variance: variance(&values), units: count })
    }

    /// How far a unit is from the others, typically, on the axis: on the scale of ratios nearly the
    /// coefficient of variation.
    pub(crate) fn deviation(&self) -> Option<f64> {
        self.variance.map(f64::sqrt)
    }

    /// Between what the figure lies with 95% confidence, in its unit; `None` when nothing tells how
    /// much units vary.
    pub(crate) fn interval(&self, scale: Scale) -> Option<(f64, f64)> {
        let error = (self.variance? / self.units).sqrt();
        let student = StudentsT::new(0.0, 1.0, self.freedom()).ok()?;
        let reach = student.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * error;
        let value = |at: f64| match scale {
            Scale::Ratio => at.exp(),
            Scale::Difference => at,
        };
        Some((value(self.at - reach), value(self.at + reach)))
    }

    /// The degrees of freedom of the variance.
    fn freedom(&self) -> f64 {
        (self.units - 1.0).max(LEAST_FREEDOM)
    }
}

/// The figure of all units on the axis, and what each has to do with it.
fn pseudo_values(
    units: usize,
    scale: Scale,
    figure: impl Fn(Option<usize>) -> Option<f64>,
) -> Option<(f64, Vec<f64>)> {
    let at = scale.axis(figure(None)?)?;
    if units < 2 {
        return Some((at, vec![at; units]));
    }
    let n = units as f64;
    let values = (0..units).map(|left_out| {
        let without = scale.axis(figure(Some(left_out))?)?;
        Some(n * at - (n - 1.0) * without)
    });
    Some((at, values.collect::<Option<_>>()?))
}

/// How many times more the mean of a series varies than that of as many independent values.
fn inflation(values: &[f64]) -> f64 {
    let Some(mean) = mean(values) else { return 1.0 };
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 3 || squares < f64::MIN_POSITIVE {
        return 1.0;
    }
    let products: f64 = values.windows(2).map(|two| (two[0] - mean) * (two[1] - mean)).sum();
    let next = (products / squares + 1.0 / values.len() as f64).clamp(0.0, MOST_ALIKE);
    (1.0 + next) / (1.0 - next)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn variance(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some(squares / (values.len() - 1) as f64)
}

/// What a set has over another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The second less the first: a share on the scale of ratios, else in the figure's unit.
    pub estimate: f64,
    /// Between what it lies with 95% confidence, asked alone; `None` when nothing tells how much
    /// the sets vary.
    pub interval: Option<(f64, f64)>,
    /// How often equal sets differ by this much or more, asked alone; `None` as above.
    pub p: Option<f64>,
}

impl Difference {
    /// The second set less the first. `resolution` is the step of the figure's scale: a share of
    /// the value on the scale of ratios, else in its unit.
    pub(crate) fn between(
        first: &Estimate,
        second: &Estimate,
        scale: Scale,
        resolution: f64,
    ) -> Self {
        let distance = second.at - first.at;
        let step = match scale {
            Scale::Ratio => resolution.ln_1p(),
            Scale::Difference => resolution,
        };
        let (interval, p) = match error(first, second) {
            Some((error, freedom)) => test(distance, error, freedom, step),
            None => (None, (distance == 0.0).then_some(1.0)),
        };
        Self {
            estimate: scale.read(distance),
            interval: interval.map(|(low, high)| (scale.read(low), scale.read(high))),
            p,
        }
    }

    /// Whether there is a difference, asked alone.
    pub(crate) fn is_shown(&self) -> bool {
        self.p.is_some_and(|p| p < 1.0 - CONFIDENCE)
    }
}

/// The standard error of the distance between two estimates, and its degrees of freedom.
fn error(first: &Estimate, second: &Estimate) -> Option<(f64, f64)> {
    let part = |estimate: &Estimate, variance: f64| variance / estimate.units;
    let (a, b, freedom) = match (first.variance, second.variance) {
        (Some(a), Some(b)) => {
            let (a, b) = (part(first, a), part(second, b));
            let spread = a.powi(2) / first.freedom() + b.powi(2) / second.freedom();
            (a, b, (a + b).powi(2) / spread)
        }
        (Some(a), None) => (part(first, a), part(second, a), first.freedom()),
        (None, Some(b)) => (part(first, b), part(second, b), second.freedom()),
        (None, None) => return None,
    };
    Some(((a + b).sqrt(), freedom))
}

/// The interval around a distance and the p-value of there being none.
fn test(distance: f64, error: f64, freedom: f64, step: f64) -> (Option<(f64, f64)>, Option<f64>) {
    let beyond = (distance.abs() - step).max(0.0);
    // Units that are all the same, as figures on a coarse scale can be: only the step is unknown.
    // Written as less than the smallest normal number, since the freedom is 0 / 0 then.
    if error < f64::MIN_POSITIVE || !freedom.is_finite() {
        let p = if beyond > 0.0 { 0.0 } else { 1.0 };
        return (Some((distance - step, distance + step)), Some(p));
    }
    let Ok(student) = StudentsT::new(0.0, 1.0, freedom) else { return (None, None) };
    let reach = student.inverse_cdf(f64::midpoint(1.0, CONFIDENCE)) * error + step;
    let p = (2.0 * student.sf(beyond / error)).min(1.0);
    (Some((distance - reach, distance + reach)), Some(p))
}

/// Adjusts p-values for how many there are, in place, as Holm has it: one that is still below 5%
/// shows a difference, and at most 5% of the families in which there is none have such a one.
pub(crate) fn holm(p: &mut [f64]) {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut least: f64 = 0.0;
    for (rank, place) in order.into_iter().enumerate() {
        let left = (p.len() - rank) as f64;
        least = least.max((p[place] * left).min(1.0));
        p[place] = least;
    }
}

#[cfg(test)]
mod tests {
    use super::simulated::compare;
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 5e-4
    }

    /// Examples with known results: the one of the article on Student's t-test in Wikipedia
    /// (unequal variances: t = 1.959, 7.03 degrees, p = 0.09077), and two of Rosetta Code's
    /// "Welch's t-test".
    #[test]
    fn welch_is_as_published() {
        let one = [30.02, 29.99, 30.11, 29.97, 30.01, 29.99];
        let two = [29.89, 29.93, 29.72, 29.98, 30.02, 29.98];
        let screws = compare(&two, &one, Scale::Difference).expect("compared");
        assert!(near(screws.p.expect("p"), 0.090_773) && !screws.is_shown(), "{screws:?}");
        assert!(near(screws.estimate, 0.095), "{screws:?}");
        let (low, high) = screws.interval.expect("an interval");
        assert!(low < 0.0 && near(f64::midpoint(low, high), screws.estimate));
        // Its edges are where p is 5%.
        let shifted = one.map(|value| value - low);
        let edge = compare(&two, &shifted, Scale::Difference).expect("compared");
        assert!(near(edge.p.expect("p"), 0.05), "{edge:?}");

        let few = compare(&[3.0, 4.0, 1.0, 2.1], &[490.2, 340.0, 433.9], Scale::Difference);
        let few = few.expect("compared");
        assert!(near(few.p.expect("p"), 0.010_752) && few.is_shown(), "{few:?}");

        let three = [17.2, 20.9, 22.6, 18.1, 21.7, 21.4, 23.5, 24.2, 14.7, 21.8];
        let four = [
            21.5, 22.8, 21.0, 23.0, 21.6, 23.6, 22.5, 20.7, 23.4, 21.8, 20.7, 21.7, 21.5, 22.5,
            23.6, 21.5, 22.5, 23.5, 21.5, 21.8,
        ];
        let many = compare(&three, &four, Scale::Difference).expect("compared");
        assert!(near(many.p.expect("p"), 0.148_842) && !many.is_shown(), "{many:?}");
    }

    #[test]
    fn ratios_are_ratios() {
        let one = [100.0, 110.0, 90.9091];
        let two = one.map(|it| it * 1.25);
        let there = compare(&one, &two, Scale::Ratio).expect("compared");
        let back = compare(&two, &one, Scale::Ratio).expect("compared");
        assert!(near(there.estimate, 0.25) && near(back.estimate, -0.2), "{there:?} {back:?}");
        let ((low, high), (lower, higher)) = (there.interval.unwrap(), back.interval.unwrap());
        assert!(near((1.0 + low) * (1.0 + higher), 1.0) && near((1.0 + high) * (1.0 + lower), 1.0));
        assert_eq!(compare(&one, &[0.0, 1.0], Scale::Ratio), None);
        assert_eq!(compare(&[], &[1.0], Scale::Difference), None);
    }

    #[test]
    fn the_jackknife_of_a_mean_is_the_standard_error() {
        let values = [3.0, 5.0, 10.0, 2.0];
        let leave = |out: Option<usize>| {
            let kept = values.iter().enumerate().filter(|(i, _)| Some(*i) != out);
            let kept: Vec<f64> = kept.map(|(_, value)| *value).collect();
            mean(&kept)
        };
        let scale = Scale::Difference;
        let one = Estimate::jackknife(values.len(), scale, leave).expect("an estimate");
        let other = Estimate::of(&values, scale).expect("an estimate");
        assert!(near(one.at, other.at));
        assert!(near(one.variance.unwrap(), other.variance.unwrap()), "{one:?} {other:?}");
    }

    /// Three values around 10 with deviation 1: 10 ± 4.3027 / √3 (the table's t of 2 degrees).
    #[test]
    fn the_interval_of_a_mean_is_students() {
        let estimate = Estimate::of(&[9.0, 10.0, 11.0], Scale::Difference).expect("an estimate");
        let (low, high) = estimate.interval(Scale::Difference).expect("an interval");
        assert!(near(high - 10.0, 2.4842) && near(10.0 - low, 2.4842), "{low} {high}");
        let one = Estimate::of(&[9.0], Scale::Ratio).expect("an estimate");
        assert_eq!(one.interval(Scale::Ratio), None);
    }

    #[test]
    fn a_set_and_itself_do_not_differ() {
        for values in [&[3.0, 4.0, 5.0][..], &[7.0, 7.0], &[0.0, 0.0, 0.0], &[2.0]] {
            let difference = compare(values, values, Scale::Difference).expect("compared");
            assert_eq!((difference.estimate, difference.p), (0.0, Some(1.0)), "{values:?}");
        }
    }

    #[test]
    fn steps_of_the_scale_are_no_difference() {
        let [one, two, far] = [80.0, 81.0, 90.0]
            .map(|value| Estimate::of(&[value; 5], Scale::Difference).expect("an estimate"));
        let within = Difference::between(&one, &two, Scale::Difference, 1.0);
        assert_eq!((within.p, within.interval), (Some(1.0), Some((0.0, 2.0))));
        let beyond = Difference::between(&one, &far, Scale::Difference, 1.0);
        assert_eq!((beyond.p, beyond.interval), (Some(0.0), Some((9.0, 11.0))));
    }

    #[test]
    fn a_single_unit_borrows_the_variance_of_the_others() {
        // Crawford and Howell's t: (80 - 100) / (10 · √(1 + 1/5)) = -1.826 with 4 degrees.
        let norm = [100.0, 110.0, 90.0, 112.247_449, 87.752_551];
        let difference = compare(&norm, &[80.0], Scale::Difference).expect("compared");
        let deviation = Estimate::of(&norm, Scale::Difference).unwrap().deviation().unwrap();
        let t = 20.0 / (deviation * 1.2_f64.sqrt());
        let student = StudentsT::new(0.0, 1.0, 4.0).unwrap();
        assert!(near(difference.p.unwrap(), 2.0 * student.sf(t)), "{difference:?}");
        let alone = compare(&[1.0], &[2.0], Scale::Difference).expect("compared");
        assert_eq!((alone.p, alone.interval), (None, None), "nothing is known of how they vary");
    }

    #[test]
    fn holm_is_as_published() {
        let mut p = [0.01, 0.04, 0.03, 0.005];
        holm(&mut p);
        for (adjusted, expected) in p.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!(near(*adjusted, expected), "{p:?}");
        }
        holm(&mut []);
        let mut one = [0.7];
        holm(&mut one);
        assert_eq!(one, [0.7]);
    }
}
