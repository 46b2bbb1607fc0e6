//! Files of a run: `lab report` must say what it can of any, and never end by a panic.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use analysis::summary::{Summary, table};
use record::Raw;
use record::hlog::Decoder;

/// The files of a small run. An input takes the place of one of them.
const FILES: [&str; 5] =
    ["samples.jsonl", "events.jsonl", "slow.jsonl", "latency.hlog", "manifest.json"];

/// A directory of this process; in memory, where the machine has that.
pub(crate) fn place() -> &'static Path {
    static PLACE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let memory = Path::new("/dev/shm");
        let within = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        tempfile::tempdir_in(within).expect("a directory")
    };
    PLACE.get_or_init(make).path()
}

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("base")
}

/// A file of a run: its name, an end of line, its text.
pub(crate) fn results(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (name, text) = bytes.split_at(end);
    let Some(name) = FILES.iter().find(|file| file.as_bytes() == name) else { return };
    let run = place().join("run");
    if !run.exists() {
        std::fs::create_dir(&run).expect("a directory");
        for file in FILES {
            std::fs::copy(base().join(file), run.join(file)).expect("copied");
        }
    }
    std::fs::write(run.join(name), text.get(1..).unwrap_or_default()).expect("written");
    match Raw::read(&run) {
        Ok(raw) => {
            drop(raw.damage.sentences().collect::<Vec<_>>());
            if let Ok(summary) = Summary::of(&raw) {
                drop(table(&summary));
                drop(serde_json::to_string(&summary).expect("JSON"));
            }
        }
        Err(error) => drop(error.to_string()),
    }
    std::fs::copy(base().join(name), run.join(name)).expect("copied");
}

/// Lines of a histogram log.
pub(crate) fn hlog(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        match decoder.line(line, |_| true) {
            Ok(Some(interval)) => {
                let _ = interval.phase_and_segment();
                for quantile in [0.0, 0.5, 0.999, 1.0] {
                    let _ = interval.values.value_at_quantile(quantile);
                }
            }
            Ok(None) => {}
            Err(error) => drop(error.to_string()),
        }
    }
}
