//! A summary for people.

use std::fmt::Write;

use accounting::Money;

use super::{PhaseSummary, Summary};
use text::thousands;

/// Milliseconds with as many digits as matter.
fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us as f64 / 1000.0))
}

fn row(phase: &PhaseSummary) -> Vec<String> {
    let shake = &phase.shake;
    let none = || "-".to_owned();
    vec![
        phase.name.clone(),
        phase.seconds.map_or_else(none, |seconds| format!("{seconds:.0}")),
        thousands(phase.connections.established),
        shake.offered_rate.map_or_else(none, |rate| thousands(rate.round() as u64)),
        thousands(shake.answered),
        thousands(shake.skipped + shake.timed_out + shake.lost),
        thousands(shake.granted),
        ms(phase.latency_us.p50),
        ms(phase.latency_us.p99),
        ms(phase.latency_us.p999),
        ms(phase.latency_us.max),
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
    money.map_or_else(
        || "unknown".to_owned(),
        |it| {
            format!(
                "{} ({}.{:02})",
                thousands(it.count),
                thousands(it.amount / 100),
                it.amount % 100
            )
        },
    )
}

/// The summary as a table, with a line for everything that is wrong.
pub fn table(summary: &Summary) -> String {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(summary.phases.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        out += cells.join("  ").trim_end();
        out.push('\n');
    }
    for phase in &summary.phases {
        for because in &phase.invalid_because {
            // Writing to a string does not fail.
            let _ = writeln!(out, "phase {} is not valid: {because}", phase.name);
        }
    }
    for phase in &summary.phases {
        if let Some(verdict) = &phase.attribution.verdict {
            let _ = writeln!(out, "{}: {verdict}", phase.name);
        }
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
    let _ = writeln!(
        out,
        "received by clients {}, undelivered {}, double grants {}: {verdict}",
        money(ledger.received_by_clients),
        money(ledger.undelivered),
        ledger.double_grants.map_or_else(|| "unknown".to_owned(), |it| it.to_string())
    );
    out
}
