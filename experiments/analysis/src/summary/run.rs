//! The summary of a run: its phases, its money, and what is missing and why.

use std::collections::BTreeMap;
use std::path::Path;

use attribution::Tally;
use serde::{Deserialize, Serialize};

use super::counts;
use super::figures::PhaseSummary;
use super::latency;
use super::ledger::LedgerSummary;
use super::phase;
use record::{FORMAT, FileError, Outcome, ProbeAbsence, Problems, Raw, RawError, SUMMARY_FILE};
use spec::Validity;

/// A run in figures. Latencies are in microseconds, rates per second, money in cents; what could
/// not be measured is null, and `missing` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this layout.
    pub format: u32,
    /// The experiment's name.
    pub experiment: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, unless it was completed.
    pub outcome_because: Option<String>,
    /// Phase by phase, in their order.
    pub phases: Vec<PhaseSummary>,
    /// Where the money is.
    pub ledger: LedgerSummary,
    /// When a phase counts as measured.
    pub validity: Validity,
    /// Figures that are null, and why.
    pub missing: BTreeMap<String, String>,
}

impl Summary {
    /// Works out the summary of a run.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn of(raw: &Raw) -> Result<Self, RawError> {
        let manifest = &raw.manifest;
        let specs = manifest.experiment.ordered_phases().unwrap_or_default();
        let mut phases: Vec<PhaseSummary> = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| phase::summarize(raw, &specs, index, spec))
            .collect();
        let wrong = counts::of_seconds(raw, settled(raw, &phases).as_ref());
        let wrong: Vec<String> = wrong.into_iter().chain(counts::of_server(raw)).collect();
        for phase in phases.iter_mut().filter(|phase| phase.shake.offered > 0) {
            phase.invalid_because.extend(wrong.iter().cloned());
            phase.valid &= wrong.is_empty();
            phase.load_valid &= wrong.is_empty();
        }
        let lost: u64 = phases.iter().map(|it| it.connections.lost).fold(0, u64::saturating_add);
        let ledger = LedgerSummary::of(raw, lost);
        let mut missing = BTreeMap::new();
        let mut note = |what: &str, why: &str| missing.insert(what.to_owned(), why.to_owned());
        if let Some(why) = manifest.probes["because"].as_str() {
            for what in [
                "phases.kernel.drops",
                "phases.kernel.runqueue_delay_us",
                "phases.segments_us.network",
                "phases.segments_us.server_wait",
                "phases.segments_us.server_service",
                "phases.segments_us.client_receive_lag",
                "phases.attribution",
                "phases.mixed_requests",
                "phases.unsampled_requests",
            ] {
                note(what, why);
            }
        }
        for (name, absence) in manifest.absent_probes() {
            if let ProbeAbsence::Missed(why) = absence {
                note(&format!("probes.{name}"), &why);
            }
        }
        if phases.iter().any(|it| it.memory.server_user_bytes_per_connection.is_none()) {
            note("phases.memory", "fewer than 1,000 connections: growth is lost in the noise");
        }
        for (what, why) in lacks_of_format(raw, &phases) {
            note(what, why);
        }
        for (number, what) in raw.damage.sentences().enumerate() {
            note(&format!("files.{}", number + 1), &what);
        }
        if ledger.balanced.is_none()
            && let Some(why) = &ledger.because
        {
            note("ledger", why);
        }
        if phases.iter().any(|it| !it.settled) {
            note(
                "phases.shake",
                "a phase did not settle: its counts are those of its seconds, not of its shakes",
            );
        }
        Ok(Self {
            format: FORMAT,
            experiment: manifest.experiment.name.to_string(),
            outcome: manifest.outcome.unwrap_or(Outcome::Incomplete),
            outcome_because: manifest.outcome_because.clone(),
            phases,
            ledger,
            validity: manifest.experiment.validity.clone(),
            missing,
        })
    }
}

/// What the files of an earlier format lack, and what that costs.
fn lacks_of_format(raw: &Raw, phases: &[PhaseSummary]) -> Vec<(&'static str, &'static str)> {
    let mut lacks = Vec::new();
    if latency::is_of_every_shake(raw) {
        return lacks;
    }
    let due = || phases.iter().filter(|it| it.shake.offered > 0);
    if due().any(|it| it.shake.skipped > 0 || it.shake.lost > 0) {
        lacks.push((
            "phases.latency_us",
            "format 1 has no latency of shakes that were never sent or whose connection went away: \
             percentiles that these could change are bounds, and latency_sent_us has the others",
        ));
    }
    if due().any(|it| it.percentiles_valid.p99.is_none()) {
        lacks.push((
            "phases.percentiles_valid",
            "format 1 does not say how many shakes were late by the client's own doing",
        ));
    }
    lacks
}

/// What became of all shakes of a run; `None` when a phase that began has not settled.
fn settled(raw: &Raw, phases: &[PhaseSummary]) -> Option<Tally> {
    let mut sum = Tally::default();
    for phase in phases.iter().filter(|phase| phase.seconds.is_some()) {
        sum.add(&phase::settled(raw, &phase.name)?);
    }
    Some(sum)
}

/// Works out the summary of the run in a directory. Also, what of its files could not be read.
///
/// # Errors
/// [`RawError`].
pub fn of(directory: &Path) -> Result<(Summary, Problems), RawError> {
    let raw = Raw::read(directory)?;
    let summary = Summary::of(&raw)?;
    Ok((summary, raw.damage))
}

/// Writes the summary of the run in a directory there.
///
/// # Errors
/// [`FileError`].
pub fn write(directory: &Path, summary: &Summary) -> Result<(), FileError> {
    record::write_json(directory, SUMMARY_FILE, summary)
}
