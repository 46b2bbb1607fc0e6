//! What an ablation came to: the effect of each setting on a few figures, and its table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::arms::{Arm, WITH, WITHOUT};
use analysis::compare::{self, CompareArgs, ComparedFigure, Figure, Verdict};
use analysis::stats::{CONFIDENCE, Scale};
use text::{Align, Table};

/// What a setting may be worth something for.
const FIGURES: [Figure; 5] =
    [Figure::Rate, Figure::P99, Figure::KernelMemory, Figure::ServerCpu, Figure::ClientCpu];

/// What having something is worth, against leaving it out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Effect {
    /// The key; `None` for the whole profile.
    key: Option<String>,
    /// Figure by figure: the first value is that without it, the second that with it.
    figures: Vec<ComparedFigure>,
    /// Figures that the runs do not have.
    missing: Vec<Figure>,
}

/// What came of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Ablation {
    /// The phase.
    phase: String,
    /// How often each arm was run.
    rounds: usize,
    /// How many questions were asked at once, for all of which p-values are corrected.
    questions: usize,
    /// What intervals cover, each asked alone.
    confidence: f64,
    /// The profile as a whole, then setting by setting.
    effects: Vec<Effect>,
    /// Settings without a measurable effect.
    without_effect: Vec<String>,
    /// Settings that were not measured, and why.
    not_measured: BTreeMap<String, String>,
    /// Runs that were not what was asked for.
    objections: Vec<String>,
}

impl Ablation {
    /// Compares the arms below a directory with the one that has the whole profile.
    pub(super) fn of(
        out: &Path,
        arms: &[Arm],
        phase: &str,
        not_measured: BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        let mut effects = Vec::new();
        let mut objections: Vec<String> = Vec::new();
        let mut rounds = 0;
        for arm in arms.iter().filter(|arm| arm.name != WITH) {
            let comparison = compare::compare(&CompareArgs {
                first: out.join(&arm.name),
                second: out.join(WITH),
                json: false,
                force: true,
                phases: vec![phase.to_owned()],
                figures: FIGURES.to_vec(),
                unpacked: [None, None],
            })?;
            rounds = comparison.second.len();
            for objection in comparison.objections {
                if !objections.contains(&objection) {
                    objections.push(objection);
                }
            }
            let key = (arm.name != WITHOUT).then(|| arm.without.concat());
            let found = comparison.phases.into_iter().next();
            let (figures, missing) =
                found.map_or_else(Default::default, |it| (it.figures, it.missing));
            effects.push(Effect { key, figures, missing });
        }
        let questions = correct(&mut effects);
        let shown = |it: &Effect| it.figures.iter().any(|it| it.verdict == Verdict::Shown);
        let without_effect =
            effects.iter().filter(|it| !shown(it)).filter_map(|it| it.key.clone()).collect();
        Ok(Self {
            phase: phase.to_owned(),
            rounds,
            questions,
            confidence: CONFIDENCE,
            effects,
            without_effect,
            not_measured,
            objections,
        })
    }
}

/// All arms are asked at once, so p-values are corrected for all of them.
fn correct(effects: &mut [Effect]) -> usize {
    compare::answer(effects.iter_mut().flat_map(|effect| &mut effect.figures))
}

/// An effect with its interval; a star when it is shown.
fn cell(effect: &Effect, figure: Figure) -> String {
    let Some(it) = effect.figures.iter().find(|it| it.figure == figure) else {
        return "-".to_owned();
    };
    // What may be below zero has no ratio: its difference is in the figure's own unit.
    let (unit, factor) = match it.scale {
        Scale::Ratio => ("%", 100.0),
        Scale::Difference => ("", 1.0),
    };
    let number = |distance: f64| format!("{:+.1}", distance * factor);
    let interval = it
        .difference
        .interval
        .map_or_else(String::new, |(low, high)| format!(" ({} to {})", number(low), number(high)));
    let star = if it.verdict == Verdict::Shown { " *" } else { "" };
    format!("{}{unit}{interval}{star}", number(it.difference.estimate))
}

/// For people.
pub(super) fn table(ablation: &Ablation) -> String {
    let mut table = Table::new([Align::Left; 1 + FIGURES.len()]);
    let head = "having it, against leaving it out";
    table.row(std::iter::once(head).chain(FIGURES.map(Figure::title)));
    for effect in &ablation.effects {
        let name = effect.key.clone().unwrap_or_else(|| "the whole profile".to_owned());
        let cells = FIGURES.iter().map(|figure| cell(effect, *figure));
        table.row(std::iter::once(name).chain(cells));
    }
    let mut out = table.to_string();
    let list = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "phase {}, {} runs an arm; intervals cover {:.0}% each, a star is shown also among all {} \
         questions\nwithout a measurable effect: {}",
        ablation.phase,
        ablation.rounds,
        ablation.confidence * 100.0,
        ablation.questions,
        list(&ablation.without_effect)
    );
    for (key, why) in &ablation.not_measured {
        let _ = writeln!(out, "not measured: {key}: {why}");
    }
    for objection in &ablation.objections {
        let _ = writeln!(out, "beware: {objection}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use analysis::stats::{Difference, Scale};

    fn compared(figure: Figure, estimate: f64, p: f64) -> ComparedFigure {
        ComparedFigure {
            figure,
            first: 100.0,
            second: 100.0 * (1.0 + estimate),
            first_deviation: Some(0.01),
            second_deviation: Some(0.01),
            scale: Scale::Ratio,
            difference: Difference {
                estimate,
                interval: Some((estimate - 0.02, estimate + 0.02)),
                p: Some(p),
            },
            p_adjusted: Some(p),
            verdict: Verdict::Unknown,
            because: None,
        }
    }

    #[test]
    fn what_could_be_chance_among_so_many_questions_is_no_effect() {
        let effect = |key: Option<&str>, p: f64| Effect {
            key: key.map(str::to_owned),
            figures: vec![compared(Figure::P99, -0.5, p), compared(Figure::Rate, 0.0, 0.9)],
            missing: Vec::new(),
        };
        let mut effects =
            vec![effect(None, 0.0001), effect(Some("a"), 0.001), effect(Some("b"), 0.03)];
        assert_eq!(correct(&mut effects), 6);
        let verdicts: Vec<Verdict> = effects.iter().map(|it| it.figures[0].verdict).collect();
        assert_eq!(verdicts, [Verdict::Shown, Verdict::Shown, Verdict::NotShown]);
        assert_eq!(cell(&effects[1], Figure::P99), "-50.0% (-52.0 to -48.0) *");
        assert_eq!(cell(&effects[2], Figure::P99), "-50.0% (-52.0 to -48.0)");
        assert_eq!(cell(&effects[2], Figure::ServerCpu), "-");
        // Bytes of the kernel a socket can grow less than nothing, and have no ratio.
        let bytes =
            ComparedFigure { scale: Scale::Difference, ..compared(Figure::P99, 3500.0, 0.9) };
        let effect = Effect { key: None, figures: vec![bytes], missing: Vec::new() };
        assert_eq!(cell(&effect, Figure::P99), "+3500.0 (+3500.0 to +3500.0)");
    }
}
