//! `lab ledger`: the audit of a durable ledger, alone or against what a run's clients received.

use std::path::{Path, PathBuf};

use accounting::{Ledger, Losses, Money};
use analysis::summary::losses;
use clap::Subcommand;
use journal::{Audit, Directory, OpenError, audit};
use record::{ClosingBooks, Raw};
use serde::Serialize;
use spec::UsageError;
use text::{bytes, thousands};

/// What can be done with a durable ledger.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Ask {
    /// Check every record: checksums, books, no packet granted and no share claimed twice
    Verify {
        /// The directory of the ledger
        directory: PathBuf,
        /// Compare with what the clients of this run received; the ledger must be the run's own
        #[arg(long, value_name = "RUN")]
        run: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    balanced: bool,
    #[serde(flatten)]
    audit: Audit,
    /// What the clients of the run received; null without a run.
    received_by_clients: Option<Money>,
}

/// Does what was asked; whether everything is in order.
///
/// # Errors
/// What keeps the ledger or the run from being read.
pub(crate) fn run(ask: &Ask) -> anyhow::Result<bool> {
    let Ask::Verify { directory, run, json } = ask;
    let mut findings = examine(directory)?;
    if let Some(run) = run {
        compare(&mut findings, run)?;
    }
    findings.balanced = findings.audit.is_balanced();
    if *json {
        text::tell!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        text::tell_words!("{}", sentences(directory, &findings));
    }
    Ok(findings.balanced)
}

fn examine(directory: &Path) -> anyhow::Result<Findings> {
    let storage = Directory::open(directory).map_err(|error| match error {
        OpenError::Io { .. } => UsageError::error(error.to_string()),
        OpenError::Locked(_) => error.into(),
    })?;
    let audit = audit(&storage, |_| {})?;
    if audit.epochs == 0 && audit.faults.is_empty() {
        let directory = directory.display();
        return Err(UsageError::error(format!("{directory} has no durable ledger")));
    }
    Ok(Findings { balanced: false, audit, received_by_clients: None })
}

/// Adds what the books of a run and the ledger do not agree on.
fn compare(findings: &mut Findings, run: &Path) -> anyhow::Result<()> {
    report::assert_run(run).map_err(UsageError::of)?;
    let raw = Raw::read(run)?;
    let books = raw.books();
    let ClosingBooks { server, received, clients } = books;
    let run = run.display();
    let faults = &mut findings.audit.faults;
    let Some(received) = received else {
        faults.push(format!("{run}: not all clients have closed their books"));
        return Ok(());
    };
    findings.received_by_clients = Some(received);
    let losses = losses(&raw, &books);
    faults.extend(missing(&findings.audit.ledger, received, losses.as_ref()));
    if let Some(doubles) = clients.and_then(|it| it.double_grants).filter(|it| *it > 0) {
        faults.push(format!("{run}: two users received the same packet {doubles} times"));
    }
    if let Some(server) = server.filter(|server| *server != findings.audit.ledger) {
        let (theirs, ours) = (server.created, findings.audit.ledger.created);
        faults.push(format!(
            "{run}: the server closed its books with {} created, {} granted, {} claimed; by the \
             ledger {} created, {} granted, {} claimed",
            money(theirs),
            money(server.granted),
            money(server.claimed),
            money(ours),
            money(findings.audit.ledger.granted),
            money(findings.audit.ledger.claimed)
        ));
    }
    Ok(())
}

/// What clients received and the ledger does not know, or the other way round: as far as it cannot
/// have been lost on the way.
fn missing(ledger: &Ledger, received: Money, losses: Option<&Losses>) -> Option<String> {
    let why = match (ledger.undelivered(received), losses) {
        (Some(missing), _) if missing == Money::default() => return None,
        (Some(missing), Some(losses)) => {
            let largest_share = ledger.largest_share.unwrap_or(0);
            Losses { largest_share, ..*losses }.explain(missing).err()?.to_string()
        }
        (Some(_), None) => "the run did not count what can have been lost on the way".to_owned(),
        (None, _) => "the ledger does not know all of it".to_owned(),
    };
    let (received, given) = (money(received), money(ledger.granted + ledger.claimed));
    Some(format!("clients received {received}, and the ledger gave out {given}: {why}"))
}

/// Shares and what they are worth.
fn money(money: Money) -> String {
    let (whole, cents) = (money.amount / 100, money.amount % 100);
    format!("{} ({}.{cents:02})", thousands(money.count), thousands(whole))
}

fn sentences(directory: &Path, findings: &Findings) -> String {
    let Audit { epochs, snapshots, segments, records, torn_bytes, .. } = &findings.audit;
    let Ledger { created, granted, claimed, refunded, remaining, .. } = findings.audit.ledger;
    let mut lines = vec![
        format!(
            "{}: {} records, {segments} segments, {snapshots} snapshots, {epochs} epochs; {} torn",
            directory.display(),
            thousands(*records),
            bytes(*torn_bytes)
        ),
        format!(
            "created {}, granted {}, claimed {}, refunded {}, remaining {}",
            money(created),
            money(granted),
            money(claimed),
            money(refunded),
            money(remaining)
        ),
        format!(
            "{} packets wait in queues, {} are open",
            thousands(findings.audit.queued),
            thousands(findings.audit.packets_open)
        ),
    ];
    if let Some(received) = findings.received_by_clients {
        lines.push(format!("received by clients {}", money(received)));
    }
    if !findings.audit.complete {
        lines.push(
            "the records of the beginning are compacted away: what they granted is in the books, \
             and not looked at packet by packet (--ledger-history keeps them)"
                .to_owned(),
        );
    }
    lines.extend(findings.audit.faults.iter().map(|fault| format!("fault: {fault}")));
    let verdict = if findings.balanced { "the books balance" } else { "the books do not balance" };
    lines.push(verdict.to_owned());
    lines.join("\n") + "\n"
}
