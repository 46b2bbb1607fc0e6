//! A hierarchical timer wheel: insert in constant time, no removal.
//!
//! Timers here guard millions of things that nearly always happen in time (an answer, a login, the
//! rest of a frame). Removing a timer from a list touches its neighbours, which are cold memory; so
//! nothing is removed: the owner is handed its key when the time comes and looks whether it still
//! matters. Scheme 6 of Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987).

/// Buckets of a level: 64, so that a bitmap of occupied buckets is one word.
const BUCKETS: usize = 64;
const BITS: u32 = BUCKETS.trailing_zeros();
/// Four levels of 64 reach 64⁴ ticks: 4.6 hours of milliseconds. What is later waits in the last
/// bucket and is sorted in again.
const LEVELS: usize = 4;
const NONE: u32 = u32::MAX;

struct Node<K> {
    deadline_tick: u64,
    next: u32,
    key: K,
}

/// Keys by the tick at which they are due.
pub struct Wheel<K> {
    tick_ns: u64,
    /// The tick that was handed out last.
    now_tick: u64,
    heads: [[u32; BUCKETS]; LEVELS],
    occupied: [u64; LEVELS],
    nodes: Vec<Node<K>>,
    free: u32,
    /// What is due and has not been handed out, first and last.
    due: (u32, u32),
    len: usize,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel that hands keys out at most one `tick_ns` late, never early.
    pub fn new(tick_ns: u64, now_ns: u64) -> Self {
        Self {
            tick_ns,
            now_tick: now_ns / tick_ns,
            heads: [[NONE; BUCKETS]; LEVELS],
            occupied: [0; LEVELS],
            nodes: Vec::new(),
            free: NONE,
            due: (NONE, NONE),
            len: 0,
        }
    }

    /// How many keys wait. There is no bound of its own: a key belongs to a thing that is bounded.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hands `key` out at `deadline_ns` or up to one tick later; at the next tick when that is
    /// past.
    pub fn insert(&mut self, deadline_ns: u64, key: K) {
        let deadline_tick = deadline_ns.div_ceil(self.tick_ns).max(self.now_tick + 1);
        let node = Node { deadline_tick, next: NONE, key };
        let index = if self.free == NONE {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 timers")
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            index
        };
        self.len += 1;
        self.link(index);
    }

    /// Hands out every key that is due at `now_ns`.
    pub fn expire(&mut self, now_ns: u64, due: impl FnMut(K)) {
        self.expire_at_most(usize::MAX, now_ns, due);
    }

    /// Hands out keys that are due at `now_ns`, at most so many; the others come first the next
    /// time. For those whom thousands of peers can make wait for the same instant.
    pub fn expire_at_most(&mut self, most: usize, now_ns: u64, mut due: impl FnMut(K)) {
        self.advance(now_ns / self.tick_ns);
        for _ in 0..most {
            let index = self.due.0;
            if index == NONE {
                break;
            }
            let node = &mut self.nodes[index as usize];
            self.due.0 = std::mem::replace(&mut node.next, self.free);
            self.free = index;
            self.len -= 1;
            due(node.key);
        }
    }

    fn advance(&mut self, target: u64) {
        while self.now_tick < target {
            let next = self.next_tick().unwrap_or(u64::MAX);
            if next > target {
                self.now_tick = target;
                return;
            }
            self.now_tick = next;
            self.empty_buckets();
        }
    }

    /// When [`Self::expire`] has something to do next, in nanoseconds; it may then only have to
    /// sort.
    pub fn next_ns(&self) -> Option<u64> {
        if self.due.0 != NONE {
            return Some(self.now_tick * self.tick_ns);
        }
        self.next_tick().map(|tick| tick * self.tick_ns)
    }

    /// The next tick at which a bucket of any level comes up.
    fn next_tick(&self) -> Option<u64> {
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| {
                let shift = BITS * level as u32;
                let position = self.now_tick >> shift;
                // Distance from the bucket after the present one, going round.
                let from = ((position + 1) % BUCKETS as u64) as u32;
                let ahead = u64::from(self.occupied[level].rotate_right(from).trailing_zeros());
                (position + 1 + ahead) << shift
            })
            .min()
    }

    /// Empties the buckets that come up at the present tick, the coarse ones first.
    fn empty_buckets(&mut self) {
        for level in (0..LEVELS).rev() {
            let shift = BITS * level as u32;
            if self.now_tick & ((1 << shift) - 1) != 0 {
                continue;
            }
            let bucket = (self.now_tick >> shift) as usize % BUCKETS;
            let mut index = std::mem::replace(&mut self.heads[level][bucket], NONE);
            self.occupied[level] &= !(1 << bucket);
            while index != NONE {
                let node = &mut self.nodes[index as usize];
                let next = node.next;
                if node.deadline_tick <= self.now_tick {
                    node.next = NONE;
                    let last = std::mem::replace(&mut self.due.1, index);
                    if self.due.0 == NONE {
                        self.due.0 = index;
                    } else {
                        self.nodes[last as usize].next = index;
                    }
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
    }

    fn link(&mut self, index: u32) {
        let deadline = self.nodes[index as usize].deadline_tick;
        let ahead = deadline - self.now_tick;
        // The finest level on which the deadline is less than one revolution ahead.
        let level = (0..LEVELS - 1)
            .find(|level| ahead < 1 << (BITS * (*level as u32 + 1)))
            .unwrap_or(LEVELS - 1);
        let shift = BITS * level as u32;
        let farthest = (self.now_tick >> shift) + BUCKETS as u64 - 1;
        let bucket = (deadline >> shift).min(farthest) as usize % BUCKETS;
        self.nodes[index as usize].next = self.heads[level][bucket];
        self.heads[level][bucket] = index;
        self.occupied[level] |= 1 << bucket;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Runs inserts and expiries against a sorted map: nothing early, nothing over a tick late.
    fn check(tick_ns: u64, steps: &[(u64, u64)]) {
        let mut now_ns = 123_456_789_000;
        let mut wheel = Wheel::new(tick_ns, now_ns);
        let mut waiting = BTreeMap::new();
        for (key, (ahead, advance)) in steps.iter().enumerate() {
            wheel.insert(now_ns + ahead, key);
            waiting.insert(key, (now_ns + ahead, now_ns));
            now_ns += advance;
            let claimed = wheel.next_ns();
            let mut handed = 0;
            wheel.expire(now_ns, |key| {
                let (deadline, _) = waiting.remove(&key).expect("handed out once");
                assert!(deadline <= now_ns, "key {key} is {} early", deadline - now_ns);
                handed += 1;
            });
            assert!(handed == 0 || claimed.is_some_and(|at| at <= now_ns));
            assert_eq!(wheel.len(), waiting.len());
            for (deadline, inserted) in waiting.values() {
                // A deadline that was past when it was inserted counts from then.
                let latest = deadline.max(inserted) + 2 * tick_ns;
                assert!(now_ns < latest, "{} late", now_ns - latest);
            }
        }
        wheel.expire(now_ns + (1 << 50), |key| {
            waiting.remove(&key).expect("handed out once");
        });
        assert!(waiting.is_empty() && wheel.is_empty() && wheel.next_ns().is_none());
    }

    proptest! {
        #[test]
        fn deadlines_near_and_far(
            steps in proptest::collection::vec((0u64..200_000, 0u64..50_000), 1..200),
            tick in 1u64..5_000,
        ) {
            check(tick, &steps);
        }

        #[test]
        fn deadlines_beyond_the_last_level(
            steps in proptest::collection::vec((0u64..1 << 40, 0u64..1 << 36), 1..100),
        ) {
            check(1_000, &steps);
        }
    }

    #[test]
    fn what_is_due_at_once_is_handed_out_in_parts() {
        let mut wheel = Wheel::new(1_000, 0);
        (0..10).for_each(|key| wheel.insert(5_000, key));
        wheel.insert(9_000, 10);
        let mut handed = Vec::new();
        for parts in 1..=3 {
            assert_eq!(wheel.next_ns(), Some(5_000), "part {parts} is due");
            wheel.expire_at_most(4, 5_500, |key| handed.push(key));
            assert_eq!(handed.len(), (4 * parts).min(10));
            // One that comes meanwhile is not lost among them, and waits for its own time.
            wheel.insert(20_000 + parts as u64, 100);
        }
        assert_eq!((wheel.next_ns(), wheel.len()), (Some(9_000), 4));
        wheel.expire(9_000, |key| handed.push(key));
        handed.sort_unstable();
        assert_eq!(handed, (0..=10).collect::<Vec<_>>());
    }

    #[test]
    fn warm_inserts_reuse_their_nodes() {
        let mut wheel = Wheel::new(1_000, 0);
        for round in 0..1_000u64 {
            let now = round * 10_000;
            wheel.expire(now, |_| {});
            for key in 0..10 {
                wheel.insert(now + 50_000, key);
            }
        }
        assert!(wheel.nodes.len() <= 70, "{} nodes for 60 timers", wheel.nodes.len());
    }
}
