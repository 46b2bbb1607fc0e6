//! Which runs belong together, and what moved between those that do not. Must not know: where runs
//! are looked for, and who reads what comes of them.

use std::path::PathBuf;

use serde::Serialize;

use super::find::Found;
use super::rows::HistoryRun;
use crate::compare::comparison::{COMPARED, compare_phase};
use crate::compare::sets::{LatencyOf, RecordedRun};
use crate::compare::{
    ComparedFigure, ComparedPhase, Differing, Figure, Variation, Verdict, manifests, verdicts,
};
use crate::summary::PhaseSummary;
use record::Outcome;

/// From a state of an experiment to the next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The experiment.
    pub experiment: String,
    /// The runs of the state before, by their numbers.
    pub from: Vec<usize>,
    /// The runs of the state after.
    pub to: Vec<usize>,
    /// What changed.
    pub changed: Vec<Differing>,
    /// Whether the load is among it: then figures are of something else, and are not compared.
    pub load_changed: bool,
    /// Phase by phase, what was compared.
    pub phases: Vec<ComparedStates>,
    /// What was not, and why.
    pub not_compared: Vec<String>,
    /// Their directories.
    #[serde(skip)]
    pub(super) from_runs: Vec<PathBuf>,
    #[serde(skip)]
    pub(super) to_runs: Vec<PathBuf>,
}

/// A phase of two states.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedStates {
    /// What differences were compared with.
    pub variation: Variation,
    /// Whether latencies are of the shakes that were sent only, as a run of format 1 has no others.
    pub sent_only: bool,
    /// The figures.
    #[serde(flatten)]
    pub phase: ComparedPhase,
}

impl Step {
    /// Figures that moved beyond chance, with their phase.
    pub(super) fn moved(&self) -> impl Iterator<Item = (&str, &ComparedFigure)> {
        self.phases.iter().flat_map(|of| {
            let shown = of.phase.figures.iter().filter(|it| it.verdict == Verdict::Shown);
            shown.map(|figure| (of.phase.name.as_str(), figure))
        })
    }

    /// How many figures were asked about.
    pub(super) fn asked(&self) -> usize {
        let figures = self.phases.iter().flat_map(|of| &of.phase.figures);
        figures.filter(|it| it.verdict != Verdict::Unknown).count()
    }
}

/// What came of the runs of one experiment.
#[derive(Default)]
pub(super) struct Followed {
    pub(super) runs: Vec<HistoryRun>,
    pub(super) steps: Vec<Step>,
    pub(super) left_out: Vec<String>,
}

/// A state, as far as the next is compared with it.
#[derive(Default)]
struct State {
    runs: Vec<RecordedRun>,
    /// What led to it from the state before.
    changed: Vec<Differing>,
    load_changed: bool,
}

/// Reads the runs of an experiment in their order, two states at a time.
pub(super) fn follow(chain: &[Found], figures: &[Figure], phases: &[String]) -> Followed {
    let mut followed = Followed::default();
    let (mut before, mut now) = (None, State::default());
    let mut number = 1;
    for found in chain {
        let run = match RecordedRun::read(&found.directory, &found.directory) {
            Ok(run) => run,
            Err(error) => {
                followed.left_out.push(in_words(&error));
                continue;
            }
        };
        let mut changed = None;
        if let Some(last) = now.runs.last() {
            let (load, rest) = manifests::differences([last], [&run]);
            let load_changed = !load.is_empty();
            let all: Vec<Differing> = load.into_iter().chain(rest).collect();
            if !all.is_empty() {
                followed.steps.extend(before.as_ref().map(|it| step(it, &now, figures, phases)));
                let next = State { runs: Vec::new(), changed: all.clone(), load_changed };
                before = Some(std::mem::replace(&mut now, next));
                number += 1;
            }
            changed = Some(all);
        }
        followed.runs.push(HistoryRun::of(found, &run, number, changed));
        now.runs.push(run);
    }
    followed.steps.extend(before.as_ref().map(|it| step(it, &now, figures, phases)));
    for step in &mut followed.steps {
        step.experiment = chain.first().map(|it| it.experiment.clone()).unwrap_or_default();
    }
    followed
}

/// An error with its reasons.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(why) = source {
        words += &format!(": {why}");
        source = why.source();
    }
    words
}

/// Compares a state with the one before.
fn step(before: &State, now: &State, figures: &[Figure], phases: &[String]) -> Step {
    let directories = |state: &State| state.runs.iter().map(|it| it.directory.clone()).collect();
    let mut step = Step {
        experiment: String::new(),
        from: Vec::new(),
        to: Vec::new(),
        changed: now.changed.clone(),
        load_changed: now.load_changed,
        phases: Vec::new(),
        not_compared: Vec::new(),
        from_runs: directories(before),
        to_runs: directories(now),
    };
    if now.load_changed {
        step.not_compared.push("the load is another, and figures of it are other figures".into());
        return step;
    }
    let sides = [before, now].map(|state| {
        let sound = state.runs.iter().filter(|run| is_sound(run));
        sound.collect::<Vec<_>>()
    });
    if sides.iter().any(Vec::is_empty) {
        step.not_compared.push("on one side no run was completed, or all are damaged".into());
        return step;
    }
    let names = sides[0].first().map(|run| run.summary.phases.as_slice()).unwrap_or_default();
    let names = names.iter().filter(|it| phases.is_empty() || phases.contains(&it.name));
    for name in names.map(|phase| phase.name.as_str()) {
        compare(&mut step, name, &sides, figures);
    }
    step
}

/// Whether what its figures are worked out from is all there.
fn is_sound(run: &RecordedRun) -> bool {
    run.summary.outcome == Outcome::Completed && !run.lacks_some_of(&COMPARED)
}

fn compare(step: &mut Step, name: &str, sides: &[Vec<&RecordedRun>; 2], figures: &[Figure]) {
    let shakes = |phase: &PhaseSummary| phase.shake.offered > 0;
    let there = |run: &&&RecordedRun| run.phase(name).is_some_and(shakes);
    if sides.iter().any(|runs| runs.iter().filter(there).count() == 0) {
        return;
    }
    let valid = |run: &&&RecordedRun| run.phase(name).is_some_and(|phase| phase.load_valid);
    let [first, second] = sides.each_ref().map(|runs| {
        let valid = runs.iter().filter(valid);
        valid.copied().collect::<Vec<&RecordedRun>>()
    });
    if first.is_empty() || second.is_empty() {
        step.not_compared.push(format!("{name}: it is valid in no run of one side"));
        return;
    }
    let variation = Variation::of(first.len(), second.len());
    let of = LatencyOf::all(first.iter().chain(&second).copied());
    match compare_phase(name, &first, &second, variation, of) {
        Ok(Some(mut phase)) => {
            let wanted = |figure: Figure| figures.contains(&figure);
            phase.figures.retain(|it| wanted(it.figure));
            phase.missing.retain(|it| wanted(*it));
            phase.bounds.retain(|it| wanted(*it));
            let sent_only = of == LatencyOf::Sent;
            step.phases.push(ComparedStates { variation, sent_only, phase });
        }
        Ok(None) => step.not_compared.push(format!("{name}: a run does not have it")),
        Err(error) => step.not_compared.push(format!("{name}: {}", in_words(&error))),
    }
}

/// Corrects for all questions of a history at once. Returns how many there were.
pub(super) fn correct(steps: &mut [Step]) -> usize {
    let phases = steps.iter_mut().flat_map(|step| &mut step.phases);
    let mut phases: Vec<&mut ComparedPhase> = phases.map(|of| &mut of.phase).collect();
    verdicts::correct(&mut phases)
}
