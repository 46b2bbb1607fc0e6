//! What is wrong with the runs that a command was given. Must not know: what is done with runs.

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Why there is nothing to compare or to project: what was given is wrong.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// There is no such directory.
    #[error("{}: cannot read it", directory.display())]
    Directory {
        /// What was given.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A directory that is something else.
    #[error(
        "{}: no run, and no directory of runs: neither it nor a directory in it has a \
         manifest.json",
        directory.display()
    )]
    NoRun {
        /// What was given.
        directory: PathBuf,
    },
    /// A run that cannot be read.
    #[error("a run cannot be read")]
    Run {
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A run of which something is left out that would be in the result.
    #[error(
        "{}: the run is damaged, and what it would come to without that is not known: {damage}",
        directory.display()
    )]
    Damaged {
        /// The run.
        directory: PathBuf,
        /// What is left out.
        damage: String,
    },
    /// A run whose latencies cannot be read.
    #[error("{}: cannot read its histograms: {what}", directory.display())]
    Histograms {
        /// The run.
        directory: PathBuf,
        /// Why.
        what: String,
    },
    /// A phase that is not there.
    #[error("there is no phase \"{phase}\" in {}: it has {there}", directory.display())]
    Phase {
        /// What was asked for.
        phase: String,
        /// Where it was looked for.
        directory: PathBuf,
        /// Those that there are.
        there: String,
    },
    /// No phase to project from.
    #[error(
        "no phase to project from: it needs shakes, answers to all of them or a load that waits \
         for answers, validity, and CPU time of the server in every run{why}"
    )]
    NoPhase {
        /// Why those that were asked for do not do.
        why: String,
    },
}

impl InputError {
    pub(crate) fn histograms(directory: &Path, what: impl Display) -> Self {
        Self::Histograms { directory: directory.to_owned(), what: what.to_string() }
    }
}
