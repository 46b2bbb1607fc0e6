//! The files of a run as they grow, read into a digest.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::Value;

use crate::describe::{describe, manifest};
use crate::digest::{Digest, FILES};
use crate::page::content;
use record::{Lines, MANIFEST_FILE, Problems, SUMMARY_FILE};

/// Seconds that may still change: shards report a second when it is over, the record of it is
/// complete two seconds later.
pub(super) const STILL_OPEN_S: u64 = 5;

/// When a file was written, and how long it is: whether it is another one than before.
type Stamp = Option<(SystemTime, u64)>;

/// What is known of a run.
#[derive(Debug)]
pub(super) struct Feed {
    directory: PathBuf,
    pub(super) digest: Digest,
    files: [Option<Lines>; FILES.len()],
    manifest: Value,
    summary: Value,
    stamps: [Stamp; 2],
    problems: Problems,
    /// Grows when something else than seconds has changed.
    pub(super) version: u64,
}

/// A lock that is only ever held between two awaits of the one thread that serves.
pub(super) fn locked(feed: &Mutex<Feed>) -> MutexGuard<'_, Feed> {
    feed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stamp(file: &Path) -> Stamp {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

impl Feed {
    /// Nothing is read yet.
    pub(super) fn open(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            digest: Digest::default(),
            files: std::array::from_fn(|_| None),
            manifest: Value::Null,
            summary: Value::Null,
            stamps: [None; 2],
            problems: Problems::default(),
            version: 0,
        }
    }

    /// Reads what has come.
    pub(super) fn read(&mut self) {
        let from = self.digest.last().unwrap_or(0).saturating_sub(STILL_OPEN_S);
        self.read_whole();
        let had = self.problems.sentences().count();
        for (name, lines) in FILES.iter().zip(&mut self.files) {
            if lines.is_none() {
                // It may come yet.
                *lines = Lines::open(&self.directory.join(name)).ok();
            }
            let Some(lines) = lines else { continue };
            loop {
                match lines.next_line() {
                    Ok(Some((number, line))) => {
                        if let Err(error) = self.digest.line(name, line) {
                            let why = format!("{name}:{number}: {error}; the line is left out");
                            self.problems.add(why);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let why = format!("{name}: {error}; the rest of it is missing here");
                        self.problems.add(why);
                        break;
                    }
                }
            }
        }
        self.digest.complete(from);
        self.version += u64::from(self.problems.sentences().count() != had);
    }

    /// Reads the files that are written as a whole, when they have changed.
    fn read_whole(&mut self) {
        let names = [MANIFEST_FILE, SUMMARY_FILE];
        for (at, name) in names.iter().enumerate() {
            let now = stamp(&self.directory.join(name));
            if now.is_none() || now == self.stamps[at] {
                continue;
            }
            self.stamps[at] = now;
            self.version += 1;
            if at == 0 {
                self.manifest = manifest(&self.directory, &mut self.problems);
                self.digest.manifest(&self.manifest);
            } else {
                let read = record::read_whole(&self.directory, name);
                self.summary =
                    read.ok().and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default();
            }
        }
    }

    /// What is not seconds, as JSON for the page.
    pub(super) fn about(&mut self) -> String {
        let parts = describe(&self.manifest, &self.summary, &mut self.problems);
        let parts: Vec<(&str, &str)> =
            parts.iter().map(|(name, json)| (*name, json.as_str())).collect();
        content(&parts)
    }

    /// The name of the experiment.
    pub(super) fn name(&self) -> &str {
        self.manifest["experiment"]["name"].as_str().unwrap_or("a run")
    }

    /// How many users it has.
    pub(super) fn users(&self) -> u32 {
        let users = self.manifest["experiment"]["users"].as_u64().unwrap_or(0);
        u32::try_from(users).unwrap_or(u32::MAX)
    }
}
