//! What measured runs say about one request and one connection.

use serde::Serialize;

use crate::compare::figures::{Figure, Pool};
use crate::compare::sets::{LatencyOf, RecordedRun, SHORTEST_PHASE_S, SamplingUnit, batches};
use crate::input::InputError;
use crate::stats::{Estimate, Scale};
use crate::summary::PhaseSummary;
use record::ProcSubject;
use spec::{Hosts, Shake};

/// A frame on Ethernet has this around its IP packet: preamble 8, header 14, checksum 4, gap 12.
const ETHERNET_BYTES: f64 = 38.0;

/// Headers of an IP packet with TCP and timestamps.
const HEADER_BYTES: f64 = 52.0;

/// A figure with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct IntervalEstimate {
    /// The figure.
    pub value: f64,
    /// Between what it lies with 95% confidence; null when nothing tells how much it varies.
    pub interval: Option<(f64, f64)>,
}

impl IntervalEstimate {
    /// An interval that ends nowhere says nothing.
    pub(super) fn new(value: f64, interval: Option<(f64, f64)>) -> Self {
        let ends = |(low, high): &(f64, f64)| *low > 0.0 && high.is_finite();
        Self { value, interval: interval.filter(ends) }
    }

    /// A figure of which there is something.
    fn of(pool: &Pool<'_>, figure: Figure) -> Option<Self> {
        let value = pool.value(figure, None).filter(|value| *value > 0.0)?;
        let estimate = pool.estimate(figure, Scale::Ratio);
        Some(Self::new(value, estimate.and_then(|it| it.interval(Scale::Ratio))))
    }
}

/// What goes over the wire for a request, Ethernet's own bytes included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WireUse {
    /// Bytes to the server.
    pub to_server: f64,
    /// Bytes to the client.
    pub to_client: f64,
    /// Packets, both ways.
    pub packets: f64,
}

/// One request and one connection, as measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredPhase {
    /// The experiment.
    pub experiment: String,
    /// Its phase.
    pub phase: String,
    /// How many runs.
    pub runs: usize,
    /// Whether margins are from within the only run.
    pub within_run: bool,
    /// How long the phase was, in the shortest of them.
    pub seconds: f64,
    /// CPUs of the machine.
    pub cpus: usize,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Connections held.
    pub connections: u64,
    /// Shakes answered a second.
    pub rate: IntervalEstimate,
    /// Whether as many were answered as the load asked for: more may have been possible.
    pub held: bool,
    /// Whether the load waited for answers: more was not possible.
    pub saturated: bool,
    /// CPU time of the server for a request, in microseconds.
    pub server_us: IntervalEstimate,
    /// CPU time of the clients for a request.
    pub client_us: Option<IntervalEstimate>,
    /// Memory of the server for a connection, its process and the kernel's, in bytes.
    pub server_bytes: Option<IntervalEstimate>,
    /// Memory of a client for a connection, the same.
    pub client_bytes: Option<IntervalEstimate>,
    /// What goes over the wire.
    pub wire: Option<WireUse>,
    /// Logins a second; null when nobody logged in.
    pub connect_rate: Option<f64>,
}

/// Takes the phase with the most shakes a second of those that will do, or the one named. One that
/// is too short to tell how it varies is taken only when there is no other.
pub(super) fn measure(
    runs: &[RecordedRun],
    phase: Option<&str>,
) -> Result<MeasuredPhase, InputError> {
    let first = &runs[0];
    let mut found: Option<MeasuredPhase> = None;
    let mut why = String::new();
    let phases = first.summary.phases.iter().map(|it| it.name.as_str());
    for name in phases.filter(|name| phase.is_none_or(|phase| phase == *name)) {
        match of_phase(runs, name)? {
            Ok(it) => {
                let rank =
                    |it: &MeasuredPhase| (it.seconds >= SHORTEST_PHASE_S as f64, it.rate.value);
                if found.as_ref().is_none_or(|best| rank(best) < rank(&it)) {
                    found = Some(it);
                }
            }
            Err(because) => why += &format!("; {name}: {because}"),
        }
    }
    if let Some(phase) = phase.filter(|_| why.is_empty() && found.is_none()) {
        let names: Vec<&str> = first.summary.phases.iter().map(|it| it.name.as_str()).collect();
        why = format!("; there is no phase {phase}, but {}", names.join(", "));
    }
    found.ok_or(InputError::NoPhase { why })
}

/// A phase of all runs, or why it does not do.
fn of_phase(runs: &[RecordedRun], name: &str) -> Result<Result<MeasuredPhase, String>, InputError> {
    let Some(units) = runs
        .iter()
        .map(|run| SamplingUnit::of_run(run, name, LatencyOf::Sent))
        .collect::<Option<Vec<_>>>()
    else {
        return Ok(Err("not in every run".to_owned()));
    };
    let summaries: Vec<_> = runs.iter().filter_map(|run| run.phase(name)).collect();
    // No percentile is projected: a load that was what was asked for will do.
    let unsound = summaries.iter().filter(|it| !it.load_valid);
    if let Some(because) = unsound.flat_map(|it| &it.invalid_because).next() {
        return Ok(Err(because.clone()));
    }
    let first = &runs[0];
    let specs = first.raw.manifest.experiment.ordered_phases().unwrap_or_default();
    let shake = specs.iter().find(|it| it.name.as_str() == name).and_then(|it| it.shake);
    let Some(shake) = shake else { return Ok(Err("no shakes".to_owned())) };
    let saturated = matches!(shake, Shake::Closed { .. });
    let sum = |of: fn(&PhaseSummary) -> u64| -> u64 { summaries.iter().map(|it| of(it)).sum() };
    let (offered, answered) = (sum(|it| it.shake.offered), sum(|it| it.shake.answered));
    let held = answered as f64 >= HELD * offered as f64;
    if !held && !saturated {
        return Ok(Err(format!("{answered} answers to {offered} shakes")));
    }
    // Of a single run, its own batches tell how it varies.
    let parts = if runs.len() == 1 { batches(first, name, LatencyOf::Sent)? } else { None };
    let varying = parts.as_deref().unwrap_or(&units);
    let pool = Pool::new(varying, parts.is_some());
    let whole = Pool::new(&units, false);
    let Some(server_us) = IntervalEstimate::of(&pool, Figure::ServerCpu) else {
        return Ok(Err("no CPU time of the server".to_owned()));
    };
    let Some(rate) = IntervalEstimate::of(&pool, Figure::Rate) else {
        return Ok(Err("no rate".to_owned()));
    };
    let machine = first.raw.manifest.hosts.first().filter(|machine| !machine.cpus.is_empty());
    let Some(machine) = machine else {
        return Ok(Err("its manifest.json names no machine with CPUs".to_owned()));
    };
    // A phase in which nobody was left to log in does not say how fast that goes.
    let connect_rates = first.summary.phases.iter().filter_map(|it| it.connections.connect_rate);
    let connect_rates = connect_rates.filter(|rate| *rate > 0.0);
    Ok(Ok(MeasuredPhase {
        experiment: first.summary.experiment.clone(),
        phase: name.to_owned(),
        runs: runs.len(),
        within_run: runs.len() == 1,
        seconds: units.iter().map(|unit| unit.seconds).fold(f64::INFINITY, f64::min),
        cpus: machine.cpus.len(),
        memory_bytes: machine.memory_bytes,
        connections: summaries.iter().map(|it| it.connections.established).min().unwrap_or(0),
        rate,
        held,
        saturated,
        server_us,
        client_us: IntervalEstimate::of(&pool, Figure::ClientCpu),
        server_bytes: bytes(&whole, &units, |unit| unit.server_bytes),
        client_bytes: bytes(&whole, &units, |unit| unit.client_bytes),
        wire: wire(runs, name, answered),
        connect_rate: connect_rates.reduce(f64::min),
    }))
}

/// The share of the shakes that must be answered for a rate to count as held.
const HELD: f64 = 0.999;

/// Memory for a connection: a process's part and one socket of the kernel's.
fn bytes(
    whole: &Pool<'_>,
    units: &[SamplingUnit],
    of: fn(&SamplingUnit) -> Option<f64>,
) -> Option<IntervalEstimate> {
    let kernel = whole.value(Figure::KernelMemory, None)?;
    let sums: Vec<f64> = units
        .iter()
        .map(|unit| Some(of(unit)? + unit.kernel_bytes?))
        .collect::<Option<_>>()
        .filter(|_| kernel > 0.0)?;
    let value = sums.iter().sum::<f64>() / sums.len() as f64;
    let interval = Estimate::of(&sums, Scale::Ratio).and_then(|it| it.interval(Scale::Ratio));
    Some(IntervalEstimate::new(value, interval))
}

/// What the kernel counted on its way, for a request. Each answer is taken to be a packet, and all
/// others to go to the server.
fn wire(runs: &[RecordedRun], name: &str, answered: u64) -> Option<WireUse> {
    let (mut octets, mut packets, mut received) = (0, 0, 0);
    for run in runs {
        let (start, end) = run.raw.phase_time(name)?;
        let during = |t: u64| (start..end).contains(&t);
        // Where both ends share a namespace, what leaves it arrives in it: one way is all.
        let both = !matches!(run.raw.manifest.experiment.hosts, Hosts::Local);
        let rows = run.raw.proc_rows(ProcSubject::Tcp).filter(|row| during(row.t));
        for row in rows.filter(|row| row.namespace.as_deref() == Some("server")) {
            let grown = row.grown.as_ref()?;
            let of = |name: &str| grown.get(name).and_then(|grown| u64::try_from(*grown).ok());
            octets += of("IpExtOutOctets")? + if both { of("IpExtInOctets")? } else { 0 };
            packets += of("TcpOutSegs")? + if both { of("TcpInSegs")? } else { 0 };
        }
        let clients = run.raw.clients.iter().filter(|line| during(line.t));
        received += clients.map(|line| line.tally.bytes_in).sum::<u64>();
    }
    if answered == 0 || packets == 0 {
        return None;
    }
    let each = |sum: u64| sum as f64 / answered as f64;
    let answer = each(received) + HEADER_BYTES;
    Some(WireUse {
        to_server: (each(octets) - answer).max(0.0)
            + (each(packets) - 1.0).max(0.0) * ETHERNET_BYTES,
        to_client: answer + ETHERNET_BYTES,
        packets: each(packets),
    })
}
