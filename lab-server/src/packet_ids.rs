//! Numbers of sent packets: handed out in turn, and again once their packets are long over.
//!
//! Must not know: what a packet is, and how its shard is written into its id.

use platform::NANOS_PER_SECOND;

/// How long a number rests after its packet is over. The latest claim is one that the kernel goes
/// on sending through an outage: it gives a segment up 924.6 s after the first try, with 15 retries
/// (`net.ipv4.tcp_retries2`).
const REST_NS: u64 = 1000 * NANOS_PER_SECOND;

/// Parts of all numbers of which it is known when the last one was handed out: a number rests
/// longer than it must by the time that one part lasts, and an instant a number is not kept.
const PARTS: usize = 64;

/// Numbers tried for one packet: those of packets that live longer than all others are passed over.
const TRIES: usize = 64;

/// The numbers `0..count`.
///
/// A number comes back after all others have been handed out, and no sooner than [`REST_NS`] after
/// its packet was over. A claim that is older than that is one of a number that its sender guessed:
/// it brings a share to a user whom the new packet names, once, and nothing to any other.
#[derive(Debug)]
pub(crate) struct PacketIds {
    count: u32,
    next: u32,
    /// When the last number of each part was handed out.
    given_ns: [Option<u64>; PARTS],
    /// How long a packet lives, and its number rests.
    rest_ns: u64,
}

impl PacketIds {
    /// Numbers for packets that are over `life_ns` after they were made.
    pub(crate) fn new(count: u32, life_ns: u64) -> Self {
        let rest_ns = life_ns.saturating_add(REST_NS);
        Self { count, next: 0, given_ns: [None; PARTS], rest_ns }
    }

    /// Goes on with this number, as if those before it had just come round.
    pub(crate) fn go_on_from(&mut self, next: u32) {
        self.next = if next < self.count { next } else { 0 };
    }

    /// The next number that is not in use, if it has rested.
    pub(crate) fn take(&mut self, now_ns: u64, in_use: impl Fn(u32) -> bool) -> Option<u32> {
        let part_len = self.count.div_ceil(PARTS as u32).max(1);
        for _ in 0..TRIES {
            let number = self.next;
            let given_ns = &mut self.given_ns[(number / part_len) as usize];
            // At the first number of a part all of it have last been handed out a round ago.
            let begins = number.is_multiple_of(part_len);
            let rested = given_ns.is_none_or(|at| at.saturating_add(self.rest_ns) <= now_ns);
            if self.count == 0 || (begins && !rested) {
                return None;
            }
            self.next = if number + 1 < self.count { number + 1 } else { 0 };
            if begins {
                *given_ns = None;
            }
            if !in_use(number) {
                *given_ns = Some(now_ns);
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    #[test]
    fn numbers_come_back_after_all_others_and_after_their_rest() {
        const LIFE: u64 = 60 * SECOND;
        for count in [1, 2, 63, 64, 65, 1_000, 4_097] {
            let mut ids = PacketIds::new(count, LIFE);
            let mut given: HashMap<u32, u64> = HashMap::new();
            let mut refused = 0;
            for step in 0..u64::from(count) * 5 {
                let now_ns = step * SECOND;
                let Some(number) = ids.take(now_ns, |_| false) else {
                    refused += 1;
                    continue;
                };
                assert!(number < count);
                if let Some(before) = given.insert(number, now_ns) {
                    assert!(now_ns - before >= LIFE + REST_NS, "{number} after {before}");
                    assert_eq!(given.len() as u32, count, "{number} before all others");
                }
            }
            assert_eq!(given.len() as u32, count);
            assert_eq!(refused > 0, u64::from(count) < (LIFE + REST_NS) / SECOND, "{count}");
        }
        assert_eq!(PacketIds::new(0, LIFE).take(0, |_| false), None);
    }

    #[test]
    fn numbers_in_use_are_passed_over() {
        let mut ids = PacketIds::new(10, 0);
        assert_eq!(ids.take(0, |number| number < 7), Some(7));
        assert_eq!(ids.take(0, |_| false), Some(8));
        assert_eq!(PacketIds::new(1_000, 0).take(0, |_| true), None, "within a bound");
    }
}
