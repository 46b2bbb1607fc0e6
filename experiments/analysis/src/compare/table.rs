//! A comparison for people.

use std::fmt::Write;

use super::comparison::{Comparison, Variation};
use super::verdicts::{ComparedFigure, Verdict};
use crate::stats::Scale;
use text::{Align, Table, thousands};

/// Words to the left, figures to the right.
const COLUMNS: [(&str, Align); 7] = [
    ("phase", Align::Left),
    ("figure", Align::Left),
    ("first", Align::Right),
    ("second", Align::Right),
    ("difference", Align::Right),
    ("95% interval", Align::Right),
    ("", Align::Left),
];

/// A value with as many digits as matter.
pub(crate) fn value(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", thousands(large.round() as u64))
        }
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A difference on its scale.
pub(crate) fn distance(scale: Scale, distance: f64) -> String {
    match scale {
        Scale::Ratio if distance > 9.0 => format!("x {:.1}", distance + 1.0),
        Scale::Ratio => format!("{:+.2}%", distance * 100.0),
        Scale::Difference => format!("{distance:+.2}"),
    }
}

fn deviation(scale: Scale, deviation: Option<f64>) -> String {
    let shown = |deviation: f64| match scale {
        Scale::Ratio => format!(" ±{:.1}%", deviation * 100.0),
        Scale::Difference => format!(" ±{deviation:.2}"),
    };
    deviation.map_or_else(String::new, shown)
}

fn verdict(figure: &ComparedFigure) -> String {
    match figure.verdict {
        Verdict::Shown => "DIFFERENCE SHOWN".to_owned(),
        Verdict::NotShown if figure.difference.is_shown() => {
            "no difference shown among so many figures".to_owned()
        }
        Verdict::NotShown => "no difference shown".to_owned(),
        Verdict::Unknown => figure.because.clone().unwrap_or_default(),
    }
}

fn row(phase: &str, compared: &ComparedFigure) -> [String; COLUMNS.len()] {
    let interval = compared.difference.interval.map_or_else(
        || "-".to_owned(),
        |(low, high)| {
            format!("{} to {}", distance(compared.scale, low), distance(compared.scale, high))
        },
    );
    [
        phase.to_owned(),
        compared.figure.title().to_owned(),
        value(compared.first) + &deviation(compared.scale, compared.first_deviation),
        value(compared.second) + &deviation(compared.scale, compared.second_deviation),
        distance(compared.scale, compared.difference.estimate),
        interval,
        verdict(compared),
    ]
}

/// The comparison as a table, with its caveats below.
pub fn table(comparison: &Comparison) -> String {
    let mut table = Table::new(COLUMNS.map(|(_, align)| align));
    table.row(COLUMNS.map(|(head, _)| head));
    for phase in &comparison.phases {
        for compared in &phase.figures {
            table.row(row(&phase.name, compared));
        }
    }
    let mut out = table.to_string();
    notes(comparison, &mut out);
    out
}

fn notes(comparison: &Comparison, out: &mut String) {
    // Writing to a string does not fail.
    let mut say = |line: &str| {
        let _ = writeln!(out, "{line}");
    };
    if comparison.questions == 0 {
        say("nothing here tells how much the figures vary");
    } else if !comparison.any_shown() {
        say("no difference shown");
    }
    let deviations = match comparison.variation {
        Variation::WithinRuns => "± is the deviation of a batch of seconds from the others",
        _ => "± is the deviation of a run from the others",
    };
    say(&format!(
        "{} figures at once: verdicts are corrected for that (Holm), intervals are each for \
         itself; {deviations}",
        comparison.questions
    ));
    for phase in comparison.phases.iter().filter(|phase| !phase.missing.is_empty()) {
        let missing: Vec<&str> = phase.missing.iter().map(|figure| figure.title()).collect();
        say(&format!("not measured on both sides in {}: {}", phase.name, missing.join(", ")));
    }
    for phase in comparison.phases.iter().filter(|phase| !phase.bounds.is_empty()) {
        let bounds: Vec<&str> = phase.bounds.iter().map(|figure| figure.title()).collect();
        let bounds = bounds.join(", ");
        let name = &phase.name;
        say(&format!("not compared in {name}, as shakes without an answer decide it: {bounds}"));
    }
    for damage in &comparison.damage {
        say(&format!("damaged: {damage}"));
    }
    for caveat in &comparison.caveats {
        say(caveat);
    }
    for differing in &comparison.differing {
        say(&format!("differs: {differing}"));
    }
    for objection in &comparison.objections {
        say(&format!("forced, although {objection}"));
    }
}
