//! The end of a run: what is under way settles, programs end, books are closed, files are
//! completed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use accounting::Ledger;
use anyhow::Context;
use serde_json::{Value, json};
use service::Command as ServerCommand;
use tokio::time::Instant;
use workload::{Audit, Command as ClientCommand, Receipts};

use crate::remote::KeptBooks;
use record::Event;

use crate::programs::Program;
use crate::{Ended, Ending, Happened, Run};
use host::program::Who;

/// Programs end within this time, or they are killed: closing a million sockets takes a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// What server and clients say in the end.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The server's.
    pub(super) server: Option<Ledger>,
    /// The clients' together.
    pub(super) clients: Receipts,
    /// Clients that have closed theirs.
    closed: BTreeSet<u32>,
    /// By phase, clients that have logged all of its users in.
    established: BTreeMap<u16, BTreeSet<u32>>,
    /// By phase, clients that have nothing of it under way any more.
    settled: BTreeMap<u16, BTreeSet<u32>>,
}

impl Books {
    pub(super) fn add(&mut self, client: u32, audit: Audit) -> anyhow::Result<()> {
        let books = audit.into_receipts().context("a client's list of packets cannot be read")?;
        self.clients.add(&books);
        self.closed.insert(client);
        Ok(())
    }

    /// A client has logged in all users of a phase.
    pub(super) fn establish(&mut self, client: u32, phase: u16) {
        self.established.entry(phase).or_default().insert(client);
    }

    /// A client has nothing of a phase under way any more.
    pub(super) fn settle(&mut self, client: u32, phase: u16) {
        self.settled.entry(phase).or_default().insert(client);
    }

    /// Whether a client has logged in all users of a phase.
    pub(super) fn is_established(&self, client: u32, phase: u16) -> bool {
        self.established.get(&phase).is_some_and(|clients| clients.contains(&client))
    }

    /// Whether nothing of a phase is under way at a client any more.
    pub(super) fn is_settled(&self, client: u32, phase: u16) -> bool {
        self.settled.get(&phase).is_some_and(|clients| clients.contains(&client))
    }

    /// Whether a client has closed its books.
    pub(super) fn is_closed(&self, client: u32) -> bool {
        self.closed.contains(&client)
    }

    /// All of it, for whoever takes over.
    pub(super) fn kept(&self) -> KeptBooks {
        KeptBooks {
            server: self.server,
            clients: Audit::of(&self.clients),
            closed: self.closed.clone(),
            established: self.established.clone(),
            settled: self.settled.clone(),
        }
    }

    /// What somebody else has kept.
    pub(super) fn again(kept: KeptBooks) -> anyhow::Result<Self> {
        let clients =
            kept.clients.into_receipts().context("a kept list of packets cannot be read")?;
        let KeptBooks { server, closed, established, settled, .. } = kept;
        Ok(Self { server, clients, closed, established, settled })
    }

    /// Both sides of the books, as they are recorded.
    fn to_json(&self, clients: usize) -> Value {
        let complete = self.closed.len() == clients;
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
        let known = self.known_ending().is_some();
        self.mark_ending(ending)?;
        if known {
            // An earlier coordinator has waited for what was under way.
        } else if self.fleet.is_some() && *ending == Ending::Interrupted {
            self.stop_fleet();
        } else {
            self.settle_all().await?;
        }
        self.ending = true;
        self.end_profile()?;
        // Clients first, so that the server sees every answer taken or refused.
        for client in &mut self.clients {
            client.tell(&ClientCommand::Stop {}).await?;
        }
        self.until(|run| run.all_clients(|books, client| books.is_closed(client))).await?;
        self.server.tell(&ServerCommand::Stop {}).await?;
        self.until(|run| run.books.server.is_some() || !run.is_there(Who::Server)).await?;
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
        self.all().for_each(Program::end);
        self.end_on_fleet().await?;
        self.wait_for_programs().await?;
        self.manifest.closed = true;
        self.manifest.outcome = Some(ending.name().to_owned());
        self.manifest.outcome_because = because;
        self.files.manifest(&self.manifest)?;
        self.forget_fleet().await
    }

    /// Records what is heard until something is so, or patience ends.
    pub(super) async fn until(&mut self, so: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
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
