//! The journals of original values: a file for each profile that is applied, safe on disk before
//! the first change, and a log of the writes beside it. Must not know: profiles.
//!
//! `0001.json` never changes once it is there: what was set, from which value, to which.
//! `0001.log` says how far it came: `write 3` before setting 3 is written, `reads 3 "…"` when it
//! was read back, `along 3 0 "…"` when the kernel changed another setting along with it, `complete`
//! at the end. A process that is killed leaves both, at whatever place,
//! and that is enough. The kernel forgets its settings with the boot, so a journal of another boot
//! has nothing to restore.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::namespace::NamespaceId;
use crate::profile::{Place, Scope};
use crate::system::Location;

/// The most that a file of a journal has, in bytes: 10,000 settings take less.
const MOST_BYTES: u64 = 4 << 20;

/// The default directory of journals. Only root may write it: its values are written into the
/// kernel.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/lab-tuning";

/// The directory of journals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(PathBuf);

/// Why a journal cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file.
    #[error("{}: cannot {what}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The text is no journal.
    #[error("{}: no journal: {what}; nothing was changed", file.display())]
    Text {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another process has the lock.
    #[error(
        "{}: another lab is tuning this machine, or a run that tuned it is not over yet: wait \
         for its end", file.display()
    )]
    Busy {
        /// The lock.
        file: PathBuf,
    },
}

fn failed(file: &Path, what: &'static str) -> impl FnOnce(io::Error) -> JournalError {
    let file = file.to_owned();
    move |source| JournalError::File { file, what, source }
}

/// The owner of an applied profile: the party that reverts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// An operator, who reverts it by hand.
    Hand,
    /// A run, which reverts it at its end; after a kill the next start does.
    Run,
}

/// One setting that is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) at: Location,
    /// Both normal.
    pub(crate) before: String,
    pub(crate) after: String,
    /// The text that was there, where it is more than its normal form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// What the kernel may change along with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) along: Vec<Along>,
}

/// A setting that the kernel may change along with another one, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Along {
    pub(crate) at: Location,
    /// Normal.
    pub(crate) before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
}

/// What a profile changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) profile: String,
    pub(crate) owner: Owner,
    pub(crate) boot: String,
    pub(crate) namespace: NamespaceId,
    /// Unix seconds.
    pub(crate) written: u64,
    pub(crate) entries: Vec<Entry>,
}

/// How far applying it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The settings whose write was begun.
    pub(crate) begun: Vec<usize>,
    /// What was read back.
    pub(crate) reads: HashMap<usize, String>,
    /// What the kernel has made of those that it changed along, by setting and place among them.
    pub(crate) along: HashMap<(usize, usize), String>,
    pub(crate) complete: bool,
}

/// A journal on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    pub(crate) number: u32,
    pub(crate) record: Record,
    pub(crate) progress: Progress,
}

/// The right to change settings, while it lives. The kernel drops it with the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is the open file that counts")] File);

/// The log of a journal that is being written.
#[derive(Debug)]
pub(crate) struct Log {
    file: File,
    path: PathBuf,
}

/// The id of this boot.
pub(crate) fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

impl Default for Directory {
    fn default() -> Self {
        Self(PathBuf::from(DEFAULT_DIRECTORY))
    }
}

impl Directory {
    /// Another place.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    fn json(&self, number: u32) -> PathBuf {
        self.0.join(format!("{number:04}.json"))
    }

    fn log(&self, number: u32) -> PathBuf {
        self.0.join(format!("{number:04}.log"))
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// When another process has it, or the directory cannot be made.
    pub fn lock(&self) -> Result<Lock, JournalError> {
        self.make().map_err(failed(&self.0, "make it"))?;
        let path = self.0.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(failed(&path, "open it"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Busy { file: path }),
            Err(errno) => Err(failed(&path, "lock it")(errno.into())),
        }
    }

    /// The directory itself must survive a loss of power, too.
    fn make(&self) -> io::Result<()> {
        if self.0.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.0.parent().map_or(Ok(()), sync_directory)
    }

    /// The journals there are, oldest first.
    ///
    /// # Errors
    /// A journal that cannot be read. Nothing may be changed then: it may be what is to be put
    /// back.
    pub(crate) fn journals(&self) -> Result<Vec<Journal>, JournalError> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed(&self.0, "list it"))?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed(&self.0, "list it"))?.path();
            if path.extension().is_some_and(|it| it == "json") {
                let number = path.file_stem().and_then(|it| it.to_str()?.parse::<u32>().ok());
                numbers.push(number.ok_or_else(|| JournalError::Text {
                    file: path.clone(),
                    what: "its name is no number".to_owned(),
                })?);
            }
        }
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.read(number)).collect()
    }

    /// The names of the profiles whose journals are kept, the oldest first: applied, or half so.
    /// Every journal is read, and nothing of the machine.
    ///
    /// # Errors
    /// A journal that cannot be read.
    pub fn profiles(&self) -> Result<Vec<String>, JournalError> {
        let journals = self.journals()?.into_iter();
        Ok(journals.map(|journal| journal.record.profile).collect())
    }

    fn read(&self, number: u32) -> Result<Journal, JournalError> {
        let path = self.json(number);
        let text = platform::read_within(&path, MOST_BYTES).map_err(failed(&path, "read it"))?;
        let record: Record = serde_json::from_slice(&text)
            .map_err(|error| JournalError::Text { file: path.clone(), what: error.to_string() })?;
        let log = match platform::read_text_within(&self.log(number), MOST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(failed(&self.log(number), "read it"))?,
        };
        Ok(Journal { number, record, progress: progress(&log) })
    }

    /// Writes a journal, safe on disk when this returns.
    pub(crate) fn write(&self, record: &Record) -> Result<(Journal, Log), JournalError> {
        let last = self.journals()?.last().map_or(0, |last| last.number);
        let number = last.checked_add(1).ok_or_else(|| JournalError::Text {
            file: self.json(last),
            what: "its number is the last one that there can be".to_owned(),
        })?;
        let path = self.log(number);
        // One that is left from a journal of this number is emptied.
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path);
        let log = Log { file: file.map_err(failed(&path, "make it"))?, path };
        self.put(number, record)?;
        let journal = Journal { number, record: record.clone(), progress: Progress::default() };
        Ok((journal, log))
    }

    /// Puts a record into its place, whole or not at all.
    pub(crate) fn put(&self, number: u32, record: &Record) -> Result<(), JournalError> {
        let (path, new) = (self.json(number), self.0.join("new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            sync_directory(&self.0)
        };
        write().map_err(failed(&path, "write it"))
    }

    /// Removes a journal that has nothing to restore any more.
    pub(crate) fn remove(&self, number: u32) -> Result<(), JournalError> {
        let (json, log) = (self.json(number), self.log(number));
        std::fs::remove_file(&json).map_err(failed(&json, "remove it"))?;
        match std::fs::remove_file(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(failed(&log, "remove it"))?,
        }
        sync_directory(&self.0).map_err(failed(&self.0, "write it"))
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Log {
    /// One call for a line, so that a line is whole or not there. No fsync: what the log says is
    /// needed after a process was killed; after a power cut the kernel has forgotten everything.
    fn line(&mut self, line: &str) -> Result<(), JournalError> {
        let path = &self.path;
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed(path, "write it"))
    }

    pub(crate) fn begin(&mut self, entry: usize) -> Result<(), JournalError> {
        self.line(&format!("write {entry}"))
    }

    pub(crate) fn reads(&mut self, entry: usize, value: &str) -> Result<(), JournalError> {
        self.line(&format!("reads {entry} {}", serde_json::Value::from(value)))
    }

    pub(crate) fn along(
        &mut self,
        entry: usize,
        place: usize,
        value: &str,
    ) -> Result<(), JournalError> {
        self.line(&format!("along {entry} {place} {}", serde_json::Value::from(value)))
    }

    pub(crate) fn complete(&mut self) -> Result<(), JournalError> {
        self.line("complete")
    }
}

/// What a log says; a last line that is not whole says nothing.
fn progress(log: &str) -> Progress {
    let mut progress = Progress::default();
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    for line in whole.lines() {
        let mut words = line.splitn(3, ' ');
        let (what, entry) = (words.next(), words.next().and_then(|it| it.parse::<usize>().ok()));
        match (what, entry) {
            (Some("write"), Some(entry)) => progress.begun.push(entry),
            (Some("reads"), Some(entry)) => {
                let value = words.next().and_then(|it| serde_json::from_str(it).ok());
                progress.reads.extend(value.map(|value| (entry, value)));
            }
            (Some("along"), Some(entry)) => {
                let rest = words.next().and_then(|it| it.split_once(' '));
                progress.along.extend(rest.and_then(|(place, value)| {
                    Some(((entry, place.parse().ok()?), serde_json::from_str(value).ok()?))
                }));
            }
            (Some("complete"), None) => progress.complete = true,
            _ => {}
        }
    }
    progress
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Resource, Ring};
    use crate::value::Format;

    fn record() -> Record {
        Record {
            format: 1,
            profile: "x".to_owned(),
            owner: Owner::Hand,
            boot: "b".to_owned(),
            namespace: NamespaceId { inode: 1, cookie: Some(2) },
            written: 3,
            entries: vec![Entry {
                name: "net.core.somaxconn".to_owned(),
                place: Place { file: "x.ron".to_owned(), line: 4 },
                scope: Scope::Namespace,
                at: Location::Sysctl("net/core/somaxconn".to_owned()),
                before: "4096".to_owned(),
                after: "5".to_owned(),
                text: None,
                along: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(&directory.path().join("deep/er"));
        assert_eq!(directory.journals().expect("none"), []);
        let _lock = directory.lock().expect("free");
        assert!(matches!(directory.lock(), Err(JournalError::Busy { .. })));
        let (first, mut log) = directory.write(&record()).expect("written");
        let (second, _) = directory.write(&record()).expect("written");
        assert_eq!((first.number, second.number), (1, 2));
        log.begin(0).expect("written");
        log.reads(0, "a \"b\"").expect("written");
        log.along(0, 1, "reno bbr").expect("written");
        log.complete().expect("written");
        let read = directory.journals().expect("readable");
        assert_eq!(read[0].record, record());
        let reads = HashMap::from([(0, "a \"b\"".to_owned())]);
        let along = HashMap::from([((0, 1), "reno bbr".to_owned())]);
        assert_eq!(read[0].progress, Progress { begun: vec![0], reads, along, complete: true });
        assert_eq!(read[1].progress, Progress::default());
        directory.remove(2).expect("removed");
        directory.remove(1).expect("removed");
        assert_eq!(directory.journals().expect("none"), []);
    }

    /// A journal that an earlier version wrote must still be reverted.
    #[test]
    fn the_format_on_disk_stays() {
        let text = r#"{
            "format": 1, "profile": "x", "owner": "Hand", "boot": "b",
            "namespace": {"inode": 1, "cookie": 2}, "written": 3,
            "entries": [{
                "name": "net.core.somaxconn", "place": {"file": "x.ron", "line": 4},
                "scope": "Namespace", "at": {"Sysctl": "net/core/somaxconn"},
                "before": "4096", "after": "5"
            }]
        }"#;
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(serde_json::to_value(record()).expect("JSON"), value);
        assert_eq!(serde_json::from_str::<Record>(text).expect("a journal"), record());
        for (location, text) in [
            (Location::Irq(7), r#"{"Irq":7}"#),
            (
                Location::Sys { path: "p".to_owned(), format: Format::Mask },
                r#"{"Sys":{"path":"p","format":"Mask"}}"#,
            ),
            (
                Location::Feature { nic: "e".to_owned(), name: "gro".to_owned() },
                r#"{"Feature":{"nic":"e","name":"gro"}}"#,
            ),
            (
                Location::Ring { nic: "e".to_owned(), ring: Ring::Rx },
                r#"{"Ring":{"nic":"e","ring":"rx"}}"#,
            ),
            (
                Location::Coalesce { nic: "e".to_owned(), field: "rx-usecs".to_owned() },
                r#"{"Coalesce":{"nic":"e","field":"rx-usecs"}}"#,
            ),
            (Location::Limit(Resource::Nofile), r#"{"Limit":"nofile"}"#),
        ] {
            assert_eq!(serde_json::to_string(&location).expect("JSON"), text);
        }
    }

    #[test]
    fn what_the_kernel_changes_along_is_in_the_format() {
        let mut wanted = record();
        wanted.entries[0].text = Some("07".to_owned());
        let at = Location::Sysctl("a/b".to_owned());
        wanted.entries[0].along.push(Along { at, before: "reno".to_owned(), text: None });
        let text = serde_json::to_string(&wanted).expect("JSON");
        let added = r#""text":"07","along":[{"at":{"Sysctl":"a/b"},"before":"reno"}]"#;
        assert!(text.contains(added), "{text}");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("a journal"), wanted);
    }

    #[test]
    fn a_log_that_was_cut_off_says_what_it_can() {
        let log = "write 0\nreads 0 \"7\"\nwrite 1\nreads 1 \"8";
        let progress = progress(log);
        assert_eq!(progress.begun, [0, 1]);
        assert_eq!(progress.reads, HashMap::from([(0, "7".to_owned())]));
        assert!(!progress.complete);
    }

    #[test]
    fn what_is_no_journal_stops_everything() {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(temporary.path());
        std::fs::write(temporary.path().join("0001.json"), "{").expect("written");
        let error = directory.journals().expect_err("half").to_string();
        assert!(error.contains("0001.json: no journal"), "{error}");
        std::fs::rename(temporary.path().join("0001.json"), temporary.path().join("x.json"))
            .expect("renamed");
        let error = directory.journals().expect_err("a name").to_string();
        assert!(error.contains("its name is no number"), "{error}");
    }
}
