//! A history for people: a table where it fits, else a paragraph a run; then what changed and what
//! moved, in sentences. Must not know: how wide a terminal is.

use serde_json::Value;

use super::History;
use super::rows::{HistoryPhase, HistoryRun};
use super::states::Step;
use crate::compare::table::{distance, value};
use crate::compare::{Differing, Variation};
use record::Outcome;
use text::{Align, Table, milliseconds, thousands, utc, wrapped};

/// Words to the left, figures to the right.
const COLUMNS: [(&str, Align); 12] = [
    ("#", Align::Right),
    ("began (UTC)", Align::Left),
    ("run", Align::Left),
    ("version", Align::Left),
    ("kernel", Align::Left),
    ("host", Align::Left),
    ("phase", Align::Left),
    ("answered/s", Align::Right),
    ("p50 ms", Align::Right),
    ("p99 ms", Align::Right),
    ("p99.9 ms", Align::Right),
    ("valid", Align::Left),
];

/// Changes named in a sentence; of more, the number.
const MOST_CHANGES: usize = 8;

/// Characters of a value in a sentence.
const LONGEST_VALUE: usize = 48;

/// The first format, whose latencies are of other shakes.
const FIRST_FORMAT: u64 = 1;

/// A history in lines of `width` characters at most; of any length with `None`.
pub fn table(history: &History, width: Option<usize>) -> String {
    let mut out = rows(history);
    let widest = out.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    if width.is_some_and(|width| widest > width) {
        out = paragraphs(history, width.unwrap_or(usize::MAX));
    }
    let mut say = |line: &str, indent: usize| match width {
        Some(width) => out += &wrapped(line, width, indent),
        None => {
            out += line;
            out.push('\n');
        }
    };
    for step in &history.steps {
        for (line, indent) in sentences(step) {
            say(&line, indent);
        }
    }
    for line in notes(history) {
        say(&line, 2);
    }
    out
}

fn day(run: &HistoryRun) -> String {
    let utc = utc(run.started);
    utc.strip_suffix(":00 UTC").or_else(|| utc.get(..16)).unwrap_or(&utc).to_owned()
}

/// Several of a kind, where a name for each is too long.
fn several(names: &[String], what: &str) -> String {
    match names {
        [] => "-".to_owned(),
        [one] => one.clone(),
        [one, two] => format!("{one}, {two}"),
        many => format!("{} {what}", many.len()),
    }
}

fn name(run: &HistoryRun) -> String {
    let mark = if run.record_format == FIRST_FORMAT { "¹" } else { "" };
    format!("{}{mark}", run.name)
}

fn percentile(us: Option<u64>, at_least: Option<u64>, valid: Option<bool>) -> String {
    let mark = if valid == Some(false) { "!" } else { "" };
    let bound = if us.is_none() { "≥" } else { "" };
    let us = us.or(at_least);
    us.map_or_else(|| "-".to_owned(), |us| format!("{bound}{}{mark}", milliseconds(us, 2)))
}

fn validity(run: &HistoryRun, phase: &HistoryPhase) -> String {
    match run.outcome {
        Outcome::Completed if phase.valid => "yes".to_owned(),
        Outcome::Completed => "NO".to_owned(),
        outcome => outcome.to_string(),
    }
}

/// The figures of a phase, in the order of the columns.
fn figures(phase: &HistoryPhase) -> [String; 4] {
    let (known, least) = (&phase.latency_us, &phase.latency_at_least_us);
    let valid = &phase.percentiles_valid;
    [
        phase.answered_per_s.map_or_else(|| "-".to_owned(), |it| thousands(it.round() as u64)),
        percentile(known.p50, least.p50, valid.p50),
        percentile(known.p99, least.p99, valid.p99),
        percentile(known.p999, least.p999, valid.p999),
    ]
}

/// Phases in which something was asked for; one of a run that has no such.
fn shown(run: &HistoryRun) -> Vec<&HistoryPhase> {
    let with_shakes: Vec<&HistoryPhase> =
        run.phases.iter().filter(|phase| phase.answered_per_s.is_some()).collect();
    if with_shakes.is_empty() { run.phases.iter().take(1).collect() } else { with_shakes }
}

fn rows(history: &History) -> String {
    let mut table = Table::new(COLUMNS.map(|(_, align)| align));
    table.row(COLUMNS.map(|(head, _)| head));
    for run in &history.runs {
        let mut first = vec![
            run.number.to_string(),
            day(run),
            name(run),
            run.version.clone(),
            several(&run.kernels, "kernels"),
            several(&run.hosts, "hosts"),
        ];
        for phase in shown(run) {
            let figures = figures(phase);
            let rest = [vec![phase.name.clone()], figures.to_vec(), vec![validity(run, phase)]];
            table.row(first.into_iter().chain(rest.concat()));
            first = vec![String::new(); 6];
        }
        if run.phases.is_empty() {
            table.row(first);
        }
    }
    table.to_string()
}

/// The same where lines are short.
fn paragraphs(history: &History, width: usize) -> String {
    let mut out = String::new();
    for run in &history.runs {
        let of_it = format!(
            "{} {}, began {}, version {}, kernel {}, on {}",
            run.number,
            name(run),
            day(run),
            run.version,
            several(&run.kernels, "kernels"),
            several(&run.hosts, "hosts"),
        );
        out += &wrapped(&of_it, width, 2);
        for phase in shown(run) {
            let [rate, p50, p99, p999] = figures(phase);
            let line = format!(
                "  {}: {rate} answered/s, p50 {p50} ms, p99 {p99} ms, p99.9 {p999} ms, valid: {}",
                phase.name,
                validity(run, phase)
            );
            out += &wrapped(&line, width, 4);
        }
    }
    out
}

fn numbers(runs: &[usize]) -> String {
    match runs {
        [] => "-".to_owned(),
        [one] => one.to_string(),
        [one, .., last] if last - one + 1 == runs.len() => format!("{one} to {last}"),
        many => many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// A value of a manifest, as long as it may be in a sentence.
fn short(values: &[Value]) -> String {
    let one = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "absent".to_owned(),
        other => other.to_string(),
    };
    let all = values.iter().map(one).collect::<Vec<_>>().join(" or ");
    if all.chars().count() <= LONGEST_VALUE {
        return all;
    }
    let beginning: String = all.chars().take(LONGEST_VALUE - 1).collect();
    beginning + "…"
}

/// A change in words.
fn change(differing: &Differing) -> String {
    format!("{}: {} → {}", differing.field, short(&differing.first), short(&differing.second))
}

/// What changed in a step and what moved, each with the indent of its further lines.
fn sentences(step: &Step) -> Vec<(String, usize)> {
    let mut changes: Vec<String> = step.changed.iter().take(MOST_CHANGES).map(change).collect();
    if let Some(more) = step.changed.len().checked_sub(MOST_CHANGES).filter(|more| *more > 0) {
        changes.push(format!("and {more} more (--json has all)"));
    }
    let (from, to) = (numbers(&step.from), numbers(&step.to));
    let mut lines =
        vec![(format!("{}, {from} → {to}: changed: {}", step.experiment, changes.join("; ")), 2)];
    for (phase, figure) in step.moved() {
        let interval = figure.difference.interval.map_or_else(String::new, |(low, high)| {
            format!(", {} to {}", distance(figure.scale, low), distance(figure.scale, high))
        });
        let (first, second) = (value(figure.first), value(figure.second));
        lines.push((
            format!(
                "  MOVED: {phase}: {} {first} → {second} ({}{interval})",
                figure.figure.title(),
                distance(figure.scale, figure.difference.estimate),
            ),
            4,
        ));
    }
    if step.moved().next().is_none() && step.asked() > 0 {
        lines.push((format!("  no figure moved beyond chance, of {}", step.asked()), 4));
    }
    for why in &step.not_compared {
        lines.push((format!("  not compared: {why}"), 4));
    }
    lines
}

/// What limits all of it.
fn notes(history: &History) -> Vec<String> {
    let mut notes = Vec::new();
    if history.steps.is_empty() && history.runs.len() > 1 {
        notes.push("nothing changed from run to run".to_owned());
    }
    let within = |of: &super::ComparedStates| of.variation == Variation::WithinRuns;
    if history.steps.iter().flat_map(|step| &step.phases).any(within) {
        notes.push(
            "where a state has one run, differences are compared with the variation within it \
             only; another run of the same can differ by more (lab run --repeat 5)"
                .to_owned(),
        );
    }
    if history.questions > 0 {
        notes.push(format!(
            "{} figures asked about at once: what moved is corrected for that (Holm), intervals \
             are each for itself",
            history.questions
        ));
    }
    let marked = |mark: fn(&HistoryRun) -> bool| history.runs.iter().any(mark);
    if marked(|run| run.record_format == FIRST_FORMAT) {
        notes.push("¹ format 1: latencies are of the shakes that were sent".to_owned());
    }
    let has =
        |of: fn(&HistoryPhase) -> bool| history.runs.iter().flat_map(|run| &run.phases).any(of);
    if has(|it| it.latency_us.p999.is_none() && it.latency_at_least_us.p999.is_some()) {
        notes.push("≥ so much or more: shakes that got no answer in time decide it".to_owned());
    }
    if has(|it| it.percentiles_valid.p999 == Some(false)) {
        notes.push("! not valid: it is the clients' lateness as much as the server's".to_owned());
    }
    for run in &history.runs {
        notes.extend(run.damage.iter().map(|what| format!("{} is damaged: {what}", run.name)));
    }
    notes.extend(history.left_out.iter().map(|what| format!("left out: {what}")));
    notes
}
