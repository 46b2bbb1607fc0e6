//! What can be asked of a server. The same commands come over HTTP and as lines of JSON over a
//! pipe.

use platform::SlowOrder;
use serde::{Deserialize, Serialize};

/// The most packets a second that a generator makes: beyond that, spreading them over the SETs one
/// by one would take a core.
pub const MAX_PACKET_RATE: u32 = 1_000_000;

/// The most packets a second that all generators of a server make: four of the largest, as when a
/// phase with packets of both kinds follows another before that is over.
pub const MAX_RATE_IN_ALL: u64 = 4 * MAX_PACKET_RATE as u64;

/// The most generators of a server at a time. Each is looked at in every poll of its shard.
pub const MAX_GENERATORS: usize = 64;

/// The most cents of a packet: a million yuan. So a ledger of 64 bits holds all packets of a
/// century at 50,000 a second.
pub const MAX_AMOUNT: u32 = 100_000_000;

/// A start may be so many seconds ago: a message may be under way for a while.
pub const LATEST_START_S: u64 = 10;

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Start a generator of red packets.
    StartGenerator {
        /// Packets per second.
        rate: u32,
        /// How many in all; no end without it.
        #[serde(default)]
        total: Option<u64>,
        /// With users `[first, end)`: packets sent to three of them instead of packets to be
        /// shaken.
        #[serde(default)]
        users: Option<(u32, u32)>,
        /// What the amounts come from; the server's seed and the generator's number without it.
        #[serde(default)]
        seed: Option<u64>,
        /// The Unix second at which the first packet is due; at once without it.
        #[serde(default)]
        from: Option<u64>,
        /// Exclusive end, a Unix second; no end without it.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Stop a generator, or all of them.
    StopGenerator {
        /// Which one; all without it.
        #[serde(default)]
        id: Option<u64>,
    },
    /// Send a packet to named users.
    SendPacket {
        /// Cents.
        amount: u32,
        /// Into how many shares it is split; one a recipient without it.
        #[serde(default)]
        count: Option<u32>,
        /// Who may claim a share.
        recipients: Vec<u32>,
    },
    /// Push a payload to every connection once in every interval.
    StartPushes {
        /// Bytes of payload.
        bytes: u32,
        /// The interval in seconds.
        every_s: f64,
        /// The Unix second at which the first interval begins; at once without it.
        #[serde(default)]
        from: Option<u64>,
        /// Exclusive end, a Unix second; goes on without it.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Stop pushing.
    StopPushes {},
    /// Change the limit of shakes per second; none without a limit.
    Overload {
        /// Shakes per second.
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Spend time on a share of the shakes: a fault on purpose.
    Slow(SlowOrder),
    /// End that at an instant of the monotonic clock at the latest.
    EndSlow {
        /// The order's own number.
        id: u32,
        /// The instant in nanoseconds.
        until_ns: u64,
    },
    /// Stop accepting, answer what was read, write the last counters, and end.
    Stop {},
}

impl Command {
    /// A generator that starts at once and never ends.
    pub fn generator(rate: u32) -> Self {
        let (total, users, seed, from, until) = (None, None, None, None, None);
        Command::StartGenerator { rate, total, users, seed, from, until }
    }
}

/// What a command did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The id of the generator that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<u64>,
}
