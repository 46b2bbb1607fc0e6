//! Counters, gauges and books as OpenMetrics text.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::report::Snapshot;

/// The content type of OpenMetrics text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug)]
struct Shards(Arc<[Snapshot]>);

impl Shards {
    /// One metric with a value for each shard.
    fn each<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        metric: impl Fn(&Snapshot) -> M,
    ) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        let kind = metric(first).metric_type();
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for snapshot in self.0.iter() {
            let labels = [("shard", snapshot.shard as u64)];
            metric(snapshot).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        for (index, (name, help, _)) in first.counters.named().enumerate() {
            let help = help.trim().trim_end_matches('.');
            let value = |snapshot: &Snapshot| {
                let value = snapshot.counters.named().nth(index).map_or(0, |(_, _, value)| value);
                ConstCounter::new(value)
            };
            self.each(&mut encoder, name, help, value)?;
        }
        let gauge = |value: u64| ConstGauge::new(value.cast_signed());
        type Level = fn(&Snapshot) -> u64;
        let gauges: [(&str, &str, Level); 4] = [
            ("connections", "Connections", |it| u64::from(it.connections)),
            ("users_online", "Users logged in", |it| it.gauges.users_online),
            ("queued", "Packets and notices in SETs' queues", |it| it.gauges.queued),
            ("packets_open", "Sent packets that can be claimed", |it| it.gauges.packets_open),
        ];
        for (name, help, value) in gauges {
            self.each(&mut encoder, name, help, |snapshot| gauge(value(snapshot)))?;
        }
        type Book = fn(&Snapshot) -> crate::ledger::Money;
        let books: [(&str, Book); 5] = [
            ("created", |it| it.ledger.created),
            ("granted", |it| it.ledger.granted),
            ("claimed", |it| it.ledger.claimed),
            ("refunded", |it| it.ledger.refunded),
            ("remaining", |it| it.ledger.remaining),
        ];
        for (name, book) in books {
            let shares = format!("ledger_{name}_shares");
            let cents = format!("ledger_{name}_cents");
            self.each(&mut encoder, &shares, "Shares in the books", |it| gauge(book(it).count))?;
            self.each(&mut encoder, &cents, "Cents in the books", |it| gauge(book(it).amount))?;
        }
        Ok(())
    }
}

/// The snapshots as OpenMetrics text.
pub(super) fn encode(snapshots: Vec<Snapshot>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lab");
    registry.register_collector(Box::new(Shards(snapshots.into())));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::Counters;
    use crate::ledger::Ledger;
    use crate::logic::Gauges;

    #[test]
    fn every_counter_is_there_once_for_each_shard() {
        let snapshot = |shard| Snapshot {
            shard,
            connections: 3,
            counters: Counters { shakes: 7, ..Counters::default() },
            gauges: Gauges::default(),
            ledger: Ledger::default(),
            sets: Vec::new(),
        };
        let text = encode(vec![snapshot(0), snapshot(1)]).expect("encodes");
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE lab_shakes counter\n"), "{text}");
        assert!(text.contains("lab_shakes_total{shard=\"1\"} 7\n"), "{text}");
        assert!(text.contains("lab_connections{shard=\"0\"} 3\n"), "{text}");
        assert!(text.contains("lab_ledger_remaining_cents{shard=\"1\"} 0\n"), "{text}");
        for (name, _, _) in Counters::default().named() {
            let lines =
                text.lines().filter(|line| line.starts_with(&format!("lab_{name}_total{{")));
            assert_eq!(lines.count(), 2, "{name}");
        }
    }
}
