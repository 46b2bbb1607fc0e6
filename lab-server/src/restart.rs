//! What a restart makes of a ledger: a state for each of the shards that there are now.
//!
//! SETs go to the shard that has them now, open packets to the home that their ids name. A packet
//! whose SET is on another shard is booked over, into a SET of its home: the books move only within
//! a shard, and its sum stays what it was.

use std::collections::BTreeMap;

use accounting::Money;
use journal::{OpenPacket, SetState, State};

use crate::packets::home_of;
use crate::sets::{sets_of, shard_of};

/// Divides what was recovered among `shards` shards with `sets` SETs in all. A SET that is no more
/// is merged into the one that has its number modulo `sets`.
pub fn divide(state: State, shards: usize, sets: usize) -> Vec<State> {
    let (next_shaken, next_sent) = (state.next_shaken, state.next_sent);
    let mut shares = vec![State { next_shaken, next_sent, ..State::default() }; shards];
    let mut books: BTreeMap<u32, SetState> = BTreeMap::new();
    for (set, of) in state.sets {
        let now = books.entry(set % sets as u32).or_default();
        now.ledger += &of.ledger;
        now.queue.extend(of.queue);
    }
    for (packet, open) in state.open {
        // Every sent packet has a home; another number is in no client's hands either.
        let home = home_of(packet, shards).unwrap_or_default();
        let set = open.set % sets as u32;
        let mine = sets_of(home, shards, sets);
        let place = if mine.contains(&(set as usize)) {
            set
        } else {
            (mine.start + packet as usize % mine.len()) as u32
        };
        book_over(&mut books, &open, set, place);
        shares[home].open.insert(packet, OpenPacket { set: place, ..open });
    }
    for (set, of) in books {
        let shard = shard_of(set as usize, shards, sets);
        shares[shard].sets.insert(set, of);
    }
    shares
}

/// Moves what is left of a packet from the books of one SET into those of another.
fn book_over(books: &mut BTreeMap<u32, SetState>, open: &OpenPacket, from: u32, to: u32) {
    if from == to {
        return;
    }
    let money = Money::shares(open.shares, open.left);
    let old = &mut books.entry(from).or_default().ledger;
    old.created -= money;
    old.remaining -= money;
    books.entry(to).or_default().ledger.create(money);
}

#[cfg(test)]
mod tests {
    use accounting::Ledger;
    use journal::Record;

    use super::*;
    use crate::packets::FIRST_SENT;

    /// Eight SETs with a packet in each queue, and packets sent from each of them.
    fn busy() -> State {
        let mut state = State::default();
        for set in 0..8 {
            for number in 0..5 {
                let packet = set * 10 + number;
                let record = Record::Created { set, packet, amount: 10 + packet };
                state.apply(&record).expect("possible");
                let open = OpenPacket {
                    set,
                    creator: 1,
                    left: 50 + number,
                    shares: 2,
                    deadline_ns: u64::from(packet),
                    waiting: vec![1, 2, 3],
                };
                state.apply(&Record::Opened { packet: FIRST_SENT + packet, open }).expect("made");
            }
            let grant = Record::Granted { set, packet: set * 10, amount: 10 + set * 10, user: 7 };
            state.apply(&grant).expect("the next");
        }
        state
    }

    #[test]
    fn whatever_the_shards_and_sets_are_now_no_cent_is_lost_and_everything_is_at_home() {
        let before = busy();
        for (shards, sets) in [(1, 1), (1, 8), (2, 8), (3, 8), (5, 7), (8, 8), (3, 20), (13, 64)] {
            let shares = divide(before.clone(), shards, sets);
            let mut sum = Ledger::default();
            let (mut open, mut queued) = (BTreeMap::new(), 0);
            for (shard, share) in shares.iter().enumerate() {
                share.check().expect("balanced");
                sum += &share.ledger();
                queued += share.queued();
                assert_eq!((share.next_shaken, share.next_sent), (75, FIRST_SENT + 75));
                let mine = sets_of(shard, shards, sets);
                assert!(share.sets.keys().all(|set| mine.contains(&(*set as usize))));
                for (packet, of) in &share.open {
                    assert_eq!(home_of(*packet, shards), Some(shard));
                    assert!(mine.contains(&(of.set as usize)));
                    open.insert(*packet, OpenPacket { set: 0, ..of.clone() });
                }
            }
            let unplaced =
                |(packet, of): (&u32, &OpenPacket)| (*packet, OpenPacket { set: 0, ..of.clone() });
            assert_eq!(open, before.open.iter().map(unplaced).collect());
            assert_eq!((sum, queued), (before.ledger(), before.queued()), "{shards}, {sets}");
        }
    }
}
