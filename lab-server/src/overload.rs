//! The limit of shakes per second.
//!
//! Shards take leases of the second's budget, a few hundred each, and count down locally:
//! one shared write a lease and none a request. What a shard leased and did not use when the second
//! ends is lost, at most half a percent of the limit over all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A lease is the limit divided by this and by the number of shards.
const LEASES_PER_SHARD: u64 = 200;

/// Bits of the shared word that count; the others are the second, and enough for all until 2106.
const LEFT_BITS: u32 = 32;

/// The budget that all shards share.
#[derive(Debug)]
pub struct Budget {
    /// The newest second that a shard has asked in, plus one, above [`LEFT_BITS`] bits of what is
    /// left of its budget. It only grows: a shard that lags in an older second finds that second
    /// over.
    word: AtomicU64,
    /// Shakes per second; [`u64::MAX`] for no limit.
    limit: AtomicU64,
}

impl Budget {
    /// A budget of `limit` shakes per second, none when `None`.
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        let budget = Self { word: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) };
        budget.set_limit(limit);
        Arc::new(budget)
    }

    /// Changes the limit; in force from the next second.
    pub fn set_limit(&self, limit: Option<u64>) {
        let limit = limit.map_or(u64::MAX, |limit| limit.min((1 << LEFT_BITS) - 1));
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes up to `want` shakes out of the budget of this second; none when a shard has asked in a
    /// later one.
    fn lease(&self, second: u64, limit: u64, want: u64) -> u64 {
        // Never 0, which is the word before the first lease.
        let name = second.saturating_add(1).min(u64::MAX >> LEFT_BITS);
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let left = match name.cmp(&(seen >> LEFT_BITS)) {
                std::cmp::Ordering::Less => return 0,
                std::cmp::Ordering::Equal => seen & ((1 << LEFT_BITS) - 1),
                std::cmp::Ordering::Greater => limit,
            };
            let granted = want.min(left);
            let next = (name << LEFT_BITS) | (left - granted);
            match self.word.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return granted,
                Err(other) => seen = other,
            }
        }
    }
}

/// One shard's part of the budget.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Arc<Budget>,
    shards: u64,
    second: u64,
    left: u64,
    /// The budget of this second is used up: no need to ask again.
    empty: bool,
}

impl Meter {
    /// A shard's meter.
    pub(crate) fn new(budget: Arc<Budget>, shards: usize) -> Self {
        Self { budget, shards: shards as u64, second: u64::MAX, left: 0, empty: false }
    }

    /// Whether one more shake fits the limit in this second, and if so counts it.
    pub(crate) fn admit(&mut self, second: u64) -> bool {
        if second != self.second {
            self.second = second;
            self.left = 0;
            self.empty = false;
        }
        if self.left == 0 && !self.empty {
            let limit = self.budget.limit.load(Ordering::Relaxed);
            if limit == u64::MAX {
                // No limit: nothing to lease, and look again in the next second.
                self.left = u64::MAX;
            } else {
                let want = (limit / LEASES_PER_SHARD / self.shards).max(1);
                self.left = self.budget.lease(second, limit, want);
                self.empty = self.left == 0;
            }
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offers shakes to the shards round robin, `weights[i]` to shard `i`, and counts what is
    /// admitted.
    fn admitted(limit: Option<u64>, weights: &[u64], rounds: u64, second: u64) -> u64 {
        let budget = Budget::new(limit);
        let mut meters: Vec<_> =
            weights.iter().map(|_| Meter::new(Arc::clone(&budget), weights.len())).collect();
        let mut total = 0;
        for _ in 0..rounds {
            for (meter, weight) in meters.iter_mut().zip(weights) {
                total += (0..*weight).filter(|_| meter.admit(second)).count() as u64;
            }
        }
        total
    }

    #[test]
    fn the_sum_over_the_shards_is_the_limit_within_two_percent() {
        for limit in [1, 10, 1_000, 60_000, 1_000_000] {
            for weights in [&[1, 1][..], &[9, 1], &[1, 0], &[3; 54]] {
                let offered: u64 = weights.iter().sum();
                let rounds = 3 * limit / offered + 1;
                let got = admitted(Some(limit), weights, rounds, 7);
                assert!(got <= limit, "{got} of {limit} with {weights:?}");
                assert!(got * 100 >= limit * 98, "{got} of {limit} with {weights:?}");
            }
        }
    }

    #[test]
    fn no_limit_admits_all_and_zero_none() {
        assert_eq!(admitted(None, &[5, 5], 1_000, 1), 10_000);
        assert_eq!(admitted(Some(0), &[5, 5], 1_000, 1), 0);
    }

    #[test]
    fn each_second_has_a_budget_of_its_own_and_a_new_limit_counts_from_the_next() {
        let budget = Budget::new(Some(100));
        let mut meter = Meter::new(Arc::clone(&budget), 1);
        let count = |meter: &mut Meter, second| (0..500).filter(|_| meter.admit(second)).count();
        assert_eq!(count(&mut meter, 0), 100);
        assert_eq!(count(&mut meter, 0), 0);
        assert_eq!(count(&mut meter, 1), 100);
        budget.set_limit(Some(20));
        assert_eq!(count(&mut meter, 2), 20);
        budget.set_limit(None);
        assert_eq!(count(&mut meter, 3), 500);
    }

    /// Two shards that pass from one second to the next at instants of their own, in every order of
    /// their shakes: neither second admits more than the limit.
    #[test]
    fn a_shard_that_lags_gets_nothing_from_a_second_that_is_over() {
        const EACH: usize = 5;
        for limit in [1, 2, 3, 4] {
            let mut full = 0;
            // Bit `i` of an order says whose shake is the i-th.
            for order in 0..1u32 << (4 * EACH) {
                if order.count_ones() as usize != 2 * EACH {
                    continue;
                }
                let budget = Budget::new(Some(limit));
                let mut meters = [0, 1].map(|_| Meter::new(Arc::clone(&budget), 2));
                let (mut asked, mut admitted) = ([0; 2], [0; 2]);
                for step in 0..4 * EACH {
                    let shard = (order >> step & 1) as usize;
                    // Each shakes `EACH` times in the first second, and as often in the second.
                    let second = asked[shard] / EACH;
                    asked[shard] += 1;
                    admitted[second] += u64::from(meters[shard].admit(100 + second as u64));
                }
                assert!(admitted.iter().all(|got| *got <= limit), "{admitted:?} of {limit}");
                assert_eq!(admitted[1], limit, "the newer second has its whole budget");
                full += u64::from(admitted[0] == limit);
            }
            assert!(full > 1, "without a shard that lags, the older one, too");
        }
    }

    #[test]
    fn a_limit_beyond_what_can_be_counted_is_the_most_that_can() {
        let budget = Budget::new(Some(u64::MAX - 1));
        let mut meter = Meter::new(budget, 1);
        assert!((0..1_000).all(|_| meter.admit(u64::MAX)));
    }

    #[test]
    fn threads_together_keep_the_limit() {
        let budget = Budget::new(Some(60_000));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut meter = Meter::new(Arc::clone(&budget), 4);
                std::thread::spawn(move || (0..50_000).filter(|_| meter.admit(3)).count())
            })
            .collect();
        let sum: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
        assert!((58_800..=60_000).contains(&sum), "{sum}");
    }
}
