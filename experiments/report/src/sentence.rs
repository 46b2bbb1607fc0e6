//! Whether a phase held, in sentences for a person.

use serde::Serialize;

use analysis::summary::{PhaseSummary, Summary};
use text::{milliseconds, thousands};

/// What became of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum State {
    #[serde(rename = "held")]
    Held,
    #[serde(rename = "did not hold")]
    DidNotHold,
    #[serde(rename = "not valid")]
    NotValid,
    #[serde(rename = "not run")]
    NotRun,
}

/// What is said of a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// The phase.
    pub(super) phase: String,
    /// What became of it.
    pub(super) state: State,
    /// Whether it held.
    pub(super) held: String,
    /// Why it did not, as far as probes tell; or that there were none.
    why: Option<String>,
    /// Why it is not valid.
    invalid: Vec<String>,
    /// What else there is to tell: contradictions, connections, shakes and pushes.
    others: Vec<String>,
    /// What the machine did by itself, and what the lab took of it.
    machine: Vec<String>,
}

fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "not measured".to_owned(), |us| milliseconds(us, 2) + " ms")
}

/// A verdict for each phase.
pub(super) fn verdicts(summary: &Summary, off_share: f64) -> Vec<Verdict> {
    summary.phases.iter().map(|phase| verdict(phase, summary, off_share)).collect()
}

fn verdict(phase: &PhaseSummary, summary: &Summary, off_share: f64) -> Verdict {
    let shake = &phase.shake;
    let connections = &phase.connections;
    let mut held = Vec::new();
    let mut good = true;
    if phase.seconds.is_none() {
        let held = "It never began.".to_owned();
        let invalid = phase.invalid_because.clone();
        let (phase, why, others, machine) = (phase.name.clone(), None, Vec::new(), Vec::new());
        return Verdict { phase, state: State::NotRun, held, why, invalid, others, machine };
    }
    if let Some(rate) = connections.connect_rate {
        let (established, target) = (connections.established, connections.target);
        good &= established >= target;
        held.push(format!(
            "{} of {} users were connected, {} a second",
            thousands(established),
            thousands(target),
            thousands(rate.round() as u64)
        ));
    }
    if connections.lost > 0 {
        good = false;
        held.push(format!("{} connections were lost", thousands(connections.lost)));
    }
    good &= shake.answered >= shake.offered;
    held.extend(answered(phase));
    if let (Some(off), Some(seconds)) = (phase.answered_per_second.off, phase.seconds) {
        good &= off == 0;
        held.push(in_words(off, seconds, off_share));
    }
    held.extend(p99(phase));
    if held.is_empty() {
        held.push("nothing was asked of it".to_owned());
    }
    let why = phase.attribution.verdict.clone().or_else(|| {
        let because = summary.missing.get("phases.attribution");
        because.filter(|_| shake.offered > 0).map(|why| format!("no probes looked why: {why}"))
    });
    let state = match (phase.valid, good) {
        (false, _) => State::NotValid,
        (true, true) => State::Held,
        (true, false) => State::DidNotHold,
    };
    let held = capital(held.join("; ") + ".");
    let (invalid, machine) = (phase.invalid_because.clone(), of_machine(phase));
    let others = others(phase);
    Verdict { phase: phase.name.clone(), state, held, why, invalid, others, machine }
}

/// What else there is to tell of a phase.
fn others(phase: &PhaseSummary) -> Vec<String> {
    let it = &phase.attribution;
    let all = [&it.contradicted, &it.connecting, &it.unanswered, &it.pushes];
    all.into_iter().flatten().map(|said| capital(said.clone())).collect()
}

pub(super) fn capital(mut text: String) -> String {
    if let Some(first) = text.get(..1) {
        text.replace_range(..1, &first.to_uppercase());
    }
    text
}

/// What the machine did by itself, and what the lab took of it.
fn of_machine(phase: &PhaseSummary) -> Vec<String> {
    let lab = phase.lab.cpu_share.map(|share| {
        let slow = phase.lab.slow_share.filter(|share| *share > 0.0);
        let slow = slow.map_or_else(String::new, |share| {
            format!(", and {:.2}% of the time of slow requests", share * 100.0)
        });
        format!("The lab itself took {:.2}% of the CPUs{slow}", share * 100.0)
    });
    phase.stalls.sentence().map(capital).into_iter().chain(lab).collect()
}

/// How many shakes of a phase were answered, if there were any.
fn answered(phase: &PhaseSummary) -> Option<String> {
    let shake = &phase.shake;
    let missing = shake.offered.saturating_sub(shake.answered);
    match (shake.offered, shake.answered) {
        (0, 0) => None,
        (0, answered) => Some(format!("{} shakes were answered", thousands(answered))),
        (offered, _) if missing == 0 => {
            Some(format!("all {} shakes were answered", thousands(offered)))
        }
        (offered, _) => Some(format!(
            "{} of {} shakes were not answered{}",
            thousands(missing),
            thousands(offered),
            what_became(phase)
        )),
    }
}

fn what_became(phase: &PhaseSummary) -> String {
    let shake = &phase.shake;
    let parts: Vec<String> = [
        (shake.skipped, "never sent"),
        (shake.timed_out, "timed out"),
        (shake.lost, "lost with their connection"),
        (shake.in_flight_at_end, "still under way"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{} {what}", thousands(count)))
    .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

/// The 99th percentile of a phase, as far as it says something of the server.
fn p99(phase: &PhaseSummary) -> Option<String> {
    if phase.percentiles_valid.p99 == Some(false) {
        return Some("p99 is not valid, as the clients themselves were late".to_owned());
    }
    match (phase.latency_us.p99, phase.latency_at_least_us.p99) {
        (Some(_), _) => Some(format!("p99 was {}", ms(phase.latency_us.p99))),
        (None, Some(_)) => Some(format!("p99 was at least {}", ms(phase.latency_at_least_us.p99))),
        (None, None) => None,
    }
}

fn in_words(off: u64, seconds: f64, off_share: f64) -> String {
    let percent = off_share * 100.0;
    match (off, seconds) {
        (0, seconds) => format!("no second of {seconds} was off by more than {percent}%"),
        (off, seconds) => format!("{off} of {seconds} seconds were off by more than {percent}%"),
    }
}
