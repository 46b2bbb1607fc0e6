//! The latencies of a phase: of every shake that was due, and of those sent, each with the bounds
//! among them. Owns: what the histograms of either format of a run's files mean. Must not know:
//! which percentiles are wanted.

use attribution::{Segment, Tally};
use hdrhistogram::Histogram;

use record::Raw;

/// The first format that has a latency for every shake that was due. Before it there was one for
/// those that were sent and whose connection did not go away.
const OF_EVERY_SHAKE: u32 = 2;

/// A shake that was never sent took longer than nothing: all that earlier formats know of it.
const UNKNOWN_US: u64 = 1;

/// Latencies in microseconds, and those among them that are bounds: no answer came in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounded {
    pub(crate) all: Option<Histogram<u64>>,
    pub(crate) bounds: Option<Histogram<u64>>,
    /// When a shake times out: most bounds are this, and no histogram tells it exactly.
    pub(crate) timeout_us: u64,
}

/// Whether the files of a run have a latency for every shake that was due.
pub(crate) fn is_of_every_shake(raw: &Raw) -> bool {
    raw.manifest.format >= OF_EVERY_SHAKE
}

/// What the latencies of the shakes that were sent are recorded as.
pub(crate) fn sent_segment(raw: &Raw) -> Segment {
    if is_of_every_shake(raw) { Segment::LatencySent } else { Segment::Latency }
}

/// When a shake times out, in microseconds.
pub(crate) fn timeout_us(raw: &Raw) -> u64 {
    (raw.manifest.experiment.client.timeout_s.get() * 1e6) as u64
}

impl Bounded {
    /// Of the shakes that were sent: those at the time-out are bounds.
    pub(crate) fn of_sent(all: Option<Histogram<u64>>, timeout_us: u64) -> Self {
        let bounds = all.as_ref().map(|all| {
            let mut bounds = Histogram::new_from(all);
            for step in all.iter_recorded() {
                let value = step.value_iterated_to();
                if value >= timeout_us {
                    bounds.saturating_record_n(value, step.count_at_value());
                }
            }
            bounds
        });
        Self { all, bounds, timeout_us }
    }

    /// Of every shake of a phase that was due, as files of this format have them.
    pub(crate) fn of_recorded(raw: &Raw, phase: &str) -> Self {
        let histogram = |segment| raw.histograms.get(&record::hlog::tag(phase, segment)).cloned();
        Self {
            all: histogram(Segment::Latency),
            bounds: histogram(Segment::LatencyAtLeast),
            timeout_us: timeout_us(raw),
        }
    }

    /// Of every shake of a phase that was due, whose shakes came to `tally`.
    pub(super) fn of_due(raw: &Raw, phase: &str, tally: &Tally) -> Self {
        if is_of_every_shake(raw) {
            return Self::of_recorded(raw, phase);
        }
        let mut due = Self::of_phase_sent(raw, phase);
        for values in [&mut due.all, &mut due.bounds].into_iter().flatten() {
            values.saturating_record_n(timeout_us(raw), tally.lost);
            values.saturating_record_n(UNKNOWN_US, tally.skipped());
        }
        due
    }

    /// Of the shakes of a phase that were sent.
    pub(crate) fn of_phase_sent(raw: &Raw, phase: &str) -> Self {
        let sent = raw.histograms.get(&record::hlog::tag(phase, sent_segment(raw)));
        Self::of_sent(sent.cloned(), timeout_us(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Latency;

    fn histogram(values: &[(u64, u64)]) -> Histogram<u64> {
        let mut all = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        values.iter().for_each(|(us, count)| all.saturating_record_n(*us, *count));
        all
    }

    /// A server that stood still for 8 s of 20, with a time-out of 5 s: of 20,000 shakes 15% ran
    /// into it. The survivors' p99 is 4.8 s.
    #[test]
    fn beyond_time_outs_a_percentile_is_a_bound() {
        let mut frozen = histogram(&[(100, 12_000)]);
        (1..=5_000).for_each(|ms| frozen.saturating_record(ms * 1_000));
        frozen.saturating_record_n(5_000_000, 3_000);
        let bounds = Some(histogram(&[(5_000_000, 3_000)]));
        let due = Bounded { all: Some(frozen.clone()), bounds, timeout_us: 5_000_000 };
        let (latency, at_least) = Latency::with_bounds(&due);
        let is_about = |us: Option<u64>, wanted: f64| {
            us.is_some_and(|us| (us as f64 / wanted - 1.0).abs() < 0.002)
        };
        assert!(is_about(latency.p50, 100.0) && at_least.p50.is_none(), "{latency:?}");
        for (percentile, bound) in [
            (latency.p90, at_least.p90),
            (latency.p99, at_least.p99),
            (latency.p999, at_least.p999),
            (latency.max, at_least.max),
        ] {
            assert!(percentile.is_none() && bound == Some(5_000_000), "{latency:?} {at_least:?}");
        }
        // What was sent has its time-outs among its own values.
        let (sent, at_least) = Latency::with_bounds(&Bounded::of_sent(Some(frozen), 5_000_000));
        assert!(sent.p99.is_none() && is_about(at_least.p99, 5e6) && is_about(sent.p50, 100.0));
    }

    #[test]
    fn what_was_not_measured_has_neither_percentiles_nor_bounds() {
        let nothing = Latency::with_bounds(&Bounded::default());
        assert_eq!(nothing, (Latency::default(), Latency::default()));
    }
}
