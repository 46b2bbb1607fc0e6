//! The figures that are compared, and how each comes from units taken together.

use attribution::Percentile;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::sets::{CpuTime, SamplingUnit};
use crate::stats::{Estimate, Scale};
use crate::summary::PhaseSummary;

/// A figure of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Figure {
    /// Shakes answered a second.
    Rate,
    /// Shakes answered in the median second of a run: a few disturbed seconds do not move it.
    TypicalRate,
    /// The median latency, in microseconds.
    P50,
    /// The 99th percentile.
    P99,
    /// The 99.9th percentile.
    P999,
    /// CPU time of the server for a request, in microseconds.
    ServerCpu,
    /// CPU time of the clients for a request, in microseconds.
    ClientCpu,
    /// Growth of the server's memory, in bytes a connection.
    ServerMemory,
    /// Growth of the kernel's memory, in bytes a socket.
    KernelMemory,
    /// Segments sent again, a second.
    Retransmissions,
}

/// The smallest latency that is told apart, in microseconds.
const LATENCY_STEP_US: f64 = 1.0;

/// The step of a histogram with three significant digits, as a share of the value: 2,048 to an
/// octave and the one below.
const HISTOGRAM_STEP: f64 = 1.0 / 1024.0;

impl Figure {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 10] = [
        Self::Rate,
        Self::TypicalRate,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::ServerCpu,
        Self::ClientCpu,
        Self::ServerMemory,
        Self::KernelMemory,
        Self::Retransmissions,
    ];

    /// In words, with its unit.
    pub fn title(self) -> &'static str {
        match self {
            Self::Rate => "answered/s",
            Self::TypicalRate => "answered/s, median second",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::ServerCpu => "server CPU µs/request",
            Self::ClientCpu => "client CPU µs/request",
            Self::ServerMemory => "server bytes/connection",
            Self::KernelMemory => "kernel bytes/socket",
            Self::Retransmissions => "retransmissions/s",
        }
    }

    fn scale(self) -> Scale {
        match self {
            Self::Retransmissions => Scale::Difference,
            _ => Scale::Ratio,
        }
    }

    /// Whether each run has one value of it, and no second of a run has.
    pub(crate) fn is_of_whole_runs(self) -> bool {
        matches!(self, Self::ServerMemory | Self::KernelMemory)
    }

    /// What a unit has of a figure of which each has its own value; `None` of another
    /// figure.
    fn of_unit(self) -> Option<fn(&SamplingUnit) -> Option<f64>> {
        match self {
            Self::ServerMemory => Some(|unit| unit.server_bytes),
            Self::KernelMemory => Some(|unit| unit.kernel_bytes),
            Self::TypicalRate => Some(|unit| unit.median_second),
            _ => None,
        }
    }

    /// Whether the figure is a percentile of a phase that is as much the clients' as the server's.
    pub(super) fn is_not_valid(self, phase: &PhaseSummary) -> bool {
        let valid = &phase.percentiles_valid;
        let valid = match self {
            Self::P50 => valid.p50,
            Self::P99 => valid.p99,
            Self::P999 => valid.p999,
            _ => None,
        };
        valid == Some(false)
    }

    fn quantile(self) -> Option<f64> {
        match self {
            Self::P50 => Some(0.5),
            Self::P99 => Some(0.99),
            Self::P999 => Some(0.999),
            _ => None,
        }
    }
}

/// Units of a set and their histograms merged: all, and all but one each.
pub(crate) struct Pool<'a> {
    units: &'a [SamplingUnit],
    /// Whether they follow each other in one run.
    in_sequence: bool,
    latencies: Merged,
    /// Those of them that are bounds.
    bounds: Merged,
}

/// Histograms of units merged: all, and all but one each.
struct Merged {
    all: Option<Histogram<u64>>,
    without: Vec<Histogram<u64>>,
}

impl Merged {
    fn of(units: &[SamplingUnit], own: fn(&SamplingUnit) -> Option<&Histogram<u64>>) -> Self {
        let all = merged(units, own);
        let without = units.iter().map_while(|unit| {
            let mut others = all.clone()?;
            if let Some(own) = own(unit) {
                others.subtract(own).ok()?;
            }
            Some(others)
        });
        let without = without.collect();
        Self { all, without }
    }

    fn get(&self, left_out: Option<usize>) -> Option<&Histogram<u64>> {
        left_out.map_or(self.all.as_ref(), |left_out| self.without.get(left_out))
    }
}

impl<'a> Pool<'a> {
    /// Takes units together.
    pub(crate) fn new(units: &'a [SamplingUnit], in_sequence: bool) -> Self {
        let latencies = Merged::of(units, |unit| unit.latency.as_ref());
        let bounds = Merged::of(units, |unit| unit.latency_bounds.as_ref());
        Self { units, in_sequence, latencies, bounds }
    }

    /// Whether a figure is a percentile that shakes without an answer decide.
    pub(crate) fn is_bound(&self, figure: Figure) -> bool {
        let percentile = figure.quantile().and_then(|quantile| self.percentile(quantile, None));
        percentile.is_some_and(|it| it.exactly().is_none())
    }

    fn percentile(&self, quantile: f64, left_out: Option<usize>) -> Option<Percentile> {
        Percentile::of(self.latencies.get(left_out)?, self.bounds.get(left_out), quantile)
    }

    /// A figure of two pools on the scale on which it is compared: as a ratio, unless one of them
    /// has a value that is not positive. `None` when one of them does not have it.
    pub(crate) fn estimates(
        figure: Figure,
        first: &Self,
        second: &Self,
    ) -> Option<(Scale, Estimate, Estimate)> {
        [figure.scale(), Scale::Difference].into_iter().find_map(|scale| {
            Some((scale, first.estimate(figure, scale)?, second.estimate(figure, scale)?))
        })
    }

    /// A figure; `None` when it was not measured.
    pub(crate) fn estimate(&self, figure: Figure, scale: Scale) -> Option<Estimate> {
        if let Some(own) = figure.of_unit().filter(|_| !self.in_sequence) {
            let values: Vec<f64> = self.units.iter().map(own).collect::<Option<_>>()?;
            return Estimate::of(&values, scale);
        }
        let of = |left_out| self.value(figure, left_out);
        if self.in_sequence {
            Estimate::jackknife_in_sequence(self.units.len(), scale, of)
        } else {
            Estimate::jackknife(self.units.len(), scale, of)
        }
    }

    /// A figure of all units, or of all but one.
    pub(crate) fn value(&self, figure: Figure, left_out: Option<usize>) -> Option<f64> {
        self.ratio(figure, left_out).filter(|value| value.is_finite())
    }

    /// The same, or no number where there is nothing to divide by.
    fn ratio(&self, figure: Figure, left_out: Option<usize>) -> Option<f64> {
        if let Some(quantile) = figure.quantile() {
            return Some(self.percentile(quantile, left_out)?.exactly()? as f64);
        }
        let kept = || self.units.iter().enumerate().filter(|(i, _)| Some(*i) != left_out);
        let sum = |of: fn(&SamplingUnit) -> Option<u64>| -> Option<f64> {
            kept().map(|(_, unit)| of(unit)).sum::<Option<u64>>().map(|sum| sum as f64)
        };
        if let Some(own) = figure.of_unit() {
            let sum: f64 = kept().map(|(_, unit)| own(unit)).sum::<Option<f64>>()?;
            return Some(sum / kept().count() as f64);
        }
        let cpu = |of: fn(&SamplingUnit) -> Option<CpuTime>| -> Option<f64> {
            let all: Vec<CpuTime> = kept().map(|(_, unit)| of(unit)).collect::<Option<_>>()?;
            let us: u64 = all.iter().map(|cpu| cpu.us).sum();
            let answered: u64 = all.iter().map(|cpu| cpu.answered).sum();
            (answered > 0).then(|| us as f64 / answered as f64)
        };
        let seconds: f64 = kept().map(|(_, unit)| unit.seconds).sum();
        // Without shakes there is no rate, and nothing to divide by.
        let answered = sum(|unit| Some(unit.answered)).filter(|answered| *answered > 0.0);
        match figure {
            Figure::Rate => Some(answered? / seconds),
            Figure::ServerCpu => cpu(|unit| unit.server_cpu),
            Figure::ClientCpu => cpu(|unit| unit.client_cpu),
            Figure::Retransmissions => Some(sum(|unit| unit.retransmits)? / seconds),
            _ => None,
        }
    }

    /// The step of the scale on which a figure is read: a share of the value where it is compared
    /// as a ratio, else in its unit.
    pub(crate) fn resolution(&self, figure: Figure, scale: Scale) -> f64 {
        match (figure.quantile(), self.value(figure, None)) {
            (Some(_), Some(value)) if value > 0.0 => {
                let share = (LATENCY_STEP_US / value).max(HISTOGRAM_STEP);
                if scale == Scale::Ratio { share } else { share * value }
            }
            _ => 0.0,
        }
    }
}

fn merged(
    units: &[SamplingUnit],
    own: fn(&SamplingUnit) -> Option<&Histogram<u64>>,
) -> Option<Histogram<u64>> {
    let mut all: Option<Histogram<u64>> = None;
    for values in units.iter().filter_map(own) {
        match &mut all {
            // All have the bounds that clients record with.
            Some(all) => all.add(values).ok()?,
            None => all = Some(values.clone()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(seconds: f64, answered: u64, latencies: &[(u64, u64)]) -> SamplingUnit {
        let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        for (us, count) in latencies {
            latency.record_n(*us, *count).expect("in bounds");
        }
        let cpu = Some(CpuTime { us: answered * 4, answered });
        SamplingUnit {
            seconds,
            answered,
            latency: Some(latency),
            server_cpu: cpu,
            ..SamplingUnit::default()
        }
    }

    #[test]
    fn what_has_nothing_to_be_divided_by_is_no_figure() {
        let units = [SamplingUnit { retransmits: Some(3), ..unit(0.0, 5, &[]) }];
        let pool = Pool::new(&units, false);
        for figure in Figure::ALL {
            let value = pool.value(figure, None);
            assert!(value.is_none_or(f64::is_finite), "{figure:?}: {value:?}");
            let without = pool.value(figure, Some(0));
            assert_eq!(without, None, "{figure:?} of no unit");
        }
    }

    /// Percentiles are those of all requests, not means of percentiles; rates are weighed by time.
    #[test]
    fn figures_are_of_units_taken_together() {
        let units = [unit(10.0, 980, &[(100, 980)]), unit(30.0, 20, &[(5000, 20)])];
        let pool = Pool::new(&units, false);
        assert_eq!(pool.value(Figure::Rate, None), Some(25.0));
        assert_eq!(pool.value(Figure::P50, None), Some(100.0));
        assert_eq!(pool.value(Figure::P99, None).map(|us| us as u64 / 10), Some(500));
        assert_eq!(pool.value(Figure::P99, Some(1)), Some(100.0));
        assert_eq!(pool.value(Figure::ServerCpu, None), Some(4.0));
        assert_eq!(pool.value(Figure::ClientCpu, None), None, "absent is not 0");
        assert_eq!(pool.value(Figure::Retransmissions, None), None);
        assert!(pool.estimate(Figure::ServerMemory, Scale::Ratio).is_none());
        assert!((pool.resolution(Figure::P50, Scale::Ratio) - 0.01).abs() < 1e-9);
        assert!(pool.resolution(Figure::P99, Scale::Ratio) < 0.001);
    }

    /// Where shakes without an answer decide a percentile, there is none to compare.
    #[test]
    fn a_bound_is_not_a_figure() {
        let mut late = unit(10.0, 970, &[(100, 970), (5_000_000, 30)]);
        late.latency_bounds = unit(10.0, 0, &[(5_000_000, 30)]).latency;
        let units = [late, unit(10.0, 1_000, &[(100, 1_000)])];
        let pool = Pool::new(&units, false);
        assert_eq!(pool.value(Figure::P50, None), Some(100.0));
        assert_eq!((pool.value(Figure::P99, None), pool.is_bound(Figure::P99)), (None, true));
        assert_eq!(pool.value(Figure::P99, Some(0)), Some(100.0), "without the one that has them");
        assert!(!pool.is_bound(Figure::P50) && !pool.is_bound(Figure::Rate));
    }

    #[test]
    fn what_is_zero_is_compared_as_a_difference() {
        let retransmits =
            |n| SamplingUnit { seconds: 10.0, retransmits: Some(n), ..SamplingUnit::default() };
        let first = [retransmits(0), retransmits(0)];
        let second = [retransmits(10), retransmits(30)];
        let (first, second) = (Pool::new(&first, false), Pool::new(&second, false));
        let scale = |figure, first: &Pool<'_>, second: &Pool<'_>| {
            Pool::estimates(figure, first, second).map(|(scale, ..)| scale)
        };
        let retransmissions = scale(Figure::Retransmissions, &first, &second);
        assert_eq!(retransmissions, Some(Scale::Difference));
        assert_eq!(scale(Figure::P99, &first, &second), None);
        let memory = |bytes| SamplingUnit {
            seconds: 1.0,
            server_bytes: Some(bytes),
            ..SamplingUnit::default()
        };
        let (shrunk, grown) = ([memory(-3.0)], [memory(7.0)]);
        let (shrunk, grown) = (Pool::new(&shrunk, false), Pool::new(&grown, false));
        let memory = |first, second| scale(Figure::ServerMemory, first, second);
        assert_eq!(memory(&shrunk, &grown), Some(Scale::Difference));
        assert_eq!(memory(&grown, &grown), Some(Scale::Ratio));
    }
}
