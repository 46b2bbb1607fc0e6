//! A comparison of two sets of runs: what stands in its way, what differs in their manifests, and
//! phase by phase whether their figures differ.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::figures::{Figure, Pool};
use super::manifests::{self, Differing};
use super::sets::{self, LatencyOf, RecordedRun, SamplingUnit};
use super::verdicts::{ComparedPhase, Verdict, compare_figures, correct};
use crate::input::InputError;
use crate::stats::CONFIDENCE;
use crate::summary::PhaseSummary;
use record::{EVENTS_FILE, HLOG, Outcome, SAMPLES_FILE};

/// What `lab compare` is told.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// A run, a directory of runs as lab run --repeat makes it, or a file of lab export
    pub first: PathBuf,
    /// What it is compared with
    pub second: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Compare although phases are invalid or workloads differ; the result says so
    #[arg(long)]
    pub force: bool,
    /// Only this phase; may be given again. Fewer questions make each answer surer
    #[arg(long = "phase", value_name = "NAME")]
    pub phases: Vec<String>,
    /// Only this figure; may be given again
    #[arg(long = "figure", value_name = "FIGURE")]
    pub figures: Vec<Figure>,
    /// Where the runs of a side are that is an archive
    #[arg(skip)]
    pub unpacked: [Option<PathBuf>; 2],
}

/// The files from which all that is compared comes.
pub(crate) const COMPARED: [&str; 3] = [SAMPLES_FILE, EVENTS_FILE, HLOG];

/// What variation differences are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Variation {
    /// Of repeated runs on both sides.
    BetweenRuns,
    /// Of repeated runs on one side; the single run of the other is taken to vary like them.
    BetweenRunsOfOneSide,
    /// Within the only run of each side.
    WithinRuns,
}

impl Variation {
    /// Of so many runs a side.
    pub(crate) fn of(first: usize, second: usize) -> Self {
        match (first, second) {
            (1, 1) => Self::WithinRuns,
            (1, _) | (_, 1) => Self::BetweenRunsOfOneSide,
            _ => Self::BetweenRuns,
        }
    }
}

/// Two sets side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Version of this layout.
    pub format: u32,
    /// The runs of the first set.
    pub first: Vec<PathBuf>,
    /// The runs of the second.
    pub second: Vec<PathBuf>,
    /// What differences were compared with.
    pub variation: Variation,
    /// What intervals cover.
    pub confidence: f64,
    /// How many questions were asked at once.
    pub questions: usize,
    /// Why they should not be compared at all.
    pub objections: Vec<String>,
    /// What could not be read of the files of the runs, and was left out.
    pub damage: Vec<String>,
    /// What limits what it says.
    pub caveats: Vec<String>,
    /// What else differs between them, by their manifests.
    pub differing: Vec<Differing>,
    /// Phase by phase.
    pub phases: Vec<ComparedPhase>,
}

impl Comparison {
    /// Whether anything was shown.
    pub(crate) fn any_shown(&self) -> bool {
        let mut all = self.phases.iter().flat_map(|phase| &phase.figures);
        all.any(|it| it.verdict == Verdict::Shown)
    }
}

/// Compares two runs or sets of runs.
///
/// # Errors
/// [`InputError`].
pub fn compare(args: &CompareArgs) -> Result<Comparison, InputError> {
    let paths = [args.first.as_path(), args.second.as_path()];
    let read = |side: usize| {
        let directory = args.unpacked[side].as_deref().unwrap_or(paths[side]);
        sets::read(directory, paths[side])
    };
    let (first, second) = (read(0)?, read(1)?);
    let names = names(paths, &first, &second, &args.phases)?;
    let (load, differing) = manifests::differences(&first, &second);
    let mut objections: Vec<String> =
        load.iter().map(|it| format!("the workload differs: {}", it)).collect();
    for run in first.iter().chain(&second) {
        object(run, &names, &mut objections);
    }
    let variation = Variation::of(first.len(), second.len());
    let of = LatencyOf::all(first.iter().chain(&second));
    let each = [&first, &second].map(|runs| runs.iter().collect::<Vec<_>>());
    let mut phases = Vec::new();
    for name in &names {
        if let Some(mut phase) = compare_phase(name, &each[0], &each[1], variation, of)? {
            let wanted = |figure: Figure| args.figures.is_empty() || args.figures.contains(&figure);
            phase.figures.retain(|it| wanted(it.figure));
            phase.missing.retain(|it| wanted(*it));
            phase.bounds.retain(|it| wanted(*it));
            phases.push(phase);
        }
    }
    let questions = correct(&mut phases);
    let directories = |runs: &[RecordedRun]| runs.iter().map(|run| run.name.clone()).collect();
    Ok(Comparison {
        format: 1,
        first: directories(&first),
        second: directories(&second),
        variation,
        confidence: CONFIDENCE,
        questions,
        objections,
        damage: first.iter().chain(&second).flat_map(RecordedRun::damage).collect(),
        caveats: caveats(&first, &second, variation, of),
        differing,
        phases,
    })
}

/// The phases to compare: those asked for, or all that both sides have.
fn names(
    paths: [&Path; 2],
    first: &[RecordedRun],
    second: &[RecordedRun],
    asked: &[String],
) -> Result<Vec<String>, InputError> {
    let of = |runs: &[RecordedRun]| -> Vec<String> {
        let phases = runs.first().map(|run| run.summary.phases.as_slice()).unwrap_or_default();
        phases.iter().map(|phase| phase.name.clone()).collect()
    };
    let there = [of(first), of(second)];
    for phase in asked {
        for (path, names) in paths.iter().zip(&there) {
            if !names.contains(phase) {
                return Err(InputError::Phase {
                    phase: phase.clone(),
                    directory: path.to_path_buf(),
                    there: names.join(", "),
                });
            }
        }
    }
    let wanted =
        |name: &String| there[1].contains(name) && (asked.is_empty() || asked.contains(name));
    Ok(there[0].iter().filter(|name| wanted(name)).cloned().collect())
}

/// Says what is wrong with a run.
fn object(run: &RecordedRun, names: &[String], objections: &mut Vec<String>) {
    let directory = run.name.display();
    if run.summary.outcome != Outcome::Completed {
        objections.push(format!("{directory}: the run is {}", run.summary.outcome));
    }
    if run.lacks_some_of(&COMPARED) {
        objections.push(format!(
            "{directory}: the run is damaged, and what its figures would be without that is not \
             known"
        ));
    }
    // A percentile that is not valid is marked as such, and no reason against the other figures.
    let unsound = |phase: &&PhaseSummary| !phase.load_valid && names.contains(&phase.name);
    for phase in run.summary.phases.iter().filter(unsound) {
        for because in &phase.invalid_because {
            let name = &phase.name;
            objections.push(format!("{directory}: phase {name} is not valid: {because}"));
        }
    }
}

fn caveats(
    first: &[RecordedRun],
    second: &[RecordedRun],
    variation: Variation,
    of: LatencyOf,
) -> Vec<String> {
    let mut caveats = Vec::new();
    if of == LatencyOf::Sent {
        caveats.push(
            "a run is of the first format, which has no latency of shakes that were never sent: \
             latencies are those of the shakes that were sent, of all runs"
                .to_owned(),
        );
    }
    match variation {
        Variation::WithinRuns => caveats.push(
            "one run a side: differences are compared with the variation within each run \
             only; another run of the same can differ by more (lab run --repeat 5)"
                .to_owned(),
        ),
        Variation::BetweenRunsOfOneSide => caveats.push(
            "one side has a single run, which is taken to vary like those of the other".to_owned(),
        ),
        Variation::BetweenRuns => {
            let times = |runs: &[RecordedRun]| -> Vec<u64> {
                runs.iter().map(|run| run.raw.manifest.started).collect()
            };
            let (a, b) = (times(first), times(second));
            let before = |a: &[u64], b: &[u64]| a.iter().max() < b.iter().min();
            if before(&a, &b) || before(&b, &a) {
                caveats.push(
                    "all runs of one side were before all of the other: what changed on the \
                     machine in between counts as a difference, too; take turns to exclude it"
                        .to_owned(),
                );
            }
        }
    }
    caveats
}

/// Compares a phase; `None` where a run does not have it.
///
/// # Errors
/// Histograms that cannot be read.
pub(crate) fn compare_phase(
    name: &str,
    first: &[&RecordedRun],
    second: &[&RecordedRun],
    variation: Variation,
    of: LatencyOf,
) -> Result<Option<ComparedPhase>, InputError> {
    let whole = |runs: &[&RecordedRun]| -> Option<Vec<SamplingUnit>> {
        runs.iter().map(|run| SamplingUnit::of_run(run, name, of)).collect()
    };
    let (Some(a), Some(b)) = (whole(first), whole(second)) else { return Ok(None) };
    let runs = [Pool::new(&a, false), Pool::new(&b, false)];
    let mut batches = None;
    if variation == Variation::WithinRuns {
        let (a, b) = (sets::batches(first[0], name, of)?, sets::batches(second[0], name, of)?);
        batches = a.zip(b);
    }
    let parts = batches.as_ref().map(|(a, b)| [Pool::new(a, true), Pool::new(b, true)]);
    let mut phase = compare_figures(name, &runs, parts.as_ref());
    for compared in &mut phase.figures {
        let runs = first.iter().chain(second);
        if runs.filter_map(|run| run.phase(name)).any(|it| compared.figure.is_not_valid(it)) {
            compared.leave_unanswered("not valid: the clients' own lateness is in it".to_owned());
        }
    }
    Ok(Some(phase))
}
