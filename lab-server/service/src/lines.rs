//! What a server says over its pipe: lines of JSON for a recorder.

use accounting::Ledger;
use accounting::server::Sample;
use platform::Spins;
use serde::{Deserialize, Serialize};

/// What a server says about itself when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub listen: String,
    /// Where its control interface listens.
    pub control: String,
    /// Its process.
    pub pid: u32,
    /// The threads of its shards.
    pub threads: Vec<i32>,
    /// How many SETs there are.
    pub sets: usize,
}

/// A line of JSON for a recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The server is ready.
    Ready(Ready),
    /// A second of a shard.
    Sample(Box<Sample>),
    /// What a fault on purpose did in a second of a shard.
    Spun {
        /// The shard.
        shard: usize,
        /// What it did.
        #[serde(flatten)]
        spins: Spins,
    },
    /// A command failed, or a shard could not go on.
    Error(String),
    /// The server has ended; the books at the end.
    Ended(Ledger),
}
