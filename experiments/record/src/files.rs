//! The files of a run.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use attribution::{Latencies, Segment};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use spec::Experiment;
use spec::machine::Machine;

use crate::hlog::{self, HLOG};
use crate::outcome::Outcome;

/// Version of the layout of a run's files.
pub const FORMAT: u32 = 1;

/// Files of JSON lines, without their ending.
pub(crate) const NAMES: [&str; 3] = ["samples", "slow", "events"];

/// Their places in [`NAMES`].
const SAMPLES: usize = 0;
const SLOW: usize = 1;
pub(crate) const EVENTS: usize = 2;

/// The lines about faults, in runs that have some.
pub const TRUTH: &str = "truth";

/// The samples of a run.
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// Its slowest requests.
pub const SLOW_FILE: &str = "slow.jsonl";

/// What happened in it.
pub const EVENTS_FILE: &str = "events.jsonl";

/// What it was made with.
pub const MANIFEST_FILE: &str = "manifest.json";

/// What it came to in figures.
pub const SUMMARY_FILE: &str = "summary.json";

/// Why a file of a run cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {what} it", file.display())]
pub struct FileError {
    file: PathBuf,
    what: &'static str,
    source: std::io::Error,
}

impl FileError {
    pub(crate) fn new(file: &Path, what: &'static str, source: std::io::Error) -> Self {
        Self { file: file.to_owned(), what, source }
    }
}

/// What a run was, written before it begins and once more when it has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Whether the run ended by itself; false in the record of one that was killed.
    pub closed: bool,
    /// How it ended; null while it goes on.
    pub outcome: Option<Outcome>,
    /// Why, unless it was completed.
    pub outcome_because: Option<String>,
    /// The Unix second at which it began.
    pub started: u64,
    /// The experiment as it was carried out, every default written out.
    pub experiment: Experiment,
    /// The file it came from, as it was named.
    pub file: String,
    /// The text of that file.
    pub text: String,
    /// The SHA-256 of that text.
    pub sha256: String,
    /// What the command line changed.
    pub settings: Vec<String>,
    /// This program's version, and the commit it was built from if that is known.
    pub version: String,
    /// The machines.
    pub hosts: Vec<Machine>,
    /// Whether server and clients had a network namespace of their own.
    pub own_namespace: bool,
    /// The settings that matter, as they were in that namespace.
    pub sysctls: std::collections::BTreeMap<String, String>,
    /// The tuning profile, where what of it was applied, and every setting that profiles know.
    #[serde(default)]
    pub tuning: Value,
    /// As whom programs ran, and which capabilities they kept, each with its reason.
    #[serde(default)]
    pub privileges: Value,
    /// What the server said when it was ready.
    pub server: Value,
    /// What the clients said when they were ready.
    pub clients: Vec<Value>,
    /// Which probes were attached, or why not.
    pub probes: Value,
}

/// Something that happened, with the moment in Unix seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, in Unix seconds.
    pub t: f64,
    /// What.
    pub event: &'static str,
    /// More about it.
    pub fields: Map<String, Value>,
}

impl Event {
    /// Something that happens now; `fields` is an object.
    pub fn now(event: &'static str, fields: Value) -> Self {
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
        let t = since.map_or(0.0, |since| since.as_secs_f64());
        let fields = match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        Self { t, event, fields }
    }
}

/// When a phase was, in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Its place in the experiment.
    pub index: u16,
    /// Its name.
    pub name: String,
    /// Its first second.
    pub start: u64,
    /// Its exclusive end; `u64::MAX` while that is not known.
    pub end: u64,
}

/// The open files of a run.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    lines: [BufWriter<File>; 3],
    hlog: BufWriter<File>,
    host: String,
    phases: Vec<PhaseTime>,
    started: u64,
}

fn create(directory: &Path, name: &str) -> Result<BufWriter<File>, FileError> {
    let path = directory.join(name);
    File::create_new(&path).map(BufWriter::new).map_err(|source| FileError {
        file: path,
        what: "create",
        source,
    })
}

impl Files {
    /// Makes the directory and its files; none of them may be there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(directory: &Path, host: &str, started: u64) -> Result<Self, FileError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| FileError::new(directory, "create", source))?;
        let [samples, slow, events] = NAMES.map(|name| create(directory, &format!("{name}.jsonl")));
        let mut files = Self {
            directory: directory.to_owned(),
            lines: [samples?, slow?, events?],
            hlog: create(directory, HLOG)?,
            host: host.to_owned(),
            phases: Vec::new(),
            started,
        };
        hlog::begin(&mut files.hlog, started).map_err(|source| files.error(HLOG, source))?;
        Ok(files)
    }

    /// Opens the files of a recorder that was killed, and cuts them to the lengths that
    /// [`Files::lengths`] returned.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn restore(
        directory: &Path,
        host: &str,
        started: u64,
        lengths: [u64; 4],
        phases: Vec<PhaseTime>,
    ) -> Result<Self, FileError> {
        let open = |name: &str, length: u64| {
            let path = directory.join(name);
            let opened = File::options().append(true).open(&path).and_then(|file| {
                file.set_len(length)?;
                Ok(BufWriter::new(file))
            });
            opened.map_err(|source| FileError::new(&path, "open", source))
        };
        let [samples, slow, events] = [SAMPLES, SLOW, EVENTS]
            .map(|file| open(&format!("{}.jsonl", NAMES[file]), lengths[file]));
        Ok(Self {
            directory: directory.to_owned(),
            lines: [samples?, slow?, events?],
            hlog: open(HLOG, lengths[3])?,
            host: host.to_owned(),
            phases,
            started,
        })
    }

    /// How long the files are, all that was written included.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn lengths(&mut self) -> Result<[u64; 4], FileError> {
        self.flush()?;
        let mut lengths = [0; 4];
        for (file, length) in self.lines.iter().chain([&self.hlog]).zip(&mut lengths) {
            let metadata = file.get_ref().metadata();
            *length = metadata.map_err(|source| self.error("files", source))?.len();
        }
        Ok(lengths)
    }

    fn error(&self, name: &str, source: std::io::Error) -> FileError {
        FileError::new(&self.directory.join(name), "write", source)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A phase will be, or is known to end, then.
    pub fn set_phase(&mut self, phase: PhaseTime) {
        match self.phases.iter_mut().find(|known| known.index == phase.index) {
            Some(known) => *known = phase,
            None => self.phases.push(phase),
        }
    }

    /// The phases so far.
    pub fn phases(&self) -> &[PhaseTime] {
        &self.phases
    }

    /// The phase of a Unix second.
    pub fn phase_at(&self, t: u64) -> Option<&PhaseTime> {
        self.phases.iter().rev().find(|phase| phase.start <= t && t < phase.end)
    }

    fn line(&mut self, file: usize, value: &Value) -> Result<(), FileError> {
        let written = serde_json::to_writer(&mut self.lines[file], value)
            .map_err(std::io::Error::from)
            .and_then(|()| self.lines[file].write_all(b"\n"));
        written.map_err(|source| self.error(NAMES[file], source))
    }

    /// A sample: `source` says what kind, `who` adds to what tells it from others of the kind,
    /// `values` has its second `t` and what was measured.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn sample(
        &mut self,
        source: &str,
        who: &[(&str, Value)],
        values: &impl Serialize,
    ) -> Result<(), FileError> {
        let values = serde_json::to_value(values)
            .map_err(|error| self.error(NAMES[SAMPLES], error.into()))?;
        let Value::Object(values) = values else { return Ok(()) };
        let t = values.get("t").and_then(Value::as_u64).unwrap_or(0);
        let mut line = Map::new();
        line.insert("t".to_owned(), t.into());
        line.insert("host".to_owned(), self.host.clone().into());
        line.insert("source".to_owned(), source.into());
        line.insert("phase".to_owned(), self.phase_at(t).map(|phase| phase.name.clone()).into());
        line.extend(who.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        line.extend(values);
        self.line(SAMPLES, &Value::Object(line))
    }

    /// A slow request of a second.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn slow(&mut self, t: u64, values: &impl Serialize) -> Result<(), FileError> {
        let values =
            serde_json::to_value(values).map_err(|error| self.error(NAMES[SLOW], error.into()))?;
        let Value::Object(mut values) = values else { return Ok(()) };
        let index = values.get("phase").and_then(Value::as_u64).unwrap_or(0);
        let phase = self.phases.iter().find(|phase| u64::from(phase.index) == index);
        values.insert("phase".to_owned(), phase.map(|phase| phase.name.clone()).into());
        let mut line = Map::new();
        line.insert("t".to_owned(), t.into());
        line.insert("host".to_owned(), self.host.clone().into());
        line.extend(values);
        self.line(SLOW, &Value::Object(line))
    }

    /// Something happened.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn event(&mut self, event: Event) -> Result<(), FileError> {
        let mut line = Map::new();
        line.insert("t".to_owned(), json!(event.t));
        line.insert("host".to_owned(), self.host.clone().into());
        line.insert("event".to_owned(), event.event.into());
        line.extend(event.fields);
        self.line(EVENTS, &Value::Object(line))
    }

    /// The histogram of one second, over all clients.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn histogram(
        &mut self,
        t: u64,
        phase: u16,
        segment: Segment,
        values: &Latencies,
    ) -> Result<(), FileError> {
        let name = self.phases.iter().find(|known| known.index == phase);
        let name = name.map_or_else(|| phase.to_string(), |known| known.name.clone());
        let tag = hlog::tag(&name, segment);
        let since_s = t.saturating_sub(self.started);
        let written = hlog::append(&mut self.hlog, since_s, &tag, values);
        written.map_err(|source| self.error(HLOG, source))
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn flush(&mut self) -> Result<(), FileError> {
        for (file, name) in NAMES.iter().enumerate() {
            self.lines[file].flush().map_err(|source| self.error(name, source))?;
        }
        self.hlog.flush().map_err(|source| self.error(HLOG, source))
    }

    /// Writes the manifest, in the place of an earlier one.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn manifest(&self, manifest: &Manifest) -> Result<(), FileError> {
        write_json(&self.directory, MANIFEST_FILE, manifest)
    }
}

/// Writes a JSON file in one step: a reader sees the old one or the new one.
///
/// # Errors
/// [`FileError`].
pub fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), FileError> {
    let path = directory.join(name);
    let part = directory.join(format!("{name}.part"));
    let written =
        serde_json::to_vec_pretty(value).map_err(std::io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            std::fs::write(&part, text)?;
            std::fs::rename(&part, &path)
        });
    written.map_err(|source| FileError { file: path, what: "write", source })
}
