//! What shards tell the control thread.

use accounting::Ledger;
use accounting::server::{Counters, Gauges, Sample};
use platform::Spins;
use shard::Timing;

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
    /// How long its polls and answers took since it began.
    pub timing: Timing,
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
    /// Something that people must know, while the shards go on.
    Said(String),
    /// The shard has ended in order, or says why it could not go on.
    Ended(usize, Result<(), String>),
}
