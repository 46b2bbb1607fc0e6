//! How to run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Samples a second of each CPU.
    pub hertz: u32,
    /// Whether the graphs have the clients, too; what a request costs has them in any case.
    pub clients: bool,
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The directory to write; `results/<name>-<start>` when `None`.
    pub out: Option<PathBuf>,
    /// What the command line changed, for the record.
    pub settings: Vec<String>,
    /// Whether the profile's settings of the machine are applied, too, until the run is over.
    pub tune_host: bool,
    /// Where the journals of what is changed are, unless it is the usual place.
    pub journals: Option<PathBuf>,
    /// As whom programs run: `NAME`, `UID` or `UID:GID`; as `sudo` or nobody when `None`.
    pub user: Option<String>,
    /// How to sample what the programs do; not at all when `None`.
    pub sampling: Option<Sampling>,
    /// All that the ending of an interrupted run waits for, together; two minutes when `None`.
    pub ends_within: Option<Duration>,
    /// Where to serve the live page; nowhere when `None`.
    pub live: Option<SocketAddr>,
    /// Further names of this machine by which the live page may be asked for.
    pub live_hosts: Vec<String>,
    /// Which fleet to run on; on this machine when `None`.
    pub fleet: Option<fleet::Options>,
}
