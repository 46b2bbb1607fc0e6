//! SETs: a few thousand users each, with one queue of red packets and one ledger.
//!
//! A SET belongs to one shard, and a connection joins a SET of its own shard, so that a shake is
//! answered from what its shard owns.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use accounting::{Ledger, Money};

use crate::shaken_ids::{PARTS, part_of};

/// What waits in a SET's queue for its next shake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// A red packet.
    Packet {
        /// Its id.
        packet: u32,
        /// Its money in cents.
        amount: u32,
    },
    /// The notice of a sent packet, in the prototype's mode of handing notices out.
    Notice {
        /// The packet to be claimed.
        packet: u32,
        /// Its money in cents.
        amount: u32,
        /// Into how many shares it is split.
        count: u32,
        /// Who may claim one.
        users: [u32; 3],
        /// The user whom it names.
        named: u32,
    },
}

/// A SET.
#[derive(Debug)]
pub struct Set {
    /// Its books.
    pub ledger: Ledger,
    queue: VecDeque<Queued>,
    /// Packets in the queue by the part of their ids.
    parts: [u32; PARTS],
    /// Packets that came when the queue was full; never created.
    pub overflow: Money,
}

impl Default for Set {
    fn default() -> Self {
        let (ledger, queue) = (Ledger::default(), VecDeque::new());
        Self { ledger, queue, parts: [0; PARTS], overflow: Money::default() }
    }
}

/// What the shard that owns a SET writes about it for the generators to read.
#[derive(Debug, Default)]
pub struct SetSign {
    /// Users online. Logins change it, requests do not.
    pub users: AtomicU32,
    /// A bit for each part of the ids of which packets wait. The first and the last of a part
    /// change it.
    pub(crate) parts: AtomicU64,
}

/// That of all SETs.
pub type Online = Arc<[SetSign]>;

/// Of `sets` SETs without users and packets.
pub fn new_online(sets: usize) -> Online {
    (0..sets).map(|_| SetSign::default()).collect()
}

/// Which of `sets` SETs belong to a shard.
pub(crate) fn sets_of(shard: usize, shards: usize, sets: usize) -> Range<usize> {
    shard * sets / shards..(shard + 1) * sets / shards
}

/// The shard that a SET belongs to.
pub(crate) fn shard_of(set: usize, shards: usize, sets: usize) -> usize {
    // The inverse of `sets_of`: the first shard whose range ends after the SET.
    ((set + 1) * shards).div_ceil(sets) - 1
}

/// The SETs of a shard.
#[derive(Debug)]
pub struct Sets {
    sets: Vec<Set>,
    first: usize,
    online: Online,
    /// Packets and notices that wait in one SET at most.
    queue_bound: usize,
}

impl Sets {
    /// The empty SETs that belong to a shard.
    pub fn new(shard: usize, shards: usize, online: Online, queue_bound: usize) -> Self {
        let range = sets_of(shard, shards, online.len());
        let sets = range.clone().map(|_| Set::default()).collect();
        Self { sets, first: range.start, online, queue_bound }
    }

    fn users(&self, set: usize) -> &AtomicU32 {
        &self.online[self.first + set].users
    }

    /// So many packets with such an id came into the queue of a SET or left it.
    #[inline]
    fn count(&mut self, set: usize, packet: u32, by: i32) {
        let part = part_of(packet);
        let count = &mut self.sets[set].parts[part];
        let before = *count;
        *count = before.saturating_add_signed(by);
        if before == 0 || *count == 0 {
            let sign = &self.online[self.first + set].parts;
            let bit = 1 << part;
            let others = sign.load(Ordering::Relaxed) & !bit;
            sign.store(if *count == 0 { others } else { others | bit }, Ordering::Relaxed);
        }
    }

    /// Puts a user into the SET with the fewest and returns its place among those of this shard.
    pub fn join(&mut self) -> u16 {
        let fewest = (0..self.sets.len())
            .min_by_key(|set| self.users(*set).load(Ordering::Relaxed))
            .unwrap_or_default();
        let users = self.users(fewest);
        users.store(users.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        fewest as u16
    }

    /// A user goes.
    pub(crate) fn leave(&mut self, set: u16) {
        let users = self.users(usize::from(set));
        users.store(users.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// How many SETs the shard has.
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether the shard has none.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// A SET by its place among those of this shard.
    pub fn get(&mut self, set: u16) -> &mut Set {
        &mut self.sets[usize::from(set)]
    }

    /// All SETs of the shard, each with its number among all SETs.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Set)> {
        (self.first..).zip(&self.sets)
    }

    /// Users online in a SET by its place among those of this shard.
    pub(crate) fn users_of(&self, set: usize) -> u32 {
        self.users(set).load(Ordering::Relaxed)
    }

    /// A packet comes into the queue of a SET, given by its number among all SETs.
    /// Returns whether there was room; without room it is not created, and counted.
    pub(crate) fn put_packet(&mut self, set: usize, packet: u32, amount: u32) -> bool {
        let (bound, place) = (self.queue_bound, set - self.first);
        let set = &mut self.sets[place];
        if set.queue.len() >= bound {
            set.overflow += Money::share(amount);
            return false;
        }
        set.ledger.create(Money::share(amount));
        set.queue.push_back(Queued::Packet { packet, amount });
        self.count(place, packet, 1);
        true
    }

    /// A notice comes into the queue of a SET, given by its place among those of this shard.
    /// Returns whether there was room.
    pub(crate) fn put_notice(&mut self, set: u16, notice: Queued) -> bool {
        let bound = self.queue_bound;
        let queue = &mut self.sets[usize::from(set)].queue;
        let room = queue.len() < bound;
        if room {
            queue.push_back(notice);
        }
        room
    }

    /// Takes what the next shake of a SET gets, but for a packet while money is refused: it goes on
    /// waiting.
    #[inline]
    pub(crate) fn pop(&mut self, set: u16, refuses_money: impl FnOnce() -> bool) -> Option<Queued> {
        let place = usize::from(set);
        let set = &mut self.sets[place];
        let waiting = *set.queue.front()?;
        if let Queued::Packet { packet, amount } = waiting {
            if refuses_money() {
                return None;
            }
            set.ledger.grant(Money::share(amount));
            set.queue.pop_front();
            self.count(place, packet, -1);
        } else {
            set.queue.pop_front();
        }
        Some(waiting)
    }

    /// The number among all SETs of one of this shard's.
    pub(crate) fn number_of(&self, set: u16) -> u32 {
        (self.first + usize::from(set)) as u32
    }

    /// The place among this shard's SETs of one by its number among all.
    pub(crate) fn place_of(&self, number: u32) -> Option<u16> {
        let place = (number as usize).checked_sub(self.first)?;
        (place < self.sets.len()).then_some(place as u16)
    }

    /// Puts back what a SET had before the server was started again, whatever the bound of its
    /// queue is by now.
    pub(crate) fn restore(
        &mut self,
        set: u16,
        ledger: Ledger,
        packets: impl Iterator<Item = (u32, u32)>,
    ) {
        let place = usize::from(set);
        self.sets[place].ledger = ledger;
        for (packet, amount) in packets {
            self.sets[place].queue.push_back(Queued::Packet { packet, amount });
            self.count(place, packet, 1);
        }
    }

    /// The books of all SETs of the shard together.
    pub fn ledger(&self) -> Ledger {
        self.sets.iter().map(|set| &set.ledger).sum()
    }

    /// What waits in the queues of the shard.
    pub fn queued(&self) -> usize {
        self.sets.iter().map(|set| set.queue.len()).sum()
    }

    /// What never came in for want of room.
    pub fn overflow(&self) -> Money {
        self.sets.iter().fold(Money::default(), |sum, set| sum + set.overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_belongs_to_one_shard() {
        for shards in 1..=60 {
            for sets in [shards, 64, 256, 257].into_iter().filter(|sets| *sets >= shards) {
                let mut next = 0;
                for shard in 0..shards {
                    let range = sets_of(shard, shards, sets);
                    assert_eq!(range.start, next);
                    assert!(!range.is_empty(), "shard {shard} of {shards} has no SET of {sets}");
                    assert!(range.clone().all(|set| shard_of(set, shards, sets) == shard));
                    next = range.end;
                }
                assert_eq!(next, sets);
            }
        }
    }

    #[test]
    fn users_join_the_set_with_the_fewest() {
        let online = new_online(8);
        let mut sets = Sets::new(1, 2, Arc::clone(&online), 4);
        let joined: Vec<u16> = (0..401).map(|_| sets.join()).collect();
        let counts = online.iter().map(|set| set.users.load(Ordering::Relaxed));
        let counts: Vec<u32> = counts.collect();
        assert_eq!(counts[..4], [0; 4], "another shard's");
        assert_eq!(counts[4..].iter().sum::<u32>(), 401);
        assert!(counts[4..].iter().all(|count| (100..=101).contains(count)), "{counts:?}");
        sets.leave(joined[0]);
        sets.leave(joined[0]);
        assert_eq!(sets.join(), joined[0]);
    }

    #[test]
    fn generators_see_in_which_parts_of_the_ids_packets_wait() {
        let online = new_online(2);
        let mut sets = Sets::new(1, 2, Arc::clone(&online), 9);
        let seen = || [0, 1].map(|set: usize| online[set].parts.load(Ordering::Relaxed));
        let money = Money { count: 2, amount: 10 };
        let books = Ledger { created: money, remaining: money, ..Ledger::default() };
        sets.restore(0, books, [(1, 5), (2, 5)].into_iter());
        assert_eq!(seen(), [0, 1]);
        assert!(sets.put_packet(1, u32::MAX, 5));
        assert_eq!(seen(), [0, 1 | 1 << 63]);
        assert!(sets.pop(0, || true).is_none() && sets.pop(0, || false).is_some());
        assert_eq!(seen(), [0, 1 | 1 << 63], "one of them waits");
        assert!(sets.pop(0, || false).is_some());
        assert_eq!(seen(), [0, 1 << 63]);
        assert!(sets.pop(0, || false).is_some());
        assert_eq!(seen(), [0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_never_created() {
        let mut sets = Sets::new(0, 1, new_online(1), 2);
        assert!(sets.put_packet(0, 1, 10) && sets.put_packet(0, 2, 20));
        assert!(!sets.put_packet(0, 3, 40));
        assert_eq!(sets.overflow(), Money { count: 1, amount: 40 });
        assert_eq!(sets.ledger().created, Money { count: 2, amount: 30 });
        assert_eq!(sets.pop(0, || false), Some(Queued::Packet { packet: 1, amount: 10 }));
        assert_eq!(sets.ledger().granted, Money { count: 1, amount: 10 });
        assert_eq!(sets.ledger().remaining, Money { count: 1, amount: 20 });
        assert!(sets.ledger().is_balanced());
        let notice = Queued::Notice { packet: 9, amount: 5, count: 3, users: [1, 2, 3], named: 1 };
        assert!(sets.put_notice(0, notice) && !sets.put_notice(0, notice));
    }
}
