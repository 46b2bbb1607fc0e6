//! The history of a directory of runs: a row a run, what changed from one to the next, and which
//! figures moved beyond chance.
//!
//! Runs of one experiment that follow each other and were made with the same are one state. States
//! are compared as sets of runs are, by the statistics of `compare`, and all questions of a history
//! are corrected together.
//!
//! Read it from `find` (which runs there are) over `rows` (a run in figures) and `states` (which
//! runs belong together, what moved between them) to `table`. Must not know: pages, terminals.

mod find;
mod rows;
mod states;
mod table;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::compare::Figure;
use crate::input::InputError;
use crate::stats::CONFIDENCE;

pub use rows::{HistoryPhase, HistoryRun};
pub use states::{ComparedStates, Step};
pub use table::table;

/// Figures that are asked about, where no others are named. Fewer questions make each answer surer.
const FIGURES: [Figure; 5] =
    [Figure::Rate, Figure::P50, Figure::P99, Figure::P999, Figure::ServerCpu];

/// What `lab history` is told.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// A directory of runs; what is in it that lab run --repeat made counts, too
    pub directory: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Write a page, too
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
    /// Only runs of this experiment, by its name; may be given again
    #[arg(long = "experiment", value_name = "NAME")]
    pub experiments: Vec<String>,
    /// Only this phase; may be given again
    #[arg(long = "phase", value_name = "NAME")]
    pub phases: Vec<String>,
    /// Ask whether this figure moved; may be given again [default: rate, p50, p99, p999,
    /// server-cpu]
    #[arg(long = "figure", value_name = "FIGURE")]
    pub figures: Vec<Figure>,
}

/// The runs of a directory in the order in which they began.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// Version of this layout.
    pub format: u32,
    /// What was asked for.
    pub directory: PathBuf,
    /// What intervals cover.
    pub confidence: f64,
    /// How many questions were asked at once.
    pub questions: usize,
    /// A row a run.
    pub runs: Vec<HistoryRun>,
    /// From state to state, by the run with which the second begins.
    pub steps: Vec<Step>,
    /// What of the directory is no run, or none that can be read.
    pub left_out: Vec<String>,
}

/// Reads the runs of a directory.
///
/// # Errors
/// [`InputError`]: only when there is no run at all, or no directory.
pub fn history(args: &HistoryArgs) -> Result<History, InputError> {
    let (found, mut left_out) = find::runs(&args.directory)?;
    let wanted = |name: &String| args.experiments.is_empty() || args.experiments.contains(name);
    let mut chains: Vec<(String, Vec<find::Found>)> = Vec::new();
    for run in found.into_iter().filter(|run| wanted(&run.experiment)) {
        match chains.iter_mut().find(|(experiment, _)| *experiment == run.experiment) {
            Some((_, runs)) => runs.push(run),
            None => chains.push((run.experiment.clone(), vec![run])),
        }
    }
    let figures = if args.figures.is_empty() { &FIGURES[..] } else { &args.figures };
    let (mut runs, mut steps) = (Vec::new(), Vec::new());
    for (_, chain) in chains {
        // One experiment after the other, so that only two states of it are in memory at a time.
        let of = states::follow(&chain, figures, &args.phases);
        runs.extend(of.runs);
        steps.extend(of.steps);
        left_out.extend(of.left_out);
    }
    if runs.is_empty() {
        return Err(InputError::NoRun { directory: args.directory.clone() });
    }
    let questions = states::correct(&mut steps);
    number(&mut runs, &mut steps);
    Ok(History {
        format: 1,
        directory: args.directory.clone(),
        confidence: CONFIDENCE,
        questions,
        runs,
        steps,
        left_out,
    })
}

/// Sorts runs by their beginning and numbers them so, also where steps name them.
fn number(runs: &mut [HistoryRun], steps: &mut [Step]) {
    runs.sort_by(|a, b| (a.started, &a.name).cmp(&(b.started, &b.name)));
    for (at, run) in runs.iter_mut().enumerate() {
        run.number = at + 1;
    }
    let of = |names: &[PathBuf]| -> Vec<usize> {
        let named = runs.iter().filter(|run| names.contains(&run.directory));
        named.map(|run| run.number).collect()
    };
    for step in steps.iter_mut() {
        (step.from, step.to) = (of(&step.from_runs), of(&step.to_runs));
    }
    steps.sort_by_key(|step| step.to.first().copied());
}

#[cfg(test)]
mod tests;
