//! What is compared: a run, or a directory of repeated runs, read from raw files. Owns: units,
//! the parts of a set that vary independently. Must not know: statistics.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use attribution::Segment;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::input::InputError;
use crate::summary;
use crate::summary::latency::{self, Bounded};
use crate::summary::{PhaseSummary, Summary};
use record::hlog::{self, HLOG};
use record::{Lines, MANIFEST_FILE, ProcSubject, Raw};

/// A run, as far as comparisons need it.
#[derive(Debug)]
pub(crate) struct RecordedRun {
    pub(crate) directory: PathBuf,
    /// What it is called: its directory, or the archive from which that was unpacked.
    pub(crate) name: PathBuf,
    /// As it stands in the file, with fields of later versions.
    pub(crate) manifest: Value,
    pub(crate) raw: Raw,
    pub(crate) summary: Summary,
}

impl RecordedRun {
    pub(crate) fn read(directory: &Path, name: &Path) -> Result<Self, InputError> {
        let unreadable = |source: Box<dyn Error + Send + Sync>| InputError::Run { source };
        let raw = Raw::read(directory).map_err(|error| unreadable(error.into()))?;
        let summary = Summary::of(&raw).map_err(|error| unreadable(error.into()))?;
        let text = record::read_whole(directory, MANIFEST_FILE);
        let text = text.map_err(|error| unreadable(error.into()))?;
        let manifest = serde_json::from_slice(&text).map_err(|error| unreadable(error.into()))?;
        let (directory, name) = (directory.to_owned(), name.to_owned());
        Ok(Self { directory, name, manifest, raw, summary })
    }

    /// What is left out of its files, each with the run.
    pub(crate) fn damage(&self) -> impl Iterator<Item = String> + '_ {
        let sentences = self.raw.damage.sentences();
        sentences.map(|sentence| format!("{}: {sentence}", self.name.display()))
    }

    /// Whether something is left out of one of these files.
    pub(crate) fn lacks_some_of(&self, files: &[&str]) -> bool {
        files.iter().any(|file| self.raw.damage.is_damaged(file))
    }

    pub(crate) fn phase(&self, name: &str) -> Option<&PhaseSummary> {
        self.summary.phases.iter().find(|phase| phase.name == name)
    }
}

/// Of which shakes latencies are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LatencyOf {
    /// Every one that was due.
    Due,
    /// Those that were sent: all that earlier formats have.
    Sent,
}

impl LatencyOf {
    /// What all of these runs have.
    pub(crate) fn all<'a>(runs: impl IntoIterator<Item = &'a RecordedRun>) -> Self {
        let due = runs.into_iter().all(|run| latency::is_of_every_shake(&run.raw));
        if due { Self::Due } else { Self::Sent }
    }
}

/// Reads the run in a directory, or the runs in the directories in it, in the order of their names.
/// A single run is called by `name`.
pub(crate) fn read(directory: &Path, name: &Path) -> Result<Vec<RecordedRun>, InputError> {
    let is_run = |directory: &Path| directory.join(MANIFEST_FILE).is_file();
    if is_run(directory) {
        return Ok(vec![RecordedRun::read(directory, name)?]);
    }
    let entries = std::fs::read_dir(directory)
        .map_err(|source| InputError::Directory { directory: directory.to_owned(), source })?;
    let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    runs.retain(|entry| is_run(entry));
    runs.sort();
    if runs.is_empty() {
        return Err(InputError::NoRun { directory: directory.to_owned() });
    }
    runs.iter().map(|run| RecordedRun::read(run, run)).collect()
}

/// CPU time of a side, in the seconds in which it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuTime {
    pub(crate) us: u64,
    /// Shakes answered in these seconds.
    pub(crate) answered: u64,
}

/// The part of a unit's seconds in which CPU time must be known. A thread that ends takes with it
/// what it used in its last second.
const KNOWN_SHARE: f64 = 0.5;

/// A part of a set that varies independently of the others: a phase of a run, or a batch of its
/// seconds.
#[derive(Debug, Default)]
pub(crate) struct SamplingUnit {
    pub(crate) seconds: f64,
    pub(crate) answered: u64,
    /// Shakes answered in its median second; `None` without any.
    pub(crate) median_second: Option<f64>,
    pub(crate) server_cpu: Option<CpuTime>,
    pub(crate) client_cpu: Option<CpuTime>,
    pub(crate) retransmits: Option<u64>,
    pub(crate) latency: Option<Histogram<u64>>,
    /// Those of them that are bounds: no answer came in time.
    pub(crate) latency_bounds: Option<Histogram<u64>>,
    /// Of whole runs only: memory is what a run has, not a second.
    pub(crate) server_bytes: Option<f64>,
    pub(crate) client_bytes: Option<f64>,
    pub(crate) kernel_bytes: Option<f64>,
}

impl SamplingUnit {
    /// A phase of a run.
    pub(crate) fn of_run(run: &RecordedRun, name: &str, of: LatencyOf) -> Option<Self> {
        let phase = run.phase(name)?;
        let (start, end) = run.raw.phase_time(name)?;
        let latency = match of {
            LatencyOf::Due => Bounded::of_recorded(&run.raw, name),
            LatencyOf::Sent => Bounded::of_phase_sent(&run.raw, name),
        };
        Some(
            Self {
                seconds: (end - start) as f64,
                answered: phase.shake.answered,
                server_bytes: phase.memory.server_user_bytes_per_connection,
                client_bytes: phase.memory.client_user_bytes_per_connection,
                kernel_bytes: phase.memory.kernel_bytes_per_socket,
                latency: latency.all,
                latency_bounds: latency.bounds,
                ..Self::default()
            }
            .with_counters(run, start, end),
        )
    }

    fn with_counters(mut self, run: &RecordedRun, start: u64, end: u64) -> Self {
        self.median_second = median_second(run, start, end);
        self.server_cpu = cpu(run, ProcSubject::Server, start, end);
        self.client_cpu = cpu(run, ProcSubject::Client, start, end);
        self.retransmits = run.raw.sum(ProcSubject::Tcp, |row| row.retrans_segs, start, end);
        self
    }
}

/// The median of what was answered in each second.
fn median_second(run: &RecordedRun, start: u64, end: u64) -> Option<f64> {
    let seconds = summary::seconds_by_clock(&run.raw, start, end);
    let mut answered: Vec<u64> = seconds.into_iter().map(|(_, answered)| answered).collect();
    answered.sort_unstable();
    let (low, high) =
        (answered.get((answered.len().max(1) - 1) / 2)?, answered.get(answered.len() / 2)?);
    let median = f64::midpoint(*low as f64, *high as f64);
    (median > 0.0).then_some(median)
}

/// The CPU time of a side from one second to another; `None` when too little of it is known.
fn cpu(run: &RecordedRun, of: ProcSubject, start: u64, end: u64) -> Option<CpuTime> {
    // Of several clients, a second is known when it is of all.
    let mut seconds: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    for row in run.raw.proc_rows(of).filter(|row| (start..end).contains(&row.t)) {
        let sum = seconds.entry(row.t).or_insert(Some(0));
        *sum = (*sum).zip(row.cpu_us).map(|(sum, us)| sum + us);
    }
    seconds.retain(|_, us| us.is_some());
    let enough = seconds.len() as f64 >= KNOWN_SHARE * (end - start) as f64;
    let lines = run.raw.clients.iter().filter(|line| seconds.contains_key(&line.t));
    let answered = lines.map(|line| line.tally.answered).sum();
    enough.then(|| CpuTime { us: seconds.values().flatten().sum(), answered })
}

/// Batches into which the seconds of a phase are divided: the usual number, so that a batch is long
/// and their variance still known (Schmeiser, "Batch size effects in the analysis of simulation
/// output", Operations Research 30, 1982: between 10 and 30).
const BATCHES: u64 = 10;

/// Fewer batches do not tell how much they vary.
const FEWEST: u64 = 5;

/// Seconds of a batch at least.
const SHORTEST_S: u64 = 2;

/// The shortest phase whose variation can be told from itself.
pub(crate) const SHORTEST_PHASE_S: u64 = FEWEST * SHORTEST_S;

/// The batches of a phase in their order; `None` when it is too short.
pub(crate) fn batches(
    run: &RecordedRun,
    name: &str,
    of: LatencyOf,
) -> Result<Option<Vec<SamplingUnit>>, InputError> {
    let Some((start, end)) = run.raw.phase_time(name) else { return Ok(None) };
    let seconds = end - start;
    if seconds < SHORTEST_PHASE_S {
        return Ok(None);
    }
    let count = BATCHES.min(seconds / SHORTEST_S);
    let edge = |batch: u64| start + batch * seconds / count;
    let mut batches: Vec<SamplingUnit> = (0..count)
        .map(|batch| {
            let (from, to) = (edge(batch), edge(batch + 1));
            let lines = run.raw.clients.iter().filter(|line| (from..to).contains(&line.t));
            let answered = lines.map(|line| line.tally.answered).sum();
            SamplingUnit { seconds: (to - from) as f64, answered, ..SamplingUnit::default() }
                .with_counters(run, from, to)
        })
        .collect();
    let segments: &[Segment] = match of {
        LatencyOf::Due => &[Segment::Latency, Segment::LatencyAtLeast],
        LatencyOf::Sent => &[latency::sent_segment(&run.raw)],
    };
    for (place, segment) in segments.iter().enumerate() {
        for (t, values) in latency_by_second(&run.directory, name, *segment)? {
            // What was answered after the end belongs to the last.
            let batch = (1..count).find(|batch| t < edge(*batch)).unwrap_or(count);
            let batch = &mut batches[batch as usize - 1];
            let sum = if place == 0 { &mut batch.latency } else { &mut batch.latency_bounds };
            match sum {
                Some(sum) => {
                    let added = sum.add(&values);
                    added.map_err(|error| InputError::histograms(&run.directory, error))?;
                }
                none => *none = Some(values),
            }
        }
    }
    if of == LatencyOf::Sent {
        for batch in &mut batches {
            let sent = Bounded::of_sent(batch.latency.take(), latency::timeout_us(&run.raw));
            (batch.latency, batch.latency_bounds) = (sent.all, sent.bounds);
        }
    }
    Ok(Some(batches))
}

/// The latencies of a phase by the Unix second in which answers came.
fn latency_by_second(
    directory: &Path,
    phase: &str,
    segment: Segment,
) -> Result<Vec<(u64, Histogram<u64>)>, InputError> {
    let mut lines = Lines::open(&directory.join(HLOG))
        .map_err(|error| InputError::histograms(directory, error))?;
    let wanted = hlog::tag(phase, segment);
    let (mut decoder, mut seconds) = (hlog::Decoder::default(), Vec::new());
    let unreadable = |error: &dyn Display| InputError::histograms(directory, error);
    while let Some((_, line)) = lines.next_line().map_err(|error| unreadable(&error))? {
        let interval = decoder.line(line, |tag| tag == wanted);
        let interval = interval.map_err(|error| unreadable(&error))?;
        seconds.extend(interval.map(|interval| (interval.t, interval.values)));
    }
    Ok(seconds)
}
