//! Sent packets: who may claim which share of what, until they expire.
//!
//! A packet lives on the shard that made it, its home; the id says which shard that is.

use std::collections::HashMap;

use rand::Rng;

use crate::split::next_share;

/// Ids of sent packets begin where those of the prototype do.
pub const FIRST_SENT: u32 = 0x0020_0000;

/// The creator of a packet that no user created: it came from the control interface.
pub const NO_CREATOR: u32 = u32::MAX;

/// The shard that knows a sent packet; `None` when no packet has such an id.
pub fn home_of(packet: u32, shards: usize) -> Option<usize> {
    Some(packet.checked_sub(FIRST_SENT)? as usize % shards)
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Cents.
    pub amount: u32,
    /// Into how many shares it is split.
    pub count: u32,
    /// Who may claim one.
    pub recipients: Vec<u32>,
    /// Who pays, or [`NO_CREATOR`].
    pub creator: u32,
    /// The SET in whose books it is, by its place among those of the home shard.
    pub set: u16,
}

/// Why a packet was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Less than a cent a share, no share, or more shares than different recipients.
    #[error(
        "a packet needs at least one share, a cent a share, and no more shares than different \
         recipients"
    )]
    ImpossibleSplit,
    /// As many packets as may wait are waiting, or the ids have run out.
    #[error("no room for another packet until some expire")]
    NoRoom,
}

/// What expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired {
    /// Shares that were not claimed.
    pub shares: u32,
    /// What they are worth, in cents.
    pub amount: u32,
    /// The user to whom it goes back, or [`NO_CREATOR`].
    pub creator: u32,
    /// The SET in whose books it is.
    pub set: u16,
}

/// What a claim brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Cents, at least 1.
    pub amount: u32,
    /// The SET in whose books the packet is.
    pub set: u16,
}

#[derive(Debug)]
struct Packet {
    left: u32,
    shares: u32,
    /// Who may still claim.
    waiting: Vec<u32>,
    creator: u32,
    set: u16,
}

/// The sent packets of a shard.
#[derive(Debug)]
pub(crate) struct SentPackets {
    packets: HashMap<u32, Packet>,
    shard: u32,
    shards: u32,
    made: u32,
    bound: usize,
}

impl SentPackets {
    /// No packets, and room for `bound` at a time.
    pub(crate) fn new(shard: usize, shards: usize, bound: usize) -> Self {
        Self { packets: HashMap::new(), shard: shard as u32, shards: shards as u32, made: 0, bound }
    }

    /// How many packets have not expired and are not used up.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Makes a packet and returns its id.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub(crate) fn make(&mut self, draft: &Draft) -> Result<u32, Refused> {
        let mut waiting = draft.recipients.clone();
        waiting.sort_unstable();
        waiting.dedup();
        let possible = draft.count >= 1
            && draft.amount >= draft.count
            && draft.count as usize <= waiting.len();
        if !possible {
            return Err(Refused::ImpossibleSplit);
        }
        let id = self.made.checked_mul(self.shards).and_then(|id| id.checked_add(self.shard));
        let id = id.and_then(|id| id.checked_add(FIRST_SENT));
        let Some(id) = id.filter(|_| self.packets.len() < self.bound) else {
            return Err(Refused::NoRoom);
        };
        self.made += 1;
        let packet = Packet {
            left: draft.amount,
            shares: draft.count,
            waiting,
            creator: draft.creator,
            set: draft.set,
        };
        self.packets.insert(id, packet);
        Ok(id)
    }

    /// A share for a user, if the user was named, has not claimed before, and one is left.
    pub(crate) fn claim(&mut self, id: u32, user: u32, random: &mut impl Rng) -> Option<Claimed> {
        let packet = self.packets.get_mut(&id)?;
        let place = packet.waiting.binary_search(&user).ok()?;
        packet.waiting.remove(place);
        let amount = next_share(packet.left, packet.shares, random);
        packet.left -= amount;
        packet.shares -= 1;
        let claimed = Claimed { amount, set: packet.set };
        if packet.shares == 0 {
            self.packets.remove(&id);
        }
        Some(claimed)
    }

    /// Lets `user` claim in the place of `named`, who was named and did not: in the prototype's
    /// mode a notice goes to the next user of the SET who shakes. Nothing happens when `named` may
    /// not claim or `user` may already.
    pub(crate) fn entitle(&mut self, id: u32, named: u32, user: u32) {
        let Some(packet) = self.packets.get_mut(&id) else { return };
        let old = packet.waiting.binary_search(&named);
        let new = packet.waiting.binary_search(&user);
        if let (Ok(old), Err(_)) = (old, new) {
            packet.waiting.remove(old);
            let place = packet.waiting.partition_point(|other| *other < user);
            packet.waiting.insert(place, user);
        }
    }

    /// Takes a packet away; `None` when its last share was claimed.
    pub(crate) fn expire(&mut self, id: u32) -> Option<Expired> {
        let packet = self.packets.remove(&id)?;
        Some(Expired {
            shares: packet.shares,
            amount: packet.left,
            creator: packet.creator,
            set: packet.set,
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn draft(amount: u32, count: u32, recipients: &[u32]) -> Draft {
        Draft { amount, count, recipients: recipients.to_vec(), creator: 7, set: 3 }
    }

    #[test]
    fn only_the_named_claim_and_only_once() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = SentPackets::new(1, 4, 10);
        let id = packets.make(&draft(100, 3, &[30, 10, 20])).expect("made");
        assert_eq!(home_of(id, 4), Some(1));
        let mut claim = |packets: &mut SentPackets, user| {
            packets.claim(id, user, &mut random).map_or(0, |claimed| claimed.amount)
        };
        assert_eq!(claim(&mut packets, 11), 0, "a stranger");
        let first = claim(&mut packets, 10);
        assert!(first >= 1);
        assert_eq!(claim(&mut packets, 10), 0, "a second time");
        let second = claim(&mut packets, 30);
        let third = claim(&mut packets, 20);
        assert_eq!(first + second + third, 100);
        assert_eq!(claim(&mut packets, 20), 0, "used up");
        assert_eq!(packets.expire(id), None);
        assert!(packets.packets.is_empty());
    }

    #[test]
    fn unclaimed_shares_go_back() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = SentPackets::new(0, 1, 10);
        let id = packets.make(&draft(100, 3, &[1, 2, 3])).expect("made");
        let claimed = packets.claim(id, 2, &mut random).expect("named").amount;
        let expected = Expired { shares: 2, amount: 100 - claimed, creator: 7, set: 3 };
        assert_eq!(packets.expire(id), Some(expected));
        assert_eq!(packets.claim(id, 1, &mut random), None, "late");
    }

    #[test]
    fn a_notice_handed_to_another_moves_the_right_to_claim() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = SentPackets::new(0, 1, 10);
        let id = packets.make(&draft(100, 3, &[1, 5, 9])).expect("made");
        packets.entitle(id, 5, 7);
        packets.entitle(id, 5, 8);
        packets.entitle(id, 9, 1);
        assert_eq!(packets.claim(id, 5, &mut random), None);
        assert_eq!(packets.claim(id, 8, &mut random), None);
        for user in [7, 9, 1] {
            assert!(packets.claim(id, user, &mut random).is_some(), "{user}");
        }
    }

    #[test]
    fn impossible_packets_and_too_many_are_refused() {
        let mut packets = SentPackets::new(0, 1, 2);
        for impossible in [
            draft(100, 0, &[1, 2, 3]),
            draft(2, 3, &[1, 2, 3]),
            draft(100, 3, &[1, 2]),
            draft(100, 3, &[1, 2, 2]),
            draft(0, 0, &[]),
        ] {
            assert_eq!(packets.make(&impossible), Err(Refused::ImpossibleSplit), "{impossible:?}");
        }
        assert_eq!(packets.make(&draft(1, 1, &[1])), Ok(FIRST_SENT));
        assert_eq!(packets.make(&draft(1, 1, &[1])), Ok(FIRST_SENT + 1));
        assert_eq!(packets.make(&draft(1, 1, &[1])), Err(Refused::NoRoom));
        assert_eq!(home_of(FIRST_SENT - 1, 4), None);
    }
}
