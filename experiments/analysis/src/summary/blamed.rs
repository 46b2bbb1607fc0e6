//! What comes out of an attribution, and what of a phase goes into it beside the sums: types alone.
//!
//! Must not know: how shares are worked out, what a sentence says of them, where evidence is read.

use std::collections::{BTreeMap, BTreeSet};

use attribution::{Cause, Contradictions, End};
use serde::{Deserialize, Serialize};

/// A share for each cause; a cause that took nothing may be missing.
pub type Shares = BTreeMap<Cause, f64>;

/// Of the slow requests of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// How many there were; null without probes.
    pub requests: Option<u64>,
    /// From which latency on a request was slow, in microseconds.
    pub from_us: Option<u64>,
    /// What all causes took beyond their medians, in microseconds.
    pub excess_us: Option<u64>,
    /// The part of each; null without probes, when the phase was quiet, or when the excess is too
    /// small to ask why.
    pub shares: Option<Shares>,
    /// Which part of the explained requests they are.
    #[serde(default)]
    pub part: Option<f64>,
}

/// What half of the requests took at most, and what it went by with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Typical {
    /// The median latency of the explained requests, in microseconds.
    pub latency_us: Option<u64>,
    /// What each cause took of a request of about that latency, on average, in microseconds.
    pub causes_us: Option<BTreeMap<Cause, u64>>,
}

/// Slow requests that are not in the shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOutOfTail {
    /// Their frame shared its stretch of the stream with another; null when that was not told by
    /// latency.
    pub mixed: Option<u64>,
    /// Their connection was not in the sample; null likewise.
    pub unsampled: Option<u64>,
}

/// Of the seconds that were off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jitter {
    /// Seconds whose answers differed from what was due by more than the experiment allows.
    pub seconds_off: Option<u64>,
    /// Requests due in such a second and answered in another, or the other way round.
    pub requests: Option<u64>,
    /// The part of each dominant cause among them; null when there are none.
    pub shares: Option<Shares>,
}

/// What is to blame in a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attribution {
    /// Of the slow requests.
    pub tail: Tail,
    /// Of the seconds that were off.
    pub jitter: Jitter,
    /// What is usual.
    #[serde(default)]
    pub typical: Typical,
    /// What of the tail is not in its shares.
    #[serde(default)]
    pub left_out: LeftOutOfTail,
    /// Shares that looked like a cause of which the counters show nothing: they are unexplained.
    #[serde(default)]
    pub without_evidence: Shares,
    /// Requests whose evidence contradicts itself, by how: that time is unexplained. Null where no
    /// probes looked, or a version wrote the files that did not tell.
    #[serde(default)]
    pub contradictions: Option<Contradictions>,
    /// A sentence about them; null when there are none.
    #[serde(default)]
    pub contradicted: Option<String>,
    /// A sentence for a person.
    pub verdict: Option<String>,
    /// A sentence about connections that could not be made at once; null when all were.
    #[serde(default)]
    pub connecting: Option<String>,
    /// A sentence about the shakes without an answer; null when all have one.
    #[serde(default)]
    pub unanswered: Option<String>,
    /// A sentence about the pushes that are missing; null when none is.
    #[serde(default)]
    pub pushes: Option<String>,
}

/// The cause with the largest share, and that share.
pub fn dominant(shares: &Shares) -> Option<(Cause, f64)> {
    shares.iter().map(|(cause, share)| (*cause, *share)).max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Programs of one name that had a CPU that slow requests waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The name of its thread.
    pub(super) name: String,
    /// How many processes; 0 when that is not known.
    pub(super) processes: usize,
    /// One of them.
    pub(super) pid: Option<u32>,
    /// The end of this run that it is.
    pub(super) of: Option<End>,
    /// How long the requests waited behind it, in microseconds.
    pub(super) us: u64,
}

/// What the quota of CPU time took from an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Throttling {
    /// The group that has the quota.
    pub(super) group: String,
    /// The quota and its period, as they were last.
    pub(super) quota_us: Option<(u64, u64)>,
    /// Periods that used it up.
    pub(super) periods: u64,
    /// How long CPUs stood still for it.
    pub(super) us: u64,
    /// Whether every second was read.
    pub(super) whole: bool,
}

/// Who stopped an end, and how often.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stop {
    /// The signal's number.
    pub(super) signal: u32,
    /// The name of the sender.
    pub(super) sender: String,
    /// Its process.
    pub(super) pid: u32,
}

/// What else is known of a phase that says why its requests were slow.
#[derive(Clone, Debug, Default)]
pub struct PhaseEvidence {
    /// By second: shakes due, and answers.
    pub seconds: Vec<(u64, u64, u64)>,
    /// The phase's 99th percentile, in microseconds.
    pub p99_us: Option<u64>,
    /// The part of the requests that were slow, as the clients themselves measured it.
    pub late_share: Option<f64>,
    /// By cause, the programs that had the CPUs that slow requests waited for, the longest first.
    pub(super) holders: BTreeMap<Cause, Vec<Holder>>,
    /// What the quotas of CPU time took from the ends.
    pub(super) throttled: BTreeMap<End, Throttling>,
    /// Who stopped the ends, and how often.
    pub(super) stops: BTreeMap<End, BTreeMap<Stop, u64>>,
    /// The ends that a freezer was seen to hold.
    pub(super) frozen: BTreeSet<End>,
    /// By cause, the longest time that it took of one of the slowest requests, in microseconds.
    pub(super) longest_us: BTreeMap<Cause, u64>,
    /// The kind of softirq that took most.
    pub(super) softirq: Option<String>,
    /// Time that the hypervisor took, by its own account.
    pub(super) steal_us: Option<u64>,
    /// Time in which tasks waited for disks.
    pub(super) pressure_io_us: Option<u64>,
    /// Time in which tasks waited for memory.
    pub(super) pressure_memory_us: Option<u64>,
    /// Causes of which the counters show nothing at all.
    pub(super) bare: BTreeSet<Cause>,
    /// Packets dropped, and segments sent again.
    pub drops: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u64>,
}
