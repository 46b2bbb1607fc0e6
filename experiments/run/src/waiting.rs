//! How long others are waited for: time that this process itself stood still is nobody's silence.

use std::time::Duration;

use platform::monotonic_ns;
use tokio::time::Instant;

/// A wait that ends so much later than it should was held up, and so was one that begins so late.
const HELD_UP: Duration = Duration::from_secs(1);

/// How long this process has stood still.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stalls {
    missed: Duration,
    /// When the last wait was over, on the monotonic clock.
    woke_ns: Option<u64>,
}

/// Until when others are waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    until: Instant,
    /// What this process had missed when the wait began.
    missed: Duration,
}

impl Stalls {
    /// A wait begins. Returns its begin, on the monotonic clock.
    pub(crate) fn sleep(&self) -> u64 {
        monotonic_ns()
    }

    /// A wait that began then is over; it should have been over at `due_ns` at the latest. Returns
    /// how long this process stood still, if it did.
    pub(crate) fn woke(&mut self, slept_ns: u64, due_ns: u64) -> Option<Duration> {
        self.woke_at(monotonic_ns(), slept_ns, due_ns)
    }

    fn woke_at(&mut self, now_ns: u64, slept_ns: u64, due_ns: u64) -> Option<Duration> {
        let before = self.woke_ns.replace(now_ns).map_or(0, |woke| slept_ns.saturating_sub(woke));
        let late = now_ns.saturating_sub(due_ns.max(slept_ns));
        let held_up =
            [before, late].map(Duration::from_nanos).into_iter().filter(|it| *it > HELD_UP);
        let missed: Duration = held_up.sum();
        self.missed += missed;
        (missed > Duration::ZERO).then_some(missed)
    }

    /// What was done since the last wait was a wait, too: for answers, or for a program to end. It
    /// is over, and no stall.
    pub(crate) fn resumed(&mut self) {
        self.woke_ns = Some(monotonic_ns());
    }

    /// Others are waited for until then, and longer by what this process misses meanwhile.
    pub(crate) fn patience(&self, until: Instant) -> Patience {
        Patience { until, missed: self.missed }
    }

    /// When a patience ends, as far as is known now.
    pub(crate) fn end_of(&self, patience: Patience) -> Instant {
        patience.until + (self.missed - patience.missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn time_that_this_process_missed_is_waited_for_on_top() {
        let until = Instant::now();
        let mut stalls = Stalls::default();
        let patience = stalls.patience(until);
        // Seconds as they should be, some of them a little late.
        assert_eq!(stalls.woke_at(10 * S, 9 * S, 10 * S), None);
        assert_eq!(stalls.woke_at(11 * S + S / 2, 10 * S, 11 * S), None);
        assert_eq!(stalls.end_of(patience), until);
        // Stopped while it waited.
        let missed = stalls.woke_at(17 * S, 11 * S + S / 2, 12 * S);
        assert_eq!(missed, Some(Duration::from_secs(5)));
        assert_eq!(stalls.end_of(patience), until + Duration::from_secs(5));
        assert_eq!(stalls.end_of(stalls.patience(until)), until, "only from then on");
        // Stopped while it did something, and then late for a second that was over before.
        assert_eq!(stalls.woke_at(20 * S, 20 * S, 18 * S), Some(Duration::from_secs(3)));
        assert_eq!(stalls.end_of(patience), until + Duration::from_secs(8));
        // What was waited for in between is no stall.
        stalls.resumed();
        let resumed_ns = stalls.woke_ns.expect("it is awake");
        let (slept_ns, due_ns) = (resumed_ns + S / 2, resumed_ns + S);
        assert_eq!(stalls.woke_at(due_ns, slept_ns, due_ns), None);
        // What comes before the first wait, such as the start of programs, is no stall.
        assert_eq!(Stalls::default().woke_at(50 * S, 50 * S, 10 * S), None);
    }
}
