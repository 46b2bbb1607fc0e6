//! Whole comparisons of simulated runs: at most 5% of those of equal sets may show any difference,
//! and 5% less throughput must be found with five runs a side. How much runs vary is as measured,
//! see docs/decisions/0017-comparing-sets-of-runs.md. Seeded; rates are compared with the bounds of
//! Clopper and Pearson (99%, two-sided).

use std::sync::LazyLock;

use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use statrs::distribution::{Beta, ContinuousCDF, Normal};

use super::figures::{Figure, Pool};
use super::sets::{CpuTime, SamplingUnit};
use super::verdicts::{ComparedPhase, Verdict, compare_figures, correct};

/// Comparisons simulated of each kind.
const MANY: usize = 1000;

/// Points of its distribution that stand for a unit's latencies.
const POINTS: u64 = 400;

/// How much of a run's deviation is common to all its figures.
const COMMON: f64 = 0.7;

/// Relative deviations between runs.
#[derive(Clone, Copy)]
struct Deviations {
    rate: f64,
    /// Of the median second.
    typical: f64,
    median: f64,
    /// Of the share of requests in the tail.
    tail: f64,
    memory: f64,
}

/// As measured with runs of 30 s, rounded up.
const MEASURED: Deviations =
    Deviations { rate: 0.026, typical: 0.019, median: 0.025, tail: 0.5, memory: 0.07 };

fn normal(random: &mut Pcg64) -> f64 {
    let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Equally likely values of a normal distribution.
fn points() -> &'static [f64] {
    static POINTS_ONCE: LazyLock<Vec<f64>> = LazyLock::new(|| {
        let standard = Normal::standard();
        let at = |point| standard.inverse_cdf((point as f64 + 0.5) / POINTS as f64);
        (0..POINTS).map(at).collect()
    });
    &POINTS_ONCE
}

/// The shape of all latencies: most around the median, a few around its tenfold.
fn latencies(median_us: f64, tail: f64, each: u64) -> Histogram<u64> {
    let mut values = Histogram::new_with_bounds(1, 60_000, 3).expect("bounds");
    let mut add = |us: f64, count: u64| values.saturating_record_n(us as u64, count);
    let slow = (tail * (POINTS * each) as f64) as u64;
    for z in points() {
        add(median_us * (0.28 * z).exp(), each);
        add(median_us * 10.0 * (0.7 * z).exp(), slow / POINTS);
    }
    values
}

/// A run of 10 s, or a part of one; `common` and `own` say how far it is from the others.
fn unit(
    deviations: Deviations,
    common: f64,
    mut own: impl FnMut() -> f64,
    factor: f64,
) -> SamplingUnit {
    let mut z = || COMMON.sqrt() * common + (1.0 - COMMON).sqrt() * own();
    let answered = (2_100_000.0 * factor * (deviations.rate * z()).exp()) as u64;
    let cpu = |z: f64| CpuTime { us: (9e6 * (0.4 * deviations.rate * z).exp()) as u64, answered };
    SamplingUnit {
        seconds: 10.0,
        answered,
        median_second: Some(210_000.0 * factor * (deviations.typical * z()).exp()),
        server_cpu: Some(cpu(z())),
        client_cpu: Some(cpu(z())),
        retransmits: Some(0),
        latency: Some(latencies(
            870.0 * (deviations.median * z()).exp(),
            0.003 * (deviations.tail * z()).exp(),
            answered / POINTS,
        )),
        latency_bounds: None,
        server_bytes: Some(130.0 * (deviations.memory * z()).exp()),
        client_bytes: None,
        kernel_bytes: Some(3800.0 * (0.4 * deviations.memory * z()).exp()),
    }
}

fn runs(random: &mut Pcg64, deviations: Deviations, runs: usize, factor: f64) -> Vec<SamplingUnit> {
    (0..runs)
        .map(|_| {
            let common = normal(random);
            unit(deviations, common, || normal(random), factor)
        })
        .collect()
}

/// Seconds of a part of a run: ten of a minute.
const PART_S: usize = 6;

/// The parts of a run of a minute, of which each second is like the one before it.
fn parts(random: &mut Pcg64, alike: f64) -> Vec<SamplingUnit> {
    let mut second = normal(random);
    let mut next = |random: &mut Pcg64| {
        second = alike * second + (1.0 - alike * alike).sqrt() * normal(random);
        second
    };
    (0..10)
        .map(|_| {
            let common = (0..PART_S).map(|_| next(random)).sum::<f64>() / (PART_S as f64).sqrt();
            unit(MEASURED, common, || normal(random), 1.0)
        })
        .collect()
}

fn answer(first: &[SamplingUnit], second: &[SamplingUnit], in_sequence: bool) -> ComparedPhase {
    let pools = [Pool::new(first, in_sequence), Pool::new(second, in_sequence)];
    let mut phase = [compare_figures("saturated", &pools, None)];
    let questions = correct(&mut phase);
    assert_eq!(questions, Figure::ALL.len() - 1, "retransmissions are 0 throughout");
    let [phase] = phase;
    phase
}

fn any_shown(phase: &ComparedPhase) -> bool {
    phase.figures.iter().any(|it| it.verdict == Verdict::Shown)
}

/// Whether a figure was found to differ, and the right way: among all, and when it was the only
/// question.
fn slower_found(phase: &ComparedPhase, figure: Figure) -> (bool, bool) {
    let compared = phase.figures.iter().find(|it| it.figure == figure).expect("a rate");
    let slower = compared.difference.estimate < 0.0;
    (compared.verdict == Verdict::Shown && slower, compared.difference.is_shown() && slower)
}

/// Between what the true rate of something seen so often in [`MANY`] lies, with 99% confidence.
fn bounds(hits: usize) -> (f64, f64) {
    let (k, n) = (hits as f64, MANY as f64);
    let beta = |a: f64, b: f64, at| Beta::new(a, b).expect("positive").inverse_cdf(at);
    let low = if hits == 0 { 0.0 } else { beta(k, n - k + 1.0, 0.005) };
    let high = if hits == MANY { 1.0 } else { beta(k + 1.0, n - k, 0.995) };
    (low, high)
}

/// The bounds of the rate at which something hits.
fn rate(what: &str, mut hit: impl FnMut() -> bool) -> (f64, f64) {
    let hits = (0..MANY).filter(|_| hit()).count();
    let (low, high) = bounds(hits);
    println!("{what}: {hits} of {MANY}, {:.1}% to {:.1}%", low * 100.0, high * 100.0);
    (low, high)
}

#[test]
fn equal_sets_show_no_difference() {
    let mut random = Pcg64::seed_from_u64(5);
    let (_, high) = rate("5 and 5 equal runs, 9 figures, any said to differ", || {
        let [a, b] = [0, 1].map(|_| runs(&mut random, MEASURED, 5, 1.0));
        any_shown(&answer(&a, &b, false))
    });
    assert!(high <= 0.05, "{high}");
    let (low, _) = rate("3 and 5 equal runs, 9 figures, any said to differ", || {
        let (a, b) = (runs(&mut random, MEASURED, 3, 1.0), runs(&mut random, MEASURED, 5, 1.0));
        any_shown(&answer(&a, &b, false))
    });
    assert!(low <= 0.05, "{low}");
}

#[test]
fn equal_runs_show_no_difference_within() {
    let mut random = Pcg64::seed_from_u64(6);
    for alike in [0.0, 0.3, 0.6] {
        let what = format!("two equal runs whose seconds are alike by {alike}, any said to differ");
        let (low, _) = rate(&what, || {
            let [a, b] = [0, 1].map(|_| parts(&mut random, alike));
            any_shown(&answer(&a, &b, true))
        });
        assert!(low <= 0.05, "{what}: {low}");
    }
}

#[test]
fn five_percent_less_throughput_is_found() {
    let mut random = Pcg64::seed_from_u64(7);
    // Deviation of runs in a rate, how often the change must be found among all figures, and alone.
    for (deviation, among, alone) in [
        (0.031, 0.15, 0.5),
        (MEASURED.rate, 0.3, 0.7),
        (MEASURED.typical, 0.6, 0.9),
        (0.01, 0.98, 0.99),
    ] {
        let deviations = Deviations { typical: deviation, ..MEASURED };
        let what = format!("5% less at a deviation of {deviation}, 5 runs a side, found");
        let mut alone_hits = 0;
        let (low, _) = rate(&what, || {
            let a = runs(&mut random, deviations, 5, 1.0);
            let b = runs(&mut random, deviations, 5, 0.95);
            let (among, alone) = slower_found(&answer(&a, &b, false), Figure::TypicalRate);
            alone_hits += usize::from(alone);
            among
        });
        assert!(low >= among, "{what}: {low}");
        let (low, high) = bounds(alone_hits);
        println!("  asked alone: {alone_hits}, {:.1}% to {:.1}%", low * 100.0, high * 100.0);
        assert!(low >= alone, "{what}, alone: {low}");
    }
}
