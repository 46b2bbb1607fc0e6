//! What the kernel counted, by the names it has in `samples.jsonl`.
//!
//! A reading is cumulative since the probes were attached; [`Counters::since`] makes it a delta.
//! What no attached probe counts is `None`, never 0.

use std::{collections::BTreeMap, hash::Hash, net::IpAddr};

use serde::Serialize;

use crate::{
    histogram::Durations,
    threads::{CpuHeld, Thread},
};

/// A figure for each end of the experiment's connections, as far as they are on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BySide<T> {
    /// The server's ends.
    pub server: T,
    /// The clients' ends.
    pub client: T,
}

/// Segments sent again, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RetransmitKinds {
    /// Acknowledgements showed a loss.
    pub fast: Option<u64>,
    /// The retransmission timer ran out, with what followed.
    pub timeout: Option<u64>,
    /// Tail loss probes.
    pub tail_loss: Option<u64>,
    /// SYNs.
    pub syn: Option<u64>,
    /// SYN-ACKs.
    pub syn_ack: Option<u64>,
    /// Anything else.
    pub other: Option<u64>,
}

impl RetransmitKinds {
    /// All of them, as far as they are counted.
    pub fn total(&self) -> Option<u64> {
        let all = [self.fast, self.timeout, self.tail_loss, self.syn, self.syn_ack, self.other];
        all.into_iter().flatten().reduce(|sum, more| sum + more)
    }
}

/// Packets of the experiment's port on one interface. Aggregates (GSO, GRO) count once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortPackets {
    /// The interface's network namespace, by inode.
    pub netns: u32,
    /// Its number there; 0 for all interfaces beyond those counted apart.
    pub ifindex: u32,
    /// Its name when first seen.
    pub name: String,
    /// Packets in; `None` when that probe is not attached.
    pub rx_packets: Option<u64>,
    /// Bytes in, from the network header on.
    pub rx_bytes: Option<u64>,
    /// Packets out.
    pub tx_packets: Option<u64>,
    /// Bytes out, from the link header on.
    pub tx_bytes: Option<u64>,
}

/// Drops for one reason at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DropPlace {
    /// The kernel's reason.
    pub reason: String,
    /// The function.
    pub place: String,
    /// Packets of any kind.
    pub all: u64,
    /// Packets of the experiment's port.
    pub port: u64,
    /// Those of them that lost something.
    pub lost: u64,
}

/// Losses of one client address, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerCounters {
    /// Segments sent again; `None` when no such probe is attached.
    pub retransmits: Option<RetransmitKinds>,
    /// Packets dropped on this host.
    pub drops: Option<u64>,
}

/// Softirqs of a CPU: nanoseconds and runs by vector, those that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SoftirqCounters {
    /// The CPU.
    pub cpu: u32,
    /// Time by vector; the network's is extrapolated from one run in eight.
    pub time_ns: BTreeMap<&'static str, u64>,
    /// Runs by vector.
    pub runs: BTreeMap<&'static str, u64>,
}

/// NAPI of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NapiCounters {
    /// The CPU.
    pub cpu: u32,
    /// Polls.
    pub polls: u64,
    /// Packets they handled.
    pub packets: u64,
    /// Polls that used their whole budget.
    pub exhausted: u64,
}

/// What the probes themselves could not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Records of losses that found the ring full.
    pub records: u64,
    /// Threads without a slot.
    pub threads: u64,
    /// Threads that serve requests, without room for a timeline.
    pub timelines: u64,
    /// Instants of hashed flows whose entry belongs to another.
    pub flows_collided: u64,
    /// Instants of connections outside the dense range.
    pub flows_outside: u64,
    /// Drops without room for their reason and place.
    pub drop_places: u64,
    /// Losses without room for their client's address.
    pub peers: u64,
    /// Runs of a probe left out because it was running on the same CPU already.
    pub probe_runs: u64,
}

/// A signal that stopped a watched process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The process.
    pub pid: u32,
    /// The signal's number.
    pub signal: u32,
    /// Who sent it.
    pub sender: String,
    /// Its process.
    pub sender_pid: u32,
}

impl Stopped {
    /// The signal's name.
    pub fn signal_name(&self) -> String {
        match i32::try_from(self.signal).unwrap_or_default() {
            libc::SIGSTOP => "SIGSTOP".to_owned(),
            libc::SIGTSTP => "SIGTSTP".to_owned(),
            libc::SIGTTIN => "SIGTTIN".to_owned(),
            libc::SIGTTOU => "SIGTTOU".to_owned(),
            other => format!("signal {other}"),
        }
    }
}

/// A reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counters {
    /// When, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// Packets of the port by interface.
    pub packets: Option<Vec<PortPackets>>,
    /// Segments sent again, as `RetransSegs` counts them.
    pub retransmits: Option<BySide<RetransmitKinds>>,
    /// Attempts that failed, on the way down or before; `None` before Linux 6.17.
    pub retransmits_failed: Option<u64>,
    /// Losses by client address.
    pub losses_by_client: Option<BTreeMap<IpAddr, PeerCounters>>,
    /// Packets of the port that were dropped on this host, and something was lost with them.
    pub drops: Option<u64>,
    /// Packets of the port that were dropped and lost nothing: acknowledgements that had been
    /// taken, data that had come before, what comes after the end, connections turned away.
    pub drops_harmless: Option<u64>,
    /// Packets of any kind that were dropped on this host.
    pub drops_all: Option<u64>,
    /// Drops by reason and place, the most frequent first.
    pub drops_by_place: Option<Vec<DropPlace>>,
    /// Packets of the port dropped by queue disciplines.
    pub qdisc_drops: Option<u64>,
    /// Resets sent.
    pub resets_sent: Option<BySide<u64>>,
    /// Resets received.
    pub resets_received: Option<BySide<u64>>,
    /// Connections that found an accept queue full in the server's network namespace, since the
    /// first reading that knew the server. The kernel's own count: no tracepoint shows it.
    pub listen_overflows: Option<u64>,
    /// Datagrams that found a receive queue full, of any port.
    pub receive_queue_full: Option<u64>,
    /// Times a socket of the port ran into a memory limit.
    pub buffer_limit: Option<u64>,
    /// Softirqs by CPU.
    pub softirq: Option<Vec<SoftirqCounters>>,
    /// NAPI by CPU.
    pub napi: Option<Vec<NapiCounters>>,
    /// The holders of each CPU.
    pub cpus: Option<Vec<CpuHeld>>,
    /// The watched threads.
    pub threads: Option<Vec<Thread>>,
    /// T2 to T3 of all requests whose server is on this host; `None` without
    /// [`crate::Options::server_histograms`].
    #[serde(rename = "server_wait_us")]
    pub server_wait: Option<Durations>,
    /// T3 to T4 of them.
    #[serde(rename = "server_service_us")]
    pub server_service: Option<Durations>,
    /// Signals that stopped a watched process, of the last ones.
    pub stops: Option<Vec<Stopped>>,
    /// What the probes could not keep.
    pub lost: Lost,
}

impl Counters {
    /// What was counted since an earlier reading.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            at_ns: self.at_ns,
            packets: rows(self.packets.as_ref(), before.packets.as_ref(), |row| {
                (row.netns, row.ifindex, row.name.clone())
            }),
            retransmits: self.retransmits.minus(&before.retransmits),
            retransmits_failed: self.retransmits_failed.minus(&before.retransmits_failed),
            losses_by_client: self.losses_by_client.minus(&before.losses_by_client),
            drops: self.drops.minus(&before.drops),
            drops_harmless: self.drops_harmless.minus(&before.drops_harmless),
            drops_all: self.drops_all.minus(&before.drops_all),
            drops_by_place: rows(
                self.drops_by_place.as_ref(),
                before.drops_by_place.as_ref(),
                |row| (row.reason.clone(), row.place.clone()),
            ),
            qdisc_drops: self.qdisc_drops.minus(&before.qdisc_drops),
            resets_sent: self.resets_sent.minus(&before.resets_sent),
            resets_received: self.resets_received.minus(&before.resets_received),
            listen_overflows: self.listen_overflows.minus(&before.listen_overflows),
            receive_queue_full: self.receive_queue_full.minus(&before.receive_queue_full),
            buffer_limit: self.buffer_limit.minus(&before.buffer_limit),
            softirq: rows(self.softirq.as_ref(), before.softirq.as_ref(), |row| row.cpu),
            napi: rows(self.napi.as_ref(), before.napi.as_ref(), |row| row.cpu),
            cpus: rows(self.cpus.as_ref(), before.cpus.as_ref(), |row| row.cpu),
            threads: rows(self.threads.as_ref(), before.threads.as_ref(), Thread::identity),
            server_wait: self.server_wait.minus(&before.server_wait),
            server_service: self.server_service.minus(&before.server_service),
            stops: self.stops.as_ref().map(|stops| {
                stops.iter().filter(|stop| stop.at_ns > before.at_ns).cloned().collect()
            }),
            lost: self.lost.minus(&before.lost),
        }
    }
}

/// What has been added since.
trait Minus {
    fn minus(&self, before: &Self) -> Self;
}

impl Minus for u64 {
    fn minus(&self, before: &Self) -> Self {
        self.saturating_sub(*before)
    }
}

impl<T: Minus + Clone> Minus for Option<T> {
    fn minus(&self, before: &Self) -> Self {
        match (self, before) {
            (Some(now), Some(then)) => Some(now.minus(then)),
            (now, _) => now.clone(),
        }
    }
}

impl<K: Ord + Clone, V: Minus + Clone> Minus for BTreeMap<K, V> {
    fn minus(&self, before: &Self) -> Self {
        self.iter()
            .map(|(key, now)| {
                let delta = before.get(key).map_or_else(|| now.clone(), |then| now.minus(then));
                (key.clone(), delta)
            })
            .collect()
    }
}

impl Minus for Durations {
    fn minus(&self, before: &Self) -> Self {
        self.since(before)
    }
}

impl Minus for Thread {
    fn minus(&self, before: &Self) -> Self {
        self.since(before)
    }
}

impl Minus for CpuHeld {
    fn minus(&self, before: &Self) -> Self {
        self.since(before)
    }
}

/// Subtracts the named fields and keeps the others.
macro_rules! minus {
    ($type:ty: $($field:ident),+ $(; keeps $($kept:ident),+)?) => {
        impl Minus for $type {
            fn minus(&self, before: &Self) -> Self {
                Self {
                    $($field: self.$field.minus(&before.$field),)+
                    $($($kept: self.$kept.clone(),)+)?
                }
            }
        }
    };
}

minus!(RetransmitKinds: fast, timeout, tail_loss, syn, syn_ack, other);
minus!(PortPackets: rx_packets, rx_bytes, tx_packets, tx_bytes; keeps netns, ifindex, name);
minus!(DropPlace: all, port, lost; keeps reason, place);
minus!(PeerCounters: retransmits, drops);
minus!(SoftirqCounters: time_ns, runs; keeps cpu);
minus!(NapiCounters: polls, packets, exhausted; keeps cpu);
minus!(Lost: records, threads, timelines, flows_collided, flows_outside, drop_places, peers,
    probe_runs);

impl<T: Minus> Minus for BySide<T> {
    fn minus(&self, before: &Self) -> Self {
        Self {
            server: self.server.minus(&before.server),
            client: self.client.minus(&before.client),
        }
    }
}

/// Rows less the earlier rows of the same key.
fn rows<T: Minus + Clone, K: Eq + Hash>(
    now: Option<&Vec<T>>,
    before: Option<&Vec<T>>,
    key: impl Fn(&T) -> K,
) -> Option<Vec<T>> {
    let now = now?;
    let Some(before) = before else { return Some(now.clone()) };
    let earlier: std::collections::HashMap<K, &T> =
        before.iter().map(|row| (key(row), row)).collect();
    let delta =
        |row: &T| earlier.get(&key(row)).map_or_else(|| row.clone(), |then| row.minus(then));
    Some(now.iter().map(delta).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_keep_names_and_absences() {
        let row = |ifindex, packets| PortPackets {
            ifindex,
            name: format!("veth{ifindex}"),
            rx_packets: Some(packets),
            ..PortPackets::default()
        };
        let before =
            Counters { packets: Some(vec![row(1, 10)]), drops: Some(3), ..Counters::default() };
        let now = Counters {
            at_ns: 5,
            packets: Some(vec![row(2, 7), row(1, 25)]),
            drops: Some(4),
            ..Counters::default()
        };
        let delta = now.since(&before);
        assert_eq!(delta.packets, Some(vec![row(2, 7), row(1, 15)]));
        assert_eq!((delta.drops, delta.drops_all, delta.at_ns), (Some(1), None, 5));
    }
}
