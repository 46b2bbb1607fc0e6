//! Counters, levels and durations of shards as OpenMetrics text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use shard::Durations;

/// The content type of OpenMetrics text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One metric with a value for each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, without the program's prefix.
    pub name: String,
    /// What it says.
    pub help: String,
    /// Whether it only grows.
    pub counter: bool,
    /// Shard by shard.
    pub values: Vec<u64>,
}

/// How long something took, with a histogram for each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Its name, without the program's prefix; its unit is the second.
    pub name: String,
    /// What it says.
    pub help: String,
    /// Shard by shard.
    pub durations: Vec<Durations>,
}

#[derive(Debug)]
struct Families(Vec<Family>, Vec<Distribution>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, counter, values } in &self.0 {
            let help = help.trim().trim_end_matches('.');
            if *counter {
                each(&mut encoder, name, help, values, ConstCounter::new)?;
            } else {
                each(&mut encoder, name, help, values, |value| {
                    ConstGauge::new(value.cast_signed())
                })?;
            }
        }
        for Distribution { name, help, durations } in &self.1 {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (shard, durations) in durations.iter().enumerate() {
                let label = [("shard", shard as u64)];
                encode_durations(family.encode_family(&label)?, durations)?;
            }
        }
        Ok(())
    }
}

fn encode_durations(mut encoder: MetricEncoder<'_>, durations: &Durations) -> fmt::Result {
    let seconds = |ns: u64| ns as f64 / 1e9;
    // The library's way of saying that a bucket has no end.
    let end = |end_ns: Option<u64>| end_ns.map_or(f64::MAX, seconds);
    let buckets: Vec<_> = durations.buckets().map(|(end_ns, count)| (end(end_ns), count)).collect();
    let (sum, count) = (seconds(durations.sum_ns()), durations.count());
    encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn each<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[u64],
    metric: impl Fn(u64) -> M,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, metric(0).metric_type())?;
    for (shard, value) in values.iter().enumerate() {
        metric(*value).encode(family.encode_family(&[("shard", shard as u64)])?)?;
    }
    Ok(())
}

/// All of it as OpenMetrics text, each name with `prefix` and an underscore before it.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode(
    prefix: &str,
    families: Vec<Family>,
    distributions: Vec<Distribution>,
) -> Result<String, fmt::Error> {
    encode_collected(prefix, Families(families, distributions))
}

/// What a collector has as OpenMetrics text, names prefixed as by [`encode`].
///
/// # Errors
/// What the collector says.
pub fn encode_collected(prefix: &str, collector: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(prefix);
    registry.register_collector(Box::new(collector));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_levels_with_a_value_for_each_shard() {
        let family = |name: &str, counter, values: &[u64]| Family {
            name: name.to_owned(),
            help: format!(" What {name} says."),
            counter,
            values: values.to_vec(),
        };
        let text = encode(
            "lab",
            vec![family("shakes", true, &[7, 8]), family("open", false, &[3])],
            vec![],
        );
        assert_eq!(
            text.expect("encodes"),
            "# HELP lab_shakes What shakes says\n# TYPE lab_shakes counter\n\
             lab_shakes_total{shard=\"0\"} 7\nlab_shakes_total{shard=\"1\"} 8\n\
             # HELP lab_open What open says\n# TYPE lab_open gauge\n\
             lab_open{shard=\"0\"} 3\n# EOF\n"
        );
    }

    #[test]
    fn durations_are_a_histogram_in_seconds() {
        let took = Distribution {
            name: "poll_seconds".to_owned(),
            help: "Polls".to_owned(),
            durations: vec![Durations::default()],
        };
        let text = encode("lab", vec![], vec![took]).expect("encodes");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..5],
            [
                "# HELP lab_poll_seconds Polls.",
                "# TYPE lab_poll_seconds histogram",
                "lab_poll_seconds_sum{shard=\"0\"} 0.0",
                "lab_poll_seconds_count{shard=\"0\"} 0",
                "lab_poll_seconds_bucket{le=\"0.000001024\",shard=\"0\"} 0",
            ]
        );
        let last = "lab_poll_seconds_bucket{le=\"+Inf\",shard=\"0\"} 0";
        assert_eq!(lines[lines.len() - 2..], [last, "# EOF"]);
    }
}
