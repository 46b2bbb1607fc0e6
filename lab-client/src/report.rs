//! What shards tell the control thread.

use serde::{Deserialize, Serialize};

use shard::Spins;

use crate::books::Books;
use crate::causes::CauseRows;
use crate::joined::Sampled;
use crate::latency::Filled;
use crate::load::Event;
use crate::slow::SlowRequest;
use crate::tally::Tally;

/// One second of one shard. Counters are what they grew by in that second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The Unix second.
    pub t: u64,
    /// Which shard.
    pub shard: usize,
    /// Users logged in at the end of the second.
    pub online: u32,
    /// Connections at the end of the second.
    pub connections: u32,
    /// Shakes under way at the end of the second.
    pub in_flight: u64,
    /// CPU time that the shard's thread used, in microseconds.
    pub cpu_us: Option<u64>,
    /// Time that it waited for a CPU, in microseconds.
    pub wait_us: Option<u64>,
    /// What the counters grew by.
    #[serde(flatten)]
    pub tally: Tally,
}

/// A message to the control thread.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would allocate on the shard every second")]
pub enum Report {
    /// The shard runs, or says why it cannot.
    Started(usize, Result<(), String>),
    /// A second has passed.
    Second(Sample),
    /// A histogram of a second of a shard.
    Filled(u64, usize, Filled),
    /// Why the requests of a second of a shard took their time, by phase.
    Causes(u64, usize, u16, Box<CauseRows>),
    /// The slowest requests of a second of a shard.
    Slow(u64, Vec<SlowRequest>),
    /// The requests of a second of a shard that are to be joined with the server's ends.
    Sampled(u64, Vec<Sampled>),
    /// What faults on purpose did in a second of a shard.
    Spun(usize, Spins),
    /// Something happened on a shard.
    Event(usize, Event),
    /// The shard has ended in order with these books, or says why it could not go on.
    Ended(usize, Box<Books>, Result<(), String>),
}
