//! A phase in figures, as `summary.json` has them. Owns: their names and units. Must not know: what
//! they are worked out from.

use std::collections::BTreeMap;

use attribution::Percentile;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::blamed::Attribution;
use super::latency::Bounded;
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
    /// The same by reason.
    #[serde(default)]
    pub skipped_by: SkippedBy,
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
    /// Whose turn came over a millisecond late by the client's own doing, sent or not, whatever is
    /// allowed; null in the records of a version that did not count them.
    #[serde(default)]
    pub late_turns: Option<u64>,
    /// Still under way when the record ends.
    pub in_flight_at_end: u64,
}

/// Why shakes were not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SkippedBy {
    /// The user still waited for an answer.
    pub waiting: u64,
    /// The user was not logged in.
    pub offline: u64,
    /// The client was too far behind when the phase ended.
    pub late: u64,
}

/// Whether percentiles are of the server and the way to it, and not of the client: a percentile is
/// valid when the shakes that were late by the client's own doing are a tenth of its tail at most.
/// Null where that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PercentilesValid {
    /// The median: 5% may be late.
    pub p50: Option<bool>,
    /// The 90th: 1%.
    pub p90: Option<bool>,
    /// The 99th: 0.1%.
    pub p99: Option<bool>,
    /// The 99.9th: 0.01%.
    pub p999: Option<bool>,
}

/// The part of the shakes beyond a percentile that may be late by the client's own doing.
const LATE_OF_TAIL: f64 = 0.1;

/// The part of all shakes that may be late for the 99th percentile to be valid.
pub(super) const LATE_FOR_P99: f64 = 0.01 * LATE_OF_TAIL;

impl PercentilesValid {
    /// With between `least` and `most` late shakes of `offered`.
    pub(super) fn of(offered: u64, least: u64, most: u64) -> Self {
        let within = |tail: f64| {
            // A count that is exactly a tenth is allowed, whatever the last bit of the product.
            let allowed = offered as f64 * tail * LATE_OF_TAIL * (1.0 + 1e-9);
            match (least as f64 <= allowed, most as f64 <= allowed) {
                _ if offered == 0 => None,
                (false, _) => Some(false),
                (true, true) => Some(true),
                (true, false) => None,
            }
        };
        Self { p50: within(0.5), p90: within(0.1), p99: within(0.01), p999: within(0.001) }
    }
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
    /// The percentiles that are known, and the bounds of those that are not.
    pub(super) fn with_bounds(values: &Bounded) -> (Self, Self) {
        let at = |quantile| {
            let all = values.all.as_ref()?;
            let found = Percentile::of(all, values.bounds.as_ref(), quantile)?;
            Some(match found {
                Percentile::AtLeast(us) if all.equivalent(us, values.timeout_us) => {
                    Percentile::AtLeast(values.timeout_us)
                }
                found => found,
            })
        };
        let [p50, p90, p99, p999, max] = [0.5, 0.9, 0.99, 0.999, 1.0].map(at);
        let each = |of: fn(Percentile) -> Option<u64>| {
            let [p50, p90, p99, p999, max] = [p50, p90, p99, p999, max].map(|it| it.and_then(of));
            Self { p50, p90, p99, p999, max }
        };
        (each(Percentile::exactly), each(Percentile::at_least))
    }

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
    /// Seconds whose answers differed from what was due by more than the experiment allows; null
    /// without an open load.
    #[serde(default)]
    pub off: Option<u64>,
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
    /// From the intended instant of every shake that was due to the answer, or to the moment its
    /// user was served. Null where that reaches into shakes without an answer.
    pub latency_us: Latency,
    /// What a percentile that is null is at least.
    #[serde(default)]
    pub latency_at_least_us: Latency,
    /// The same of the shakes that were sent.
    #[serde(default)]
    pub latency_sent_us: Latency,
    /// What one of those that is null is at least.
    #[serde(default)]
    pub latency_sent_at_least_us: Latency,
    /// Which percentiles say something of the server, and not of the client.
    #[serde(default)]
    pub percentiles_valid: PercentilesValid,
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
    /// Whether the load was what was asked for, and its 99th percentile is valid.
    pub valid: bool,
    /// Whether the load was what was asked for, by the experiment's own thresholds.
    #[serde(default)]
    pub load_valid: bool,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_valid_when_a_tenth_of_its_tail_is_the_clients_at_most() {
        let of = |late| {
            let PercentilesValid { p50, p90, p99, p999 } = PercentilesValid::of(20_000, late, late);
            [p50, p90, p99, p999].map(|it| it.expect("known"))
        };
        assert_eq!(of(0), [true; 4]);
        assert_eq!(of(2), [true; 4]);
        assert_eq!(of(3), [true, true, true, false]);
        assert_eq!(of(20), [true, true, true, false]);
        assert_eq!(of(21), [true, true, false, false]);
        assert_eq!(of(201), [true, false, false, false]);
        assert_eq!(of(1_001), [false; 4]);
        // Between 15 and 25 of them: it is not known of p99.
        let between = PercentilesValid::of(20_000, 15, 25);
        let expected =
            PercentilesValid { p50: Some(true), p90: Some(true), p99: None, p999: Some(false) };
        assert_eq!(between, expected);
        assert_eq!(PercentilesValid::of(0, 0, 0), PercentilesValid::default());
    }
}
