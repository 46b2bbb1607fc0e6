//! Counters, levels and durations as OpenMetrics text, by shard or by other labels. No family has
//! more series than a bound, whatever there is to be told.

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

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// One metric with a value for each set of labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labelled {
    /// Its name, without the program's prefix.
    pub name: String,
    /// What it says.
    pub help: String,
    /// Whether it only grows.
    pub counter: bool,
    /// The values. One without labels stands alone.
    pub values: Vec<(Labels, f64)>,
}

/// Series of a family: a shard each for 19 client machines with 54 of them, and more drop reasons
/// and interfaces than a machine has.
const MOST_SERIES: usize = 1024;

/// What further series of a counter are called together. Those of a level are left out, because
/// their sum is no level.
const OTHERS: &str = "others";

impl Labelled {
    /// The same within the bound.
    fn bounded(mut self) -> Self {
        if self.values.len() <= MOST_SERIES {
            return self;
        }
        let more = self.values.split_off(MOST_SERIES - 1);
        if let Some((labels, _)) = more.first().filter(|_| self.counter) {
            let labels = labels.iter().map(|(name, _)| (*name, OTHERS.to_owned())).collect();
            self.values.push((labels, more.iter().map(|(_, value)| value).sum()));
        }
        self
    }
}

#[derive(Debug)]
struct ByLabels(Vec<Labelled>);

impl Collector for ByLabels {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            if family.counter {
                by_labels(&mut encoder, family, ConstCounter::new)?;
            } else {
                by_labels(&mut encoder, family, ConstGauge::new)?;
            }
        }
        Ok(())
    }
}

fn by_labels<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    family: &Labelled,
    metric: impl Fn(f64) -> M,
) -> fmt::Result {
    let kind = metric(0.0).metric_type();
    let mut out = encoder.encode_descriptor(&family.name, &family.help, None, kind)?;
    if let [(labels, value)] = family.values.as_slice()
        && labels.is_empty()
    {
        return metric(*value).encode(out);
    }
    for (labels, value) in &family.values {
        metric(*value).encode(out.encode_family(labels)?)?;
    }
    Ok(())
}

/// Families by label as OpenMetrics text, each name with `prefix` and an underscore before it. A
/// family has 1,024 series at most: of a counter the last is the sum of what is beyond.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode_labelled(prefix: &str, families: Vec<Labelled>) -> Result<String, fmt::Error> {
    let families = families.into_iter().map(Labelled::bounded).collect();
    encode_collected(prefix, ByLabels(families))
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
    let end = |end_ns: Option<u64>| end_ns.map_or(f64::INFINITY, seconds);
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
    let families = families.into_iter().flat_map(with_unit_last).collect();
    encode_collected(prefix, Families(families, distributions))
}

/// Counters of bytes in the words of programs, and beside them with their unit last, as names of
/// metrics have it.
fn with_unit_last(family: Family) -> Vec<Family> {
    let name = match family.name.as_str() {
        "bytes_in" => "received_bytes",
        "bytes_out" => "sent_bytes",
        _ => return vec![family],
    };
    let renamed = Family { name: name.to_owned(), ..family.clone() };
    vec![family, renamed]
}

/// What a collector has as OpenMetrics text.
fn encode_collected(prefix: &str, collector: impl Collector) -> Result<String, fmt::Error> {
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
        let bytes = encode("lab", vec![family("bytes_in", true, &[9])], vec![]).expect("encodes");
        for name in ["bytes_in", "received_bytes"] {
            assert!(bytes.contains(&format!("lab_{name}_total{{shard=\"0\"}} 9")), "{bytes}");
        }
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
    fn a_family_has_a_bounded_number_of_series() {
        let family = |counter| Labelled {
            name: "drops".to_owned(),
            help: "Packets dropped".to_owned(),
            counter,
            values: (0..5000).map(|at| (vec![("reason", format!("r{at}"))], 1.0)).collect(),
        };
        let series = |counter| {
            let text = encode_labelled("lab", vec![family(counter)]).expect("encodes");
            let lines = text.lines().filter(|line| line.starts_with("lab_drops"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let counted = series(true);
        assert_eq!(counted.len(), MOST_SERIES);
        assert_eq!(counted[0], "lab_drops_total{reason=\"r0\"} 1.0");
        let others = 5000 - (MOST_SERIES - 1);
        let last = format!("lab_drops_total{{reason=\"others\"}} {others}.0");
        assert_eq!(counted.last(), Some(&last), "nothing is lost from the sum");
        let levels = series(false);
        assert_eq!(levels.len(), MOST_SERIES - 1);
        assert!(levels.iter().all(|line| !line.contains(OTHERS)));
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
                "# HELP lab_poll_seconds Polls",
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
