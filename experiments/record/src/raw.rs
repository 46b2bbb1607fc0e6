//! The raw files of a run, read back. The last line of each may be cut off, when the run was
//! killed. What else cannot be read is left out and named.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use attribution::Segment;
use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::events::{ClosingBooks, EventKind, EventRow};
use crate::files::{EVENTS_FILE, FORMAT, MANIFEST_FILE, Manifest, SAMPLES_FILE, SLOW_FILE};
use crate::hlog::{self, HLOG};
use crate::lines::Lines;
use crate::problems::Problems;
use crate::rows::{
    CausesRow, ClientRow, NicRow, ProbeRow, ProcRow, ProcSubject, SampleSource, ServerRow, SlowRow,
    StallRow, parse,
};

/// Why the raw files of a run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// A file is not there or not readable.
    #[error("{}: cannot read it: is this the directory of a run?", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file says what it should not.
    #[error("{}{}: {what}", file.display(), line_in_words(*line))]
    Text {
        /// The file.
        file: PathBuf,
        /// The line, where there are lines.
        line: Option<usize>,
        /// What is wrong.
        what: String,
    },
    /// A newer version wrote it.
    #[error(
        "{}: format {format}, and this lab knows {FORMAT}: a newer lab wrote this run, and its \
         summary is left as that one made it",
        file.display()
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u64,
    },
}

fn line_in_words(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

/// The raw files of a run.
#[derive(Debug)]
pub struct Raw {
    /// What the run was.
    pub manifest: Manifest,
    /// Seconds of client shards.
    pub clients: Vec<ClientRow>,
    /// Seconds of server shards.
    pub servers: Vec<ServerRow>,
    /// Why requests took their time, by shard and second.
    pub causes: Vec<CausesRow>,
    /// What `/proc` said.
    pub procs: Vec<ProcRow>,
    /// What interfaces counted.
    pub nics: Vec<NicRow>,
    /// What the probes saw.
    pub probes: Vec<ProbeRow>,
    /// When CPUs stood still.
    pub stalls: Vec<StallRow>,
    /// Slow requests.
    pub slow: Vec<SlowRow>,
    /// What happened.
    pub events: Vec<EventRow>,
    /// Histograms in microseconds by tag (`phase:segment`), over all seconds.
    pub histograms: HashMap<String, Histogram<u64>>,
    /// What could not be read of the files, beside the manifest, and was left out.
    pub damage: Problems,
}

/// The most that a file of a run has that is one JSON text, in bytes: its manifest, its summary.
const MOST_JSON: u64 = 4 << 20;

/// Reads a file of a run that is one JSON text.
///
/// # Errors
/// What the system says, or that it is none that a run has.
pub fn read_whole(directory: &Path, name: &str) -> io::Result<Vec<u8>> {
    read_within(directory, name, MOST_JSON)
}

/// Reads a file of a run that has so many bytes at most.
///
/// # Errors
/// As [`read_whole`].
pub fn read_within(directory: &Path, name: &str, most: u64) -> io::Result<Vec<u8>> {
    platform::read_within(&directory.join(name), most)
}

/// Hands the whole lines of a file to `read`, each with its number. A last line without an end was
/// cut off by a kill and is left out. A line that cannot be read is left out and named.
fn each_line(
    directory: &Path,
    name: &'static str,
    damage: &mut Problems,
    mut read: impl FnMut(&[u8]) -> Result<(), String>,
) {
    let mut lines = match Lines::open(&directory.join(name)) {
        Ok(lines) => lines,
        Err(error) => {
            let why = format!("{name}: cannot read it ({error}); what it says is missing here");
            return damage.add_of_file(name, why);
        }
    };
    loop {
        match lines.next_line() {
            Ok(Some((number, line))) => {
                if let Err(error) = read(line) {
                    let why = format!("{name}:{number}: {error}; the line is left out");
                    damage.add_of_file(name, why);
                }
            }
            Ok(None) => return,
            Err(error) => {
                let why = format!("{name}: {error}; it and what comes after it are left out");
                return damage.add_of_file(name, why);
            }
        }
    }
}

/// The same for lines of JSON.
fn each_row(
    directory: &Path,
    name: &'static str,
    damage: &mut Problems,
    mut read: impl FnMut(&[u8]) -> Result<(), serde_json::Error>,
) {
    each_line(directory, name, damage, |line| read(line).map_err(|error| error.to_string()));
}

fn push<T: DeserializeOwned>(rows: &mut Vec<T>, line: &[u8]) -> Result<(), serde_json::Error> {
    rows.push(parse(line)?);
    Ok(())
}

fn manifest(directory: &Path) -> Result<Manifest, RawError> {
    let file = directory.join(MANIFEST_FILE);
    let text = read_whole(directory, MANIFEST_FILE)
        .map_err(|source| RawError::File { file: file.clone(), source })?;
    let wrong = |error: serde_json::Error| RawError::Text {
        file: file.clone(),
        line: Some(error.line()),
        what: error.to_string(),
    };
    let value: Value = serde_json::from_slice(&text).map_err(wrong)?;
    match value["format"].as_u64() {
        Some(format) if format > u64::from(FORMAT) => Err(RawError::Newer { file, format }),
        _ => serde_json::from_slice(&text).map_err(wrong),
    }
}

impl Raw {
    /// Reads the files of a run.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn read(directory: &Path) -> Result<Self, RawError> {
        let mut raw = Self {
            manifest: manifest(directory)?,
            clients: Vec::new(),
            servers: Vec::new(),
            causes: Vec::new(),
            procs: Vec::new(),
            nics: Vec::new(),
            probes: Vec::new(),
            stalls: Vec::new(),
            slow: Vec::new(),
            events: Vec::new(),
            histograms: HashMap::new(),
            damage: Problems::default(),
        };
        each_row(directory, SAMPLES_FILE, &mut raw.damage, |line| match SampleSource::of(line)? {
            SampleSource::Client => push(&mut raw.clients, line),
            SampleSource::Server => push(&mut raw.servers, line),
            SampleSource::Causes => push(&mut raw.causes, line),
            SampleSource::Proc => push(&mut raw.procs, line),
            SampleSource::Nic => push(&mut raw.nics, line),
            SampleSource::Probe => push(&mut raw.probes, line),
            SampleSource::Stalls => push(&mut raw.stalls, line),
            SampleSource::Other => Ok(()),
        });
        each_row(directory, SLOW_FILE, &mut raw.damage, |line| push(&mut raw.slow, line));
        each_row(directory, EVENTS_FILE, &mut raw.damage, |line| {
            raw.events.push(EventRow::parse(line)?);
            Ok(())
        });
        raw.histograms = histograms(directory, &mut raw.damage);
        raw.name_strange_tags();
        Ok(raw)
    }

    /// Histograms of another phase or segment than the run has are nobody's.
    fn name_strange_tags(&mut self) {
        let phases = &self.manifest.experiment.phases;
        let is_known = |tag: &str| {
            let (phase, segment) = tag.rsplit_once(':').unwrap_or((tag, ""));
            let of_run = phases.iter().any(|it| it.name.as_str() == phase);
            of_run && Segment::ALL.iter().any(|it| it.name() == segment)
        };
        let mut strange: Vec<(&String, u64)> = self
            .histograms
            .iter()
            .filter(|(tag, _)| !is_known(tag))
            .map(|(tag, values)| (tag, values.len()))
            .collect();
        strange.sort_unstable();
        for (tag, values) in strange {
            let why = format!(
                "{HLOG}: {values} values have the tag \"{tag}\", which is of no phase and segment \
                 of this run; they are left out"
            );
            self.damage.add_of_file(HLOG, why);
        }
    }

    /// When a phase was, in Unix seconds: its start and its exclusive end; `None` when it never
    /// began. One that never ended goes on to the last sample.
    pub fn phase_time(&self, name: &str) -> Option<(u64, u64)> {
        let events = || self.events.iter().rev();
        let is_start = |event: &&EventRow| match &event.kind {
            EventKind::PhaseStarts { phase, .. } => phase == name,
            _ => false,
        };
        let is_end = |event: &&EventRow| match &event.kind {
            EventKind::PhaseEnds { phase } => phase == name,
            _ => false,
        };
        let start = events().find(is_start)?.t as u64;
        let last = self.clients.iter().map(|row| row.t.saturating_add(1)).max().unwrap_or(start);
        let end = events().find(is_end).map_or(last, |event| event.t as u64);
        Some((start, end.max(start)))
    }

    /// What `/proc` says of a program, of the protocols or of the machine.
    pub fn proc_rows(&self, of: ProcSubject) -> impl Iterator<Item = &ProcRow> {
        self.procs.iter().filter(move |row| row.of == of)
    }

    /// The sum of a value of `/proc` samples; `None` when one of them is missing or there is none.
    pub fn sum(
        &self,
        of: ProcSubject,
        value: impl Fn(&ProcRow) -> Option<u64>,
        start: u64,
        end: u64,
    ) -> Option<u64> {
        let rows = self.proc_rows(of).filter(|row| (start..end).contains(&row.t));
        let values: Vec<Option<u64>> = rows.map(value).collect();
        if values.is_empty() { None } else { total(values) }
    }

    /// The books as they were closed; empty when they were not.
    pub fn books(&self) -> ClosingBooks {
        let books = |event: &EventRow| match &event.kind {
            EventKind::Books(books) => Some(**books),
            _ => None,
        };
        self.events.iter().rev().find_map(books).unwrap_or_default()
    }
}

/// The sum of values that are all there. What a damaged file says may be more than any number.
pub fn total(values: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    values.into_iter().try_fold(0, |sum: u64, value| Some(sum.saturating_add(value?)))
}

/// Adds up the histograms of all seconds by their tags.
fn histograms(directory: &Path, damage: &mut Problems) -> HashMap<String, Histogram<u64>> {
    let mut sums: HashMap<String, Histogram<u64>> = HashMap::new();
    let mut decoder = hlog::Decoder::default();
    each_line(directory, HLOG, damage, |line| add_histogram(line, &mut sums, &mut decoder));
    sums
}

fn add_histogram(
    line: &[u8],
    sums: &mut HashMap<String, Histogram<u64>>,
    decoder: &mut hlog::Decoder,
) -> Result<(), String> {
    let interval = decoder.line(line, |_| true).map_err(|error| error.to_string())?;
    let Some(interval) = interval else { return Ok(()) };
    match sums.get_mut(&interval.tag) {
        Some(sum) => sum.add(&interval.values).map_err(|error| error.to_string())?,
        None => drop(sums.insert(interval.tag, interval.values)),
    }
    Ok(())
}
