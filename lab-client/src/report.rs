//! What shards tell the control thread.

use std::net::SocketAddrV4;

use attribution::{CauseRows, Sample, Sampled, SegmentHistogram, SlowRequest};
use platform::Spins;
use workload::Receipts;

use crate::load::{ConnectFailures, Event};

/// A message to the control thread.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would allocate on the shard every second")]
pub(crate) enum Report {
    /// The shard runs, or says why it cannot.
    Started(usize, Result<(), String>),
    /// Why connections to the server could not be opened in the second that follows.
    NotConnected(SocketAddrV4, ConnectFailures),
    /// A second has passed.
    Second(Sample),
    /// A histogram of a second of a shard.
    Histogram {
        /// The Unix second.
        t: u64,
        /// The shard.
        shard: usize,
        /// The values.
        histogram: SegmentHistogram,
    },
    /// Why the requests of a second of a shard took their time.
    Causes {
        /// The Unix second.
        t: u64,
        /// The shard.
        shard: usize,
        /// The phase in which they were due.
        phase: u16,
        /// Their sums.
        rows: Box<CauseRows>,
    },
    /// The slowest requests of a second of a shard.
    Slow(u64, Vec<SlowRequest>),
    /// The requests of a second of a shard that are to be joined with the server's ends.
    Sampled(u64, Vec<Sampled>),
    /// What faults on purpose did in a second of a shard.
    Spun(usize, Spins),
    /// Something happened on a shard.
    Event(Event),
    /// The shard has ended in order with these receipts, or says why it could not go on.
    Ended(usize, Box<Receipts>, Result<(), String>),
}
