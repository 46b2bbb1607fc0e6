//! The end of a run: what is under way settles, programs end, books are closed, files are
//! completed.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use control::Money;
use lab_client::books::Books as ClientBooks;
use lab_client::panel::{Audit, Command as ClientCommand};
use lab_server::ledger::Ledger;
use lab_server::panel::Command as ServerCommand;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::record::Event;

use super::{Ended, Ending, Happened, Run};

/// Programs end within this time, or they are killed: closing a million sockets takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// What server and clients say in the end.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The server's.
    pub(super) server: Option<Ledger>,
    /// The clients' together.
    pub(super) clients: ClientBooks,
    /// How many clients have closed theirs.
    closed: usize,
    settled: HashMap<u16, usize>,
}

impl Books {
    pub(super) fn add(&mut self, audit: Audit) -> anyhow::Result<()> {
        let books = audit.into_books().context("a client's list of packets cannot be read")?;
        self.clients.add(&books);
        self.closed += 1;
        Ok(())
    }

    /// A client has nothing of a phase under way any more.
    pub(super) fn settled(&mut self, phase: u16) {
        *self.settled.entry(phase).or_default() += 1;
    }

    pub(super) fn settled_clients(&self, phase: u16) -> usize {
        self.settled.get(&phase).copied().unwrap_or(0)
    }

    /// Both sides of the books, as they are recorded.
    fn to_json(&self, clients: usize) -> Value {
        let complete = self.closed == clients;
        let received = self.clients.granted + self.clients.claimed;
        json!({
            "server": self.server,
            "clients": complete.then_some(&self.clients),
            "received_by_clients": complete.then_some(received),
        })
    }
}

impl Run {
    /// Ends a run in order.
    pub(super) async fn finish(mut self, ending: Ending) -> anyhow::Result<Ended> {
        self.progress.end_line();
        let ended = self.finish_files(&ending).await;
        self.kill();
        ended?;
        let profiles = self.profiling.lines();
        let live = self.orders.close();
        Ok(Ended { directory: self.files.directory().to_owned(), ending, profiles, live })
    }

    async fn finish_files(&mut self, ending: &Ending) -> anyhow::Result<()> {
        self.settle_all().await?;
        self.ending = true;
        self.end_profile()?;
        // Clients first, so that the server sees every answer taken or refused.
        for client in &mut self.clients {
            client.tell(&ClientCommand::Stop {}).await?;
        }
        self.until(|run| run.books.closed == run.clients.len()).await?;
        self.server.tell(&ServerCommand::Stop {}).await?;
        self.until(|run| run.books.server.is_some()).await?;
        self.until(|run| run.faults.are_over()).await?;
        self.record_faults(true)?;
        while let Some(second) = self.seconds.next(true) {
            self.complete(&second)?;
        }
        self.record_profiles().await?;
        let books = self.books.to_json(self.clients.len());
        self.files.event(Event::now("books", books))?;
        let because = match ending {
            Ending::Aborted(why) => Some(why.clone()),
            Ending::Completed | Ending::Interrupted => None,
        };
        let fields = json!({ "outcome": ending.name(), "because": because });
        self.files.event(Event::now("ended", fields))?;
        self.files.flush()?;
        self.all().for_each(super::child::Program::end);
        self.wait_for_programs().await?;
        self.manifest.closed = true;
        self.manifest.outcome = Some(ending.name().to_owned());
        self.manifest.outcome_because = because;
        self.files.manifest(&self.manifest)?;
        Ok(())
    }

    /// Records what is heard until something is so, or patience ends.
    async fn until(&mut self, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !so(self) {
            // A program that has ended says nothing more: look at once and then.
            let soon = Instant::now() + Duration::from_millis(50);
            match self.next(deadline.min(soon)).await? {
                Happened::Interrupt => {
                    self.warn("lab", "interrupted again: the books are not complete")?;
                    return Ok(());
                }
                Happened::Time if Instant::now() >= deadline => {
                    self.warn("lab", "a program does not end: the books are not complete")?;
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn wait_for_programs(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for program in std::iter::once(&mut self.server).chain(&mut self.clients) {
            if let Ok(status) = tokio::time::timeout_at(deadline, program.wait()).await {
                let status = status?;
                if !status.success() {
                    self.progress.say(&format!("a program ended with {status}"));
                }
            }
        }
        Ok(())
    }
}

/// What of the money granted and claimed no client received: answers that a broken connection
/// swallowed. `None` when clients received more than was given out.
pub fn undelivered(ledger: &Ledger, received: Money) -> Option<Money> {
    let given = ledger.granted + ledger.claimed;
    Some(Money {
        count: given.count.checked_sub(received.count)?,
        amount: given.amount.checked_sub(received.amount)?,
    })
}
