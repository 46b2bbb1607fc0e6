//! Every figure of a run for Prometheus, as OpenMetrics: what is counted in all since it began, and
//! what the last whole second was like.

use std::collections::BTreeMap;
use std::fmt;

use control::metrics::{Labelled, Labels};

use crate::columns::Cell;
use crate::digest::Digest;

/// Levels: what they are now counts, not their sum.
const LEVELS: [&str; 4] =
    ["client.online", "client.in_flight", "server.connections", "server.queued"];

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

/// A percentile of the last second, or what it is at least. The names of before have a label that
/// is a summary's alone.
fn latency(group: &str, percentile: &str) -> Vec<Metric> {
    let quantile = match percentile {
        "p50" => "0.5",
        "p90" => "0.9",
        "p99" => "0.99",
        "p999" => "0.999",
        "max" => "1",
        _ => return Vec::new(),
    };
    let (name, before, help) = if group == "latency" {
        let help = "Latency of every request over in the last second, from when it was due";
        ("request_latency_seconds", "latency_seconds", help)
    } else {
        let help = "What a latency is at least that requests without an answer decide";
        ("request_latency_at_least_seconds", "latency_at_least_seconds", help)
    };
    vec![
        metric(name, help, &[("percentile", percentile)], 1e6, false),
        metric(before, help, &[("quantile", quantile)], 1e6, false),
    ]
}

/// A counter of an end's over all shards. Bytes have their unit last, and the names of before, too.
fn of_end(end: &str, counter: &str, help: &'static str, level: bool) -> Vec<Metric> {
    let named = |name: &str| metric(&format!("{end}_{name}"), help, &[], 1.0, !level);
    let mut all = vec![named(counter)];
    all.extend(match counter {
        "bytes_in" => Some(named("received_bytes")),
        "bytes_out" => Some(named("sent_bytes")),
        _ => None,
    });
    all
}

/// What an interface counted. A metric has one unit; the one of before has a counter as its label.
fn of_interface(rest: &str) -> Vec<Metric> {
    let Some((interface, counter)) = rest.rsplit_once('.') else { return Vec::new() };
    let help = "What an interface counted";
    let before = metric("nic", help, &[("interface", interface), ("counter", counter)], 1.0, true);
    let directed = |name: &str, help, direction| {
        metric(name, help, &[("interface", interface), ("direction", direction)], 1.0, true)
    };
    let (packets, bytes) = ("Packets of an interface", "Bytes of an interface");
    let lost = "Packets that an interface lost, by its own counters";
    let now = match counter {
        "rx_packets" => directed("nic_packets", packets, "received"),
        "tx_packets" => directed("nic_packets", packets, "sent"),
        "rx_bytes" => directed("nic_bytes", bytes, "received"),
        "tx_bytes" => directed("nic_bytes", bytes, "sent"),
        "lost" => metric("nic_lost_packets", lost, &[("interface", interface)], 1.0, true),
        _ => return vec![before],
    };
    vec![now, before]
}

/// What TCP counted, a metric for each.
fn of_tcp(counter: &str) -> Vec<Metric> {
    let before = metric("tcp", "What the protocols counted", &[("counter", counter)], 1.0, true);
    let (name, help) = match counter {
        "retrans_segs" => ("tcp_retransmitted_segments", "Segments that TCP sent again"),
        "timeouts" => ("tcp_timeouts", "Times that TCP waited for an acknowledgement in vain"),
        "fast_retrans" => ("tcp_fast_retransmitted_segments", "Segments sent again at once"),
        "syn_retrans" => ("tcp_retransmitted_syns", "SYNs and SYN-ACKs sent again"),
        "listen_overflows" => ("tcp_listen_overflows", "Connections that found a full backlog"),
        "listen_drops" => ("tcp_listen_drops", "SYNs that a listening socket dropped"),
        "rcvq_drop" => ("tcp_receive_queue_drops", "Packets that a full receive queue dropped"),
        _ => return vec![before],
    };
    vec![metric(name, help, &[], 1.0, true), before]
}

/// What a column of the page is called in Prometheus; nothing for what is only there for the page.
/// Where a name of before is no good one, it follows the name of today.
fn named(column: &str) -> Vec<Metric> {
    let Some((group, rest)) = column.split_once('.') else { return Vec::new() };
    let level = LEVELS.contains(&column);
    let which = if group == "cause" { "slowest" } else { "all" };
    vec![match group {
        "client" => return of_end(group, rest, "As the clients count it, over all of them", level),
        "server" => return of_end(group, rest, "As the server counts it, over all shards", level),
        "latency" | "latency_at_least" => return latency(group, rest),
        "nic" => return of_interface(rest),
        "tcp" => return of_tcp(rest),
        "segment" => {
            let help = "Where a request of the last second spent its time, on average";
            metric("segment_seconds", help, &[("segment", rest)], 1e6, false)
        }
        "cause" | "over" if rest == "requests" => {
            metric("slow_requests", "Slow requests", &[("which", which)], 1.0, true)
        }
        "cause" | "over" => {
            let help = "What causes took of slow requests beyond their medians";
            metric("blamed_seconds", help, &[("which", which), ("cause", rest)], 1e6, true)
        }
        "drops" => metric("drops", "Packets dropped", &[("reason", rest)], 1.0, true),
        "retransmits" => metric("retransmits", "Segments sent again", &[("kind", rest)], 1.0, true),
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
        _ => return Vec::new(),
    }]
}

/// The figures of a run as OpenMetrics text, each name with `lab_run_` before it.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub(super) fn encode(digest: &Digest) -> Result<String, fmt::Error> {
    let mut families: BTreeMap<String, Labelled> = BTreeMap::new();
    for (column, Cell { total, last }) in digest.cells() {
        for metric in named(column) {
            let value = if metric.counter { Some(total) } else { last };
            let Some(value) = value else { continue };
            let Metric { name, help, labels, divisor, counter } = metric;
            let family = families.entry(name).or_insert_with_key(|name| {
                let (name, help) = (name.clone(), help.to_owned());
                Labelled { name, help, counter, values: Vec::new() }
            });
            family.values.push((labels, value / divisor));
        }
    }
    let phase = digest.incidents.phases.last().filter(|_| !digest.incidents.ended);
    let mut families: Vec<Labelled> = families.into_values().collect();
    families.extend(phase.map(|phase| Labelled {
        name: "phase".to_owned(),
        help: "The phase under way".to_owned(),
        counter: false,
        values: vec![(vec![("phase", phase.name.clone())], 1.0)],
    }));
    control::metrics::encode_labelled("lab_run", families)
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
        let link = json!({ "rx_packets": 3, "tx_packets": 4, "rx_bytes": 300, "tx_bytes": 400 });
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
            "lab_run_nic_packets_total{interface=\"server/eth0\",direction=\"sent\"} 4.0",
            "lab_run_nic_lost_packets_total{interface=\"server/eth0\"} 0.0",
            "lab_run_tcp_retransmitted_segments_total 3.0",
            "lab_run_tcp_total{counter=\"retrans_segs\"} 3.0",
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
        there.extend(["lab_run_request_latency_seconds", "lab_run_segment_seconds"]);
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
