//! What shards tell each other, and what the control thread tells them.

use platform::SlowOrder;
use wire::ChatOutcome;

use crate::directory::Address;
use crate::generator::GeneratorSpec;
use crate::packets::Draft;

/// Text that travels between shards. A box, so that messages stay small.
pub type Text = Box<[u8]>;

/// The notice of a sent packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The packet.
    pub packet: u32,
    /// Its money in cents.
    pub amount: u32,
    /// Into how many shares it is split.
    pub count: u32,
    /// Who sent it, or [`crate::packets::NO_CREATOR`].
    pub creator: u32,
    /// Its recipients when they are exactly three, the form that the prototype knows.
    pub three: Option<[u32; 3]>,
}

/// Something for a user, on any shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parcel {
    /// A packet was sent to the user.
    Notice(Notice),
    /// A packet of the user's expired.
    Refund {
        /// The packet.
        packet: u32,
        /// Cents that come back.
        amount: u32,
        /// Shares that were not claimed.
        shares: u32,
    },
    /// A chat text.
    Chat {
        /// The sender's number for it.
        message: u32,
        /// The sender.
        from: u32,
        /// Where the sender waits for a receipt.
        reply: Address,
        /// The text.
        text: Text,
    },
}

/// A push to every connection, spread over the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushSpec {
    /// Bytes of payload.
    pub bytes: u32,
    /// Each connection gets one in every such interval, in nanoseconds.
    pub every_ns: u64,
    /// When the first interval begins on the monotonic clock; `None` for at once.
    pub from_ns: Option<u64>,
    /// Pushes that are due then or later are not made.
    pub until_ns: Option<u64>,
}

/// A message to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To a user's home: the user logged in.
    Enter {
        /// The user.
        user: u32,
        /// The connection.
        at: Address,
    },
    /// To a user's home: the connection is gone.
    Leave {
        /// The user.
        user: u32,
        /// The connection.
        at: Address,
    },
    /// To the shard of an older connection: the user logged in elsewhere.
    Replace {
        /// The older connection.
        at: Address,
    },
    /// To a user's home: to be forwarded to the user.
    Forward {
        /// The recipient.
        user: u32,
        /// The parcel.
        parcel: Parcel,
    },
    /// To the shard that holds the user's connection.
    Deliver {
        /// The connection.
        at: Address,
        /// The recipient.
        user: u32,
        /// The parcel.
        parcel: Parcel,
    },
    /// To the sender's shard: what became of a chat text.
    Receipt {
        /// The sender's connection.
        at: Address,
        /// The sender.
        from: u32,
        /// The sender's number for the text.
        message: u32,
        /// Its recipient.
        to: u32,
        /// What became of it.
        outcome: ChatOutcome,
    },
    /// To a packet's home: a user wants a share.
    Claim {
        /// The packet.
        packet: u32,
        /// The user.
        user: u32,
        /// Where the user waits for the answer.
        reply: Address,
    },
    /// To the claimer's shard: the answer.
    Claimed {
        /// The claimer's connection.
        at: Address,
        /// The claimer.
        user: u32,
        /// The packet.
        packet: u32,
        /// Cents, 0 for none.
        amount: u32,
    },
    /// To a packet's home: a notice was handed to another user of the SET.
    Entitle {
        /// The packet.
        packet: u32,
        /// The user who was named.
        named: u32,
        /// The user who got the notice.
        user: u32,
    },
    /// To the shard of a SET: a packet for its queue.
    Packet {
        /// The SET among all SETs.
        set: u32,
        /// The packet.
        packet: u32,
        /// Its money in cents.
        amount: u32,
    },
    /// How far the ids of packets to be shaken are, to every shard: each writes it down, because
    /// one that gets no packet for long could not tell what is earlier and what is later.
    Reached {
        /// The next id.
        next: u32,
    },
    /// A packet for named users, to be made by this shard.
    Send(Box<Draft>),
    /// Whether packets that can be shaken will come, to every shard.
    Supply {
        /// All there were to be have been made, and no generator runs.
        finished: bool,
    },
    /// To shard 0: start a generator.
    Start(GeneratorSpec),
    /// To shard 0: stop a generator, or all with `None`.
    StopGenerator(Option<u64>),
    /// Push to every connection until told otherwise; `None` stops.
    Push(Option<PushSpec>),
    /// Spend time on a share of the shakes: a fault on purpose.
    Slow(Box<SlowOrder>),
    /// End that at an instant at the latest.
    EndSlow {
        /// The order's own number.
        id: u32,
        /// The instant, on the monotonic clock in nanoseconds.
        until_ns: u64,
    },
    /// The control thread asks for a snapshot.
    Snapshot {
        /// Repeated in the answer.
        ticket: u64,
    },
    /// More of the durable ledger is durable.
    Recorded,
    /// Stop accepting, answer what was read, and end.
    Stop,
}
