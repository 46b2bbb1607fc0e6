//! A phase in figures, as `summary.json` has them. Owns: their names and units. Must not know: what
//! they are worked out from.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::blame::Attribution;
use super::machine::{LabShare, MachineStalls};

/// Connections of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many users were to be logged in.
    pub target: u64,
    /// How many were, at the end.
    pub established: u64,
    /// How many went away.
    pub lost: u64,
    /// Logins per second until all were logged in; null when the phase connects no users.
    pub connect_rate: Option<f64>,
}

/// Shakes that were due in a phase. `offered = sent + skipped`;
/// `sent = answered + timed_out + lost + in_flight_at_end`; `answered = granted + empty +
/// overloaded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shakes {
    /// Per second, on average; null when the phase has no open load.
    pub offered_rate: Option<f64>,
    /// Wanted by the schedule.
    pub offered: u64,
    /// Sent.
    pub sent: u64,
    /// Not sent: the user still waited, was not logged in, or the client was too far behind.
    pub skipped: u64,
    /// Answered in time.
    pub answered: u64,
    /// Answered with a packet.
    pub granted: u64,
    /// Answered without.
    pub empty: u64,
    /// Answered "over the limit".
    pub overloaded: u64,
    /// Not answered in time.
    pub timed_out: u64,
    /// Their connection went away.
    pub lost: u64,
    /// Answers to shakes that had timed out.
    pub late_answers: u64,
    /// Left later than allowed behind their instant, by the client's own doing.
    pub late_sends: u64,
    /// Still under way when the record ends.
    pub in_flight_at_end: u64,
}

/// Sent packets in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sends {
    /// Packets made for users to claim.
    pub packets: u64,
    /// Notices that clients received.
    pub notices: u64,
    /// Claims that clients sent.
    pub claims: u64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: Option<u64>,
    /// The 90th.
    pub p90: Option<u64>,
    /// The 99th.
    pub p99: Option<u64>,
    /// The 99.9th.
    pub p999: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}

impl Latency {
    pub(super) fn of(values: Option<&Histogram<u64>>) -> Self {
        let at = |quantile| values.map(|values| values.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: values.map(Histogram::max),
        }
    }
}

/// Two percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TwoPercentiles {
    /// The median.
    pub p50: Option<u64>,
    /// The 99th.
    pub p99: Option<u64>,
}

impl TwoPercentiles {
    pub(super) fn of(values: Option<&Histogram<u64>>) -> Self {
        let all = Latency::of(values);
        Self { p50: all.p50, p99: all.p99 }
    }
}

/// Where requests spent their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    /// From the intended instant to the send.
    pub client_send_lag: TwoPercentiles,
    /// On the way, both ways.
    pub network: TwoPercentiles,
    /// From ready to received, at the server.
    pub server_wait: TwoPercentiles,
    /// From received to answered.
    pub server_service: TwoPercentiles,
    /// From ready to received, at the client.
    pub client_receive_lag: TwoPercentiles,
}

/// How even the answers came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PerSecond {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, divided by the mean; null when the mean is 0.
    pub cv: Option<f64>,
    /// The worst second.
    pub min: u64,
    /// The best second.
    pub max: u64,
}

/// CPU time for a request, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The server's.
    pub server: Option<f64>,
    /// All clients' together.
    pub client: Option<f64>,
}

/// Memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Growth of the server's anonymous memory since it was empty, for each connection.
    pub server_user_bytes_per_connection: Option<f64>,
    /// Growth of all clients' anonymous memory, for each connection.
    pub client_user_bytes_per_connection: Option<f64>,
    /// Growth of the kernel's objects, for each of the two sockets of a connection.
    pub kernel_bytes_per_socket: Option<f64>,
}

/// Time runnable and not running, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunQueue {
    /// The median.
    pub p50: Option<u64>,
    /// The 99th percentile.
    pub p99: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
}

/// What the kernel counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Segments sent again.
    pub retransmits: Option<u64>,
    /// Packets dropped, by reason.
    pub drops: Option<BTreeMap<String, u64>>,
    /// Frames that the interfaces lost, by the cards' own counters.
    pub nic_lost: Option<u64>,
    /// Connections that found the backlog of a listening socket full.
    pub listen_overflows: Option<u64>,
    /// How long the server's threads waited for a CPU, each time.
    pub runqueue_delay_us: RunQueue,
    /// How long the clients' threads did.
    pub client_runqueue_delay_us: RunQueue,
    /// The part of a second that the busiest client thread was running or waiting for a CPU.
    pub client_busy_share: Option<f64>,
}

/// A phase in figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// Its name.
    pub name: String,
    /// How long it was; null when it never began.
    pub seconds: Option<f64>,
    /// Connections.
    pub connections: Connections,
    /// Shakes.
    pub shake: Shakes,
    /// Sent packets.
    pub send: Sends,
    /// From the intended instant to the answer.
    pub latency_us: Latency,
    /// From the intended instant to the send.
    pub send_lag_us: Latency,
    /// How even the answers came.
    pub answered_per_second: PerSecond,
    /// CPU time for a request.
    pub cpu_us_per_request: Cpu,
    /// Memory.
    pub memory: Memory,
    /// What the kernel counted.
    pub kernel: Kernel,
    /// Where requests spent their time.
    pub segments_us: Segments,
    /// What is to blame.
    pub attribution: Attribution,
    /// Requests whose frame shared its stretch of the stream with another frame.
    pub mixed_requests: Option<u64>,
    /// Requests of which an instant is missing: all of their time is unexplained.
    pub incomplete_requests: Option<u64>,
    /// Requests that were not explained because, beyond a rate, only a sample of the connections
    /// is; null without probes.
    #[serde(default)]
    pub unsampled_requests: Option<u64>,
    /// Times in which CPUs stood still.
    #[serde(default)]
    pub stalls: MachineStalls,
    /// What the lab itself took.
    #[serde(default)]
    pub lab: LabShare,
    /// Pushes received, and from their intended instant to their arrival.
    pub push: Push,
    /// Whether nothing of the phase was under way when its counts were taken.
    pub settled: bool,
    /// Whether the load was what was asked for.
    pub valid: bool,
    /// Why not.
    pub invalid_because: Vec<String>,
}

/// Pushes in a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// Written by the server.
    pub sent: u64,
    /// Received.
    pub received: u64,
    /// Missing before one that came.
    pub missed: u64,
    /// From the intended instant to the arrival, where both clocks are one.
    pub lateness_us: Latency,
}
