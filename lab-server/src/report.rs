//! What shards tell the control thread.

use serde::{Deserialize, Serialize};

use shard::Spins;

use crate::counters::Counters;
use crate::ledger::Ledger;
use crate::logic::Gauges;

/// One second of one shard. Counters are what they grew by in that second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The Unix second.
    pub t: u64,
    /// Which shard.
    pub shard: usize,
    /// Connections at the end of the second.
    pub connections: u32,
    /// CPU time that the shard's thread used, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time that it waited for a CPU, in microseconds.
    pub wait_us: Option<u64>,
    /// What the counters grew by.
    #[serde(flatten)]
    pub counters: Counters,
    /// What the shard held at the end of the second.
    #[serde(flatten)]
    pub gauges: Gauges,
    /// The books at the end of the second.
    pub ledger: Ledger,
}

/// The state of a shard at an instant. Counters are since it began.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Which shard.
    pub shard: usize,
    /// Connections.
    pub connections: u32,
    /// What was counted.
    pub counters: Counters,
    /// What the shard holds.
    pub gauges: Gauges,
    /// The books.
    pub ledger: Ledger,
    /// SET by SET: its number, its users online, its books.
    pub sets: Vec<(usize, u32, Ledger)>,
}

/// A message to the control thread.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would allocate on the shard every second")]
pub enum Report {
    /// The shard listens, or says why it cannot.
    Started(usize, Result<(), String>),
    /// A second has passed.
    Second(Sample),
    /// The answer to a request for a snapshot.
    Snapshot(u64, Box<Snapshot>),
    /// What faults on purpose did in a second of a shard.
    Spun(usize, Spins),
    /// The shard has ended in order, or says why it could not go on.
    Ended(usize, Result<(), String>),
}
