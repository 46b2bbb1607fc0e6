//! What the records of a shard come to: queues, open packets, books, and the ids given out.
//!
//! The thread that writes keeps one beside the shard's own memory, so that a snapshot costs the
//! shard nothing, and a record that contradicts those before it is seen when it is written, not at
//! the next restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use accounting::{Ledger, Money};

use crate::record::{MOST_USERS, Open, Record};

/// A sent packet that is open.
pub type OpenPacket = Open;

/// A SET as the ledger has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetState {
    /// Its books.
    pub ledger: Ledger,
    /// Packets in its queue, the next first: ids and cents.
    pub queue: VecDeque<(u32, u32)>,
}

/// What the records of a shard come to, or those of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Records applied since the epoch began.
    pub seq: u64,
    /// SETs by their number among all SETs.
    pub sets: BTreeMap<u32, SetState>,
    /// Open packets.
    pub open: BTreeMap<u32, OpenPacket>,
    /// The id after the last of a packet to be shaken; 0 when there was none.
    pub next_shaken: u32,
    /// The id after the last of a sent packet; 0 when there was none. Ids go round.
    pub next_sent: u32,
}

/// A record that cannot follow those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A grant of a packet that is not the next of its queue: lost, or granted twice.
    #[error("packet {packet} was granted from SET {set}, where it was not the next")]
    NotNext {
        /// The packet.
        packet: u32,
        /// The SET.
        set: u32,
    },
    /// A packet with the id of one that is open.
    #[error("packet {0} was made while one with this id was open")]
    MadeTwice(u32),
    /// A packet that cannot be split, or whose users are not in order.
    #[error("packet {0} is impossible: shares, cents and users do not fit")]
    Impossible(u32),
    /// Something about a packet that is not open.
    #[error("packet {0} was claimed, moved or refunded, and is not open")]
    NotOpen(u32),
    /// A share for a user who may not claim one: a stranger, or a second time.
    #[error("user {user} claimed a share of packet {packet} without a right to it")]
    NoRight {
        /// The packet.
        packet: u32,
        /// The user.
        user: u32,
    },
    /// A share or a refund that is not what the packet has left.
    #[error("packet {0}: {1} cents went out, which is not what it had left")]
    Amount(u32, u32),
    /// Books that do not balance, or hold other money than queues and packets.
    #[error("the books of SET {0} do not balance, or hold other money than what waits there")]
    Unbalanced(u32),
    /// A record that belongs into a snapshot, or the other way round.
    #[error("a record of a snapshot stands in a segment, or the other way round")]
    Misplaced,
}

/// The id after this one. Never 0, which says that there was none: behind the last id the server
/// begins with the first one again, and 1 is before that.
fn after(packet: u32) -> u32 {
    packet.wrapping_add(1).max(1)
}

/// The later of two ids that are given out in order and may wrap; 0 is none.
fn later(one: u32, other: u32) -> u32 {
    let ahead = one.wrapping_sub(other).cast_signed() > 0;
    if other == 0 || (one != 0 && ahead) { one } else { other }
}

impl Open {
    fn is_possible(&self) -> bool {
        self.shares >= 1
            && self.left >= self.shares
            && self.shares as usize <= self.waiting.len()
            && self.waiting.len() <= MOST_USERS
            && self.waiting.is_sorted_by(|one, next| one < next)
    }

    fn money(&self) -> Money {
        Money::shares(self.shares, self.left)
    }
}

impl State {
    /// Applies a record of a segment.
    ///
    /// # Errors
    /// [`Contradiction`]; nothing has changed then.
    pub fn apply(&mut self, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::Created { set, packet, amount } => {
                let of = self.sets.entry(*set).or_default();
                of.ledger.create(Money::share(*amount));
                of.queue.push_back((*packet, *amount));
                self.next_shaken = later(after(*packet), self.next_shaken);
            }
            Record::Granted { set, packet, amount, .. } => {
                let not_next = Contradiction::NotNext { packet: *packet, set: *set };
                let of = self.sets.get_mut(set).ok_or(not_next.clone())?;
                if of.queue.front() != Some(&(*packet, *amount)) {
                    return Err(not_next);
                }
                of.queue.pop_front();
                of.ledger.grant(Money::share(*amount));
            }
            Record::Opened { packet, open } => self.open_packet(*packet, open)?,
            Record::Claimed { packet, user, amount } => self.claim(*packet, *user, *amount)?,
            Record::Entitled { packet, named, user } => {
                let of = self.open.get_mut(packet).ok_or(Contradiction::NotOpen(*packet))?;
                let no_right = Contradiction::NoRight { packet: *packet, user: *named };
                let old = of.waiting.binary_search(named).map_err(|_| no_right.clone())?;
                if of.waiting.binary_search(user).is_ok() {
                    return Err(no_right);
                }
                of.waiting.remove(old);
                let place = of.waiting.partition_point(|other| other < user);
                of.waiting.insert(place, *user);
            }
            Record::Refunded { packet, shares, amount } => {
                let of = self.open.get(packet).ok_or(Contradiction::NotOpen(*packet))?;
                if (of.shares, of.left) != (*shares, *amount) {
                    return Err(Contradiction::Amount(*packet, *amount));
                }
                let (set, back) = (of.set, of.money());
                self.open.remove(packet);
                self.sets.entry(set).or_default().ledger.refund(back);
            }
            Record::Next { shaken, sent } => {
                self.next_shaken = later(*shaken, self.next_shaken);
                self.next_sent = later(*sent, self.next_sent);
            }
            Record::Books { .. } | Record::Waiting { .. } | Record::Held { .. } | Record::End => {
                return Err(Contradiction::Misplaced);
            }
        }
        self.seq += 1;
        Ok(())
    }

    /// Whether all of these records can be applied, one after the other.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    pub(crate) fn check_batch(&self, records: &[Record]) -> Result<(), Contradiction> {
        let mut part = self.part_for(records);
        records.iter().try_for_each(|record| part.apply(record))
    }

    /// As much of the state as decides about these records: the packets that they name, and of each
    /// queue the packets that they can take.
    fn part_for(&self, records: &[Record]) -> State {
        let (mut taken, mut packets) = (BTreeMap::<u32, usize>::new(), BTreeSet::new());
        for record in records {
            match record {
                Record::Granted { set, .. } => *taken.entry(*set).or_default() += 1,
                Record::Opened { packet, .. }
                | Record::Claimed { packet, .. }
                | Record::Entitled { packet, .. }
                | Record::Refunded { packet, .. } => drop(packets.insert(*packet)),
                _ => {}
            }
        }
        let of_packet = |packet: &u32| Some((*packet, self.open.get(packet)?.clone()));
        let open: BTreeMap<_, _> = packets.iter().filter_map(of_packet).collect();
        let named = records.iter().filter_map(|record| match record {
            Record::Created { set, .. } | Record::Granted { set, .. } => Some(*set),
            Record::Opened { open, .. } => Some(open.set),
            _ => None,
        });
        let mut sets = BTreeMap::new();
        for set in named.chain(open.values().map(|open| open.set)) {
            let Some(of) = self.sets.get(&set) else { continue };
            sets.entry(set).or_insert_with(|| {
                let taken = taken.get(&set).copied().unwrap_or_default();
                let queue = of.queue.iter().take(taken).copied().collect();
                SetState { ledger: of.ledger, queue }
            });
        }
        let State { seq, next_shaken, next_sent, .. } = *self;
        State { seq, sets, open, next_shaken, next_sent }
    }

    fn open_packet(&mut self, packet: u32, open: &Open) -> Result<(), Contradiction> {
        if !open.is_possible() {
            return Err(Contradiction::Impossible(packet));
        }
        if self.open.contains_key(&packet) {
            return Err(Contradiction::MadeTwice(packet));
        }
        self.sets.entry(open.set).or_default().ledger.create(open.money());
        self.open.insert(packet, open.clone());
        self.next_sent = later(after(packet), self.next_sent);
        Ok(())
    }

    fn claim(&mut self, packet: u32, user: u32, amount: u32) -> Result<(), Contradiction> {
        let of = self.open.get_mut(&packet).ok_or(Contradiction::NotOpen(packet))?;
        let no_right = Contradiction::NoRight { packet, user };
        let place = of.waiting.binary_search(&user).map_err(|_| no_right)?;
        // Every share that is left is worth a cent at least, and the last one all that is left.
        let others = of.shares - 1;
        let fits = match others {
            0 => amount == of.left,
            _ => amount >= 1 && of.left.checked_sub(amount).is_some_and(|left| left >= others),
        };
        if !fits {
            return Err(Contradiction::Amount(packet, amount));
        }
        of.waiting.remove(place);
        of.left -= amount;
        of.shares = others;
        let set = of.set;
        if others == 0 {
            self.open.remove(&packet);
        }
        self.sets.entry(set).or_default().ledger.claim(Money::share(amount));
        Ok(())
    }

    /// Applies a record of a snapshot.
    ///
    /// # Errors
    /// [`Contradiction`].
    pub(crate) fn load(&mut self, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::Books { set, ledger } => {
                self.sets.entry(*set).or_default().ledger = *ledger;
            }
            Record::Waiting { set, packet, amount } => {
                self.sets.entry(*set).or_default().queue.push_back((*packet, *amount));
            }
            Record::Held { packet, open } => {
                if !open.is_possible() {
                    return Err(Contradiction::Impossible(*packet));
                }
                if self.open.insert(*packet, open.clone()).is_some() {
                    return Err(Contradiction::MadeTwice(*packet));
                }
            }
            Record::Next { shaken, sent } => {
                (self.next_shaken, self.next_sent) = (*shaken, *sent);
            }
            _ => return Err(Contradiction::Misplaced),
        }
        Ok(())
    }

    /// The records of a snapshot that [`Self::load`] makes this state of; but for the sequence
    /// number, which the file's header has.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        let next = Record::Next { shaken: self.next_shaken, sent: self.next_sent };
        let books =
            self.sets.iter().map(|(set, of)| Record::Books { set: *set, ledger: of.ledger });
        let waiting = self.sets.iter().flat_map(|(set, of)| {
            let each = of.queue.iter();
            each.map(|(packet, amount)| Record::Waiting {
                set: *set,
                packet: *packet,
                amount: *amount,
            })
        });
        let held = self
            .open
            .iter()
            .map(|(packet, open)| Record::Held { packet: *packet, open: open.clone() });
        std::iter::once(next).chain(books).chain(waiting).chain(held)
    }

    /// Checks that every SET's books balance and hold exactly what waits in its queue and in its
    /// open packets.
    ///
    /// # Errors
    /// The first SET of which that is not true.
    pub fn check(&self) -> Result<(), Contradiction> {
        let mut waiting: BTreeMap<u32, Money> = BTreeMap::new();
        let in_queues = self
            .sets
            .iter()
            .flat_map(|(set, of)| of.queue.iter().map(|(_, amount)| (*set, Money::share(*amount))));
        let in_packets = self.open.values().map(|open| (open.set, open.money()));
        for (set, money) in in_queues.chain(in_packets) {
            *waiting.entry(set).or_default() += money;
        }
        if let Some(set) = waiting.keys().find(|set| !self.sets.contains_key(set)) {
            return Err(Contradiction::Unbalanced(*set));
        }
        for (set, of) in &self.sets {
            let waits = waiting.get(set).copied().unwrap_or_default();
            if !of.ledger.is_balanced() || of.ledger.remaining != waits {
                return Err(Contradiction::Unbalanced(*set));
            }
        }
        let sum = self
            .sets
            .values()
            .try_fold(Money::default(), |sum, of| sum.checked_add(of.ledger.created));
        sum.map(|_| ()).ok_or(Contradiction::Unbalanced(u32::MAX))
    }

    /// The books of all SETs together.
    pub fn ledger(&self) -> Ledger {
        self.sets.values().map(|of| &of.ledger).sum()
    }

    /// Packets in queues.
    pub fn queued(&self) -> u64 {
        self.sets.values().map(|of| of.queue.len() as u64).sum()
    }

    /// Takes over what another shard had.
    ///
    /// # Errors
    /// A packet that both have.
    pub fn merge(&mut self, other: State) -> Result<(), Contradiction> {
        for (set, theirs) in other.sets {
            let mine = self.sets.entry(set).or_default();
            mine.ledger += &theirs.ledger;
            mine.queue.extend(theirs.queue);
        }
        for (packet, open) in other.open {
            if self.open.insert(packet, open).is_some() {
                return Err(Contradiction::MadeTwice(packet));
            }
        }
        self.next_shaken = later(self.next_shaken, other.next_shaken);
        self.next_sent = later(self.next_sent, other.next_sent);
        self.seq += other.seq;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(set: u32, left: u32, shares: u32, waiting: &[u32]) -> Open {
        Open { set, creator: 1, left, shares, deadline_ns: 5, waiting: waiting.to_vec() }
    }

    fn busy() -> State {
        let mut state = State::default();
        for record in [
            Record::Created { set: 2, packet: 100, amount: 30 },
            Record::Created { set: 2, packet: 101, amount: 31 },
            Record::Granted { set: 2, packet: 100, amount: 30, user: 9 },
            Record::Opened { packet: 500, open: open(2, 100, 2, &[4, 6, 8]) },
            Record::Claimed { packet: 500, user: 6, amount: 40 },
            Record::Entitled { packet: 500, named: 8, user: 5 },
        ] {
            state.apply(&record).expect("possible");
            state.check().expect("balanced");
        }
        state
    }

    #[test]
    fn a_snapshot_has_all_of_it() {
        let state = busy();
        let mut again = State { seq: state.seq, ..State::default() };
        for record in state.records() {
            again.load(&record).expect("possible");
        }
        assert_eq!(again, state);
        assert_eq!(again.open[&500].waiting, [4, 5]);
        assert_eq!((again.next_shaken, again.next_sent), (102, 501));
    }

    #[test]
    fn what_contradicts_is_refused_and_changes_nothing() {
        let state = busy();
        // A record names fewer users: the rest would be lost on the way.
        let many: Vec<u32> = (0..=MOST_USERS as u32).collect();
        for (record, expected) in [
            (
                Record::Granted { set: 2, packet: 100, amount: 30, user: 9 },
                Contradiction::NotNext { packet: 100, set: 2 },
            ),
            (
                Record::Granted { set: 2, packet: 101, amount: 30, user: 9 },
                Contradiction::NotNext { packet: 101, set: 2 },
            ),
            (
                Record::Claimed { packet: 500, user: 6, amount: 60 },
                Contradiction::NoRight { packet: 500, user: 6 },
            ),
            (Record::Claimed { packet: 500, user: 4, amount: 59 }, Contradiction::Amount(500, 59)),
            (Record::Claimed { packet: 501, user: 4, amount: 59 }, Contradiction::NotOpen(501)),
            (
                Record::Entitled { packet: 500, named: 8, user: 7 },
                Contradiction::NoRight { packet: 500, user: 8 },
            ),
            (
                Record::Refunded { packet: 500, shares: 2, amount: 60 },
                Contradiction::Amount(500, 60),
            ),
            (
                Record::Opened { packet: 500, open: open(2, 1, 1, &[1]) },
                Contradiction::MadeTwice(500),
            ),
            (
                Record::Opened { packet: 7, open: open(2, 1, 2, &[1, 2]) },
                Contradiction::Impossible(7),
            ),
            (
                Record::Opened { packet: 7, open: open(2, 2, 1, &[2, 1]) },
                Contradiction::Impossible(7),
            ),
            (
                Record::Opened { packet: 7, open: open(2, 9999, 1, &many) },
                Contradiction::Impossible(7),
            ),
            (Record::End, Contradiction::Misplaced),
        ] {
            let mut after = state.clone();
            assert_eq!(after.apply(&record), Err(expected), "{record:?}");
            assert_eq!(after, state, "{record:?}");
        }
        let mut after = state.clone();
        after.apply(&Record::Refunded { packet: 500, shares: 1, amount: 60 }).expect("left");
        after.check().expect("balanced");
    }

    #[test]
    fn a_batch_is_checked_as_it_would_be_applied() {
        let state = busy();
        let granted = |packet, amount| Record::Granted { set: 2, packet, amount, user: 9 };
        let created = |packet| Record::Created { set: 2, packet, amount: 7 };
        let claimed = |user, amount| Record::Claimed { packet: 500, user, amount };
        let opened = |packet| Record::Opened { packet, open: open(8, 9, 1, &[3]) };
        let refunded = |packet, amount| Record::Refunded { packet, shares: 1, amount };
        for batch in [
            vec![granted(101, 31), created(102), granted(102, 7)],
            vec![created(102), granted(101, 31), granted(102, 7), granted(102, 7)],
            vec![created(102), granted(102, 7)],
            vec![claimed(4, 59), claimed(5, 1)],
            vec![claimed(4, 60), claimed(5, 1)],
            vec![claimed(4, 10), refunded(500, 50)],
            vec![opened(501), refunded(501, 9), opened(501)],
            vec![opened(501), opened(501)],
            vec![Record::Entitled { packet: 500, named: 4, user: 6 }, claimed(6, 60)],
            vec![Record::Next { shaken: 7, sent: 8 }, Record::End],
            vec![Record::Granted { set: 5, packet: 1, amount: 1, user: 1 }],
        ] {
            let mut applied = state.clone();
            let expected = batch.iter().try_for_each(|record| applied.apply(record));
            assert_eq!(state.check_batch(&batch), expected, "{batch:?}");
        }
    }

    #[test]
    fn a_first_share_leaves_a_cent_for_each_of_the_others() {
        let mut state = State::default();
        state.apply(&Record::Opened { packet: 1, open: open(0, 10, 3, &[1, 2, 3]) }).expect("made");
        let claim = |amount| Record::Claimed { packet: 1, user: 1, amount };
        assert_eq!(state.clone().apply(&claim(9)), Err(Contradiction::Amount(1, 9)));
        assert_eq!(state.clone().apply(&claim(0)), Err(Contradiction::Amount(1, 0)));
        state.apply(&claim(8)).expect("two cents are left for two shares");
    }

    #[test]
    fn ids_go_on_after_the_last_also_around_the_end() {
        for (one, other, expected) in
            [(0, 0, 0), (5, 0, 5), (0, 5, 5), (9, 5, 9), (3, u32::MAX - 2, 3)]
        {
            assert_eq!(later(one, other), expected, "{one} {other}");
            assert_eq!(later(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn books_that_lie_are_seen_without_an_overflow() {
        let money = |count, amount| Money { count, amount };
        let full = money(u64::MAX, u64::MAX);
        for ledger in [
            Ledger { created: money(1, 5), ..Ledger::default() },
            Ledger { created: money(1, 5), remaining: money(1, 5), ..Ledger::default() },
            Ledger { granted: full, claimed: full, ..Ledger::default() },
        ] {
            let mut state = State::default();
            state.load(&Record::Books { set: 4, ledger }).expect("loads");
            assert_eq!(state.check(), Err(Contradiction::Unbalanced(4)), "{ledger:?}");
        }
        let mut state = State::default();
        for set in [1, 2] {
            let ledger = Ledger { created: full, granted: full, ..Ledger::default() };
            state.load(&Record::Books { set, ledger }).expect("loads");
        }
        assert_eq!(state.check(), Err(Contradiction::Unbalanced(u32::MAX)));
    }

    #[test]
    fn two_shards_merge_into_one() {
        let mut one = busy();
        let mut other = State::default();
        other.apply(&Record::Created { set: 7, packet: 900, amount: 5 }).expect("possible");
        one.merge(other.clone()).expect("no packet twice");
        assert_eq!((one.queued(), one.next_shaken), (2, 901));
        one.check().expect("balanced");
        let mut twice = busy();
        assert_eq!(twice.merge(busy()), Err(Contradiction::MadeTwice(500)));
    }
}
