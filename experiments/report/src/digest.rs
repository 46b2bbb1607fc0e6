//! What a page shows of a run, gathered line by line: at the end of a run, and while it goes on.
//!
//! Owns: which figures of which line become which column. Must not know: where lines come from.
//! Lines are read for what they have: one that lacks something, or has more, is no error.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::columns::Columns;
use super::excess::Excess;
use super::histograms::Histograms;
use super::incidents::Incidents;
use super::slow::Slow;

/// The files whose lines are read, in the order in which they are best read.
pub(crate) const FILES: [&str; 4] = ["events.jsonl", "samples.jsonl", "slow.jsonl", record::HLOG];

/// Counters and levels of client shards that are plotted, summed over shards.
const CLIENT: [&str; 19] = [
    "online",
    "in_flight",
    "offered",
    "sent",
    "answered",
    "granted",
    "overloaded",
    "timed_out",
    "lost",
    "late_sends",
    "skipped_waiting",
    "skipped_offline",
    "skipped_late",
    "logins",
    "connections_lost",
    "claims_granted",
    "pushes",
    "bytes_in",
    "bytes_out",
];

/// Those of the server's shards.
const SERVER: [&str; 9] = [
    "connections",
    "shakes",
    "accepted",
    "broken",
    "closed_by_peer",
    "queued",
    "bytes_in",
    "bytes_out",
    "pushes",
];

/// Answers of the server to shakes.
const ANSWERS: [&str; 5] = ["granted", "no_packet", "all_taken", "overloaded", "noticed"];

/// What the protocols of a namespace counted.
const TCP: [&str; 7] = [
    "retrans_segs",
    "timeouts",
    "fast_retrans",
    "syn_retrans",
    "listen_overflows",
    "listen_drops",
    "rcvq_drop",
];

/// What an interface counted, summed by interface.
const NIC: [&str; 4] = ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes"];

/// A thread that shakes or answers, as a row of the heat map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its key in the names of columns.
    pub(super) key: String,
    /// Its name for people.
    pub(super) name: String,
}

/// Everything about a run that is plotted.
#[derive(Debug, Default)]
pub(crate) struct Digest {
    pub(super) columns: Columns,
    pub(crate) incidents: Incidents,
    pub(super) slow: Slow,
    pub(super) excess: Excess,
    pub(super) histograms: Histograms,
    /// Counters of interfaces over all seconds: those that are not 0.
    pub(super) nics: BTreeMap<String, BTreeMap<String, f64>>,
    rows: BTreeMap<(u8, u64, u64), Row>,
    /// The threads of shards, as the manifest names them.
    threads: HashMap<u64, String>,
    /// The server's books by shard, as they were before.
    ledgers: HashMap<u64, [f64; 4]>,
}

fn number(line: &Map<String, Value>, name: &str) -> Option<f64> {
    line.get(name)?.as_f64()
}

fn whole(line: &Map<String, Value>, name: &str) -> u64 {
    line.get(name).and_then(Value::as_u64).unwrap_or(0)
}

impl Digest {
    /// What the manifest says about threads and thresholds.
    pub(crate) fn manifest(&mut self, manifest: &Value) {
        let pids = |list: &Value| -> Vec<u64> {
            list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        for (shard, thread) in pids(&manifest["server"]["threads"]).into_iter().enumerate() {
            self.threads.insert(thread, format!("server.{shard}"));
        }
        for (client, said) in manifest["clients"].as_array().into_iter().flatten().enumerate() {
            for (shard, thread) in pids(&said["threads"]).into_iter().enumerate() {
                self.threads.insert(thread, format!("client.{client}.{shard}"));
            }
        }
        if let Some(us) = manifest["experiment"]["attribution"]["slow_us"].as_u64() {
            self.excess.slow_us = us;
        }
    }

    /// Reads a line of one of [`FILES`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn line(&mut self, file: &str, line: &[u8]) -> Result<(), String> {
        if file == record::HLOG {
            return self.histograms.line(line, &mut self.columns);
        }
        let parsed: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let Value::Object(parsed) = parsed else { return Err("is no JSON object".to_owned()) };
        match file {
            "events.jsonl" => self.incidents.event(&parsed),
            "slow.jsonl" => self.slow.line(&parsed),
            _ => self.sample(parsed),
        }
    }

    /// The threads of the heat map, server first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    fn sample(&mut self, line: Map<String, Value>) -> Result<(), String> {
        let Some(t) = line.get("t").and_then(Value::as_u64) else {
            return Err("has no second (t)".to_owned());
        };
        let source = line.get("source").and_then(Value::as_str).unwrap_or_default();
        match source {
            "client" => self.client(t, &line),
            "server" => self.server(t, &line),
            "causes" => return self.excess.line(t, line),
            "proc" => self.proc(t, &line),
            "nic" => self.nic(t, &line),
            "probe" => self.probe(t, &line),
            _ => {}
        }
        Ok(())
    }

    fn all(&mut self, t: u64, line: &Map<String, Value>, before: &str, names: &[&str]) {
        for name in names {
            if let Some(value) = number(line, name) {
                self.columns.add(t, &format!("{before}.{name}"), value);
            }
        }
    }

    fn waiting(&mut self, t: u64, line: &Map<String, Value>, row: Row, place: (u8, u64, u64)) {
        if let Some(us) = number(line, "wait_us") {
            self.columns.add(t, &format!("wait.{}", row.key), us / 1000.0);
        }
        self.rows.entry(place).or_insert(row);
    }

    fn client(&mut self, t: u64, line: &Map<String, Value>) {
        self.all(t, line, "client", &CLIENT);
        let (client, shard) = (whole(line, "client"), whole(line, "shard"));
        let key = format!("client.{client}.{shard}");
        let row = Row { key, name: format!("client {client}, shard {shard}") };
        self.waiting(t, line, row, (1, client, shard));
    }

    fn server(&mut self, t: u64, line: &Map<String, Value>) {
        self.all(t, line, "server", &SERVER);
        let answers: f64 = ANSWERS.iter().filter_map(|name| number(line, name)).sum();
        self.columns.add(t, "server.answered", answers);
        let shard = whole(line, "shard");
        let row = Row { key: format!("server.{shard}"), name: format!("server, shard {shard}") };
        self.waiting(t, line, row, (0, 0, shard));
        if let Some(Value::Object(ledger)) = line.get("ledger") {
            self.ledger(t, shard, ledger);
        }
    }

    /// What a shard's books grew by.
    fn ledger(&mut self, t: u64, shard: u64, ledger: &Map<String, Value>) {
        let of = |name: &str, unit: &str| ledger.get(name).and_then(|it| it[unit].as_f64());
        let given = |unit| Some(of("granted", unit)? + of("claimed", unit)?);
        let now =
            [of("created", "count"), of("created", "amount"), given("count"), given("amount")];
        let now = now.map(|value| value.unwrap_or(0.0));
        let before = self.ledgers.insert(shard, now).unwrap_or_default();
        let names = ["shares.created", "cents.created", "shares.given", "cents.given"];
        for ((name, now), before) in names.into_iter().zip(now).zip(before) {
            self.columns.add(t, name, now - before);
        }
    }

    fn proc(&mut self, t: u64, line: &Map<String, Value>) {
        match line.get("of").and_then(Value::as_str) {
            Some(side @ ("server" | "client")) => {
                if let Some(us) = number(line, "cpu_us") {
                    self.columns.add(t, &format!("cpu.{side}"), us / 1e6);
                }
                if let Some(bytes) = number(line, "rss_anon_bytes") {
                    self.columns.add(t, &format!("memory.{side}"), bytes);
                }
            }
            Some("tcp") => {
                self.all(t, line, "tcp", &TCP);
            }
            Some("machine") => {
                for (column, name) in [
                    ("cpu.idle", "idle_us"),
                    ("cpu.steal", "steal_us"),
                    ("cpu.softirq", "softirq_us"),
                ] {
                    if let Some(us) = number(line, name) {
                        self.columns.add(t, column, us / 1e6);
                    }
                }
                if let Some(bytes) = number(line, "slab_bytes") {
                    self.columns.add(t, "memory.kernel", bytes);
                }
            }
            _ => {}
        }
    }

    fn nic(&mut self, t: u64, line: &Map<String, Value>) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("?");
        let name = format!("{}/{}", text("namespace"), text("nic"));
        let totals = self.nics.entry(name.clone()).or_default();
        let groups = ["link", "driver_counters"].map(|group| line.get(group));
        for (counter, value) in groups.into_iter().flatten().filter_map(Value::as_object).flatten()
        {
            if let Some(value) = value.as_f64().filter(|value| *value != 0.0) {
                *totals.entry(counter.clone()).or_default() += value;
            }
        }
        for counter in ["lost_received", "lost_sent"] {
            if let Some(value) = number(line, counter) {
                *totals.entry(counter.to_owned()).or_default() += value;
                self.columns.add(t, &format!("nic.{name}.lost"), value);
            }
        }
        let Some(Value::Object(link)) = line.get("link") else { return };
        for counter in NIC {
            if let Some(value) = number(link, counter) {
                self.columns.add(t, &format!("nic.{name}.{counter}"), value);
            }
        }
    }

    fn probe(&mut self, t: u64, line: &Map<String, Value>) {
        self.columns.set(t, "probe.seen", 1.0);
        for place in line.get("drops_by_place").and_then(Value::as_array).into_iter().flatten() {
            let port = place["port"].as_f64().unwrap_or(0.0);
            if let Some(reason) = place["reason"].as_str().filter(|_| port > 0.0) {
                self.columns.add(t, &format!("drops.{reason}"), port);
            }
        }
        for side in line.get("retransmits").and_then(Value::as_object).into_iter().flatten() {
            for (kind, count) in side.1.as_object().into_iter().flatten() {
                if let Some(count) = count.as_f64().filter(|count| *count > 0.0) {
                    self.columns.add(t, &format!("retransmits.{kind}"), count);
                }
            }
        }
        for (name, column) in [
            ("qdisc_drops", "drops.qdisc"),
            ("receive_queue_full", "drops.receive queue full"),
            ("listen_overflows", "drops.listen queue full"),
        ] {
            if let Some(count) = number(line, name).filter(|count| *count > 0.0) {
                self.columns.add(t, column, count);
            }
        }
        for thread in line.get("threads").and_then(Value::as_array).into_iter().flatten() {
            let key = thread["tid"].as_u64().and_then(|tid| self.threads.get(&tid));
            let p99 = thread["runqueue_delay_us"]["p99"].as_f64();
            if let (Some(key), Some(us)) = (key, p99) {
                self.columns.set(t, &format!("delay.{key}"), us);
            }
        }
        if let Some(cpus) = line.get("cpus").and_then(Value::as_array) {
            let sum = |name| cpus.iter().filter_map(|cpu| cpu[name].as_f64()).sum::<f64>();
            self.columns.set(t, "cpu.others", sum("other_ns") / 1e9);
        }
    }
}
