//! The books of a run: what server and clients report in the end, and which clients have logged
//! their users in or have nothing of a phase under way any more.

use std::collections::{BTreeMap, BTreeSet};

use accounting::Ledger;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use service::DurableLedger;
use workload::{Audit, Receipts};

/// What server and clients report.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// The server's.
    server: Option<Ledger>,
    /// The clients' together.
    clients: Receipts,
    /// Clients that have closed theirs.
    closed: BTreeSet<u32>,
    /// By phase, clients that have logged all of its users in.
    established: BTreeMap<u16, BTreeSet<u32>>,
    /// By phase, clients that have nothing of it under way any more.
    settled: BTreeMap<u16, BTreeSet<u32>>,
}

/// Books as a checkpoint has them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedBooks {
    server: Option<Ledger>,
    clients: Audit,
    closed: BTreeSet<u32>,
    established: BTreeMap<u16, BTreeSet<u32>>,
    settled: BTreeMap<u16, BTreeSet<u32>>,
}

/// Refuses a server that goes on with a ledger of earlier runs: its books would have their money,
/// and the clients' would not.
///
/// # Errors
/// When the ledger is not new.
pub(crate) fn assert_new(ledger: Option<&DurableLedger>) -> anyhow::Result<()> {
    let Some(ledger) = ledger.filter(|ledger| ledger.epoch > 0) else { return Ok(()) };
    let directory = &ledger.directory;
    anyhow::bail!("server.ledger: {directory} has a ledger: give each run a directory of its own")
}

impl Books {
    /// The server has closed its books.
    pub(crate) fn close_server(&mut self, ledger: Ledger) {
        self.server = Some(ledger);
    }

    /// A client has closed its books.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn close_client(&mut self, client: u32, audit: Audit) -> anyhow::Result<()> {
        let books = audit.into_receipts().context("a client's list of packets cannot be read")?;
        self.clients.add(&books);
        self.closed.insert(client);
        Ok(())
    }

    /// A client has logged in all users of a phase.
    pub(crate) fn establish(&mut self, client: u32, phase: u16) {
        self.established.entry(phase).or_default().insert(client);
    }

    /// A client has nothing of a phase under way any more.
    pub(crate) fn settle(&mut self, client: u32, phase: u16) {
        self.settled.entry(phase).or_default().insert(client);
    }

    /// Whether a client has logged in all users of a phase.
    pub(crate) fn is_established(&self, client: u32, phase: u16) -> bool {
        self.established.get(&phase).is_some_and(|clients| clients.contains(&client))
    }

    /// Whether nothing of a phase is under way at a client any more.
    pub(crate) fn is_settled(&self, client: u32, phase: u16) -> bool {
        self.settled.get(&phase).is_some_and(|clients| clients.contains(&client))
    }

    /// Whether the server has closed its books.
    pub(crate) fn is_server_closed(&self) -> bool {
        self.server.is_some()
    }

    /// Whether a client has closed its books.
    pub(crate) fn is_closed(&self, client: u32) -> bool {
        self.closed.contains(&client)
    }

    /// All of it, for a checkpoint.
    pub(crate) fn save(&self) -> SavedBooks {
        SavedBooks {
            server: self.server,
            clients: Audit::of(&self.clients),
            closed: self.closed.clone(),
            established: self.established.clone(),
            settled: self.settled.clone(),
        }
    }

    /// The books of a checkpoint.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn restore(saved: SavedBooks) -> anyhow::Result<Self> {
        let SavedBooks { server, clients, closed, established, settled } = saved;
        let clients = clients.into_receipts().context("a saved list of packets cannot be read")?;
        Ok(Self { server, clients, closed, established, settled })
    }

    /// Both sides of the books, as they are recorded of a run with so many clients.
    pub(crate) fn to_json(&self, clients: u32) -> Value {
        let complete = self.closed.len() == clients as usize;
        let received = self.clients.granted + self.clients.claimed;
        json!({
            "server": self.server,
            "clients": complete.then_some(&self.clients),
            "received_by_clients": complete.then_some(received),
        })
    }
}
