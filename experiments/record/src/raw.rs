//! The raw files of a run, read back. The last line of each may be cut off, when the run was
//! killed. What else cannot be read is left out and named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use accounting::Ledger;
use accounting::Money;
use accounting::server::Counters;
use attribution::{CauseRows, Tally, Trace};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{FORMAT, HLOG, Manifest, Problems};

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

/// A line of `samples.jsonl`, as far as summaries need it.
#[derive(Clone, Debug, Deserialize)]
pub struct SampleLine {
    /// The Unix second.
    pub t: u64,
    /// Of which host.
    #[serde(default)]
    pub host: Option<String>,
    /// What kind of sample.
    pub source: String,
    /// Of which program, for samples of `/proc`.
    #[serde(default)]
    pub of: Option<String>,
    /// Which client.
    #[serde(default)]
    pub client: Option<u32>,
    /// Which shard.
    #[serde(default)]
    pub shard: Option<usize>,
    /// Everything else.
    #[serde(flatten)]
    pub values: HashMap<String, Value>,
}

impl SampleLine {
    /// A value that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name)?.as_u64()
    }
}

/// A second of a shard of a client.
#[derive(Clone, Debug, Deserialize)]
pub struct ClientLine {
    /// The Unix second.
    pub t: u64,
    /// Which client.
    pub client: u32,
    /// Which shard.
    pub shard: usize,
    /// Users logged in.
    pub online: u64,
    /// CPU time of the thread.
    pub cpu_us: Option<u64>,
    /// Its time waiting for a CPU.
    pub wait_us: Option<u64>,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
}

/// A second of a shard of the server.
#[derive(Clone, Debug, Deserialize)]
pub struct ServerLine {
    /// The Unix second.
    pub t: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counters: Counters,
}

/// Why the requests of a second of a shard took their time.
#[derive(Clone, Debug, Deserialize)]
pub struct CauseLine {
    /// The Unix second in which they were over.
    pub t: u64,
    /// The phase in which they were due.
    pub phase: Option<String>,
    /// The sums.
    #[serde(flatten)]
    pub rows: CauseRows,
}

/// A line of `slow.jsonl`, as far as summaries need it.
#[derive(Clone, Debug, Deserialize)]
pub struct SlowLine {
    /// The phase in which it was due.
    pub phase: Option<String>,
    /// What the kernel saw of it.
    pub seen: Option<Trace>,
}

/// A line of `events.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub struct EventLine {
    /// When, in Unix seconds.
    pub t: f64,
    /// What.
    pub event: String,
    /// More about it.
    #[serde(flatten)]
    pub fields: HashMap<String, Value>,
}

impl EventLine {
    /// The phase it is about.
    pub fn phase(&self) -> Option<&str> {
        self.fields.get("phase")?.as_str()
    }

    /// Something it says.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.fields.get(name)?.clone()).ok()
    }
}

/// The books of a run as its last event has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClosingBooks {
    /// The server's.
    pub server: Option<Ledger>,
    /// What clients received.
    pub received: Option<Money>,
    /// Packets that two users received.
    pub double_grants: Option<u64>,
}

/// The raw files of a run.
#[derive(Debug)]
pub struct Raw {
    /// What the run was.
    pub manifest: Manifest,
    /// Seconds of client shards.
    pub clients: Vec<ClientLine>,
    /// Seconds of server shards.
    pub servers: Vec<ServerLine>,
    /// Why requests took their time, by shard and second.
    pub causes: Vec<CauseLine>,
    /// Slow requests.
    pub slow: Vec<SlowLine>,
    /// Other samples.
    pub others: Vec<SampleLine>,
    /// What happened.
    pub events: Vec<EventLine>,
    /// Histograms in microseconds by tag (`phase:segment`), over all seconds.
    pub histograms: HashMap<String, Histogram<u64>>,
    /// What could not be read of the files, beside the manifest, and was left out.
    pub damage: Problems,
}

fn read(directory: &Path, name: &str) -> Result<(PathBuf, String), RawError> {
    let file = directory.join(name);
    let bytes =
        std::fs::read(&file).map_err(|source| RawError::File { file: file.clone(), source })?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

/// The whole lines of a file, each with its number. A last line without an end was cut off by a
/// kill and is left out.
fn lines(directory: &Path, name: &str, damage: &mut Problems) -> Vec<(usize, String)> {
    match read(directory, name) {
        Ok((_, text)) => {
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect()
        }
        Err(_) => {
            damage.add(format!("{name}: cannot read it; what it says is missing here"));
            Vec::new()
        }
    }
}

/// Reads lines of JSON and hands each to `take`. One that says what it should not is left out.
fn each_line(
    directory: &Path,
    name: &str,
    damage: &mut Problems,
    mut take: impl FnMut(Value) -> Result<(), serde_json::Error>,
) {
    for (number, line) in lines(directory, name, damage) {
        if let Err(error) = serde_json::from_str(&line).and_then(&mut take) {
            damage.add(format!("{name}:{number}: {error}; the line is left out"));
        }
    }
}

fn typed<T: DeserializeOwned>(into: &mut Vec<T>, value: Value) -> Result<(), serde_json::Error> {
    into.push(serde_json::from_value(value)?);
    Ok(())
}

fn manifest(directory: &Path) -> Result<Manifest, RawError> {
    let (file, text) = read(directory, "manifest.json")?;
    let wrong = |error: serde_json::Error| RawError::Text {
        file: file.clone(),
        line: Some(error.line()),
        what: error.to_string(),
    };
    let value: Value = serde_json::from_str(&text).map_err(wrong)?;
    match value["format"].as_u64() {
        Some(format) if format > u64::from(FORMAT) => Err(RawError::Newer { file, format }),
        _ => serde_json::from_str(&text).map_err(wrong),
    }
}

impl Raw {
    /// Reads the files of a run.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn read(directory: &Path) -> Result<Self, RawError> {
        let manifest = manifest(directory)?;
        let mut damage = Problems::default();
        let (mut clients, mut servers, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let (mut causes, mut slow, mut events) = (Vec::new(), Vec::new(), Vec::new());
        each_line(directory, "samples.jsonl", &mut damage, |value| {
            match value["source"].as_str() {
                Some("client") => typed(&mut clients, value),
                Some("server") => typed(&mut servers, value),
                Some("causes") => typed(&mut causes, value),
                _ => typed(&mut others, value),
            }
        });
        each_line(directory, "slow.jsonl", &mut damage, |value| typed(&mut slow, value));
        each_line(directory, "events.jsonl", &mut damage, |value| typed(&mut events, value));
        let histograms = histograms(directory, &mut damage);
        Ok(Self { manifest, clients, servers, causes, slow, others, events, histograms, damage })
    }

    /// When a phase was, in Unix seconds: the first, and the first behind it; `None` when it never
    /// began. The end of one that never ended is behind the last sample.
    pub fn phase_time(&self, name: &str) -> Option<(u64, u64)> {
        let about = |what: &'static str| {
            self.events.iter().rev().find(move |it| it.event == what && it.phase() == Some(name))
        };
        let start = about("phase_starts")?.t as u64;
        let last = self.clients.iter().map(|line| line.t + 1).max().unwrap_or(start);
        let end = about("phase_ends").map_or(last, |event| event.t as u64);
        Some((start, end.max(start)))
    }

    /// What `/proc` says of a program, of the protocols or of the machine.
    pub fn proc_lines(&self, of: &str) -> impl Iterator<Item = &SampleLine> {
        let lines = self.others.iter().filter(|line| line.source == "proc");
        lines.filter(move |line| line.of.as_deref() == Some(of))
    }

    /// The sum of a value of `/proc` samples; `None` when one of them is missing or there is none.
    pub fn sum(&self, of: &str, name: &str, start: u64, end: u64) -> Option<u64> {
        let lines = self.proc_lines(of);
        let values =
            lines.filter(|line| (start..end).contains(&line.t)).map(|line| line.number(name));
        let values: Vec<Option<u64>> = values.collect();
        if values.is_empty() { None } else { values.into_iter().sum() }
    }

    /// The books as they were closed.
    pub fn books(&self) -> ClosingBooks {
        let Some(event) = self.events.iter().rev().find(|it| it.event == "books") else {
            return ClosingBooks::default();
        };
        let clients: Option<Value> = event.get("clients");
        ClosingBooks {
            server: event.get("server"),
            received: event.get("received_by_clients"),
            double_grants: clients.and_then(|clients| clients["double_grants"].as_u64()),
        }
    }
}

/// Adds up the histograms of all seconds by their tags.
fn histograms(directory: &Path, damage: &mut Problems) -> HashMap<String, Histogram<u64>> {
    let mut sums: HashMap<String, Histogram<u64>> = HashMap::new();
    let mut deserializer = Deserializer::new();
    for (number, line) in lines(directory, HLOG, damage) {
        if let Err(what) = add_histograms(&line, &mut sums, &mut deserializer) {
            damage.add(format!("{HLOG}:{number}: {what}; the line is left out"));
        }
    }
    sums
}

fn add_histograms(
    line: &str,
    sums: &mut HashMap<String, Histogram<u64>>,
    deserializer: &mut Deserializer,
) -> Result<(), String> {
    let line = format!("{line}\n");
    for entry in IntervalLogIterator::new(line.as_bytes()) {
        let entry = entry.map_err(|_| "is no line of a histogram log".to_owned())?;
        let LogEntry::Interval(interval) = entry else { continue };
        let tag = interval.tag().map_or("", |tag| tag.as_str());
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            interval.encoded_histogram(),
        )
        .map_err(|error| error.to_string())?;
        let values: Histogram<u64> =
            deserializer.deserialize(&mut bytes.as_slice()).map_err(|error| error.to_string())?;
        match sums.get_mut(tag) {
            Some(sum) => sum.add(&values).map_err(|error| error.to_string())?,
            None => drop(sums.insert(tag.to_owned(), values)),
        }
    }
    Ok(())
}
