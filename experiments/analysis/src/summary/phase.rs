//! Works out the figures of a phase from the raw files of its run.

use std::collections::{BTreeSet, HashMap};

use accounting::server::Counters;
use attribution::{Segment, Tally};
use hdrhistogram::Histogram;

use super::blamed::Attribution;
use super::counts;
use super::evidence;
use super::figures::{
    Connections, Cpu, Kernel, LATE_FOR_P99, Latency, Memory, PerSecond, PercentilesValid,
    PhaseSummary, Push, Segments, Sends, Shakes, SkippedBy, TwoPercentiles,
};
use super::latency::{self, Bounded};
use super::machine;
use super::off::seconds_off;
use super::seconds::{SecondTotals, by_clock};
use record::{EventKind, EventRow, ProcRow, ProcSubject, Raw, total};
use spec::PhaseSpec;
use spec::configure::users_connected;
use text::thousands;

/// With fewer connections than this, memory that grew is lost in the noise.
const ENOUGH_CONNECTIONS: u64 = 1_000;

/// A turn that comes later than this is late, whatever is allowed: clients count by the same.
const LATE_US: u64 = 1_000;

/// What is known of a phase from its seconds.
struct PhaseTotals {
    tally: Tally,
    server: Counters,
    seconds: Vec<SecondTotals>,
    /// Running and waiting time by client shard, and how many seconds of it are known.
    busy: HashMap<(u32, usize), (u64, u64)>,
}

impl PhaseTotals {
    fn of(raw: &Raw, spec: &PhaseSpec, start: u64, end: u64) -> Self {
        let mut totals = Self {
            tally: Tally::default(),
            server: Counters::default(),
            seconds: by_clock(&raw.clients, spec.shake.as_ref(), (start, end)),
            busy: HashMap::new(),
        };
        let during = |t: &u64| (start..end).contains(t);
        for line in raw.clients.iter().filter(|line| during(&line.t)) {
            totals.tally.add(&line.tally);
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

    fn per_second(&self, off_share: Option<f64>) -> PerSecond {
        let counts: Vec<u64> = self.seconds.iter().map(|second| second.answered).collect();
        let off = off_share.map(|off_share| {
            let seconds = self.seconds.iter().map(|it| (it.t, it.due, it.answered));
            seconds_off(seconds, off_share).len() as u64
        });
        let n = counts.len().max(1) as f64;
        let mean = counts.iter().map(|count| *count as f64).sum::<f64>() / n;
        let variance = counts.iter().map(|count| (*count as f64 - mean).powi(2)).sum::<f64>() / n;
        PerSecond {
            mean,
            cv: (mean > 0.0).then(|| variance.sqrt() / mean),
            min: counts.iter().min().copied().unwrap_or(0),
            max: counts.iter().max().copied().unwrap_or(0),
            off,
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
    let totals = PhaseTotals::of(raw, spec, start, end);
    let settled_tally = settled(raw, &name);
    let tally = settled_tally.unwrap_or(totals.tally);
    let experiment = &raw.manifest.experiment;
    let online: Vec<u64> = totals.seconds.iter().map(|second| second.online).collect();
    let connections = connections(raw, specs, index, &totals, end - start);
    let histogram = |segment: Segment| raw.histograms.get(&record::hlog::tag(&name, segment));
    let send_lag = Latency::of(histogram(Segment::SendLag));
    let due = Bounded::of_due(raw, &name, &tally);
    let (latency_us, latency_at_least_us) = Latency::with_bounds(&due);
    let (latency_sent_us, latency_sent_at_least_us) =
        Latency::with_bounds(&Bounded::of_phase_sent(raw, &name));
    let late = late_share(due.all.as_ref(), experiment.attribution.slow_us);
    let is_open = matches!(spec.shake, Some(spec::Shake::Open { .. }));
    let off_share = is_open.then(|| experiment.attribution.off_share.get());
    let (late_turns, percentiles_valid) = client_lateness(raw, spec, &name, &tally);
    let causes = evidence::cause_totals(raw, &name);
    let mut phase = PhaseSummary {
        seconds: time.map(|(start, end)| (end - start) as f64),
        connections,
        shake: Shakes { late_turns, ..shakes(spec, &tally, end - start) },
        send: Sends {
            packets: totals.server.packets_sent,
            notices: totals.tally.notices,
            claims: totals.tally.claims,
        },
        latency_us,
        latency_at_least_us,
        latency_sent_us,
        latency_sent_at_least_us,
        percentiles_valid,
        send_lag_us: send_lag,
        answered_per_second: totals.per_second(off_share),
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
        push: push(&totals, histogram(Segment::Push)),
        settled: settled_tally.is_some(),
        valid: true,
        load_valid: true,
        invalid_because: Vec::new(),
        name,
    };
    if let Some(causes) = causes {
        let measured = (phase.latency_us.p99.or(phase.latency_at_least_us.p99), late);
        // What is offered without a schedule is never off it.
        let seconds = if is_open { totals.seconds.as_slice() } else { &[] };
        let evidence = evidence::of_phase(raw, &phase.name, span, measured, seconds);
        phase.attribution = causes.attribution(&experiment.attribution, &evidence);
    }
    tell_others(raw, spec, (start, end), (&tally, &totals.tally), &mut phase);
    judge(raw, spec, &mut phase, (&tally, settled_tally.as_ref()), &online);
    phase
}

/// The connections of a phase.
fn connections(
    raw: &Raw,
    specs: &[PhaseSpec],
    index: usize,
    totals: &PhaseTotals,
    seconds: u64,
) -> Connections {
    let spec = &specs[index];
    let experiment = &raw.manifest.experiment;
    let target = specs[..=index].iter().filter_map(|spec| users_connected(experiment, spec)).max();
    Connections {
        target: u64::from(target.unwrap_or(0)),
        established: totals.seconds.last().map_or(0, |second| second.online),
        lost: totals.tally.connections_lost,
        connect_rate: connect_rate(raw, spec, spec.name.as_str(), totals.tally.logins, seconds),
    }
}

/// The pushes of a phase.
fn push(totals: &PhaseTotals, lateness: Option<&Histogram<u64>>) -> Push {
    Push {
        sent: totals.server.pushes,
        received: totals.tally.pushes,
        missed: totals.tally.pushes_missed,
        lateness_us: Latency::of(lateness),
    }
}

/// Whether the load was what was asked for, and p99 says something of the server.
fn judge(
    raw: &Raw,
    spec: &PhaseSpec,
    phase: &mut PhaseSummary,
    (tally, settled_tally): (&Tally, Option<&Tally>),
    online: &[u64],
) {
    phase.invalid_because = invalid_because(raw, spec, phase, tally, online);
    if let Some(tally) = settled_tally {
        let is_open = matches!(spec.shake, Some(spec::Shake::Open { .. }));
        phase.invalid_because.extend(counts::of_histograms(raw, &phase.name, tally, is_open));
    }
    phase.load_valid = phase.invalid_because.is_empty();
    let is_p99_void = phase.percentiles_valid.p99 == Some(false);
    if is_p99_void && phase.load_valid {
        phase.invalid_because.push(p99_in_words(phase));
    }
    phase.valid = phase.load_valid && !is_p99_void;
}

/// How many shakes were late by the client's own doing, and what that leaves of the percentiles.
fn client_lateness(
    raw: &Raw,
    spec: &PhaseSpec,
    name: &str,
    tally: &Tally,
) -> (Option<u64>, PercentilesValid) {
    let offered = tally.offered;
    if latency::is_of_every_shake(raw) {
        let late = tally.late_turns;
        return (Some(late), PercentilesValid::of(offered, late, late));
    }
    // Earlier formats say how late each send was, and neither whose doing it was where all wait
    // for each other, nor how late the turn of a shake came that was not sent.
    if spec.shake.is_none_or(|shake| shake.is_at_one_instant()) {
        return (None, PercentilesValid::default());
    }
    let lag = raw.histograms.get(&record::hlog::tag(name, Segment::SendLag));
    let sent_late = lag.map_or(0, |lag| lag.count_between(LATE_US + 1, u64::MAX));
    let least = sent_late.saturating_add(tally.skipped_late);
    let most = sent_late.saturating_add(tally.skipped());
    (None, PercentilesValid::of(offered, least, most))
}

/// Why the 99th percentile of a phase is not valid.
fn p99_in_words(phase: &PhaseSummary) -> String {
    let shake = &phase.shake;
    let late = shake.late_turns.map_or_else(
        || "more than allowed".to_owned(),
        |late| format!("{:.3}%", late as f64 / shake.offered.max(1) as f64 * 100.0),
    );
    format!(
        "p99 is not valid: of the shakes, {late} had their turn over {} ms late by the client's \
         own doing; {}% are allowed, a tenth of what is beyond p99, whatever the thresholds",
        LATE_US / 1000,
        LATE_FOR_P99 * 100.0
    )
}

/// What there is to tell beside the causes. `seconds` counts what its seconds did, `tally` what
/// became of its shakes.
fn tell_others(
    raw: &Raw,
    spec: &PhaseSpec,
    time: (u64, u64),
    (tally, seconds): (&Tally, &Tally),
    phase: &mut PhaseSummary,
) {
    phase.attribution.unanswered = evidence::of_unanswered(tally);
    if spec.connect.is_some() {
        phase.attribution.connecting = evidence::of_connecting(raw, time, seconds);
    }
    let Push { sent, missed, .. } = phase.push;
    let said = format!("{} of {} pushes are missing", thousands(missed), thousands(sent));
    phase.attribution.pushes = (missed > 0).then_some(said);
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
    (took > 0.0).then(|| logins as f64 / took).filter(|rate| rate.is_finite())
}

fn shakes(spec: &PhaseSpec, tally: &Tally, seconds: u64) -> Shakes {
    let open = matches!(spec.shake, Some(spec::Shake::Open { .. }));
    Shakes {
        offered_rate: (open && seconds > 0).then(|| tally.offered as f64 / seconds as f64),
        offered: tally.offered,
        sent: tally.sent,
        skipped: tally.skipped(),
        skipped_by: SkippedBy {
            waiting: tally.skipped_waiting,
            offline: tally.skipped_offline,
            late: tally.skipped_late,
        },
        answered: tally.answered,
        granted: tally.granted,
        empty: tally.empty,
        overloaded: tally.overloaded,
        timed_out: tally.timed_out,
        lost: tally.lost,
        late_answers: tally.late_answers,
        late_sends: tally.late_sends,
        late_turns: None,
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
) -> Vec<String> {
    let limits = &raw.manifest.experiment.validity;
    let mut because = Vec::new();
    if phase.seconds.is_none() {
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
