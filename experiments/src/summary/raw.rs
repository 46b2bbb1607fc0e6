//! The raw files of a run, read back. The last line of each may be cut off, when the run was
//! killed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use control::Money;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use lab_client::causes::CauseRows;
use lab_client::slow::Seen;
use lab_client::tally::Tally;
use lab_server::counters::Counters;
use lab_server::ledger::Ledger;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::record::{HLOG, Manifest};

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
}

fn line_in_words(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

/// A line of `samples.jsonl`, as far as summaries need it.
#[derive(Clone, Debug, Deserialize)]
pub struct SampleLine {
    /// The Unix second.
    pub t: u64,
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
    pub seen: Option<Seen>,
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
}

fn read(directory: &Path, name: &str) -> Result<(PathBuf, String), RawError> {
    let file = directory.join(name);
    let bytes =
        std::fs::read(&file).map_err(|source| RawError::File { file: file.clone(), source })?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

/// Reads lines of JSON. A last line without an end was cut off by a kill and is left out.
fn lines(directory: &Path, name: &str) -> Result<Vec<Value>, RawError> {
    let (file, text) = read(directory, name)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|error| RawError::Text {
                file: file.clone(),
                line: Some(number + 1),
                what: error.to_string(),
            })
        })
        .collect()
}

fn typed<T: DeserializeOwned>(directory: &Path, name: &str, value: Value) -> Result<T, RawError> {
    serde_json::from_value(value).map_err(|error| RawError::Text {
        file: directory.join(name),
        line: None,
        what: error.to_string(),
    })
}

impl Raw {
    /// Reads the files of a run.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn read(directory: &Path) -> Result<Self, RawError> {
        let (file, text) = read(directory, "manifest.json")?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| RawError::Text {
            file,
            line: Some(error.line()),
            what: error.to_string(),
        })?;
        let (mut clients, mut servers, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut causes = Vec::new();
        const SAMPLES: &str = "samples.jsonl";
        for value in lines(directory, SAMPLES)? {
            match value["source"].as_str() {
                Some("client") => clients.push(typed(directory, SAMPLES, value)?),
                Some("server") => servers.push(typed(directory, SAMPLES, value)?),
                Some("causes") => causes.push(typed(directory, SAMPLES, value)?),
                _ => others.push(typed(directory, SAMPLES, value)?),
            }
        }
        const SLOW: &str = "slow.jsonl";
        let slow = lines(directory, SLOW)?
            .into_iter()
            .map(|value| typed(directory, SLOW, value))
            .collect::<Result<_, _>>()?;
        const EVENTS: &str = "events.jsonl";
        let events = lines(directory, EVENTS)?
            .into_iter()
            .map(|value| typed(directory, EVENTS, value))
            .collect::<Result<_, _>>()?;
        let histograms = histograms(directory)?;
        Ok(Self { manifest, clients, servers, causes, slow, others, events, histograms })
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
fn histograms(directory: &Path) -> Result<HashMap<String, Histogram<u64>>, RawError> {
    let (file, text) = read(directory, HLOG)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let wrong = |what: String| RawError::Text { file: file.clone(), line: None, what };
    let mut sums: HashMap<String, Histogram<u64>> = HashMap::new();
    let mut deserializer = Deserializer::new();
    for entry in IntervalLogIterator::new(whole.as_bytes()) {
        let LogEntry::Interval(interval) =
            entry.map_err(|error| wrong(format!("is no log of histograms: {error:?}")))?
        else {
            continue;
        };
        let tag = interval.tag().map_or("", |tag| tag.as_str());
        let bytes = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            interval.encoded_histogram(),
        )
        .map_err(|error| wrong(error.to_string()))?;
        let values: Histogram<u64> = deserializer
            .deserialize(&mut bytes.as_slice())
            .map_err(|error| wrong(error.to_string()))?;
        match sums.get_mut(tag) {
            Some(sum) => sum.add(&values).map_err(|error| wrong(error.to_string()))?,
            None => drop(sums.insert(tag.to_owned(), values)),
        }
    }
    Ok(sums)
}
