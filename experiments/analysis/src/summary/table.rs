//! A summary for people.

use std::fmt::Write;

use accounting::Money;

use super::figures::PhaseSummary;
use super::run::Summary;
use text::{Align, Table, milliseconds, thousands};

/// Before a percentile that reaches into shakes without an answer.
const AT_LEAST: &str = "≥";

/// Behind one that is of the client as much as of the server.
const NOT_VALID: &str = "!";

/// A percentile in milliseconds with as many digits as matter, or what it is at least.
fn ms(us: Option<u64>, at_least_us: Option<u64>, valid: Option<bool>) -> String {
    let bound = if us.is_none() { AT_LEAST } else { "" };
    let mark = if valid == Some(false) { NOT_VALID } else { "" };
    us.or(at_least_us)
        .map_or_else(|| "-".to_owned(), |us| format!("{bound}{}{mark}", milliseconds(us, 2)))
}

fn row(phase: &PhaseSummary) -> [String; HEAD.len()] {
    let shake = &phase.shake;
    let (latency, at_least) = (&phase.latency_us, &phase.latency_at_least_us);
    let valid = &phase.percentiles_valid;
    let none = || "-".to_owned();
    [
        phase.name.clone(),
        phase.seconds.map_or_else(none, |seconds| format!("{seconds:.0}")),
        thousands(phase.connections.established),
        shake.offered_rate.map_or_else(none, |rate| thousands(rate.round() as u64)),
        thousands(shake.answered),
        thousands(shake.skipped.saturating_add(shake.timed_out).saturating_add(shake.lost)),
        thousands(shake.granted),
        ms(latency.p50, at_least.p50, valid.p50),
        ms(latency.p99, at_least.p99, valid.p99),
        ms(latency.p999, at_least.p999, valid.p999),
        ms(latency.max, at_least.max, None),
        phase.cpu_us_per_request.server.map_or_else(none, |us| format!("{us:.1}")),
        if phase.valid { "yes" } else { "NO" }.to_owned(),
    ]
}

const HEAD: [&str; 13] = [
    "phase",
    "s",
    "users",
    "offered/s",
    "answered",
    "not",
    "packets",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "server µs",
    "valid",
];

fn money(money: Option<Money>) -> String {
    let Some(Money { count, amount }) = money else { return "unknown".to_owned() };
    format!("{} ({}.{:02})", thousands(count), thousands(amount / 100), amount % 100)
}

/// Says what the marks in a table mean, if it has any.
fn legend(table: &mut String) {
    let marks = [
        (AT_LEAST, "so much or more: shakes that got no answer in time decide it"),
        (
            NOT_VALID,
            "not valid: the clients' own lateness is more than a tenth of what is beyond it",
        ),
    ];
    let (head, rows) = table.split_once('\n').unwrap_or_default();
    let there: String = marks
        .iter()
        .filter(|(mark, _)| rows.contains(mark) && !head.contains(mark))
        .map(|(mark, meaning)| format!("{mark} {meaning}\n"))
        .collect();
    table.push_str(&there);
}

/// A sentence about what the lab itself took, phase by phase; `None` when nothing is known of it.
fn lab_sentence(summary: &Summary) -> Option<String> {
    let percent = |share: f64| format!("{:.2}%", share * 100.0);
    let one = |phase: &PhaseSummary| {
        let cpus = percent(phase.lab.cpu_share?);
        let slow = phase.lab.slow_share.filter(|share| *share > 0.0);
        let slow = slow.map_or_else(String::new, |share| {
            format!(" and {} of the time of slow requests", percent(share))
        });
        Some(format!("{cpus} of the CPUs{slow} in {}", phase.name))
    };
    let parts: Vec<String> = summary.phases.iter().filter_map(one).collect();
    (!parts.is_empty()).then(|| format!("the lab itself took {}", parts.join(", ")))
}

/// The summary as a table, with a line for everything that is wrong.
pub fn table(summary: &Summary) -> String {
    let mut columns = [Align::Right; HEAD.len()];
    columns[0] = Align::Left;
    let mut table = Table::new(columns);
    table.row(HEAD);
    for phase in &summary.phases {
        table.row(row(phase));
    }
    let mut out = table.to_string();
    legend(&mut out);
    for phase in &summary.phases {
        for because in &phase.invalid_because {
            // Writing to a string does not fail.
            let _ = writeln!(out, "phase {} is not valid: {because}", phase.name);
        }
    }
    for phase in &summary.phases {
        let it = &phase.attribution;
        let told = [&it.verdict, &it.contradicted, &it.connecting, &it.unanswered, &it.pushes];
        for said in told.into_iter().flatten() {
            let _ = writeln!(out, "{}: {said}", phase.name);
        }
    }
    for phase in &summary.phases {
        if let Some(stalls) = phase.stalls.sentence() {
            let _ = writeln!(out, "{}: {stalls}", phase.name);
        }
    }
    if let Some(lab) = lab_sentence(summary) {
        let _ = writeln!(out, "{lab}");
    }
    if !summary.validity.because.is_empty() {
        let _ = writeln!(out, "validity is looser than by default: {}", summary.validity.because);
    }
    let ledger = &summary.ledger;
    let _ = writeln!(
        out,
        "packets: created {}, granted {}, claimed {}, refunded {}, remaining {}",
        money(ledger.created),
        money(ledger.granted),
        money(ledger.claimed),
        money(ledger.refunded),
        money(ledger.remaining)
    );
    let verdict = match ledger.balanced {
        Some(true) => "the books balance",
        Some(false) => "THE BOOKS DO NOT BALANCE",
        None => "the books are not complete",
    };
    let because = ledger.because.iter().map(|why| format!("{why}\n")).collect::<String>();
    let _ = write!(
        out,
        "received by clients {}, undelivered {}, double grants {}: {verdict}\n{because}",
        money(ledger.received_by_clients),
        money(ledger.undelivered),
        ledger.double_grants.map_or_else(|| "unknown".to_owned(), |it| it.to_string())
    );
    out
}
