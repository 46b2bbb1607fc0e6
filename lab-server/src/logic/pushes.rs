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

    /// The slot, interval and instant of a push that is due by now; `slots` are there.
    pub(super) fn due(&mut self, now_ns: u64, slots: u32) -> Option<(u32, u32, u64)> {
        let mut due_ns = self.next_ns();
        if self.next_slot >= self.slots && due_ns <= now_ns {
            self.start_ns += self.spec.every_ns;
            self.interval += 1;
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
