//! The hosts of a run and who does what: `fleet.json` in the directory of the run, which does not
//! change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fleet::RunName;
use fleet::assign::Assignment;
use fleet::clock::Offset;
use fleet::protocol::Card;
use host::program::Who;
use record::{FileError, write_json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spec::UsageError;

/// The name of its file.
const FLEET: &str = "fleet.json";

/// A host of a run, as it was when the run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RosterHost {
    /// Its agent's process.
    pub(super) session: String,
    /// The boot of its kernel.
    boot: String,
    /// Its clock is ahead of the coordinator's by this, in nanoseconds.
    ahead_ns: i64,
    /// By how much that may be wrong.
    ahead_error_ns: u64,
}

/// The hosts of a run, and who does what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Roster {
    /// The run's name among agents.
    pub(super) run: RunName,
    /// The NATS server.
    pub(super) nats: String,
    /// Who does what.
    pub(super) assignment: Assignment,
    /// The hosts by name.
    pub(super) hosts: BTreeMap<String, RosterHost>,
}

impl RosterHost {
    /// The host of a card, whose clock was measured.
    pub(super) fn of(card: &Card, offset: Offset) -> Self {
        Self {
            session: card.session.clone(),
            boot: card.boot.clone(),
            ahead_ns: offset.ahead_ns,
            ahead_error_ns: offset.error_ns,
        }
    }
}

/// The most that such a file has, in bytes: where 1,000 hosts stand takes less.
const MOST_TEXT: u64 = 16 << 20;

/// Reads a file that a coordinator left for the next one.
///
/// # Errors
/// [`UsageError`]: there is none, or another version of this program wrote it.
pub(super) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> anyhow::Result<T> {
    let file = directory.join(name);
    let text = platform::read_text_within(&file, MOST_TEXT).map_err(|error| {
        UsageError::error(format!("{}: {error}: is this a run on a fleet?", file.display()))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        UsageError::error(format!(
            "{}: {error}: only the version of lab that began a run on a fleet can resume it, and \
             this is {}",
            file.display(),
            host::VERSION
        ))
    })
}

impl Roster {
    pub(super) fn write(&self, directory: &Path) -> Result<(), FileError> {
        write_json(directory, FLEET, self)
    }

    /// # Errors
    /// [`UsageError`].
    pub(super) fn read(directory: &Path) -> anyhow::Result<Self> {
        read(directory, FLEET)
    }

    /// How far a host's clock is ahead of the coordinator's, in nanoseconds.
    pub(super) fn ahead_ns(&self, host: &str) -> i64 {
        self.hosts.get(host).map_or(0, |host| host.ahead_ns)
    }

    /// The programs of a host.
    pub(super) fn programs_of(&self, host: &str) -> BTreeSet<Who> {
        let of_host = self.assignment.clients.iter().filter(|it| it.agent == host);
        let clients = of_host.flat_map(|it| it.processes.clone().map(Who::Client));
        let server = (self.assignment.server == host).then_some(Who::Server);
        clients.chain(server).collect()
    }

    /// Whether a host has the same kernel, and so the same monotonic clock, as the server's.
    pub(super) fn sees_server(&self, host: &str) -> bool {
        let boot = |name: &str| self.hosts.get(name).map(|host| &host.boot);
        boot(host) == boot(&self.assignment.server)
    }

    /// Whether a client's host has another kernel than the server's.
    pub(super) fn has_other_kernels(&self) -> bool {
        self.assignment.clients.iter().any(|host| !self.sees_server(&host.agent))
    }
}
