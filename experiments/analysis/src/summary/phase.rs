//! What a phase came to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use accounting::server::Counters;
use attribution::{Segment, Tally};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::blame::Attribution;
use super::evidence;
use record::{EventKind, EventRow, ProcRow, ProcSubject, Raw};
use spec::PhaseSpec;
use spec::configure::users_connected;

/// With fewer connections than this, memory that grew is lost in the noise.
const ENOUGH_CONNECTIONS: u64 = 1_000;

/// Connections of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// How many users were to be logged in.
    pub target: u64,
    /// How many were, at the end.
    pub established: u64,
    /// How many went away.
    pub lost: u64,
    /// Logins per second until all were logged in; null when the phase connects nobody.
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
    fn of(values: Option<&Histogram<u64>>) -> Self {
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
pub struct Segment2 {
    /// The median.
    pub p50: Option<u64>,
    /// The 99th.
    pub p99: Option<u64>,
}

impl Segment2 {
    fn of(values: Option<&Histogram<u64>>) -> Self {
        let all = Latency::of(values);
        Self { p50: all.p50, p99: all.p99 }
    }
}

/// Where requests spent their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    /// From the intended instant to the send.
    pub client_send_lag: Segment2,
    /// On the way, both ways.
    pub network: Segment2,
    /// From ready to received, at the server.
    pub server_wait: Segment2,
    /// From received to answered.
    pub server_service: Segment2,
    /// From ready to received, at the client.
    pub client_receive_lag: Segment2,
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

/// A second of a phase over all client shards.
#[derive(Clone, Copy, Default)]
struct Second {
    online: u64,
    answered: u64,
}

/// What is known of a phase from its seconds.
struct Seconds {
    tally: Tally,
    server: Counters,
    by_second: BTreeMap<u64, Second>,
    /// Running and waiting time by client shard, and how many seconds of it are known.
    busy: HashMap<(u32, usize), (u64, u64)>,
}

impl Seconds {
    fn of(raw: &Raw, start: u64, end: u64) -> Self {
        let mut it = Self {
            tally: Tally::default(),
            server: Counters::default(),
            by_second: BTreeMap::new(),
            busy: HashMap::new(),
        };
        let during = |t: &u64| (start..end).contains(t);
        for line in raw.clients.iter().filter(|line| during(&line.t)) {
            it.tally.add(&line.tally);
            let second = it.by_second.entry(line.t).or_default();
            second.online += line.online;
            second.answered += line.tally.answered;
            if let (Some(cpu), Some(wait)) = (line.cpu_us, line.wait_us) {
                let busy = it.busy.entry((line.client, line.shard)).or_default();
                *busy = (busy.0 + cpu + wait, busy.1 + 1);
            }
        }
        for line in raw.servers.iter().filter(|line| during(&line.t)) {
            it.server.add(&line.counters);
        }
        it
    }

    fn busiest(&self) -> Option<f64> {
        let shares = self.busy.values().map(|(us, seconds)| *us as f64 / (*seconds as f64 * 1e6));
        shares.reduce(f64::max)
    }

    fn per_second(&self) -> PerSecond {
        let counts: Vec<u64> = self.by_second.values().map(|second| second.answered).collect();
        let n = counts.len().max(1) as f64;
        let mean = counts.iter().sum::<u64>() as f64 / n;
        let variance = counts.iter().map(|count| (*count as f64 - mean).powi(2)).sum::<f64>() / n;
        PerSecond {
            mean,
            cv: (mean > 0.0).then(|| variance.sqrt() / mean),
            min: counts.iter().min().copied().unwrap_or(0),
            max: counts.iter().max().copied().unwrap_or(0),
        }
    }
}

/// Works out a phase.
pub(super) fn summarize(
    raw: &Raw,
    specs: &[PhaseSpec],
    index: usize,
    spec: &PhaseSpec,
) -> PhaseSummary {
    let name = spec.name.to_string();
    let time = raw.phase_time(&name);
    let (start, end) = time.unwrap_or((0, 0));
    let seconds = Seconds::of(raw, start, end);
    let settled_tally = settled(raw, &name);
    let tally = settled_tally.unwrap_or(seconds.tally);
    let experiment = &raw.manifest.experiment;
    let target = specs[..=index].iter().filter_map(|spec| users_connected(experiment, spec)).max();
    let online: Vec<u64> = seconds.by_second.values().map(|second| second.online).collect();
    let connections = Connections {
        target: u64::from(target.unwrap_or(0)),
        established: online.last().copied().unwrap_or(0),
        lost: seconds.tally.connections_lost,
        connect_rate: connect_rate(raw, spec, &name, seconds.tally.logins, end - start),
    };
    let histogram = |segment: Segment| raw.histograms.get(&record::hlog::tag(&name, segment));
    let send_lag = Latency::of(histogram(Segment::SendLag));
    let late = late_share(histogram(Segment::Latency), experiment.attribution.slow_us);
    let account = evidence::account(raw, &name);
    let mut phase = PhaseSummary {
        seconds: time.map(|(start, end)| (end - start) as f64),
        connections,
        shake: shakes(spec, &tally, end - start),
        send: Sends {
            packets: seconds.server.packets_sent,
            notices: seconds.tally.notices,
            claims: seconds.tally.claims,
        },
        latency_us: Latency::of(histogram(Segment::Latency)),
        send_lag_us: send_lag,
        answered_per_second: seconds.per_second(),
        cpu_us_per_request: cpu(raw, start, end, tally.answered),
        memory: memory(raw, end, connections.established),
        kernel: kernel(raw, start, end, seconds.busiest()),
        segments_us: Segments {
            client_send_lag: Segment2 { p50: send_lag.p50, p99: send_lag.p99 },
            network: Segment2::of(histogram(Segment::Network)),
            server_wait: Segment2::of(histogram(Segment::ServerWait)),
            server_service: Segment2::of(histogram(Segment::ServerService)),
            client_receive_lag: Segment2::of(histogram(Segment::ClientReceiveLag)),
        },
        attribution: Attribution::default(),
        mixed_requests: account.as_ref().map(|account| account.mixed),
        incomplete_requests: account.as_ref().map(|account| account.incomplete),
        unsampled_requests: account.as_ref().map(|account| account.unsampled),
        push: Push {
            sent: seconds.server.pushes,
            received: seconds.tally.pushes,
            missed: seconds.tally.pushes_missed,
            lateness_us: Latency::of(histogram(Segment::Push)),
        },
        settled: settled_tally.is_some(),
        valid: true,
        invalid_because: Vec::new(),
        name,
    };
    if let Some(account) = account {
        let measured = (phase.latency_us.p99, late);
        let seen = evidence::seen(raw, &phase.name, (start, end), measured, &phase.shake);
        phase.attribution = account.attribution(&experiment.attribution, &seen);
    }
    phase.invalid_because = invalid_because(raw, spec, &phase, &tally, &online, time.is_some());
    phase.valid = phase.invalid_because.is_empty();
    phase
}

/// The part of the requests that took longer.
fn late_share(latency: Option<&Histogram<u64>>, slow_us: u32) -> Option<f64> {
    let latency = latency.filter(|latency| !latency.is_empty())?;
    let late = latency.count_between(u64::from(slow_us) + 1, u64::MAX);
    Some(late as f64 / latency.len() as f64)
}

/// What became of the shakes of a phase, when all clients have said so.
fn settled(raw: &Raw, name: &str) -> Option<Tally> {
    let settled = |event: &EventRow| match &event.kind {
        EventKind::Settled { phase, tally } if phase == name => *tally,
        _ => None,
    };
    let tallies: Vec<Tally> = raw.events.iter().filter_map(settled).collect();
    let clients = raw.manifest.experiment.client.processes.get() as usize;
    (tallies.len() == clients).then(|| {
        tallies.iter().fold(Tally::default(), |mut sum, tally| {
            sum.add(tally);
            sum
        })
    })
}

fn connect_rate(raw: &Raw, spec: &PhaseSpec, name: &str, logins: u64, seconds: u64) -> Option<f64> {
    spec.connect?;
    let established = |event: &EventRow| match &event.kind {
        EventKind::Established { phase, seconds } if phase == name => *seconds,
        _ => None,
    };
    let took = raw.events.iter().filter_map(established).reduce(f64::max);
    let took = took.unwrap_or(seconds as f64);
    (took > 0.0).then(|| logins as f64 / took)
}

fn shakes(spec: &PhaseSpec, tally: &Tally, seconds: u64) -> Shakes {
    let open = matches!(spec.shake, Some(spec::Shake::Open { .. }));
    Shakes {
        offered_rate: (open && seconds > 0).then(|| tally.offered as f64 / seconds as f64),
        offered: tally.offered,
        sent: tally.sent,
        skipped: tally.skipped(),
        answered: tally.answered,
        granted: tally.granted,
        empty: tally.empty,
        overloaded: tally.overloaded,
        timed_out: tally.timed_out,
        lost: tally.lost,
        late_answers: tally.late_answers,
        late_sends: tally.late_sends,
        in_flight_at_end: tally.in_flight().unwrap_or(0),
    }
}

fn cpu(raw: &Raw, start: u64, end: u64, answered: u64) -> Cpu {
    let each = |of| {
        let us = raw.sum(of, |row| row.cpu_us, start, end)?;
        (answered > 0).then(|| us as f64 / answered as f64)
    };
    Cpu { server: each(ProcSubject::Server), client: each(ProcSubject::Client) }
}

fn memory(raw: &Raw, end: u64, connections: u64) -> Memory {
    // All samples of a kind at the first and at the last second before the end of the phase, host
    // by host: they need not have begun to tell in the same second.
    let growth = |of: ProcSubject, bytes: fn(&ProcRow) -> Option<u64>| {
        let all = || raw.proc_rows(of).filter(|row| row.t < end);
        let of_host = |host: &Option<String>| {
            let lines = || all().filter(|it| it.host == *host);
            let at = |t: u64| -> Option<u64> { lines().filter(|row| row.t == t).map(bytes).sum() };
            let first = lines().map(|it| it.t).min()?;
            let last = lines().map(|it| it.t).max()?;
            Some(at(last)? as f64 - at(first)? as f64)
        };
        let hosts: BTreeSet<&Option<String>> = all().map(|it| &it.host).collect();
        if hosts.is_empty() { None } else { hosts.into_iter().map(of_host).sum::<Option<f64>>() }
    };
    let user_bytes = |row: &ProcRow| row.rss_anon_bytes;
    let each = |of, bytes: fn(&ProcRow) -> Option<u64>, parts: u64| {
        let enough = connections >= ENOUGH_CONNECTIONS;
        enough.then(|| growth(of, bytes)).flatten().map(|it| it / (connections * parts) as f64)
    };
    Memory {
        server_user_bytes_per_connection: each(ProcSubject::Server, user_bytes, 1),
        client_user_bytes_per_connection: each(ProcSubject::Client, user_bytes, 1),
        kernel_bytes_per_socket: each(ProcSubject::Machine, |row| row.slab_bytes, 2),
    }
}

fn kernel(raw: &Raw, start: u64, end: u64, busiest: Option<f64>) -> Kernel {
    Kernel {
        retransmits: raw.sum(ProcSubject::Tcp, |row| row.retrans_segs, start, end),
        drops: evidence::drops(raw, start, end),
        nic_lost: evidence::nic_lost(raw, start, end),
        listen_overflows: raw.sum(ProcSubject::Tcp, |row| row.listen_overflows, start, end),
        runqueue_delay_us: evidence::runqueue_delay(raw, "server", start, end),
        client_runqueue_delay_us: evidence::runqueue_delay(raw, "client", start, end),
        client_busy_share: busiest,
    }
}

/// Whether the load was what was asked for; a sentence for each way in which it was not.
fn invalid_because(
    raw: &Raw,
    spec: &PhaseSpec,
    phase: &PhaseSummary,
    tally: &Tally,
    online: &[u64],
    began: bool,
) -> Vec<String> {
    let limits = &raw.manifest.experiment.validity;
    let mut because = Vec::new();
    if !began {
        return vec!["the phase never began".to_owned()];
    }
    let planned = spec.seconds.map(|seconds| seconds.get() as f64);
    if planned.is_some_and(|planned| phase.seconds < Some(planned)) {
        because.push("the phase was cut short".to_owned());
    }
    let late = (tally.late_sends + tally.skipped_late) as f64 / tally.offered.max(1) as f64;
    if late > limits.late_share.get() {
        because.push(format!(
            "{:.3}% of the shakes left more than {} µs late by the client's own doing, or not at \
             all; {}% are allowed",
            late * 100.0,
            limits.late_us,
            limits.late_share.get() * 100.0
        ));
    }
    let wanted = phase.connections.target as f64 * limits.connections_share.get();
    // While users connect, only the end counts.
    let least = if spec.connect.is_some() { online.last() } else { online.iter().min() };
    let least = least.copied().unwrap_or(0);
    if (least as f64) < wanted {
        because.push(format!("{least} connections of {}", phase.connections.target));
    }
    let busiest = phase.kernel.client_busy_share;
    if tally.offered > 0
        && let Some(busy) = busiest.filter(|busy| *busy > limits.client_busy_share.get())
    {
        because.push(format!(
            "the busiest client thread was running or waiting for a CPU {:.1}% of the time; \
             {}% are allowed",
            busy * 100.0,
            limits.client_busy_share.get() * 100.0
        ));
    }
    because
}
