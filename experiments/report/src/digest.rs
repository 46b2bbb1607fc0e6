//! What a page shows of a run, gathered line by line: at the end of a run, and while it goes on.
//!
//! Owns: which figures of which line become which column. Must not know: where lines come from.
//! Lines are read for what they have: one that lacks something, or has more, is no error.

use std::collections::{BTreeMap, HashMap};

use record::{
    EVENTS_FILE, EventRow, HLOG, NicRow, ProbeRow, ProcRow, ProcSubject, SAMPLES_FILE, SLOW_FILE,
    SampleSource, ShardBooks, ShardRow, StallRow, parse,
};
use serde_json::Value;

use super::columns::Columns;
use super::excess::Excess;
use super::histograms::Histograms;
use super::incidents::Incidents;
use super::slow::Slow;

/// The files whose lines are read, in the order in which they are best read.
pub(crate) const FILES: [&str; 4] = [EVENTS_FILE, SAMPLES_FILE, SLOW_FILE, HLOG];

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
        match file {
            HLOG => self.histograms.line(line, &mut self.columns)?,
            EVENTS_FILE => {
                self.incidents.event(EventRow::parse(line).map_err(|error| error.to_string())?);
            }
            SLOW_FILE => self.slow.add(&parse(line).map_err(|error| error.to_string())?),
            _ => self.sample(line).map_err(|error| error.to_string())?,
        }
        Ok(())
    }

    /// The threads of the heat map, server first.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    fn sample(&mut self, line: &[u8]) -> Result<(), serde_json::Error> {
        match SampleSource::of(line)? {
            SampleSource::Client => self.client(&parse(line)?),
            SampleSource::Server => self.server(&parse(line)?),
            SampleSource::Causes => self.excess.add(parse(line)?),
            SampleSource::Proc => self.proc(&parse(line)?),
            SampleSource::Nic => self.nic(&parse(line)?),
            SampleSource::Probe => self.probe(&parse(line)?),
            SampleSource::Stalls => self.stalls(&parse(line)?),
            SampleSource::Other => {}
        }
        Ok(())
    }

    fn figures(&mut self, row: &ShardRow, prefix: &str, names: &[&str]) {
        for name in names {
            if let Some(value) = row.figure(name) {
                self.columns.add(row.t, &format!("{prefix}.{name}"), value);
            }
        }
    }

    fn waiting(&mut self, shard: &ShardRow, row: Row, place: (u8, u64, u64)) {
        if let Some(us) = shard.figure("wait_us") {
            self.columns.add(shard.t, &format!("wait.{}", row.key), us / 1000.0);
        }
        self.rows.entry(place).or_insert(row);
    }

    fn client(&mut self, row: &ShardRow) {
        self.figures(row, "client", &CLIENT);
        let (client, shard) = (row.client, row.shard);
        let key = format!("client.{client}.{shard}");
        let thread = Row { key, name: format!("client {client}, shard {shard}") };
        self.waiting(row, thread, (1, client, shard));
    }

    fn server(&mut self, row: &ShardRow) {
        self.figures(row, "server", &SERVER);
        let answers: f64 = ANSWERS.iter().filter_map(|name| row.figure(name)).sum();
        self.columns.add(row.t, "server.answered", answers);
        let shard = row.shard;
        let thread = Row { key: format!("server.{shard}"), name: format!("server, shard {shard}") };
        self.waiting(row, thread, (0, 0, shard));
        if let Some(ledger) = &row.ledger {
            self.ledger(row.t, shard, ledger);
        }
    }

    /// What a shard's books grew by.
    fn ledger(&mut self, t: u64, shard: u64, ledger: &ShardBooks) {
        let given = ledger.granted + ledger.claimed;
        let now = [ledger.created.count, ledger.created.amount, given.count, given.amount];
        let now = now.map(|value| value as f64);
        let before = self.ledgers.insert(shard, now).unwrap_or_default();
        let names = ["shares.created", "cents.created", "shares.given", "cents.given"];
        for ((name, now), before) in names.into_iter().zip(now).zip(before) {
            self.columns.add(t, name, now - before);
        }
    }

    /// Adds to columns what was measured.
    fn add_all<const N: usize>(&mut self, t: u64, values: [(&str, Option<f64>); N]) {
        for (column, value) in values {
            if let Some(value) = value {
                self.columns.add(t, column, value);
            }
        }
    }

    fn proc(&mut self, row: &ProcRow) {
        let seconds = |us: Option<u64>| us.map(|us| us as f64 / 1e6);
        let number = |count: Option<u64>| count.map(|count| count as f64);
        let (cpu, memory) = (seconds(row.cpu_us), number(row.rss_anon_bytes));
        match row.of {
            ProcSubject::Server => {
                self.add_all(row.t, [("cpu.server", cpu), ("memory.server", memory)]);
            }
            ProcSubject::Client => {
                self.add_all(row.t, [("cpu.client", cpu), ("memory.client", memory)]);
            }
            ProcSubject::Tcp => self.add_all(
                row.t,
                [
                    ("tcp.retrans_segs", number(row.retrans_segs)),
                    ("tcp.timeouts", number(row.timeouts)),
                    ("tcp.fast_retrans", number(row.fast_retrans)),
                    ("tcp.syn_retrans", number(row.syn_retrans)),
                    ("tcp.listen_overflows", number(row.listen_overflows)),
                    ("tcp.listen_drops", number(row.listen_drops)),
                    ("tcp.rcvq_drop", number(row.rcvq_drop)),
                ],
            ),
            ProcSubject::Machine => self.add_all(
                row.t,
                [
                    ("cpu.idle", seconds(row.idle_us)),
                    ("cpu.steal", seconds(row.steal_us)),
                    ("cpu.softirq", seconds(row.softirq_us)),
                    ("memory.kernel", number(row.slab_bytes)),
                ],
            ),
            ProcSubject::Coordinator => self.add_all(row.t, [("cpu.lab", cpu)]),
            ProcSubject::Other => {}
        }
    }

    fn nic(&mut self, row: &NicRow) {
        let t = row.t;
        let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".to_owned());
        let name = format!("{}/{}", text(&row.namespace), text(&row.nic));
        let totals = self.nics.entry(name.clone()).or_default();
        for (counter, value) in [&row.link, &row.driver_counters].into_iter().flatten().flatten() {
            if let Some(value) = value.filter(|value| *value != 0.0) {
                *totals.entry(counter.clone()).or_default() += value;
            }
        }
        for (counter, lost) in [("lost_received", row.lost_received), ("lost_sent", row.lost_sent)]
        {
            if let Some(lost) = lost {
                *totals.entry(counter.to_owned()).or_default() += lost as f64;
                self.columns.add(t, &format!("nic.{name}.lost"), lost as f64);
            }
        }
        let Some(link) = &row.link else { return };
        for counter in NIC {
            if let Some(value) = link.get(counter).copied().flatten() {
                self.columns.add(t, &format!("nic.{name}.{counter}"), value);
            }
        }
    }

    fn stalls(&mut self, row: &StallRow) {
        if row.stalls.is_some() {
            self.columns.add(row.t, "cpu.stalled", row.stalled_us as f64 / 1e6);
        }
    }

    fn probe(&mut self, row: &ProbeRow) {
        let t = row.t;
        self.columns.set(t, "probe.seen", 1.0);
        for place in row.drops_by_place.iter().flatten().filter(|place| place.lost() > 0) {
            if let Some(reason) = &place.reason {
                self.columns.add(t, &format!("drops.{reason}"), place.lost() as f64);
            }
        }
        for (kind, count) in row.retransmits.iter().flat_map(|sides| sides.values()).flatten() {
            if *count > 0 {
                self.columns.add(t, &format!("retransmits.{kind}"), *count as f64);
            }
        }
        let counted = |count: Option<u64>| count.filter(|count| *count > 0).map(|it| it as f64);
        self.add_all(
            t,
            [
                ("drops.qdisc", counted(row.qdisc_drops)),
                ("drops.receive queue full", counted(row.receive_queue_full)),
                ("drops.listen queue full", counted(row.listen_overflows)),
            ],
        );
        for thread in row.threads.iter().flatten() {
            let key = thread.tid.and_then(|tid| self.threads.get(&tid));
            let p99 = thread.runqueue_delay_us.and_then(|delay| delay.p99);
            if let (Some(key), Some(us)) = (key, p99) {
                self.columns.set(t, &format!("delay.{key}"), us);
            }
        }
        if let Some(cpus) = &row.cpus {
            let others = cpus.iter().map(|cpu| cpu.other_ns as f64).sum::<f64>();
            self.columns.set(t, "cpu.others", others / 1e9);
        }
    }
}

#[cfg(test)]
mod tests {
    use accounting::server::Counters;
    use attribution::Tally;

    use super::*;

    /// A counter that is plotted under a name that no program writes would be missing in silence.
    #[test]
    fn plotted_counters_are_counted() {
        let names = |named: Vec<(&'static str, &str, u64)>, levels: &[&'static str]| {
            let counters = named.into_iter().map(|(name, ..)| name);
            counters.chain(levels.iter().copied()).collect::<Vec<_>>()
        };
        let client = names(Tally::default().named().collect(), &["online", "in_flight"]);
        let server = names(Counters::default().named().collect(), &["connections", "queued"]);
        assert!(CLIENT.iter().all(|name| client.contains(name)), "{client:?}");
        assert!(SERVER.iter().chain(&ANSWERS).all(|name| server.contains(name)), "{server:?}");
    }
}
