//! Every figure of a run for Prometheus, as OpenMetrics: what is counted in all since it began, and
//! what the last whole second was like.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::columns::Cell;
use crate::digest::Digest;

/// Levels: what they are now counts, not their sum.
const LEVELS: [&str; 4] =
    ["client.online", "client.in_flight", "server.connections", "server.queued"];

/// A family of metrics, by label.
#[derive(Debug, Default)]
struct Family {
    help: String,
    counter: bool,
    values: Vec<(Vec<(&'static str, String)>, f64)>,
}

#[derive(Debug)]
struct Families(BTreeMap<String, Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in &self.0 {
            if family.counter {
                each(&mut encoder, name, family, ConstCounter::new)?;
            } else {
                each(&mut encoder, name, family, ConstGauge::new)?;
            }
        }
        Ok(())
    }
}

fn each<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    family: &Family,
    metric: impl Fn(f64) -> M,
) -> fmt::Result {
    let kind = metric(0.0).metric_type();
    let mut out = encoder.encode_descriptor(name, &family.help, None, kind)?;
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

type Labels = Vec<(&'static str, String)>;

/// Name, help, labels and unit of a column, as the divisor that makes it; whether its sum counts,
/// or its last value.
struct Metric {
    name: String,
    help: &'static str,
    labels: Labels,
    divisor: f64,
    counter: bool,
}

fn metric(
    name: &str,
    help: &'static str,
    labels: &[(&'static str, &str)],
    divisor: f64,
    counter: bool,
) -> Metric {
    let labels = labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    Metric { name: name.to_owned(), help, labels, divisor, counter }
}

/// A percentile of the last second, or what it is at least.
fn latency(group: &str, percentile: &str) -> Option<Metric> {
    let quantile = match percentile {
        "p50" => "0.5",
        "p90" => "0.9",
        "p99" => "0.99",
        "p999" => "0.999",
        "max" => "1",
        _ => return None,
    };
    let (name, help) = if group == "latency" {
        let help = "Latency of every request over in the last second, from when it was due";
        ("latency_seconds", help)
    } else {
        let help = "What a latency is at least that requests without an answer decide";
        ("latency_at_least_seconds", help)
    };
    Some(metric(name, help, &[("quantile", quantile)], 1e6, false))
}

/// What a column of the page is called in Prometheus; `None` for what is only there for the page.
fn named(column: &str) -> Option<Metric> {
    let (group, rest) = column.split_once('.')?;
    let level = LEVELS.contains(&column);
    Some(match group {
        "client" => Metric {
            name: format!("client_{rest}"),
            help: "As the clients count it, over all of them",
            labels: Vec::new(),
            divisor: 1.0,
            counter: !level,
        },
        "server" => Metric {
            name: format!("server_{rest}"),
            help: "As the server counts it, over all shards",
            labels: Vec::new(),
            divisor: 1.0,
            counter: !level,
        },
        "latency" | "latency_at_least" => latency(group, rest)?,
        "segment" => {
            let help = "Where a request of the last second spent its time, on average";
            metric("segment_seconds", help, &[("segment", rest)], 1e6, false)
        }
        "cause" | "over" if rest == "requests" => {
            let which = if group == "cause" { "slowest" } else { "all" };
            metric("slow_requests", "Slow requests", &[("which", which)], 1.0, true)
        }
        "cause" | "over" => {
            let which = if group == "cause" { "slowest" } else { "all" };
            let help = "What causes took of slow requests beyond their medians";
            metric("blamed_seconds", help, &[("which", which), ("cause", rest)], 1e6, true)
        }
        "drops" => metric("drops", "Packets dropped", &[("reason", rest)], 1.0, true),
        "retransmits" => metric("retransmits", "Segments sent again", &[("kind", rest)], 1.0, true),
        "tcp" => metric("tcp", "What the protocols counted", &[("counter", rest)], 1.0, true),
        "wait" => {
            let help = "How long the threads of shards waited for a CPU, in all";
            metric("runqueue_wait_seconds", help, &[("shard", rest)], 1e3, true)
        }
        "delay" => {
            let help = "The 99th percentile of one wait for a CPU in the last second";
            metric("runqueue_delay_seconds", help, &[("shard", rest)], 1e6, false)
        }
        "cpu" => metric("cpu_cores", "CPU of the last second", &[("of", rest)], 1.0, false),
        "memory" => metric("memory_bytes", "Memory", &[("of", rest)], 1.0, false),
        "shares" => metric("shares", "Shares of red packets", &[("what", rest)], 1.0, true),
        "cents" => metric("cents", "Cents of red packets", &[("what", rest)], 1.0, true),
        "nic" => {
            let (interface, counter) = rest.rsplit_once('.')?;
            let help = "What an interface counted";
            metric("nic", help, &[("interface", interface), ("counter", counter)], 1.0, true)
        }
        _ => return None,
    })
}

/// The figures of a run as OpenMetrics text, each name with `lab_run_` before it.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub(super) fn encode(digest: &Digest) -> Result<String, fmt::Error> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (column, Cell { total, last }) in digest.cells() {
        let Some(metric) = named(column) else { continue };
        let Some(value) = (if metric.counter { Some(total) } else { last }) else { continue };
        let family = families.entry(metric.name).or_default();
        family.help = metric.help.to_owned();
        family.counter = metric.counter;
        family.values.push((metric.labels, value / metric.divisor));
    }
    let phase = digest.incidents.phases.last().filter(|_| !digest.incidents.ended);
    if let Some(phase) = phase {
        let values = vec![(vec![("phase", phase.name.clone())], 1.0)];
        let help = "The phase under way".to_owned();
        families.insert("phase".to_owned(), Family { help, counter: false, values });
    }
    control::metrics::encode_collected("lab_run", Families(families))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// A run of a second, with everything in it that can be.
    fn digest() -> Digest {
        let mut digest = Digest::default();
        digest.manifest(&json!({ "server": { "threads": [7] }, "clients": [{ "threads": [8] }] }));
        let client = json!({
            "t": 100, "source": "client", "client": 0, "shard": 0, "wait_us": 2000, "online": 5,
            "offered": 10, "sent": 10, "answered": 9, "timed_out": 1, "lost": 0, "overloaded": 0,
            "skipped_waiting": 0, "skipped_offline": 0, "skipped_late": 0,
        });
        let ledger = json!({
            "created": { "count": 2, "amount": 300 }, "granted": { "count": 1, "amount": 100 },
            "claimed": { "count": 0, "amount": 0 },
        });
        let server = json!({
            "t": 100, "source": "server", "shard": 0, "wait_us": 1000, "connections": 5,
            "shakes": 10, "granted": 1, "no_packet": 8, "ledger": ledger,
        });
        let link = json!({ "rx_packets": 3, "tx_packets": 4 });
        let delay = json!({ "p99": 50_000.0 });
        let drop = json!({ "reason": "NO_SOCKET \"x\"", "port": 2 });
        let lines = [
            client,
            server,
            json!({ "t": 100, "source": "proc", "of": "server", "cpu_us": 500_000,
                "rss_anon_bytes": 4096 }),
            json!({ "t": 100, "source": "proc", "of": "tcp", "retrans_segs": 3 }),
            json!({ "t": 100, "source": "nic", "namespace": "server", "nic": "eth0",
                "link": link, "lost_received": 0 }),
            json!({ "t": 100, "source": "probe", "drops_by_place": [drop],
                "retransmits": { "server": { "fast": 3 } },
                "threads": [{ "tid": 7, "runqueue_delay_us": delay }] }),
            json!({ "t": 100, "source": "causes", "phase": "a", "requests": 1, "mixed": 0,
                "incomplete": 0, "sums": [[199, 1, [0, 0, 900_000, 0, 0, 0, 0]]],
                "times": [["network_loss", 150, 1]], "moved": [] }),
            json!({ "t": 101, "source": "client", "answered": 1 }),
        ];
        for line in lines {
            digest.line("samples.jsonl", line.to_string().as_bytes()).expect("a line");
        }
        let phase = json!({ "t": 100.0, "event": "phase_starts", "phase": "a" });
        digest.line("events.jsonl", phase.to_string().as_bytes()).expect("a line");
        digest.complete(0);
        digest
    }

    #[test]
    fn counters_are_sums_and_levels_are_now() {
        let text = encode(&digest()).expect("text");
        for line in [
            "lab_run_client_answered_total 10.0",
            "lab_run_client_online 5.0",
            "lab_run_server_answered_total 9.0",
            "lab_run_drops_total{reason=\"NO_SOCKET \\\"x\\\"\"} 2.0",
            "lab_run_retransmits_total{kind=\"fast\"} 3.0",
            "lab_run_runqueue_wait_seconds_total{shard=\"client.0.0\"} 0.002",
            "lab_run_runqueue_delay_seconds{shard=\"server.0\"} 0.05",
            "lab_run_cents_total{what=\"created\"} 300.0",
            "lab_run_nic_total{interface=\"server/eth0\",counter=\"tx_packets\"} 4.0",
            "lab_run_cpu_cores{of=\"server\"} 0.5",
            "lab_run_phase{phase=\"a\"} 1.0",
            "# TYPE lab_run_client_online gauge",
            "# EOF",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_dashboard_asks_for_what_there_is() {
        let text = encode(&digest()).expect("text");
        let mut there: BTreeSet<&str> =
            text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        // From the log of histograms, which this run has not.
        there.extend(["lab_run_latency_seconds", "lab_run_segment_seconds"]);
        let dashboard = include_str!("../../../../notebooks/grafana-dashboard.json");
        let _: serde_json::Value = serde_json::from_str(dashboard).expect("JSON");
        let mut asked = 0;
        for (at, _) in dashboard.match_indices("lab_run_") {
            let rest = &dashboard[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(there.contains(name), "{name} is not among {there:?}");
            asked += 1;
        }
        assert!(asked > 25, "{asked}");
    }
}
