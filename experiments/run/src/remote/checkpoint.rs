//! Where a run on a fleet stands, once a second: so much is in its files, so much of each host is
//! merged, so much is ordered. A coordinator that takes over cuts the files to that length and goes
//! on from there, so that nothing is missing and nothing is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use accounting::Ledger;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use workload::Audit;

use fleet::Mistake;
use fleet::assign::Assignment;
use fleet::clock::Offset;
use fleet::link::{Merged, Queue};
use fleet::protocol::Card;
use host::program::Who;
use record::{FileError, OpenSecond, PhaseTime, write_json};

use super::joining::Joining;

/// What a fleet is, in the directory of a run; does not change.
const FLEET: &str = "fleet.json";

/// Where the run stands.
const CHECKPOINT: &str = "checkpoint.json";

/// A host of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Its agent's process.
    pub(crate) session: String,
    /// The boot of its kernel.
    pub(crate) boot: String,
    /// Its clock is ahead of the coordinator's by this, in nanoseconds.
    pub(crate) ahead_ns: i64,
    /// By how much that may be wrong.
    pub(crate) ahead_error_ns: u64,
}

/// The hosts of a run, and who does what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Hosts {
    /// The run's name among agents.
    pub(crate) run: String,
    /// The NATS server.
    pub(crate) nats: String,
    /// Who does what.
    pub(crate) assignment: Assignment,
    /// The hosts by name.
    pub(crate) hosts: BTreeMap<String, Host>,
}

impl Host {
    pub(crate) fn of(card: &Card, offset: Offset) -> Self {
        Self {
            session: card.session.clone(),
            boot: card.boot.clone(),
            ahead_ns: offset.ahead_ns,
            ahead_error_ns: offset.error_ns,
        }
    }
}

/// The phase that a run is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) index: u16,
    pub(crate) start: u64,
    /// The first second behind it, once that is known.
    pub(crate) end: Option<u64>,
    /// Whether all orders for it were given.
    pub(crate) begun: bool,
}

/// The books so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct KeptBooks {
    pub(crate) server: Option<Ledger>,
    pub(crate) clients: Audit,
    pub(crate) closed: BTreeSet<u32>,
    pub(crate) established: BTreeMap<u16, BTreeSet<u32>>,
    pub(crate) settled: BTreeMap<u16, BTreeSet<u32>>,
}

/// Where a run stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The lengths of its files.
    pub(crate) lengths: [u64; 4],
    pub(crate) phases: Vec<PhaseTime>,
    pub(crate) merged: Merged,
    pub(crate) orders: BTreeMap<String, Queue>,
    pub(crate) position: Option<Position>,
    /// How it ends, and why, once that is known.
    pub(crate) ending: Option<(String, Option<String>)>,
    pub(crate) books: KeptBooks,
    pub(crate) open: Vec<OpenSecond>,
    pub(crate) newest: u64,
    pub(crate) complete_until: u64,
    /// Programs that have ended.
    pub(crate) silent: BTreeSet<Who>,
    /// Hosts that do not work for the run any more.
    pub(crate) gone: BTreeSet<String>,
    /// Hosts that have said their last word.
    pub(crate) over: BTreeSet<String>,
    /// Requests whose other end is being looked up.
    pub(crate) joining: Joining,
}

fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> anyhow::Result<T> {
    let file = directory.join(name);
    let what = |why: String| {
        Mistake::error(format!("{}: {why}: is this a run on a fleet?", file.display()))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| what(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| what(error.to_string()))
}

impl Hosts {
    pub(crate) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_json(directory, FLEET, self)
    }

    /// # Errors
    /// [`Mistake`].
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        read(directory, FLEET)
    }

    /// How far a host's clock is ahead of the coordinator's, in nanoseconds.
    pub(crate) fn ahead_ns(&self, host: &str) -> i64 {
        self.hosts.get(host).map_or(0, |host| host.ahead_ns)
    }

    /// Whether a host has the same kernel, and so the same monotonic clock, as the server's.
    pub(crate) fn sees_server(&self, host: &str) -> bool {
        let boot = |name: &str| self.hosts.get(name).map(|host| &host.boot);
        boot(host) == boot(&self.assignment.server)
    }

    /// Whether a client's host has another kernel than the server's.
    pub(crate) fn has_other_kernels(&self) -> bool {
        self.assignment.clients.iter().any(|host| !self.sees_server(&host.agent))
    }
}

impl Checkpoint {
    pub(crate) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_json(directory, CHECKPOINT, self)
    }

    /// # Errors
    /// [`Mistake`].
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        read(directory, CHECKPOINT)
    }
}
