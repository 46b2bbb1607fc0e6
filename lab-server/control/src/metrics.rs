//! Counters and levels of shards as OpenMetrics text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

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

#[derive(Debug)]
struct Families(Vec<Family>);

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
        Ok(())
    }
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

/// The families as OpenMetrics text, each name with `prefix` and an underscore before it.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode(prefix: &str, families: Vec<Family>) -> Result<String, fmt::Error> {
    encode_collected(prefix, Families(families))
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
        let text =
            encode("lab", vec![family("shakes", true, &[7, 8]), family("open", false, &[3])]);
        assert_eq!(
            text.expect("encodes"),
            "# HELP lab_shakes What shakes says\n# TYPE lab_shakes counter\n\
             lab_shakes_total{shard=\"0\"} 7\nlab_shakes_total{shard=\"1\"} 8\n\
             # HELP lab_open What open says\n# TYPE lab_open gauge\n\
             lab_open{shard=\"0\"} 3\n# EOF\n"
        );
    }
}
