//! Whether figures of two sets of runs differ: each alone, then all corrected for how many were
//! asked.

use std::borrow::BorrowMut;

use serde::Serialize;

use super::figures::{Figure, Pool};
use super::sets::SHORTEST_PHASE_S;
use crate::stats::{CONFIDENCE, Difference, Estimate, Scale, holm};

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
pub struct ComparedFigure {
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

impl ComparedFigure {
    /// Asks no question of the figure, and says why.
    pub(super) fn leave_unanswered(&mut self, because: String) {
        self.difference.p = None;
        self.because = Some(because);
    }

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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ComparedPhase {
    /// Its name.
    pub name: String,
    /// Its figures, those that both sides have.
    pub figures: Vec<ComparedFigure>,
    /// Figures that a side does not have.
    pub missing: Vec<Figure>,
    /// Percentiles that shakes without an answer decide on a side: they are so much or more, which
    /// cannot be compared.
    pub bounds: Vec<Figure>,
}

/// Compares all figures of two pools of runs, or of their parts where a figure has parts.
pub(super) fn compare_figures(
    name: &str,
    runs: &[Pool<'_>; 2],
    parts: Option<&[Pool<'_>; 2]>,
) -> ComparedPhase {
    let mut phase = ComparedPhase { name: name.to_owned(), ..ComparedPhase::default() };
    for figure in Figure::ALL {
        let pools = match parts {
            Some(parts) if !figure.is_of_whole_runs() => parts,
            _ => runs,
        };
        if runs.iter().any(|pool| pool.is_bound(figure)) {
            phase.bounds.push(figure);
            continue;
        }
        let [first, second] = [&runs[0], &runs[1]].map(|pool| pool.value(figure, None));
        let (Some(first), Some(second)) = (first, second) else {
            phase.missing.push(figure);
            continue;
        };
        let Some(mut compared) = compare_figure(figure, &pools[0], &pools[1]) else {
            phase.missing.push(figure);
            continue;
        };
        compared.first = first;
        compared.second = second;
        phase.figures.push(compared);
    }
    phase
}

/// Compares a figure of two pools, uncorrected.
fn compare_figure(figure: Figure, first: &Pool<'_>, second: &Pool<'_>) -> Option<ComparedFigure> {
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
    Some(ComparedFigure {
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
pub fn answer<'a>(figures: impl Iterator<Item = &'a mut ComparedFigure>) -> usize {
    let asked = figures.filter(|it| !it.is_constant());
    let asked: Vec<(f64, &mut ComparedFigure)> =
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
pub(crate) fn correct<P: BorrowMut<ComparedPhase>>(phases: &mut [P]) -> usize {
    let questions = answer(phases.iter_mut().flat_map(|it| &mut it.borrow_mut().figures));
    for compared in phases.iter_mut().flat_map(|it| &mut it.borrow_mut().figures) {
        if compared.is_constant() {
            compared.p_adjusted = compared.difference.p;
            compared.verdict = Verdict::NotShown;
        }
    }
    questions
}
