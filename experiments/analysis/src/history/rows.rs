//! A run in the figures that a history shows. Must not know: other runs.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::find::Found;
use crate::compare::Differing;
use crate::compare::sets::RecordedRun;
use crate::summary::{Latency, PercentilesValid, PhaseSummary};
use record::Outcome;

/// A row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryRun {
    /// Its place in the history, from 1.
    pub number: usize,
    /// Its directory within that of the history.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// The Unix second at which it began.
    pub started: u64,
    /// The experiment's name.
    pub experiment: String,
    /// Version of the lab, or the commit that it was built from.
    pub version: String,
    /// The kernels of its hosts.
    pub kernels: Vec<String>,
    /// Its hosts.
    pub hosts: Vec<String>,
    /// Version of the layout of its files. Of version 1, latencies are of shakes that were sent.
    pub record_format: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it was completed, all of it is valid and the books balance.
    pub valid: bool,
    /// Where it stands among the states of its experiment, from 1.
    pub state: usize,
    /// What differs from the run of the experiment before it; null for the first.
    pub changed: Option<Vec<Differing>>,
    /// What is left out of its files.
    pub damage: Vec<String>,
    /// Phase by phase.
    pub phases: Vec<HistoryPhase>,
}

/// A phase of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryPhase {
    /// Its name.
    pub name: String,
    /// Shakes answered a second; null without shakes.
    pub answered_per_s: Option<f64>,
    /// Percentiles.
    pub latency_us: Latency,
    /// What a percentile that is null is at least.
    pub latency_at_least_us: Latency,
    /// Which percentiles say something of the server.
    pub percentiles_valid: PercentilesValid,
    /// CPU time of the server for a request, in microseconds.
    pub server_cpu_us: Option<f64>,
    /// Whether it is valid.
    pub valid: bool,
    /// Why not.
    pub invalid_because: Vec<String>,
}

impl HistoryPhase {
    fn of(phase: &PhaseSummary) -> Self {
        let seconds = phase.seconds.filter(|seconds| *seconds > 0.0 && phase.shake.offered > 0);
        Self {
            name: phase.name.clone(),
            answered_per_s: seconds.map(|seconds| phase.shake.answered as f64 / seconds),
            latency_us: phase.latency_us,
            latency_at_least_us: phase.latency_at_least_us,
            percentiles_valid: phase.percentiles_valid,
            server_cpu_us: phase.cpu_us_per_request.server,
            valid: phase.valid,
            invalid_because: phase.invalid_because.clone(),
        }
    }
}

/// What the hosts of a manifest say of a field, each once.
fn of_hosts(manifest: &Value, field: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for host in manifest["hosts"].as_array().into_iter().flatten() {
        if let Some(value) = host[field].as_str().filter(|it| !all.iter().any(|one| one == it)) {
            all.push(value.to_owned());
        }
    }
    all
}

impl HistoryRun {
    /// The row of a run.
    pub(super) fn of(
        found: &Found,
        run: &RecordedRun,
        state: usize,
        changed: Option<Vec<Differing>>,
    ) -> Self {
        let manifest = &run.manifest;
        let summary = &run.summary;
        let completed = summary.outcome == Outcome::Completed;
        let phases = summary.phases.iter().all(|phase| phase.valid);
        Self {
            number: 0,
            name: found.name.clone(),
            directory: found.directory.clone(),
            started: found.started,
            experiment: found.experiment.clone(),
            version: manifest["version"].as_str().unwrap_or_default().to_owned(),
            kernels: of_hosts(manifest, "kernel"),
            hosts: of_hosts(manifest, "host"),
            record_format: manifest["format"].as_u64().unwrap_or(0),
            outcome: summary.outcome,
            valid: completed && phases && summary.ledger.balanced == Some(true),
            state,
            changed,
            damage: run.raw.damage.sentences().collect(),
            phases: summary.phases.iter().map(HistoryPhase::of).collect(),
        }
    }
}
