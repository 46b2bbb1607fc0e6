//! The files of a run that are given away together. Must not know: what is in them.

use record::{EVENTS_FILE, HLOG, MANIFEST_FILE, SAMPLES_FILE, SLOW_FILE, SUMMARY_FILE};

/// The page of a run, which is a program, too: an import does not take a stranger's.
pub(crate) const PAGE: &str = "report.html";

/// What every run has when it is whole, in the order in which it is packed: what a person opens
/// first comes first.
pub(crate) const WHOLE: [&str; 10] = [
    PAGE,
    SUMMARY_FILE,
    MANIFEST_FILE,
    EVENTS_FILE,
    SAMPLES_FILE,
    SLOW_FILE,
    HLOG,
    "events.parquet",
    "samples.parquet",
    "slow.parquet",
];

/// What a run with faults has beside them.
pub(crate) const WITH_FAULTS: [&str; 2] = ["truth.jsonl", "truth.parquet"];

/// What is of a process and no part of the record.
const OF_PROCESSES: [&str; 4] = ["run.lock", "fleet.json", "checkpoint.json", "orders.sock"];

/// What a file in the directory of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of the record, or made from it.
    OfRun,
    /// A picture that may hold a program.
    Picture,
    /// The page, which is a program.
    Page,
    /// Of a process.
    OfProcess,
    /// Nothing that a run writes.
    Other,
}

/// What a file of this name is.
pub(crate) fn kind(name: &str) -> Kind {
    if name == PAGE {
        return Kind::Page;
    }
    if WHOLE.contains(&name) || WITH_FAULTS.contains(&name) {
        return Kind::OfRun;
    }
    if OF_PROCESSES.contains(&name) {
        return Kind::OfProcess;
    }
    match name.strip_prefix("profile-").and_then(|rest| rest.rsplit_once('.')) {
        Some((phase, "folded")) if !phase.is_empty() => Kind::OfRun,
        Some((phase, "svg")) if !phase.is_empty() => Kind::Picture,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (name, expected) in [
            ("manifest.json", Kind::OfRun),
            ("truth.jsonl", Kind::OfRun),
            ("profile-60k.folded", Kind::OfRun),
            ("profile-60k.svg", Kind::Picture),
            ("report.html", Kind::Page),
            ("run.lock", Kind::OfProcess),
            ("profile-.svg", Kind::Other),
            ("Manifest.json", Kind::Other),
            (".DS_Store", Kind::Other),
            ("report.html.part", Kind::Other),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }
}
