//! Sent packets: who may claim which share of what, until they expire.
//!
//! A packet lives on the shard that made it, its home; the id says which shard that is. What is
//! kept of a packet, its deadline too, goes when its last share is claimed or it expires.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use journal::OpenPacket;
use rand::Rng;
use service::MAX_AMOUNT;

use crate::packet_ids::PacketIds;
use crate::split::next_share;
use crate::under_way::UnderWay;

/// Packets expire together in steps of so many nanoseconds, so that a shard wakes 20 times a second
/// for them at most.
const STEP_NS: u64 = 50_000_000;

/// Ids of sent packets begin where those of the prototype do.
pub const FIRST_SENT: u32 = 0x0020_0000;

/// The creator of a packet that no user created: it came from the control interface.
pub const NO_CREATOR: u32 = u32::MAX;

/// The shard that knows a sent packet; `None` when no packet has such an id.
pub fn home_of(packet: u32, shards: usize) -> Option<usize> {
    Some(packet.checked_sub(FIRST_SENT)? as usize % shards)
}

/// How many ids a shard has.
fn ids_of(shard: u32, shards: u32) -> u32 {
    (u32::MAX - FIRST_SENT).checked_sub(shard).map_or(0, |last| last / shards + 1)
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
    /// Less than a cent a share, no share, or more shares than different recipients; or more money
    /// than a packet may hold.
    #[error(
        "a packet needs at least one share, a cent a share, at most {MAX_AMOUNT} cents, and no \
         more shares than different recipients"
    )]
    ImpossibleSplit,
    /// As many packets as may wait are waiting, or no id has rested long enough.
    #[error("no room for another packet until some expire")]
    NoRoom,
    /// The user has as many packets open as one user may.
    #[error("no other packet of this user until some are claimed or expire")]
    OverBudget,
    /// The durable ledger is behind or fails.
    #[error("no packet until the durable ledger can be written again")]
    NoLedger,
}

/// The bounds of a shard's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PacketLimits {
    /// Packets at a time.
    pub all: usize,
    /// Packets of one user at a time, on all shards.
    pub of_user: u32,
    /// How long one can be claimed, in nanoseconds.
    pub life_ns: u64,
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
    deadline_ns: u64,
}

/// The sent packets of a shard.
#[derive(Debug)]
pub(crate) struct SentPackets {
    packets: HashMap<u32, Packet>,
    /// When each packet expires, and its id: as many as there are packets. No timer wheel, whose
    /// entries stay until their time has come.
    deadlines: BTreeSet<(u64, u32)>,
    /// Counts the open packets of each user, on all shards.
    under_way: Arc<UnderWay>,
    ids: PacketIds,
    shard: u32,
    shards: u32,
    limits: PacketLimits,
}

impl SentPackets {
    /// No packets.
    pub(crate) fn new(
        shard: usize,
        shards: usize,
        limits: PacketLimits,
        under_way: Arc<UnderWay>,
    ) -> Self {
        let (shard, shards) = (shard as u32, shards as u32);
        Self {
            packets: HashMap::new(),
            deadlines: BTreeSet::new(),
            under_way,
            ids: PacketIds::new(ids_of(shard, shards), limits.life_ns),
            shard,
            shards,
            limits,
        }
    }

    /// How many packets have not expired and are not used up.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// How many deadlines are kept.
    pub(crate) fn deadlines(&self) -> usize {
        self.deadlines.len()
    }

    /// When the next packet expires, in nanoseconds.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ns, _)| *deadline_ns)
    }

    /// A packet whose time is over, to be taken away with [`Self::expire`].
    pub(crate) fn due(&self, now_ns: u64) -> Option<u32> {
        self.deadlines.first().filter(|(deadline_ns, _)| *deadline_ns <= now_ns).map(|(_, id)| *id)
    }

    /// Makes a packet and returns its id.
    ///
    /// # Errors
    /// [`Refused`]; nothing has changed then.
    pub(crate) fn make(&mut self, draft: &Draft, now_ns: u64) -> Result<u32, Refused> {
        let mut waiting = draft.recipients.clone();
        waiting.sort_unstable();
        waiting.dedup();
        let possible = draft.count >= 1
            && (draft.count..=MAX_AMOUNT).contains(&draft.amount)
            && draft.count as usize <= waiting.len();
        if !possible {
            return Err(Refused::ImpossibleSplit);
        }
        let of_user = draft.creator != NO_CREATOR;
        if of_user && !self.under_way.opens(draft.creator, self.limits.of_user) {
            return Err(Refused::OverBudget);
        }
        let opened = self.open(draft, waiting, now_ns);
        if of_user && opened.is_none() {
            self.under_way.closes(draft.creator);
        }
        opened.ok_or(Refused::NoRoom)
    }

    /// Puts a packet there, which is counted already; `None` when there is no room.
    fn open(&mut self, draft: &Draft, waiting: Vec<u32>, now_ns: u64) -> Option<u32> {
        if self.packets.len() >= self.limits.all {
            return None;
        }
        let (packets, shard, shards) = (&self.packets, self.shard, self.shards);
        let id_of = |number: u32| FIRST_SENT + number * shards + shard;
        let number = self.ids.take(now_ns, |number| packets.contains_key(&id_of(number)));
        let id = id_of(number?);
        let over_ns = now_ns.saturating_add(self.limits.life_ns);
        let deadline_ns = over_ns.div_ceil(STEP_NS).saturating_mul(STEP_NS);
        let packet = Packet {
            left: draft.amount,
            shares: draft.count,
            waiting,
            creator: draft.creator,
            set: draft.set,
            deadline_ns,
        };
        self.packets.insert(id, packet);
        self.deadlines.insert((deadline_ns, id));
        Some(id)
    }

    /// A share for a user, if the user was named, has not claimed before, one is left, and the
    /// packet's time is not over: it may wait to be taken away then.
    pub(crate) fn claim(
        &mut self,
        id: u32,
        user: u32,
        now_ns: u64,
        random: &mut impl Rng,
    ) -> Option<Claimed> {
        let packet = self.packets.get_mut(&id).filter(|packet| now_ns < packet.deadline_ns)?;
        let place = packet.waiting.binary_search(&user).ok()?;
        packet.waiting.remove(place);
        let amount = next_share(packet.left, packet.shares, random);
        packet.left -= amount;
        packet.shares -= 1;
        let claimed = Claimed { amount, set: packet.set };
        if packet.shares == 0 {
            self.remove(id);
        }
        Some(claimed)
    }

    /// When a packet expires, and who may claim it, in ascending order.
    pub(crate) fn terms(&self, id: u32) -> Option<(u64, &[u32])> {
        let packet = self.packets.get(&id)?;
        Some((packet.deadline_ns, &packet.waiting))
    }

    /// Puts back a packet that was open before the server was started again; `set` is its place
    /// among those of this shard, the deadline on the clock of now. It is counted already
    /// ([`UnderWay::count_open`]).
    pub(crate) fn restore(&mut self, id: u32, open: OpenPacket, set: u16) {
        let OpenPacket { creator, left, shares, deadline_ns, waiting, .. } = open;
        self.packets.insert(id, Packet { left, shares, waiting, creator, set, deadline_ns });
        self.deadlines.insert((deadline_ns, id));
    }

    /// Goes on with ids from this one on, which may be of another shard; 0 for the first.
    pub(crate) fn go_on_from(&mut self, next: u32) {
        let past = next.saturating_sub(FIRST_SENT).saturating_sub(self.shard);
        self.ids.go_on_from(past.div_ceil(self.shards));
    }

    /// Lets `user` claim in the place of `named`, who was named and did not: in the prototype's
    /// mode a notice goes to the next user of the SET who shakes. Nothing happens when `named` may
    /// not claim or `user` may already. Returns whether something happened.
    pub(crate) fn entitle(&mut self, id: u32, named: u32, user: u32) -> bool {
        let Some(packet) = self.packets.get_mut(&id) else { return false };
        let old = packet.waiting.binary_search(&named);
        let new = packet.waiting.binary_search(&user);
        let (Ok(old), Err(_)) = (old, new) else { return false };
        packet.waiting.remove(old);
        let place = packet.waiting.partition_point(|other| *other < user);
        packet.waiting.insert(place, user);
        true
    }

    /// Takes a packet away; `None` when its last share was claimed.
    pub(crate) fn expire(&mut self, id: u32) -> Option<Expired> {
        let packet = self.remove(id)?;
        Some(Expired {
            shares: packet.shares,
            amount: packet.left,
            creator: packet.creator,
            set: packet.set,
        })
    }

    /// Takes a packet away with all that is kept of it.
    fn remove(&mut self, id: u32) -> Option<Packet> {
        let packet = self.packets.remove(&id)?;
        self.deadlines.remove(&(packet.deadline_ns, id));
        self.under_way.closes(packet.creator);
        give_back(&mut self.packets);
        Some(packet)
    }
}

/// Room that a map keeps, however few are in it.
const ROOM_KEPT: usize = 1024;

/// Gives the room of a map back of which less than an eighth is used. What is left is moved once,
/// and the map must lose half of it before that happens again.
fn give_back(map: &mut HashMap<u32, Packet>) {
    if map.capacity() > 2 * ROOM_KEPT && map.len() < map.capacity() / 8 {
        map.shrink_to((2 * map.len()).max(ROOM_KEPT));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    fn packets(shard: usize, shards: usize, all: usize) -> SentPackets {
        let limits = PacketLimits { all, of_user: 3, life_ns: 1_000 };
        SentPackets::new(shard, shards, limits, UnderWay::new(10))
    }

    fn draft(amount: u32, count: u32, recipients: &[u32]) -> Draft {
        Draft { amount, count, recipients: recipients.to_vec(), creator: 7, set: 3 }
    }

    #[test]
    fn only_the_named_claim_and_only_once() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(1, 4, 10);
        let id = packets.make(&draft(100, 3, &[30, 10, 20]), 0).expect("made");
        assert_eq!(home_of(id, 4), Some(1));
        let mut claim = |packets: &mut SentPackets, user| {
            packets.claim(id, user, 0, &mut random).map_or(0, |claimed| claimed.amount)
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
        assert_eq!((packets.packets.len(), packets.under_way.open(7)), (0, 0));
        assert_eq!((packets.deadlines(), packets.next_ns()), (0, None));
    }

    #[test]
    fn unclaimed_shares_go_back() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(0, 1, 10);
        let id = packets.make(&draft(100, 3, &[1, 2, 3]), 0).expect("made");
        let claimed = packets.claim(id, 2, 0, &mut random).expect("named").amount;
        let expected = Expired { shares: 2, amount: 100 - claimed, creator: 7, set: 3 };
        assert_eq!(packets.expire(id), Some(expected));
        assert_eq!(packets.claim(id, 1, 0, &mut random), None, "late");
    }

    #[test]
    fn the_deadline_decides_about_a_claim_also_before_the_packet_is_taken_away() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(0, 1, 10);
        let id = packets.make(&draft(100, 3, &[1, 2, 3]), 0).expect("made");
        let deadline_ns = packets.next_ns().expect("one");
        let first = packets.claim(id, 1, deadline_ns - 1, &mut random).expect("in time").amount;
        assert_eq!(packets.claim(id, 2, deadline_ns, &mut random), None);
        assert_eq!(packets.due(deadline_ns), Some(id));
        let left = packets.expire(id).map(|expired| (expired.shares, expired.amount));
        assert_eq!(left, Some((2, 100 - first)));
    }

    #[test]
    fn a_notice_handed_to_another_moves_the_right_to_claim() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(0, 1, 10);
        let id = packets.make(&draft(100, 3, &[1, 5, 9]), 0).expect("made");
        assert!(packets.entitle(id, 5, 7));
        assert!(!packets.entitle(id, 5, 8));
        assert!(!packets.entitle(id, 9, 1));
        assert_eq!(packets.claim(id, 5, 0, &mut random), None);
        assert_eq!(packets.claim(id, 8, 0, &mut random), None);
        for user in [7, 9, 1] {
            assert!(packets.claim(id, user, 0, &mut random).is_some(), "{user}");
        }
    }

    /// Far more packets than ids, and than may be open at a time: nothing of them stays.
    #[test]
    fn what_is_over_leaves_nothing_behind_and_its_id_comes_back() {
        const SHARDS: usize = 50_000;
        const PACKETS: u64 = 200_000;
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(7, SHARDS, 10);
        let (mut last, mut again) = (HashMap::new(), 0);
        for number in 0..PACKETS {
            let now_ns = number * 20_000_000;
            let id = packets.make(&draft(1, 1, &[5]), now_ns).expect("an id has rested");
            assert_eq!(home_of(id, SHARDS), Some(7));
            again += u64::from(last.insert(id, number).is_some());
            assert!(packets.claim(id, 5, now_ns, &mut random).is_some());
            assert_eq!(packets.claim(id, 5, now_ns, &mut random), None);
            assert_eq!((packets.len(), packets.deadlines(), packets.under_way.open(7)), (0, 0, 0));
        }
        assert_eq!(last.len() as u32, ids_of(7, SHARDS as u32));
        assert_eq!(again, PACKETS - last.len() as u64);
    }

    #[test]
    fn the_last_id_of_each_shard_is_an_id_of_that_shard() {
        for shards in [1, 2, 3, 54, 1024] {
            let count: u64 = (0..shards).map(|shard| u64::from(ids_of(shard, shards))).sum();
            assert_eq!(count, u64::from(u32::MAX - FIRST_SENT) + 1);
            for shard in 0..shards {
                let last = u64::from(ids_of(shard, shards) - 1);
                let id = u64::from(FIRST_SENT) + last * u64::from(shards) + u64::from(shard);
                let id = u32::try_from(id).expect("an id");
                assert_eq!(home_of(id, shards as usize), Some(shard as usize));
            }
        }
    }

    #[test]
    fn a_user_over_budget_is_refused_and_no_other() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let mut packets = packets(0, 1, 100);
        let of = |creator| Draft { creator, ..draft(2, 2, &[1, 2]) };
        let made: Vec<u32> = (0..3).map(|_| packets.make(&of(7), 0).expect("within")).collect();
        assert_eq!(packets.make(&of(7), 0), Err(Refused::OverBudget));
        let impossible = Draft { creator: 7, ..draft(1, 2, &[1, 2]) };
        assert_eq!(packets.make(&impossible, 0), Err(Refused::ImpossibleSplit));
        assert!(packets.make(&of(8), 0).is_ok());
        for _ in 0..9 {
            assert!(packets.make(&of(NO_CREATOR), 0).is_ok(), "the control interface is no user");
        }
        packets.claim(made[0], 1, 0, &mut random).expect("named");
        assert_eq!(packets.make(&of(7), 0), Err(Refused::OverBudget), "a share is left");
        packets.claim(made[0], 2, 0, &mut random).expect("named");
        assert!(packets.make(&of(7), 0).is_ok());
        assert!(packets.expire(made[1]).is_some() && packets.make(&of(7), 0).is_ok());
    }

    /// The same user on two shards, one after the other.
    #[test]
    fn packets_of_a_user_on_all_shards_are_counted_together() {
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let limits = PacketLimits { all: 100, of_user: 3, life_ns: 1_000 };
        let users = UnderWay::new(10);
        let mut shards = [0, 1].map(|me| SentPackets::new(me, 2, limits, Arc::clone(&users)));
        let one = draft(1, 1, &[1]);
        let first = shards[0].make(&one, 0).expect("within");
        let second = shards[0].make(&one, 0).expect("within");
        shards[1].make(&one, 0).expect("within");
        assert_eq!(shards.each_mut().map(|it| it.make(&one, 0)), [Err(Refused::OverBudget); 2]);
        assert!(shards[0].claim(first, 1, 0, &mut random).is_some());
        assert!(shards[1].make(&one, 0).is_ok() && shards[0].make(&one, 0).is_err());
        assert!(shards[0].expire(second).is_some() && shards[1].make(&one, 0).is_ok());
        assert_eq!((users.open(7), shards[0].len(), shards[1].len()), (3, 0, 3));
    }

    #[test]
    fn packets_expire_when_their_time_is_over_and_room_is_given_back() {
        const MANY: u32 = 100_000;
        let life_ns = 60 * STEP_NS;
        let limits = PacketLimits { all: MANY as usize, of_user: 1, life_ns };
        let users = UnderWay::new(MANY);
        let mut packets = SentPackets::new(0, 1, limits, Arc::clone(&users));
        for creator in 0..MANY {
            let made = packets.make(&Draft { creator, ..draft(1, 1, &[1]) }, u64::from(creator));
            assert!(made.is_ok());
        }
        assert_eq!(packets.make(&draft(1, 1, &[1]), 0), Err(Refused::OverBudget));
        assert_eq!(packets.due(life_ns), Some(FIRST_SENT), "the first was made at 0");
        assert!(packets.expire(FIRST_SENT).is_some());
        // All others were made within the step after that.
        assert_eq!((packets.due(life_ns), packets.next_ns()), (None, Some(life_ns + STEP_NS)));
        let mut expired = 1;
        while let Some(id) = packets.due(life_ns + STEP_NS) {
            assert!(packets.expire(id).is_some());
            expired += 1;
        }
        assert_eq!((expired, packets.len(), packets.deadlines()), (MANY, 0, 0));
        assert!(packets.packets.capacity() <= 2 * ROOM_KEPT, "{}", packets.packets.capacity());
        assert!((0..MANY).all(|creator| users.open(creator) == 0));
    }

    #[test]
    fn impossible_packets_and_too_many_are_refused() {
        let mut packets = packets(0, 1, 2);
        for impossible in [
            draft(100, 0, &[1, 2, 3]),
            draft(2, 3, &[1, 2, 3]),
            draft(100, 3, &[1, 2]),
            draft(100, 3, &[1, 2, 2]),
            draft(0, 0, &[]),
            draft(MAX_AMOUNT + 1, 3, &[1, 2, 3]),
            draft(u32::MAX, 3, &[1, 2, 3]),
        ] {
            assert_eq!(
                packets.make(&impossible, 0),
                Err(Refused::ImpossibleSplit),
                "{impossible:?}"
            );
        }
        assert_eq!(packets.make(&draft(1, 1, &[1]), 0), Ok(FIRST_SENT));
        assert_eq!(packets.make(&draft(1, 1, &[1]), 0), Ok(FIRST_SENT + 1));
        for _ in 0..3 {
            assert_eq!(packets.make(&draft(1, 1, &[1]), 0), Err(Refused::NoRoom));
            assert_eq!(packets.under_way.open(7), 2, "what found no room is not open");
        }
        assert_eq!(home_of(FIRST_SENT - 1, 4), None);
    }
}
