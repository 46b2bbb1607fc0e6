//! Puts the page of a run together from the files in its directory.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde_json::{Value, json};

use crate::describe::{describe, manifest, read_json};
use crate::digest::{Digest, FILES};
use crate::page::{Page, content};
use record::{EVENTS_FILE, Lines, MANIFEST_FILE, Problems, SAMPLES_FILE, SUMMARY_FILE};

/// The name of the page in the directory of a run.
pub const NAME: &str = "report.html";

/// Flame graphs beyond this size, in bytes, stay files of their own: the page must stay small.
const MOST_FLAMES: usize = 1_000_000;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nothing of a run is there.
    #[error("{}: has none of the files of a run ({}): is this the directory of one?", .0.display(),
        "manifest.json, samples.jsonl, events.jsonl")]
    NoRun(PathBuf),
    /// The page cannot be written.
    #[error("{}: cannot write it", file.display())]
    Write {
        /// The page.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Whether a directory has anything of a run.
///
/// # Errors
/// [`ReportError::NoRun`].
pub fn assert_run(directory: &Path) -> Result<(), ReportError> {
    let names = [MANIFEST_FILE, SAMPLES_FILE, EVENTS_FILE];
    if names.iter().any(|name| directory.join(name).is_file()) {
        Ok(())
    } else {
        Err(ReportError::NoRun(directory.to_owned()))
    }
}

/// Reads a whole file into a digest.
fn gather(directory: &Path, digest: &mut Digest, problems: &mut Problems) {
    for name in FILES {
        let mut lines = match Lines::open(&directory.join(name)) {
            Ok(lines) => lines,
            Err(error) => {
                problems.add(format!("{name}: {error}; what it says is missing here"));
                continue;
            }
        };
        loop {
            match lines.next_line() {
                Ok(Some((number, line))) => {
                    if let Err(error) = digest.line(name, line) {
                        problems.add(format!("{name}:{number}: {error}; the line is left out"));
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    problems.add(format!("{name}: {error}; the rest of it is missing here"));
                    break;
                }
            }
        }
    }
}

/// A flame graph; `None` when it has more than so many bytes.
fn picture(directory: &Path, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
    if std::fs::metadata(directory.join(name))?.len() > most as u64 {
        return Ok(None);
    }
    record::read_within(directory, name, most as u64).map(Some)
}

/// The flame graphs of a run, as pictures within the page.
fn flames(directory: &Path, digest: &Digest, problems: &mut Problems) -> Value {
    let mut size = 0;
    let mut flames = Vec::new();
    for flame in digest.incidents.flames.iter().filter(|flame| flame.samples > 0) {
        // A name that leads out of the directory is none of ours.
        let Some(name) = Path::new(&flame.svg).file_name() else { continue };
        let name = name.to_string_lossy();
        let picture = match picture(directory, &name, MOST_FLAMES - size) {
            Ok(Some(bytes)) => {
                size += bytes.len();
                Some(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Ok(None) => None,
            Err(error) => {
                problems.add(format!("{name}: {error}"));
                continue;
            }
        };
        flames.push(json!({
            "phase": flame.phase, "file": name, "samples": flame.samples, "svg": picture,
        }));
    }
    Value::from(flames)
}

/// Makes the page of the run in a directory. `problems` is what was found wrong before.
///
/// # Errors
/// [`ReportError`].
pub fn write(directory: &Path, mut problems: Problems) -> Result<Problems, ReportError> {
    assert_run(directory)?;
    let manifest = manifest(directory, &mut problems);
    let mut digest = Digest::default();
    digest.manifest(&manifest);
    gather(directory, &mut digest, &mut problems);
    digest.complete(0);
    let summary = read_json(directory, SUMMARY_FILE, &mut problems);
    let flames = flames(directory, &digest, &mut problems);
    let mut parts = describe(&manifest, &summary, &mut problems);
    parts.push(("flames", flames.to_string()));
    parts.push(("data", digest.to_json(0)));
    let parts: Vec<(&str, &str)> = parts.iter().map(|it| (it.0, it.1.as_str())).collect();
    let page = content(&parts);
    let name = manifest["experiment"]["name"].as_str().unwrap_or("a run");
    let title = format!("{name}: report");
    let html = Page { title: &title, content: Some(&page) }.to_html();
    let file = directory.join(NAME);
    let part = directory.join("report.html.part");
    std::fs::write(&part, html).and_then(|()| std::fs::rename(&part, &file)).map_err(|source| {
        // What is there of it takes the room of something that is needed.
        let _ = std::fs::remove_file(&part);
        ReportError::Write { file, source }
    })?;
    Ok(problems)
}
