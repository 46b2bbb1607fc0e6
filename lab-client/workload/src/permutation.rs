//! A pseudo-random order of the users, computed place by place.
//!
//! A Feistel network over the smallest power of two that holds all users, walked along its cycle
//! until it lands on one (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
//! Nothing is stored, so that every shard and every machine computes the same order of a million
//! users.

use platform::splitmix64;

/// Rounds of the network. Four make a pseudo-random permutation (Luby and Rackoff, 1988); the load
/// needs no more than that neighbours in time are strangers.
const ROUNDS: usize = 4;

/// A permutation of `0..len`.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u32,
    left_bits: u32,
    right_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` that belongs to `seed`. `len` must not be 0.
    pub fn new(len: u32, seed: u64) -> Self {
        assert!(len > 0, "nothing to put in order");
        let bits = (u32::BITS - (len - 1).leading_zeros()).max(2);
        let mut keys = [0; ROUNDS];
        for (round, key) in keys.iter_mut().enumerate() {
            *key = splitmix64(seed ^ splitmix64(round as u64));
        }
        Self { len, left_bits: bits / 2, right_bits: bits - bits / 2, keys }
    }

    /// The number in this place. `place` must be below the length.
    #[inline]
    pub fn at(&self, place: u32) -> u32 {
        debug_assert!(place < self.len);
        let mut value = self.round_trip(place);
        while value >= self.len {
            value = self.round_trip(value);
        }
        value
    }

    fn round_trip(&self, value: u32) -> u32 {
        let (mut left_bits, mut right_bits) = (self.left_bits, self.right_bits);
        let mut left = value >> right_bits;
        let mut right = value & ((1 << right_bits) - 1);
        for key in self.keys {
            // The halves change places, and sizes with them.
            let mixed = splitmix64(u64::from(right) ^ key) as u32 & ((1 << left_bits) - 1);
            (left, right) = (right, left ^ mixed);
            (left_bits, right_bits) = (right_bits, left_bits);
        }
        (left << right_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_has_one_place(len in 1u32..5_000, seed in any::<u64>()) {
            let order = Permutation::new(len, seed);
            let mut seen = vec![false; len as usize];
            for place in 0..len {
                let user = order.at(place) as usize;
                prop_assert!(!std::mem::replace(&mut seen[user], true), "{user} twice");
            }
        }
    }

    #[test]
    fn another_seed_is_another_order_and_neighbours_are_strangers() {
        let (one, other) = (Permutation::new(1_000_000, 1), Permutation::new(1_000_000, 2));
        let same = (0..1_000).filter(|place| one.at(*place) == other.at(*place)).count();
        assert!(same < 5, "{same} of 1000 in the same place");
        let near = (0..1_000).filter(|at| one.at(*at).abs_diff(one.at(at + 1)) < 1_000).count();
        assert!(near < 20, "{near} of 1000 next to a neighbour");
    }
}
