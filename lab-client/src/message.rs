//! What the control thread tells shards.

use attribution::Latencies;
use platform::SlowOrder;
use workload::Phase;

/// A message to a shard.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    /// A phase to be carried out when its second comes.
    Phase(Box<Phase>),
    /// End a phase before a Unix second.
    EndPhase {
        /// Which.
        index: u16,
        /// The first second that is not part of it.
        end: u64,
    },
    /// Change the rate of the open load.
    Rate {
        /// The first Unix second with the new rate.
        from: u64,
        /// Shakes per second, over all clients.
        rate: u32,
    },
    /// A histogram that was read, to be used again.
    Spare(Latencies),
    /// Spend time on a share of the answers: a fault on purpose.
    Slow(Box<SlowOrder>),
    /// End that at an instant at the latest.
    EndSlow {
        /// The order's own number.
        id: u32,
        /// The instant, on the monotonic clock in nanoseconds.
        until_ns: u64,
    },
    /// End.
    Stop,
}
