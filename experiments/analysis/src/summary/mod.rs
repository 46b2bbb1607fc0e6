//! What a run came to, worked out from its raw files alone: at the end of a run and again whenever
//! somebody asks, also for a run that was killed.

mod blame;
mod evidence;
mod phase;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use accounting::Ledger;
use accounting::Money;
use serde::{Deserialize, Serialize};

use record::{FORMAT, FileError, Problems, Raw, RawError, SUMMARY_FILE};
use spec::Validity;

pub use blame::slow_from;
pub use blame::{Account, Attribution, Jitter, Seen, Shares, Tail, dominant};
pub use phase::{
    Cpu, Kernel, Latency, Memory, PerSecond, PhaseSummary, RunQueue, Segments, Sends, Shakes,
};
pub use table::table;

/// A run in figures. Latencies are in microseconds, rates per second, money in cents; what could
/// not be measured is null, and `missing` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this layout.
    pub format: u32,
    /// The experiment's name.
    pub experiment: String,
    /// `completed`, `aborted`, `interrupted`, or `incomplete` for a run that was killed.
    pub outcome: String,
    /// Why, unless it was completed.
    pub outcome_because: Option<String>,
    /// Phase by phase, in their order.
    pub phases: Vec<PhaseSummary>,
    /// Where the money is.
    pub ledger: Books,
    /// When a phase counts as measured.
    pub validity: Validity,
    /// Figures that are null, and why.
    pub missing: BTreeMap<String, String>,
}

/// Server's and clients' books side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Books {
    /// Everything that ever came in.
    pub created: Option<Money>,
    /// Packets given to users who shook.
    pub granted: Option<Money>,
    /// Shares given to users who claimed.
    pub claimed: Option<Money>,
    /// What went back to creators.
    pub refunded: Option<Money>,
    /// What waits.
    pub remaining: Option<Money>,
    /// What clients received, by their own books.
    pub received_by_clients: Option<Money>,
    /// What was granted or claimed and no client received.
    pub undelivered: Option<Money>,
    /// Packets that two users received.
    pub double_grants: Option<u64>,
    /// Whether every share and every cent is somewhere, and only once.
    pub balanced: Option<bool>,
}

impl Books {
    fn of(
        ledger: Option<Ledger>,
        received: Option<Money>,
        doubles: Option<u64>,
        lost: u64,
    ) -> Self {
        let undelivered =
            ledger.zip(received).map(|(ledger, received)| ledger.undelivered(received));
        let balanced =
            ledger.zip(doubles).zip(undelivered).map(|((ledger, doubles), undelivered)| {
                // Answers disappear with connections, and in no other way.
                let explained = undelivered.is_some_and(|it| it.count == 0 || lost > 0);
                ledger.is_balanced() && explained && doubles == 0
            });
        Self {
            created: ledger.map(|it| it.created),
            granted: ledger.map(|it| it.granted),
            claimed: ledger.map(|it| it.claimed),
            refunded: ledger.map(|it| it.refunded),
            remaining: ledger.map(|it| it.remaining),
            received_by_clients: received,
            undelivered: undelivered.flatten(),
            double_grants: doubles,
            balanced,
        }
    }
}

impl Summary {
    /// Works out the summary of a run.
    ///
    /// # Errors
    /// [`RawError`].
    pub fn of(raw: &Raw) -> Result<Self, RawError> {
        let manifest = &raw.manifest;
        let specs = manifest.experiment.ordered_phases().unwrap_or_default();
        let phases: Vec<PhaseSummary> = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| phase::summarize(raw, &specs, index, spec))
            .collect();
        let books = raw.books();
        let doubles = books.clients.and_then(|clients| clients.double_grants);
        let lost: u64 = phases.iter().map(|it| it.connections.lost).sum();
        let ledger = Books::of(books.server, books.received, doubles, lost);
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
        for probe in manifest.probes["absent"].as_array().into_iter().flatten() {
            // One that another stands in for misses nothing.
            let why = probe["reason"].as_str().filter(|why| !why.starts_with("not needed"));
            if let (Some(name), Some(why)) = (probe["name"].as_str(), why) {
                note(&format!("probes.{name}"), why);
            }
        }
        if phases.iter().any(|it| it.memory.server_user_bytes_per_connection.is_none()) {
            note("phases.memory", "fewer than 1,000 connections: growth is lost in the noise");
        }
        for (number, what) in raw.damage.sentences().enumerate() {
            note(&format!("files.{}", number + 1), &what);
        }
        if ledger.balanced.is_none() {
            note("ledger", "the run did not end in order: a side has not closed its books");
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
            outcome: manifest.outcome.clone().unwrap_or_else(|| "incomplete".to_owned()),
            outcome_because: manifest.outcome_because.clone(),
            phases,
            ledger,
            validity: manifest.experiment.validity.clone(),
            missing,
        })
    }
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// The raw files cannot be read.
    #[error(transparent)]
    Raw(#[from] RawError),
    /// The summary cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Works out the summary of the run in a directory and writes it there. Also, what of its files
/// could not be read.
///
/// # Errors
/// [`SummaryError`].
pub fn write(directory: &Path) -> Result<(Summary, Problems), SummaryError> {
    let raw = Raw::read(directory)?;
    let summary = Summary::of(&raw)?;
    record::write_json(directory, SUMMARY_FILE, &summary)?;
    Ok((summary, raw.damage))
}
