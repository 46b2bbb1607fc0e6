//! What users received, counted by the client: every cent, independent of the server's ledger.

use accounting::Money;
use serde::{Deserialize, Serialize};

/// Ids of shaken packets begin here, in the prototype and in our server.
const FIRST_SHAKEN: u32 = 0x0010_0000;

/// Packets that are checked for being granted twice: 8 MiB of bits. Those beyond are counted.
const AUDITED: u32 = 1 << 26;

/// What the users of a shard received.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipts {
    /// Packets that shakes brought.
    pub granted: Money,
    /// Shares that claims brought.
    pub claimed: Money,
    /// Packets that users created; the count is that of their shares.
    pub created: Money,
    /// What came back of them.
    pub refunded: Money,
    /// Packets that a user of this shard received though one of this shard had it already.
    pub double_grants: u64,
    /// Packets with ids outside of the range that is checked.
    pub unaudited: u64,
    /// Shakes and claims without an answer on connections when these were lost: no more answers
    /// than that can have gone with them.
    #[serde(default)]
    pub in_flight_lost: u64,
    /// The same when the client was told to end.
    #[serde(default)]
    pub in_flight_at_end: u64,
    /// Of those lost, what another shake of its user followed: it had timed out.
    #[serde(default)]
    pub overtaken: u64,
    /// Money of the last answers that came over connections that are over, as [`accounting::Tail`]
    /// has it.
    #[serde(default)]
    pub last_answers: Money,
    /// A bit for each packet granted, from the first id on, 64 to a word.
    #[serde(skip)]
    seen: Vec<u64>,
}

impl Receipts {
    /// A packet came.
    #[inline]
    pub fn grant(&mut self, packet: u32, amount: u32) {
        self.granted += Money::share(amount);
        match packet.checked_sub(FIRST_SHAKEN).filter(|place| *place < AUDITED) {
            None => self.unaudited += 1,
            Some(place) => {
                let (word, bit) = (place as usize / 64, place % 64);
                if self.seen.len() <= word {
                    self.seen.resize(word + 1, 0);
                }
                self.double_grants += (self.seen[word] >> bit) & 1;
                self.seen[word] |= 1 << bit;
            }
        }
    }

    /// The packets granted, as words of bits.
    pub fn seen(&self) -> &[u64] {
        &self.seen
    }

    /// Adds the receipts of another shard or client; packets that both received are double grants.
    pub fn add(&mut self, other: &Receipts) {
        self.granted += other.granted;
        self.claimed += other.claimed;
        self.created += other.created;
        self.refunded += other.refunded;
        self.double_grants += other.double_grants;
        self.unaudited += other.unaudited;
        self.in_flight_lost += other.in_flight_lost;
        self.in_flight_at_end += other.in_flight_at_end;
        self.overtaken += other.overtaken;
        self.last_answers += other.last_answers;
        self.add_seen(&other.seen);
    }

    /// Adds the packets that others received, as words of bits.
    pub(crate) fn add_seen(&mut self, seen: &[u64]) {
        if self.seen.len() < seen.len() {
            self.seen.resize(seen.len(), 0);
        }
        for (mine, theirs) in self.seen.iter_mut().zip(seen) {
            self.double_grants += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_granted_twice_is_found_within_a_shard_and_between_shards() {
        let mut one = Receipts::default();
        let mut other = Receipts::default();
        for packet in [0, 1, 63, 64, 1_000] {
            one.grant(FIRST_SHAKEN + packet, 10);
        }
        one.grant(FIRST_SHAKEN + 64, 10);
        assert_eq!(one.double_grants, 1);
        for packet in [2, 1_000, 5_000] {
            other.grant(FIRST_SHAKEN + packet, 5);
        }
        assert_eq!(other.double_grants, 0);
        one.add(&other);
        assert_eq!(one.double_grants, 2);
        assert_eq!(one.granted, Money { count: 9, amount: 75 });
        one.grant(7, 1);
        one.grant(u32::MAX, 1);
        assert_eq!(one.unaudited, 2);
    }
}
