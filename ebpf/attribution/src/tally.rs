//! What became of the shakes: counters by second and by phase, with their identities.

use serde::{Deserialize, Serialize};

accounting::counters! {
    /// What a shard of the client counted. Of a shake, `offered`, `sent` and `skipped_*` count when
    /// it was due, the rest when it happened.
    Tally {
        /// Shakes that the schedule wanted.
        offered,
        /// Shakes sent.
        sent,
        /// Shakes not sent because the user still waited for an answer.
        skipped_waiting,
        /// Shakes not sent because the user was not logged in.
        skipped_offline,
        /// Shakes not sent because the client was still too far behind when the phase ended.
        skipped_late,
        /// Shakes answered in time.
        answered,
        /// Answers that brought a packet (result 14).
        granted,
        /// Answers without a packet (results 15 and 16, and notices in the prototype's mode).
        empty,
        /// Answers "over the limit" (result 17).
        overloaded,
        /// Answers that were the notice of a sent packet, in the prototype's mode; counted in
        /// empty.
        noticed,
        /// Shakes not answered in time.
        timed_out,
        /// Shakes whose connection went away.
        lost,
        /// Answers to shakes that had timed out.
        late_answers,
        /// Answers to nothing.
        unexpected,
        /// Shakes that left later than allowed after their instant, by the client's own doing.
        late_sends,
        /// Shakes, sent or not, whose turn came over a millisecond late by the client's own doing,
        /// whatever is allowed. Those that pacing makes due at one instant wait for each other;
        /// that does not count.
        late_turns,
        /// Connections begun.
        connects,
        /// Users logged in.
        logins,
        /// Connections that could not be opened.
        connect_failed,
        /// Source ports that were taken.
        ports_taken,
        /// Logins refused.
        login_refused,
        /// Logged-in connections that went away.
        connections_lost,
        /// Users whose place another connection took.
        replaced,
        /// Error frames received.
        errors,
        /// Frames received that the protocol does not allow.
        nonsense,
        /// Notices of sent packets received.
        notices,
        /// Claims sent.
        claims,
        /// Claims answered with a share.
        claims_granted,
        /// Claims answered with amount 0.
        claims_refused,
        /// Packets that users asked to create.
        creates,
        /// Packets created.
        created,
        /// Creations refused.
        creates_refused,
        /// Refunds received.
        refunds,
        /// Chat texts sent, replies included.
        chats,
        /// Chat texts received.
        chats_received,
        /// Receipts "delivered".
        chats_delivered,
        /// Receipts "not logged in".
        chats_offline,
        /// Receipts "no room".
        chats_busy,
        /// Pushes received.
        pushes,
        /// Pushes that should have come before one that came.
        pushes_missed,
        /// Bytes received.
        bytes_in,
        /// Bytes sent.
        bytes_out,
        /// Polls of the loop in which something happened.
        turns,
    }
}

/// A sum of what a file may say, which may be more than any number.
fn total<const N: usize>(counts: [u64; N]) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

impl Tally {
    /// Shakes not sent.
    pub fn skipped(&self) -> u64 {
        total([self.skipped_waiting, self.skipped_offline, self.skipped_late])
    }

    /// Shakes that are on their way, by these counters.
    pub fn in_flight(&self) -> Option<u64> {
        self.sent.checked_sub(total([self.answered, self.timed_out, self.lost]))
    }

    /// Whether everything offered was sent or skipped, every answer was of one kind, and no more
    /// came back than was sent.
    pub fn adds_up(&self) -> bool {
        self.offered == total([self.sent, self.skipped()])
            && self.answered == total([self.granted, self.empty, self.overloaded])
            && self.in_flight().is_some()
    }
}

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
