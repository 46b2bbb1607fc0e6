//! The lives of packets to be shaken. An id is given out again when all others have been, and its
//! former life is over; each life is granted once.
//!
//! A life has a number: the id, and above it how often ids have gone round. Ids of a shard come in
//! order, and none is ever further than half a round from the one before: the server records where
//! its ids are in between.

use std::collections::{BTreeMap, HashMap};

use crate::record::Record;
use crate::state::State;

/// What a round is worth in the number of a life. Rounds count from 1, so that none is before 0.
const ROUND: u64 = 1 << 32;

/// Bits of a page of [`Numbers`].
const PAGE: u64 = 1 << 16;

/// A set of numbers, most of them in a row: a bit each.
#[derive(Default)]
struct Numbers(BTreeMap<u64, Vec<u64>>);

impl Numbers {
    /// Adds a number; false when it was there.
    fn insert(&mut self, number: u64) -> bool {
        let page = self.0.entry(number / PAGE).or_insert_with(|| vec![0; PAGE as usize / 64]);
        let (word, bit) = ((number % PAGE / 64) as usize, number % 64);
        let new = page[word] >> bit & 1 == 0;
        page[word] |= 1 << bit;
        new
    }
}

/// The number of the life of an id that is given out about when that before `next` is.
fn number_of(next: u64, id: u32) -> u64 {
    match next {
        0 => ROUND | u64::from(id),
        _ => next.wrapping_add_signed(id.wrapping_sub(next as u32).cast_signed().into()),
    }
}

/// The lives in a whole ledger.
#[derive(Default)]
pub(crate) struct Lives {
    granted: Numbers,
    /// The number after the last when the present epoch began; 0 before the first.
    next: u64,
    /// By their ids, the lives of packets that waited then.
    waited: HashMap<u32, u64>,
    /// The same of the end of the epoch, as far as its shards were read.
    next_then: u64,
    waiting_then: HashMap<u32, u64>,
}

/// The lives in what a shard wrote in an epoch.
pub(crate) struct ShardLives {
    next: u64,
    /// Of packets that wait, by SET and id.
    waiting: HashMap<(u32, u32), u64>,
}

impl Lives {
    /// A shard begins an epoch with this.
    pub(crate) fn begin(&self, state: &State) -> ShardLives {
        let next = match (self.next, state.next_shaken) {
            (0, 0) => 0,
            (0, id) => ROUND | u64::from(id),
            (next, _) => next,
        };
        let queues = state.sets.iter().flat_map(|(set, of)| of.queue.iter().map(|it| (*set, it.0)));
        let number = |id: u32| {
            let waited = self.waited.get(&id).copied();
            waited.unwrap_or_else(|| number_of(next, id))
        };
        let waiting = queues.map(|(set, id)| ((set, id), number(id))).collect();
        ShardLives { next, waiting }
    }

    /// A shard wrote this. Returns what is wrong with it.
    pub(crate) fn record(&mut self, shard: &mut ShardLives, record: &Record) -> Option<String> {
        match record {
            Record::Created { set, packet, .. } => {
                let number = number_of(shard.next, *packet);
                shard.next = shard.next.max(number + 1);
                let waits = shard.waiting.insert((*set, *packet), number).is_some();
                waits.then(|| format!("packet {packet} was made while one with this id waited"))
            }
            Record::Next { shaken: shaken @ 1.., .. } => {
                shard.next = shard.next.max(number_of(shard.next, *shaken));
                None
            }
            Record::Granted { set, packet, .. } => {
                let life = shard.waiting.remove(&(*set, *packet));
                let number = life.unwrap_or_else(|| number_of(shard.next, *packet));
                let again = !self.granted.insert(number);
                again.then(|| format!("packet {packet} was granted twice"))
            }
            _ => None,
        }
    }

    /// A shard's part of an epoch is over. Returns what is wrong with it.
    pub(crate) fn end(&mut self, shard: ShardLives) -> Vec<String> {
        self.next_then = self.next_then.max(shard.next);
        let twice = |((_, id), number): ((u32, u32), u64)| {
            let waits = self.waiting_then.insert(id, number).is_some();
            waits.then(|| format!("packet {id} waits twice"))
        };
        shard.waiting.into_iter().filter_map(twice).collect()
    }

    /// All shards' parts of an epoch are over.
    pub(crate) fn end_epoch(&mut self) {
        self.next = self.next_then;
        self.waited = std::mem::take(&mut self.waiting_then);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(set: u32, packet: u32) -> Record {
        Record::Created { set, packet, amount: 5 }
    }

    fn granted(set: u32, packet: u32) -> Record {
        Record::Granted { set, packet, amount: 5, user: 1 }
    }

    /// What is wrong when shards of an epoch write this, each in a SET of its own.
    fn faults(lives: &mut Lives, begun: &State, shards: &[Vec<Record>]) -> Vec<String> {
        let mut faults = Vec::new();
        for records in shards {
            let mut shard = lives.begin(begun);
            faults.extend(records.iter().filter_map(|record| lives.record(&mut shard, record)));
            faults.extend(lives.end(shard));
        }
        lives.end_epoch();
        faults
    }

    fn round() -> Vec<Record> {
        [1, 2, 3].map(|part| Record::Next { shaken: part << 30, sent: 0 }).to_vec()
    }

    #[test]
    fn an_id_comes_back_when_ids_have_gone_round_and_not_before() {
        let none = State::default();
        let life = vec![created(0, 5), granted(0, 5)];
        let twice = ["packet 5 was granted twice"];
        let again = [life.clone(), round(), life.clone()].concat();
        assert!(faults(&mut Lives::default(), &none, &[again]).is_empty());
        let at_once = [life.clone(), life.clone()].concat();
        assert_eq!(faults(&mut Lives::default(), &none, &[at_once]), twice);
        // On two shards, and in two epochs.
        let both = [life.clone(), life.clone()];
        assert_eq!(faults(&mut Lives::default(), &none, &both), twice);
        let mut lives = Lives::default();
        assert!(faults(&mut lives, &none, std::slice::from_ref(&life)).is_empty());
        assert_eq!(faults(&mut lives, &none, std::slice::from_ref(&life)), twice);
        let later = [round(), life.clone()].concat();
        assert!(faults(&mut lives, &none, &[later]).is_empty());
    }

    #[test]
    fn an_id_whose_life_is_not_over_does_not_come_back() {
        let none = State::default();
        let in_a_queue = [vec![created(0, 5)], round(), vec![created(0, 5)]].concat();
        let found = faults(&mut Lives::default(), &none, &[in_a_queue]);
        assert_eq!(found, ["packet 5 was made while one with this id waited"]);
        let elsewhere = [round(), vec![created(1, 5)]].concat();
        let found = faults(&mut Lives::default(), &none, &[vec![created(0, 5)], elsewhere]);
        assert_eq!(found, ["packet 5 waits twice"]);
        // Its former life was over: whichever shard is read first.
        let over = vec![created(1, 5), granted(1, 5)];
        let later = [vec![created(0, 1)], round(), vec![created(0, 5)]].concat();
        assert!(faults(&mut Lives::default(), &none, &[later, over]).is_empty());
    }

    #[test]
    fn a_packet_that_waited_through_a_restart_is_granted_once() {
        let mut begun = State::default();
        begun.apply(&created(0, 5)).expect("possible");
        let mut lives = Lives::default();
        assert!(faults(&mut lives, &State::default(), &[vec![created(0, 5)]]).is_empty());
        assert!(faults(&mut lives, &begun, &[vec![]]).is_empty());
        let granted = vec![granted(0, 5)];
        assert!(faults(&mut lives, &begun, std::slice::from_ref(&granted)).is_empty());
        assert_eq!(faults(&mut lives, &begun, &[granted]), ["packet 5 was granted twice"]);
    }
}
