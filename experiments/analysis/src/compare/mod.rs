//! Two runs, or two sets of repeated runs, held against each other: what differs, by how much, and
//! whether that could be chance.
//!
//! Where a side has several runs, how much runs vary is what a difference must exceed. Of one run a
//! side only the variation within it is known, by batches of its seconds: that says whether the two
//! runs differ, not whether what they were made with is the reason, and it is labelled so.

pub(crate) mod figures;
mod manifests;
pub(crate) mod sets;
#[cfg(test)]
mod simulated;
mod table;

use std::fmt::Display;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::stats::{CONFIDENCE, Difference, Estimate, Scale, holm};

pub use figures::Figure;
use figures::Pool;
pub use manifests::Differing;
use sets::{Run, SHORTEST_PHASE_S, Unit};
pub use table::table;

/// What `lab compare` is told.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// A run, or a directory of runs as lab run --repeat makes it
    pub first: PathBuf,
    /// What it is held against
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
}

/// Why nothing can be compared: the input is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
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
        source: anyhow::Error,
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
}

impl Mistake {
    fn histograms(directory: &Path, what: impl Display) -> Self {
        Self::Histograms { directory: directory.to_owned(), what: what.to_string() }
    }
}

/// What variation differences are held against.
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

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is a difference.
    Shown,
    /// What difference there is could be chance.
    NotShown,
    /// Nothing tells how much the figure varies.
    Unknown,
}

/// A figure of two sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    pub figure: Figure,
    /// Of the first set.
    pub first: f64,
    /// Of the second.
    pub second: f64,
    /// How far a run of the first set is from the others (a batch, within runs), typically: a share
    /// on the scale of ratios, else in the figure's unit; null when there is nothing to tell.
    pub first_deviation: Option<f64>,
    /// The same of the second.
    pub second_deviation: Option<f64>,
    /// Whether differences are shares or in the figure's unit.
    pub scale: Scale,
    /// The difference, with the interval and the p-value of this question alone.
    #[serde(flatten)]
    pub difference: Difference,
    /// The p-value corrected for all questions asked.
    pub p_adjusted: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
    /// Why nothing is known.
    pub because: Option<String>,
}

impl Compared {
    /// Whether all units of both sides have one value: whatever the truth, that could not have
    /// shown a difference, and is no question (Tarone, "A modified Bonferroni method for discrete
    /// data", Biometrics 46, 1990).
    fn is_constant(&self) -> bool {
        let still = |deviation: Option<f64>| deviation.is_none_or(|it| it == 0.0);
        self.difference.estimate == 0.0
            && still(self.first_deviation)
            && still(self.second_deviation)
            && self.difference.p.is_some()
    }
}

/// A phase of two sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComparedPhase {
    /// Its name.
    pub name: String,
    /// Its figures, those that both sides have.
    pub figures: Vec<Compared>,
    /// Figures that a side does not have.
    pub missing: Vec<Figure>,
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
    /// What differences were held against.
    pub variation: Variation,
    /// What intervals cover.
    pub confidence: f64,
    /// How many questions were asked at once.
    pub questions: usize,
    /// Why they should not be compared at all.
    pub objections: Vec<String>,
    /// What is to be kept in mind.
    pub caveats: Vec<String>,
    /// What else differs between them, by their manifests.
    pub differing: Vec<Differing>,
    /// Phase by phase.
    pub phases: Vec<ComparedPhase>,
}

impl Comparison {
    /// Whether anything was shown.
    pub fn any_shown(&self) -> bool {
        let mut all = self.phases.iter().flat_map(|phase| &phase.figures);
        all.any(|it| it.verdict == Verdict::Shown)
    }
}

/// Compares two runs or sets of runs.
///
/// # Errors
/// [`Mistake`].
pub fn compare(args: &Args) -> Result<Comparison, Mistake> {
    let paths = [args.first.as_path(), args.second.as_path()];
    let (first, second) = (sets::read(paths[0])?, sets::read(paths[1])?);
    let names = names(paths, &first, &second, &args.phases)?;
    let (load, differing) = manifests::differences(&first, &second);
    let mut objections: Vec<String> =
        load.iter().map(|it| format!("the workload differs: {}", table::differing(it))).collect();
    for run in first.iter().chain(&second) {
        object(run, &names, &mut objections);
    }
    let variation = match (first.len(), second.len()) {
        (1, 1) => Variation::WithinRuns,
        (1, _) | (_, 1) => Variation::BetweenRunsOfOneSide,
        _ => Variation::BetweenRuns,
    };
    let mut phases = Vec::new();
    for name in &names {
        if let Some(mut phase) = compare_phase(name, &first, &second, variation)? {
            let wanted = |it: Figure| args.figures.is_empty() || args.figures.contains(&it);
            phase.figures.retain(|it| wanted(it.figure));
            phase.missing.retain(|it| wanted(*it));
            phases.push(phase);
        }
    }
    let questions = correct(&mut phases);
    let directories = |runs: &[Run]| runs.iter().map(|run| run.directory.clone()).collect();
    Ok(Comparison {
        format: 1,
        first: directories(&first),
        second: directories(&second),
        variation,
        confidence: CONFIDENCE,
        questions,
        objections,
        caveats: caveats(&first, &second, variation),
        differing,
        phases,
    })
}

/// The phases to compare: those asked for, or all that both sides have.
fn names(
    paths: [&Path; 2],
    first: &[Run],
    second: &[Run],
    asked: &[String],
) -> Result<Vec<String>, Mistake> {
    let of = |runs: &[Run]| -> Vec<String> {
        let phases = runs.first().map(|run| run.summary.phases.as_slice()).unwrap_or_default();
        phases.iter().map(|phase| phase.name.clone()).collect()
    };
    let there = [of(first), of(second)];
    for phase in asked {
        for (path, names) in paths.iter().zip(&there) {
            if !names.contains(phase) {
                return Err(Mistake::Phase {
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
fn object(run: &Run, names: &[String], objections: &mut Vec<String>) {
    let directory = run.directory.display();
    if run.summary.outcome != "completed" {
        objections.push(format!("{directory}: the run is {}", run.summary.outcome));
    }
    for phase in run.summary.phases.iter().filter(|phase| names.contains(&phase.name)) {
        for because in &phase.invalid_because {
            let name = &phase.name;
            objections.push(format!("{directory}: phase {name} is not valid: {because}"));
        }
    }
}

fn caveats(first: &[Run], second: &[Run], variation: Variation) -> Vec<String> {
    let mut caveats = Vec::new();
    match variation {
        Variation::WithinRuns => caveats.push(
            "one run a side: differences are held against the variation within each run only; \
             another run of the same can differ by more (lab run --repeat 5)"
                .to_owned(),
        ),
        Variation::BetweenRunsOfOneSide => caveats.push(
            "one side has a single run, which is taken to vary like those of the other".to_owned(),
        ),
        Variation::BetweenRuns => {
            let times = |runs: &[Run]| -> Vec<u64> {
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

fn compare_phase(
    name: &str,
    first: &[Run],
    second: &[Run],
    variation: Variation,
) -> Result<Option<ComparedPhase>, Mistake> {
    let whole = |runs: &[Run]| -> Option<Vec<Unit>> {
        runs.iter().map(|run| Unit::of_run(run, name)).collect()
    };
    let (Some(a), Some(b)) = (whole(first), whole(second)) else { return Ok(None) };
    let runs = [Pool::new(&a, false), Pool::new(&b, false)];
    let mut batches = None;
    if variation == Variation::WithinRuns {
        batches = sets::batches(&first[0], name)?.zip(sets::batches(&second[0], name)?);
    }
    let parts = batches.as_ref().map(|(a, b)| [Pool::new(a, true), Pool::new(b, true)]);
    Ok(Some(hold_all(name, &runs, parts.as_ref())))
}

/// Holds all figures of two pools of runs against each other, or of their parts where a figure has
/// parts.
fn hold_all(name: &str, runs: &[Pool<'_>; 2], parts: Option<&[Pool<'_>; 2]>) -> ComparedPhase {
    let mut phase =
        ComparedPhase { name: name.to_owned(), figures: Vec::new(), missing: Vec::new() };
    for figure in Figure::ALL {
        let pools = match parts {
            Some(parts) if !figure.is_of_whole_runs() => parts,
            _ => runs,
        };
        let [first, second] = [&runs[0], &runs[1]].map(|pool| pool.value(figure, None));
        let (Some(first), Some(second)) = (first, second) else {
            phase.missing.push(figure);
            continue;
        };
        let Some(mut compared) = hold(figure, &pools[0], &pools[1]) else {
            phase.missing.push(figure);
            continue;
        };
        compared.first = first;
        compared.second = second;
        phase.figures.push(compared);
    }
    phase
}

/// Holds a figure of two pools against each other, uncorrected.
fn hold(figure: Figure, first: &Pool<'_>, second: &Pool<'_>) -> Option<Compared> {
    let (scale, a, b) = Pool::estimates(figure, first, second)?;
    let resolution = first.resolution(figure, scale).max(second.resolution(figure, scale));
    let difference = Difference::between(&a, &b, scale, resolution);
    let because = difference.p.is_none().then(|| {
        if figure.is_of_whole_runs() {
            "one value a run, which says nothing of how it varies".to_owned()
        } else {
            format!("a phase under {SHORTEST_PHASE_S} s does not tell how it varies")
        }
    });
    Some(Compared {
        figure,
        first: first.value(figure, None)?,
        second: second.value(figure, None)?,
        first_deviation: Estimate::deviation(&a),
        second_deviation: Estimate::deviation(&b),
        scale,
        difference,
        p_adjusted: None,
        verdict: Verdict::Unknown,
        because,
    })
}

/// Answers these questions, p-values corrected for all of them (Holm). Returns how many there were:
/// what has no p-value is none, nor is what never varies.
pub fn answer<'a>(figures: impl Iterator<Item = &'a mut Compared>) -> usize {
    let asked = figures.filter(|it| !it.is_constant());
    let asked: Vec<(f64, &mut Compared)> =
        asked.filter_map(|it| Some((it.difference.p?, it))).collect();
    let mut p: Vec<f64> = asked.iter().map(|(p, _)| *p).collect();
    holm(&mut p);
    for ((_, compared), p) in asked.into_iter().zip(&p) {
        compared.p_adjusted = Some(*p);
        let shown = *p < 1.0 - CONFIDENCE;
        compared.verdict = if shown { Verdict::Shown } else { Verdict::NotShown };
    }
    p.len()
}

/// Corrects for all questions at once, and answers them. Returns how many there were.
fn correct(phases: &mut [ComparedPhase]) -> usize {
    let questions = answer(phases.iter_mut().flat_map(|phase| &mut phase.figures));
    for compared in phases.iter_mut().flat_map(|phase| &mut phase.figures) {
        if compared.is_constant() {
            compared.p_adjusted = compared.difference.p;
            compared.verdict = Verdict::NotShown;
        }
    }
    questions
}
