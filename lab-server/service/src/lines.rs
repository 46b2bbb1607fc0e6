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
    /// The durable ledger, and what a restart found in it, if one is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<DurableLedger>,
}

/// A durable ledger, and what was found in it when the server started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableLedger {
    /// Where it is.
    pub directory: String,
    /// The epoch that was read; 0 when the ledger is new.
    pub epoch: u64,
    /// Shards that wrote it.
    pub shards: u32,
    /// Segments that were read.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes at their ends that were not written to their end; nobody was told of them.
    pub torn_bytes: u64,
    /// Sent packets that are open.
    pub packets_open: u64,
    /// Packets that wait in queues.
    pub queued: u64,
    /// Cents that wait in both.
    pub cents_remaining: u64,
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
