//! Works out the figures of a phase from the raw files of its run.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use accounting::server::Counters;
use attribution::{Segment, Tally};
use hdrhistogram::Histogram;

use super::blame::Attribution;
use super::counts;
use super::evidence;
use super::figures::{
    Connections, Cpu, Kernel, Latency, Memory, PerSecond, PhaseSummary, Push, Segments, Sends,
    Shakes, TwoPercentiles,
};
use super::machine;
use record::{EventKind, EventRow, ProcRow, ProcSubject, Raw, total};
use spec::PhaseSpec;
use spec::configure::users_connected;

/// With fewer connections than this, memory that grew is lost in the noise.
const ENOUGH_CONNECTIONS: u64 = 1_000;

/// A second of a phase over all client shards.
#[derive(Clone, Copy, Default)]
struct SecondTotals {
    online: u64,
    answered: u64,
}

/// What is known of a phase from its seconds.
struct PhaseTotals {
    tally: Tally,
    server: Counters,
    by_second: BTreeMap<u64, SecondTotals>,
    /// Running and waiting time by client shard, and how many seconds of it are known.
    busy: HashMap<(u32, usize), (u64, u64)>,
}

impl PhaseTotals {
    fn of(raw: &Raw, start: u64, end: u64) -> Self {
        let mut totals = Self {
            tally: Tally::default(),
            server: Counters::default(),
            by_second: BTreeMap::new(),
            busy: HashMap::new(),
        };
        let during = |t: &u64| (start..end).contains(t);
        for line in raw.clients.iter().filter(|line| during(&line.t)) {
            totals.tally.add(&line.tally);
            let second = totals.by_second.entry(line.t).or_default();
            second.online = second.online.saturating_add(line.online);
            second.answered = second.answered.saturating_add(line.tally.answered);
            if let (Some(cpu), Some(wait)) = (line.cpu_us, line.wait_us) {
                let busy = totals.busy.entry((line.client, line.shard)).or_default();
                *busy = (busy.0.saturating_add(cpu).saturating_add(wait), busy.1 + 1);
            }
        }
        for line in raw.servers.iter().filter(|line| during(&line.t)) {
            totals.server.add(&line.counters);
        }
        totals
    }

    fn busiest(&self) -> Option<f64> {
        let shares = self.busy.values().map(|(us, seconds)| *us as f64 / (*seconds as f64 * 1e6));
        shares.reduce(f64::max)
    }

    fn per_second(&self) -> PerSecond {
        let counts: Vec<u64> = self.by_second.values().map(|second| second.answered).collect();
        let n = counts.len().max(1) as f64;
        let mean = counts.iter().map(|count| *count as f64).sum::<f64>() / n;
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
    let span @ (start, end) = time.unwrap_or((0, 0));
    let totals = PhaseTotals::of(raw, start, end);
    let settled_tally = settled(raw, &name);
    let tally = settled_tally.unwrap_or(totals.tally);
    let experiment = &raw.manifest.experiment;
    let target = specs[..=index].iter().filter_map(|spec| users_connected(experiment, spec)).max();
    let online: Vec<u64> = totals.by_second.values().map(|second| second.online).collect();
    let connections = Connections {
        target: u64::from(target.unwrap_or(0)),
        established: online.last().copied().unwrap_or(0),
        lost: totals.tally.connections_lost,
        connect_rate: connect_rate(raw, spec, &name, totals.tally.logins, end - start),
    };
    let histogram = |segment: Segment| raw.histograms.get(&record::hlog::tag(&name, segment));
    let send_lag = Latency::of(histogram(Segment::SendLag));
    let late = late_share(histogram(Segment::Latency), experiment.attribution.slow_us);
    let causes = evidence::cause_totals(raw, &name);
    let mut phase = PhaseSummary {
        seconds: time.map(|(start, end)| (end - start) as f64),
        connections,
        shake: shakes(spec, &tally, end - start),
        send: Sends {
            packets: totals.server.packets_sent,
            notices: totals.tally.notices,
            claims: totals.tally.claims,
        },
        latency_us: Latency::of(histogram(Segment::Latency)),
        send_lag_us: send_lag,
        answered_per_second: totals.per_second(),
        cpu_us_per_request: cpu(raw, start, end, tally.answered),
        memory: memory(raw, end, connections.established),
        kernel: kernel(raw, start, end, totals.busiest()),
        segments_us: segments(send_lag, &histogram),
        attribution: Attribution::default(),
        mixed_requests: causes.as_ref().map(|causes| causes.mixed),
        incomplete_requests: causes.as_ref().map(|causes| causes.incomplete),
        unsampled_requests: causes.as_ref().map(|causes| causes.unsampled),
        stalls: machine::stalls(raw, &name, span),
        lab: machine::lab_share(raw, &name, span),
        push: pushes(&totals, histogram(Segment::Push)),
        settled: settled_tally.is_some(),
        valid: true,
        invalid_because: Vec::new(),
        name,
    };
    if let Some(causes) = causes {
        let measured = (phase.latency_us.p99, late);
        let evidence = evidence::of_phase(raw, &phase.name, span, measured, &phase.shake);
        phase.attribution = causes.attribution(&experiment.attribution, &evidence);
    }
    phase.invalid_because = invalid_because(raw, spec, &phase, &tally, &online, time.is_some());
    if let Some(tally) = &settled_tally {
        let open = matches!(spec.shake, Some(spec::Shake::Open { .. }));
        phase.invalid_because.extend(counts::of_histograms(raw, &phase.name, tally, open));
    }
    phase.valid = phase.invalid_because.is_empty();
    phase
}

fn pushes(totals: &PhaseTotals, lateness: Option<&Histogram<u64>>) -> Push {
    Push {
        sent: totals.server.pushes,
        received: totals.tally.pushes,
        missed: totals.tally.pushes_missed,
        lateness_us: Latency::of(lateness),
    }
}

/// Where the requests of a phase spent their time.
fn segments<'a>(
    send_lag: Latency,
    histogram: &impl Fn(Segment) -> Option<&'a Histogram<u64>>,
) -> Segments {
    let of = |segment| TwoPercentiles::of(histogram(segment));
    Segments {
        client_send_lag: TwoPercentiles { p50: send_lag.p50, p99: send_lag.p99 },
        network: of(Segment::Network),
        server_wait: of(Segment::ServerWait),
        server_service: of(Segment::ServerService),
        client_receive_lag: of(Segment::ClientReceiveLag),
    }
}

/// The part of the requests that took longer.
fn late_share(latency: Option<&Histogram<u64>>, slow_us: u32) -> Option<f64> {
    let latency = latency.filter(|latency| !latency.is_empty())?;
    let late = latency.count_between(u64::from(slow_us) + 1, u64::MAX);
    Some(late as f64 / latency.len() as f64)
}

/// What became of the shakes of a phase, when all clients have said so.
pub(super) fn settled(raw: &Raw, name: &str) -> Option<Tally> {
    let settled = |event: &EventRow| match &event.kind {
        EventKind::Settled { phase, tally } if phase == name => tally.as_deref().copied(),
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
            let at = |t: u64| -> Option<u64> { total(lines().filter(|row| row.t == t).map(bytes)) };
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
    let late =
        tally.late_sends.saturating_add(tally.skipped_late) as f64 / tally.offered.max(1) as f64;
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
