//! The files of a run.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use attribution::{Latencies, Segment};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use spec::Experiment;
use spec::machine::Machine;

use crate::append::Appender;
use crate::error::FileError;
use crate::hlog::{self, HLOG};
use crate::lock::DirectoryLock;
use crate::outcome::Outcome;

/// Version of the layout of a run's files.
pub const FORMAT: u32 = 2;

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

/// The open files of a run. What cannot be written waits in memory, within a bound, until it can.
#[derive(Debug)]
pub struct Files {
    lock: Arc<DirectoryLock>,
    lines: [Appender<File>; 3],
    hlog: Appender<File>,
    /// The manifest that could not be written, and why.
    manifest: Option<(Manifest, FileError)>,
    /// What a person should know and was not told.
    news: Vec<String>,
    host: String,
    phases: Vec<PhaseTime>,
    started: u64,
}

fn create(directory: &Path, name: &str) -> Result<Appender<File>, FileError> {
    let path = directory.join(name);
    match File::create_new(&path) {
        Ok(file) => Ok(Appender::new(path.display().to_string(), file)),
        Err(source) => Err(FileError::new(&path, "create", source)),
    }
}

impl Files {
    /// Makes the files in a directory, and the first manifest; none of them may be there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(
        lock: DirectoryLock,
        host: &str,
        started: u64,
        manifest: &Manifest,
    ) -> Result<Self, FileError> {
        let directory = lock.directory();
        let [samples, slow, events] = NAMES.map(|name| create(directory, &format!("{name}.jsonl")));
        let mut begin = Vec::new();
        let mut hlog = create(directory, HLOG)?;
        hlog::begin(&mut begin, started)
            .map_err(|source| FileError::new(&directory.join(HLOG), "write", source))?;
        hlog.append(&begin);
        // Before there is something that could be lost, a disk without room is an error.
        write_json(directory, MANIFEST_FILE, manifest)?;
        Ok(Self {
            lines: [samples?, slow?, events?],
            hlog,
            lock: Arc::new(lock),
            manifest: None,
            news: Vec::new(),
            host: host.to_owned(),
            phases: Vec::new(),
            started,
        })
    }

    /// Opens the files of a recorder that was killed, and cuts them to the lengths that
    /// [`Files::lengths`] returned.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn restore(
        lock: DirectoryLock,
        host: &str,
        started: u64,
        lengths: [u64; 4],
        phases: Vec<PhaseTime>,
    ) -> Result<Self, FileError> {
        let directory = lock.directory();
        let open = |name: &str, length: u64| {
            let path = directory.join(name);
            let opened = File::options().append(true).open(&path).and_then(|file| {
                let there = file.metadata()?.len();
                if there < length {
                    let why = format!("{length} bytes of it were recorded, and {there} are left");
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, why));
                }
                file.set_len(length)?;
                Ok(Appender::new(path.display().to_string(), file))
            });
            opened.map_err(|source| FileError::new(&path, "open", source))
        };
        let [samples, slow, events] = [SAMPLES, SLOW, EVENTS]
            .map(|file| open(&format!("{}.jsonl", NAMES[file]), lengths[file]));
        Ok(Self {
            lines: [samples?, slow?, events?],
            hlog: open(HLOG, lengths[3])?,
            lock: Arc::new(lock),
            manifest: None,
            news: Vec::new(),
            host: host.to_owned(),
            phases,
            started,
        })
    }

    /// How long the files are, without what waits.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn lengths(&self) -> Result<[u64; 4], FileError> {
        let mut lengths = [0; 4];
        for (file, length) in self.lines.iter().chain([&self.hlog]).zip(&mut lengths) {
            let metadata = file.get_ref().metadata();
            *length = metadata.map_err(|source| self.error("files", source))?.len();
        }
        Ok(lengths)
    }

    fn error(&self, name: &str, source: std::io::Error) -> FileError {
        FileError::new(&self.directory().join(name), "write", source)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.lock.directory()
    }

    /// The right to write the directory, for what comes after these files.
    pub fn lock(&self) -> Arc<DirectoryLock> {
        Arc::clone(&self.lock)
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
        let text = serde_json::to_vec(value);
        let mut text = text.map_err(|error| self.error(NAMES[file], error.into()))?;
        text.push(b'\n');
        self.lines[file].append(&text);
        Ok(())
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
        let mut text = Vec::new();
        let made = hlog::append(&mut text, since_s, &tag, values);
        made.map_err(|source| self.error(HLOG, source))?;
        self.hlog.append(&text);
        Ok(())
    }

    /// Hands everything to the system, as far as there is room. Returns whether nothing waits.
    pub fn flush(&mut self) -> bool {
        let mut all = true;
        for file in self.lines.iter_mut().chain([&mut self.hlog]) {
            all &= file.flush();
            self.news.append(&mut file.take_news());
        }
        if let Some((manifest, _)) = &self.manifest {
            self.manifest(&manifest.clone());
        }
        all && self.manifest.is_none()
    }

    /// Writes the manifest, in the place of an earlier one; one that cannot be written now is
    /// written with what waits.
    pub fn manifest(&mut self, manifest: &Manifest) {
        let waited = self.manifest.take().is_some();
        match write_json(self.directory(), MANIFEST_FILE, manifest) {
            Ok(()) if waited => {
                let path = self.directory().join(MANIFEST_FILE);
                self.news.push(format!("{}: it can be written again", path.display()));
            }
            Ok(()) => {}
            Err(error) => {
                if !waited {
                    self.news.push(format!("{error}; it is tried again until it can be"));
                }
                self.manifest = Some((manifest.clone(), error));
            }
        }
    }

    /// What a person should know since this was asked last: that files cannot be written, or can
    /// be again.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// Whether everything is written.
    ///
    /// # Errors
    /// [`FileError`]: what of it is not, and why.
    pub fn check_written(&mut self) -> Result<(), FileError> {
        if self.flush() {
            return Ok(());
        }
        if let Some((_, error)) = &self.manifest {
            let why = error.why();
            return Err(self.error(MANIFEST_FILE, std::io::Error::other(why)));
        }
        let names = NAMES.map(|name| format!("{name}.jsonl"));
        let files = names.iter().map(String::as_str).chain([HLOG]);
        let mut all = files.zip(self.lines.iter().chain([&self.hlog]));
        match all.find_map(|(name, file)| Some((name, file.trouble()?))) {
            Some((name, why)) => Err(self.error(name, std::io::Error::other(why.to_owned()))),
            None => Ok(()),
        }
    }

    /// What of each file is in memory alone, in words.
    pub fn in_memory(&self) -> Vec<String> {
        let names = NAMES.map(|name| format!("{name}.jsonl"));
        let files = names.iter().map(String::as_str).chain([HLOG]);
        let all = files.zip(self.lines.iter().chain([&self.hlog]));
        let mut missing: Vec<String> = all
            .filter(|(_, file)| file.waiting() > 0)
            .map(|(name, file)| format!("the last {} bytes of {name}", file.waiting()))
            .collect();
        if self.manifest.is_some() {
            missing.push(format!("how it ended, in {MANIFEST_FILE}"));
        }
        missing
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
    written.map_err(|source| {
        // What is there of it takes the room of something that is needed.
        let _ = std::fs::remove_file(&part);
        FileError::new(&path, "write", source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = "(name: \"x\", users: 1, phases: [(name: \"a\", seconds: 1)])".to_owned();
        let experiment = spec::Source::parse(Path::new("x.ron"), text, &[]).expect("an experiment");
        serde_json::from_value(json!({
            "format": FORMAT, "closed": false, "outcome": null, "outcome_because": null,
            "started": 1, "experiment": experiment.experiment, "file": "x.ron", "text": "",
            "sha256": "", "settings": [], "version": "", "hosts": [], "own_namespace": false,
            "sysctls": {}, "server": null, "clients": [], "probes": null,
        }))
        .expect("a manifest")
    }

    #[test]
    fn a_manifest_that_cannot_be_written_waits_until_it_can() {
        let directory = tempfile::tempdir().expect("a directory");
        let lock = DirectoryLock::take(directory.path(), "this test").expect("free");
        let mut files = Files::create(lock, "h", 1, &manifest()).expect("new");
        files.check_written().expect("all of it");
        // In the place of what is renamed there is something that cannot be written over.
        let part = directory.path().join("manifest.json.part");
        std::fs::create_dir_all(part.join("in the way")).expect("made");
        files.manifest(&Manifest { closed: true, ..manifest() });
        for _ in 0..2 {
            let error = files.check_written().expect_err("not there yet");
            assert!(error.to_string().contains("manifest.json: cannot write it"), "{error}");
        }
        let told = files.take_news();
        assert_eq!(told.len(), 1, "once: {told:?}");
        assert!(told[0].contains("manifest.json: cannot write it"), "{told:?}");
        let read = || {
            let text = std::fs::read(directory.path().join(MANIFEST_FILE)).expect("there");
            serde_json::from_slice::<Manifest>(&text).expect("a manifest")
        };
        assert!(!read().closed, "the earlier one is whole");
        std::fs::remove_dir_all(part).expect("removed");
        files.check_written().expect("all of it");
        assert!(read().closed);
        let told = files.take_news();
        assert!(told.len() == 1 && told[0].ends_with("it can be written again"), "{told:?}");
    }
}
