//! The schedule of pushes: which connection is due when.

use crate::message::PushSpec;

/// A running schedule of pushes. Each slot of the shard has its instant in the interval.
#[derive(Debug)]
pub(super) struct Pushes {
    pub(super) spec: PushSpec,
    pub(super) interval: u32,
    pub(super) start_ns: u64,
    /// Slots among which this interval is divided.
    pub(super) slots: u32,
    pub(super) next_slot: u32,
}

impl Pushes {
    /// When the next push is due, or the next interval begins, in nanoseconds.
    pub(super) fn next_ns(&self) -> u64 {
        let every = u128::from(self.spec.every_ns);
        let ahead = if self.slots == 0 {
            every
        } else {
            every * u128::from(self.next_slot) / u128::from(self.slots)
        };
        self.start_ns.saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
    }

    /// Whether nothing more is due, ever.
    pub(super) fn is_over(&self) -> bool {
        self.spec.until_ns.is_some_and(|until| until <= self.next_ns())
    }

    /// Skips the intervals that are over before one of their pushes was made; returns how many
    /// pushes that are, if all slots are in use.
    pub(super) fn skip_arrears(&mut self, now_ns: u64) -> u64 {
        if self.next_slot < self.slots || self.spec.every_ns == 0 {
            return 0;
        }
        let last_ns =
            self.spec.until_ns.map_or(now_ns, |until| now_ns.min(until.saturating_sub(1)));
        let intervals = last_ns.saturating_sub(self.start_ns) / self.spec.every_ns;
        // The one that was pushed is over, and the one that begins is not.
        let skipped = intervals.saturating_sub(1);
        self.start_ns += skipped * self.spec.every_ns;
        self.interval = self.interval.wrapping_add(skipped as u32);
        skipped.saturating_mul(u64::from(self.slots))
    }

    /// The slot, interval and instant of a push that is due by now; `slots` are there.
    pub(super) fn due(&mut self, now_ns: u64, slots: u32) -> Option<(u32, u32, u64)> {
        let mut due_ns = self.next_ns();
        if self.next_slot >= self.slots && due_ns <= now_ns {
            self.start_ns = self.start_ns.saturating_add(self.spec.every_ns);
            self.interval = self.interval.wrapping_add(1);
            self.slots = slots;
            self.next_slot = 0;
            due_ns = self.next_ns();
        }
        if due_ns > now_ns || self.slots == 0 || self.is_over() {
            return None;
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        Some((slot, self.interval, due_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: u64 = 1_000_000;

    fn pushes(until_ns: Option<u64>, slots: u32) -> Pushes {
        let spec = PushSpec { bytes: 1, every_ns: EVERY, from_ns: Some(EVERY), until_ns };
        Pushes { spec, interval: 0, start_ns: EVERY, slots, next_slot: 0 }
    }

    #[test]
    fn intervals_that_nobody_was_pushed_in_are_skipped_and_counted() {
        let mut pushes = pushes(None, 3);
        assert_eq!(pushes.skip_arrears(u64::MAX), 0, "an interval that was begun is ended");
        for slot in 0..3 {
            let due = pushes.due(100 * EVERY, 3).map(|(slot, interval, _)| (slot, interval));
            assert_eq!(due, Some((slot, 0)));
        }
        // From 1 to 2 it was pushed, from 100 on it is; 98 are between.
        assert_eq!(pushes.skip_arrears(100 * EVERY + 5), 98 * 3);
        assert_eq!(pushes.due(100 * EVERY + 5, 3), Some((0, 99, 100 * EVERY)));
        assert_eq!(pushes.skip_arrears(100 * EVERY + 5), 0);
    }

    #[test]
    fn a_start_long_ago_and_an_end_cost_nothing() {
        for (until_ns, slots) in [(None, 0), (Some(7 * EVERY), 0), (Some(7 * EVERY), 1)] {
            let mut pushes = pushes(until_ns, slots);
            while pushes.next_slot < slots {
                assert!(pushes.due(u64::MAX - 1, slots).is_some());
            }
            pushes.skip_arrears(u64::MAX - 1);
            let mut made = 0;
            while pushes.due(u64::MAX - 1, slots).is_some() {
                made += 1;
            }
            assert!(made <= 1, "{made} of {until_ns:?}");
            assert!(pushes.is_over() == until_ns.is_some(), "{pushes:?}");
        }
    }
}
