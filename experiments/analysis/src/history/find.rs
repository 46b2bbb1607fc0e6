//! Which runs a directory has. What is none is named. Must not know: what runs came to.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::input::InputError;
use record::MANIFEST_FILE;

/// A run, as far as its manifest is needed to put it in its place.
pub(super) struct Found {
    pub(super) directory: PathBuf,
    /// Its directory within that which was asked for.
    pub(super) name: String,
    pub(super) started: u64,
    pub(super) experiment: String,
}

fn is_run(directory: &Path) -> bool {
    directory.join(MANIFEST_FILE).is_file()
}

/// The directories in a directory, by their names; those that are hidden are of programs.
fn below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let shown = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_dir() && !name.starts_with('.')
    };
    let mut all: Vec<PathBuf> = entries.filter(|path| shown(path)).collect();
    all.sort();
    Ok(all)
}

/// What is a run in one file, and not read as one here.
fn archives(directory: &Path) -> std::io::Result<Vec<String>> {
    let files = std::fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|it| it == "zip");
    let mut all: Vec<PathBuf> = files.filter(|path| is_archive(path) && path.is_file()).collect();
    all.sort();
    let said =
        |path: PathBuf| format!("{0}: an archive: lab import {0} unpacks it", path.display());
    Ok(all.into_iter().map(said).collect())
}

/// The runs of a directory in the order in which they began, and what is none.
pub(super) fn runs(directory: &Path) -> Result<(Vec<Found>, Vec<String>), InputError> {
    let unreadable = |source| InputError::Directory { directory: directory.to_owned(), source };
    let mut candidates = Vec::new();
    let mut left_out = Vec::new();
    if is_run(directory) {
        candidates.push(directory.to_owned());
    } else {
        left_out.extend(archives(directory).map_err(unreadable)?);
        for path in below(directory).map_err(unreadable)? {
            if is_run(&path) {
                candidates.push(path);
                continue;
            }
            // What lab run --repeat made.
            let repeated = below(&path).unwrap_or_default();
            let repeated: Vec<PathBuf> = repeated.into_iter().filter(|it| is_run(it)).collect();
            if repeated.is_empty() {
                left_out.push(format!(
                    "{}: no run: neither it nor a directory in it has a manifest.json",
                    path.display()
                ));
            }
            candidates.extend(repeated);
        }
    }
    let mut found = Vec::new();
    for path in candidates {
        match of_manifest(directory, &path) {
            Ok(run) => found.push(run),
            Err(why) => left_out.push(format!("{}: {why}", path.join(MANIFEST_FILE).display())),
        }
    }
    found.sort_by(|a, b| (a.started, &a.name).cmp(&(b.started, &b.name)));
    Ok((found, left_out))
}

fn of_manifest(top: &Path, directory: &Path) -> Result<Found, String> {
    let text = record::read_whole(directory, MANIFEST_FILE).map_err(|error| error.to_string())?;
    let manifest: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let started = manifest["started"].as_u64().ok_or("it does not say when the run began")?;
    let experiment = manifest["experiment"]["name"].as_str();
    let experiment = experiment.ok_or("it names no experiment")?.to_owned();
    let within = directory.strip_prefix(top).unwrap_or(directory);
    let name = if within.as_os_str().is_empty() { directory } else { within };
    let name = name.display().to_string();
    Ok(Found { directory: directory.to_owned(), name, started, experiment })
}
