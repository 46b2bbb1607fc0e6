//! The lines of `latency.hlog`: percentiles of each second, and of each phase as a curve.

use std::collections::{BTreeMap, HashMap};

use attribution::{Percentile, Segment};
use hdrhistogram::Histogram;
use record::hlog;

use super::columns::{Columns, number};

/// Lines of a second come together; those of one so much older stay as they were plotted.
const OPEN_S: u64 = 4;

/// Points of a curve for each halving of what is above.
const TICKS: u32 = 5;

/// Percentiles of a second, as columns in microseconds.
const PERCENTILES: [(&str, &str, f64); 5] = [
    ("latency.p50", "latency_at_least.p50", 0.5),
    ("latency.p90", "latency_at_least.p90", 0.9),
    ("latency.p99", "latency_at_least.p99", 0.99),
    ("latency.p999", "latency_at_least.p999", 0.999),
    ("latency.max", "latency_at_least.max", 1.0),
];

/// Latencies, and those of them that are bounds: no answer came in time.
#[derive(Debug)]
struct Bounded {
    all: Histogram<u64>,
    bounds: Histogram<u64>,
}

impl Default for Bounded {
    fn default() -> Self {
        Self { all: empty(), bounds: empty() }
    }
}

impl Bounded {
    fn percentile(&self, quantile: f64) -> Option<Percentile> {
        Percentile::of(&self.all, Some(&self.bounds), quantile)
    }

    /// Enters the percentiles of a second: one that is known, or what it is at least.
    fn plot(&self, t: u64, columns: &mut Columns) {
        let has_bounds = !self.bounds.is_empty();
        let or_none = |us: Option<u64>| us.map_or(f64::NAN, |us| us as f64);
        for (name, at_least, quantile) in PERCENTILES {
            let percentile = self.percentile(quantile);
            columns.set(t, name, or_none(percentile.and_then(Percentile::exactly)));
            if has_bounds {
                columns.set(t, at_least, or_none(percentile.and_then(Percentile::at_least)));
            }
        }
        columns.set(t, "latency.mean", if has_bounds { f64::NAN } else { self.all.mean() });
    }
}

/// The segments of a request, whose means add up to the mean of its latency.
const SEGMENTS: [Segment; 5] = [
    Segment::SendLag,
    Segment::Network,
    Segment::ServerWait,
    Segment::ServerService,
    Segment::ClientReceiveLag,
];

/// Latencies of a run.
#[derive(Debug, Default)]
pub(super) struct Histograms {
    decoder: hlog::Decoder,
    /// Latencies of the last seconds, over all phases.
    open: BTreeMap<u64, Bounded>,
    /// Sum and count of each segment in the last seconds.
    means: BTreeMap<(u64, usize), (f64, u64)>,
    by_phase: HashMap<String, Bounded>,
}

impl Histograms {
    /// Reads a line of the log.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn line(&mut self, line: &[u8], columns: &mut Columns) -> Result<(), String> {
        let interval = self.decoder.line(line, |_| true).map_err(|error| error.to_string())?;
        interval.map_or(Ok(()), |interval| self.add(&interval, columns))
    }

    fn add(&mut self, interval: &hlog::Interval, columns: &mut Columns) -> Result<(), String> {
        let (t, values) = (interval.t, &interval.values);
        let (phase, segment) = interval.phase_and_segment();
        let is_bound = segment == Segment::LatencyAtLeast.name();
        if is_bound || segment == Segment::Latency.name() {
            let part =
                |of: &mut Bounded| add(if is_bound { &mut of.bounds } else { &mut of.all }, values);
            part(self.by_phase.entry(phase.to_owned()).or_default())?;
            let second = self.open.entry(t).or_default();
            part(second)?;
            second.plot(t, columns);
            self.open = self.open.split_off(&t.saturating_sub(OPEN_S));
        }
        if let Some(place) = SEGMENTS.iter().position(|it| it.name() == segment) {
            let (sum, count) = self.means.entry((t, place)).or_default();
            *sum += values.mean() * values.len() as f64;
            *count += values.len();
            if *count > 0 {
                let mean = *sum / *count as f64;
                columns.set(t, &format!("segment.{segment}"), mean);
            }
            self.means = self.means.split_off(&(t.saturating_sub(OPEN_S), 0));
        }
        Ok(())
    }

    /// The 99th percentile of a phase so far, or what it is at least, in microseconds.
    pub(super) fn p99_us(&self, phase: &str) -> Option<u64> {
        self.by_phase.get(phase)?.percentile(0.99).map(Percentile::least)
    }

    /// The curve of a phase in HdrHistogram's own scale, as JSON: `x` is 1/(1−p), `y` µs. It
    /// ends where shakes without an answer begin.
    pub(super) fn curve(&self, phase: &str) -> Option<String> {
        let of_phase = self.by_phase.get(phase).filter(|it| !it.all.is_empty())?;
        let values = &of_phase.all;
        let (mut x, mut y) = (String::new(), String::new());
        let most = values.len() as f64;
        for step in values.iter_quantiles(TICKS) {
            let percentile = of_phase.percentile(step.quantile_iterated_to());
            if percentile.and_then(Percentile::exactly).is_none() {
                break;
            }
            let above = 1.0 - step.quantile_iterated_to();
            if !x.is_empty() {
                x.push(',');
                y.push(',');
            }
            // The last step is 100%, which lies nowhere on this scale: it is drawn where the one
            // slowest of all requests has its place.
            number(&mut x, if above > 0.0 { (1.0 / above).min(most) } else { most });
            number(&mut y, step.value_iterated_to() as f64);
        }
        Some(format!("{{\"count\":{},\"x\":[{x}],\"y\":[{y}]}}", values.len()))
    }
}

fn empty() -> Histogram<u64> {
    // Two bounds that the crate approves of; it grows with what is added.
    let mut values = Histogram::new_with_bounds(1, 2, 2).unwrap_or_else(|_| unreachable!());
    values.auto(true);
    values
}

fn add(sum: &mut Histogram<u64>, values: &Histogram<u64>) -> Result<(), String> {
    if sum.is_empty() && sum.sigfig() != values.sigfig() {
        *sum = values.clone();
        sum.auto(true);
        return Ok(());
    }
    sum.add(values).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::V2DeflateSerializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
    use std::time::Duration;

    use super::*;

    fn log(seconds: &[(u64, &str, &[u64])]) -> Vec<u8> {
        let mut out = b"#[StartTime: 1000.000 (seconds since epoch)]\n".to_vec();
        for (t, tag, values) in seconds {
            let mut all = attribution::empty();
            values.iter().for_each(|value| all.saturating_record(*value));
            IntervalLogWriterBuilder::new()
                .begin_log_with(&mut out, &mut V2DeflateSerializer::new())
                .expect("begins")
                .write_histogram(
                    &all,
                    Duration::from_secs(*t),
                    Duration::from_secs(1),
                    Tag::new(tag),
                )
                .expect("writes");
        }
        out
    }

    #[test]
    fn phases_of_a_second_are_one_and_segments_have_means() {
        let mut columns = Columns::default();
        let mut histograms = Histograms::default();
        let text = log(&[
            (5, "a:latency", &[100, 200]),
            (5, "b:latency", &[5000]),
            (5, "a:network", &[10, 30]),
            (6, "b:latency", &[70]),
        ]);
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            histograms.line(line, &mut columns).expect("a line");
        }
        let at = |t: u64, name: &str| columns.get(t, name).expect("measured");
        assert_eq!(at(1005, "latency.p50"), 200.0);
        assert!((at(1005, "latency.max") - 5000.0).abs() < 50.0);
        assert_eq!(at(1005, "segment.network"), 20.0);
        assert_eq!(at(1006, "latency.p99"), 70.0);
        assert_eq!(columns.get(1006, "segment.network"), None);
        let curve = histograms.curve("b").expect("a curve");
        let curve: serde_json::Value = serde_json::from_str(&curve).expect("JSON");
        assert_eq!(curve["count"], 2);
        assert_eq!(curve["x"][0], 1);
        assert!(histograms.curve("c").is_none());

        // Of four shakes of the next second one got no answer: the largest is not known.
        let bound = log(&[
            (7, "b:latency", &[70, 80, 90, 5_000_000]),
            (7, "b:latency_at_least", &[5_000_000]),
        ]);
        for line in bound.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            histograms.line(line, &mut columns).expect("a line");
        }
        assert_eq!(columns.get(1007, "latency.p50"), Some(80.0));
        assert_eq!(columns.get(1007, "latency_at_least.p50"), None);
        assert_eq!(
            (columns.get(1007, "latency.p99"), columns.get(1007, "latency.max")),
            (None, None)
        );
        let least = columns.get(1007, "latency_at_least.max").expect("a bound");
        assert!((4_990_000.0..=5_000_000.0).contains(&least), "{least}");
        let curve: serde_json::Value =
            serde_json::from_str(&histograms.curve("b").expect("a curve")).expect("JSON");
        let highest = curve["y"].as_array().and_then(|all| all.last()?.as_f64()).expect("points");
        assert!(highest < 6_000.0, "the curve ends before what is not known: {highest}");
        assert!(histograms.line(b"Tag=a:latency,1,1,1,????", &mut columns).is_err());
        assert!(histograms.line(b"nonsense", &mut columns).is_err());
    }
}
