//! What a shard of the server counts and holds, and its sample of a second.
//!
//! Every counter has a name, which is the same in samples, in the control interface's JSON and,
//! with the prefix `lab_` and the suffix `_total`, in the metrics.

use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

crate::counters! {
    /// Counters of a shard since it began, or what they grew by.
    Counters {
    /// Connections accepted.
    accepted,
    /// Connections turned away: no slot, descriptor or file was left.
    turned_away,
    /// Connections closed by their peers.
    closed_by_peer,
    /// Connections that broke.
    broken,
    /// Logins accepted.
    logins,
    /// Shakes received.
    shakes,
    /// Shakes answered with a packet (result 14).
    granted,
    /// Shakes answered with "no packet just now" (result 15).
    no_packet,
    /// Shakes answered with "all packets are taken" (result 16).
    all_taken,
    /// Shakes answered with "over the limit" (result 17).
    overloaded,
    /// Shakes answered with the notice of a sent packet, in the prototype's mode.
    noticed,
    /// Packets made for users to claim.
    packets_sent,
    /// Packets that a user or the control interface wanted and could not have.
    packets_refused,
    /// Of those, what a user had no budget for: of open packets, or of mail for the notices.
    packets_over_budget,
    /// Packets that could not be made because their SET's queue was full.
    queue_overflow,
    /// Packets that generators did not make because they were too late.
    packets_skipped,
    /// Notices written to the named users' connections.
    notices_pushed,
    /// Notices put into SETs' queues, in the prototype's mode.
    notices_queued,
    /// Notices for users who are not logged in.
    notices_offline,
    /// Notices that the named user's client cannot understand.
    notices_unsupported,
    /// Notices dropped because a queue was full.
    notices_overflow,
    /// Claims received.
    claims,
    /// Claims answered with a share.
    claims_granted,
    /// Claims answered with amount 0: foreign, late, repeated, over the budget.
    claims_refused,
    /// Of those, what a user had no budget of mail for.
    claims_over_budget,
    /// Packets that expired with shares left.
    packets_expired,
    /// Shares whose claimer's connection was gone when the share came.
    undelivered_shares,
    /// What those shares are worth, in cents.
    undelivered_cents,
    /// Shares that were written to connections and that no later shake of their users can have
    /// confirmed when the connections were over.
    unconfirmed_shares,
    /// What those shares are worth, in cents.
    unconfirmed_cents,
    /// Chat texts received.
    chats,
    /// Chat texts written to their recipients' connections.
    chats_delivered,
    /// Chat texts for users who are not logged in or do not speak chat.
    chats_offline,
    /// Chat texts dropped because a queue was full, or for want of budget.
    chats_busy,
    /// Of those, what a user had no budget for.
    chats_over_budget,
    /// Pings answered.
    pings,
    /// Pushes written.
    pushes,
    /// Pushes that were not made because their interval was over.
    pushes_skipped,
    /// Closed: a length that the command does not have.
    bad_length,
    /// Closed: a command that does not exist.
    unknown_command,
    /// Closed: a command that only a server sends.
    wrong_direction,
    /// Closed: a first frame that is not a login.
    not_logged_in,
    /// Closed: a login on a connection that was logged in.
    already_logged_in,
    /// Closed: a login of a user beyond the largest.
    user_out_of_range,
    /// Closed: the user logged in on a newer connection.
    replaced,
    /// Closed: silence before login.
    login_timeout,
    /// Closed: a frame that was begun and not finished.
    frame_timeout,
    /// Closed: the peer does not read.
    not_reading,
    /// Records of the durable ledger.
    ledger_records,
    /// Packets, grants, claims and rights to claim that were refused because the durable ledger was
    /// behind or failed.
    ledger_refused,
    /// Connections closed, and refusals of claims that were left out, because nothing more found
    /// room while it waited for the durable ledger.
    ledger_overflow,
    /// Messages to other shards.
    mail_sent,
    /// Messages that found an inbox full and waited.
    mail_held,
    /// Messages dropped because too many waited.
    mail_overflow,
    /// Messages of a shard to itself dropped because too many waited.
    local_overflow,
    /// Bytes received.
    bytes_in,
    /// Bytes sent.
    bytes_out,
    /// Receives and sends that the kernel had no memory for, tried again after a pause.
    io_put_off,
    /// Polls of the loop in which something happened.
    turns,
    }
}

/// What a shard holds besides what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges {
    /// Users logged in.
    pub users_online: u64,
    /// Packets and notices in the queues of its SETs.
    pub queued: u64,
    /// Sent packets that have not expired and are not used up.
    pub packets_open: u64,
    /// Packets that generators of this shard have made.
    pub generated: u64,
    /// Generators that run on this shard.
    pub generators: u64,
    /// Generators that were ever started on this shard.
    #[serde(default)]
    pub generators_begun: u64,
    /// Packets a second that the generators that run make together.
    #[serde(default)]
    pub generators_rate: u64,
    /// Deadlines that wait: of logins, half frames and open packets.
    #[serde(default)]
    pub timers: u64,
}

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
