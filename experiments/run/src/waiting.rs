//! How long others are waited for: time that this process itself stood still is nobody's silence,
//! and neither is time that the machine was suspended.

use std::time::Duration;

use platform::{SuspendWatch, boottime_ns, monotonic_ns};
use tokio::time::Instant;

/// A wait that ends so much later than it should was held up, and so was one that begins so late.
const HELD_UP: Duration = Duration::from_secs(1);

/// What this process missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missed {
    /// It was stopped, or had no CPU.
    pub(crate) stood_still: Duration,
    /// The machine was suspended: no clock by which others are waited for went on meanwhile.
    pub(crate) suspended: Duration,
}

impl Missed {
    /// How long others went on without this process.
    pub(crate) fn all(self) -> Duration {
        self.stood_still + self.suspended
    }
}

/// Both clocks, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Now {
    monotonic_ns: u64,
    boottime_ns: u64,
}

impl Now {
    fn read() -> Self {
        Self { monotonic_ns: monotonic_ns(), boottime_ns: boottime_ns() }
    }
}

/// How long this process has stood still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalls {
    missed: Duration,
    suspends: SuspendWatch,
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
    /// From now on.
    pub(crate) fn start() -> Self {
        Self::start_at(Now::read())
    }

    fn start_at(now: Now) -> Self {
        let suspends = SuspendWatch::new(now.monotonic_ns, now.boottime_ns);
        Self { missed: Duration::ZERO, suspends, woke_ns: None }
    }

    /// A wait begins. Returns its begin, on the monotonic clock.
    pub(crate) fn sleep(&self) -> u64 {
        monotonic_ns()
    }

    /// A wait that began then is over; it should have been over at `due_ns` at the latest. Returns
    /// what this process missed, if it did.
    pub(crate) fn woke(&mut self, slept_ns: u64, due_ns: u64) -> Option<Missed> {
        self.woke_at(Now::read(), slept_ns, due_ns)
    }

    fn woke_at(&mut self, now: Now, slept_ns: u64, due_ns: u64) -> Option<Missed> {
        let now_ns = now.monotonic_ns;
        let suspended = self.suspends.look(now_ns, now.boottime_ns).unwrap_or_default();
        let before = self.woke_ns.replace(now_ns).map_or(0, |woke| slept_ns.saturating_sub(woke));
        let late = now_ns.saturating_sub(due_ns.max(slept_ns));
        let held_up =
            [before, late].map(Duration::from_nanos).into_iter().filter(|it| *it > HELD_UP);
        let missed = Missed { stood_still: held_up.sum(), suspended };
        self.missed += missed.stood_still;
        (missed != Missed::default()).then_some(missed)
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
        let mut stalls = Stalls::start_at(Now { monotonic_ns: 0, boottime_ns: 7 * S });
        let now = |ns| Now { monotonic_ns: ns, boottime_ns: ns + 7 * S };
        let stood_still = |s| {
            let stood_still = Duration::from_secs(s);
            Some(Missed { stood_still, ..Missed::default() })
        };
        let patience = stalls.patience(until);
        // Seconds as they should be, some of them a little late.
        assert_eq!(stalls.woke_at(now(10 * S), 9 * S, 10 * S), None);
        assert_eq!(stalls.woke_at(now(11 * S + S / 2), 10 * S, 11 * S), None);
        assert_eq!(stalls.end_of(patience), until);
        // Stopped while it waited.
        let missed = stalls.woke_at(now(17 * S), 11 * S + S / 2, 12 * S);
        assert_eq!(missed, stood_still(5));
        assert_eq!(stalls.end_of(patience), until + Duration::from_secs(5));
        assert_eq!(stalls.end_of(stalls.patience(until)), until, "only from then on");
        // Stopped while it did something, and then late for a second that was over before.
        assert_eq!(stalls.woke_at(now(20 * S), 20 * S, 18 * S), stood_still(3));
        assert_eq!(stalls.end_of(patience), until + Duration::from_secs(8));
        // What was waited for in between is no stall.
        stalls.resumed();
        let resumed_ns = stalls.woke_ns.expect("it is awake");
        let (slept_ns, due_ns) = (resumed_ns + S / 2, resumed_ns + S);
        assert_eq!(stalls.woke_at(now(due_ns), slept_ns, due_ns), None);
        // What comes before the first wait, such as the start of programs, is no stall.
        let mut stalls = Stalls::start_at(now(S));
        assert_eq!(stalls.woke_at(now(50 * S), 50 * S, 10 * S), None);
    }

    #[test]
    fn a_suspended_machine_is_seen_though_the_monotonic_clock_stood_still() {
        let until = Instant::now();
        let now = |monotonic_s: u64, suspended_s: u64| Now {
            monotonic_ns: monotonic_s * S,
            boottime_ns: (monotonic_s + suspended_s) * S,
        };
        let mut stalls = Stalls::start_at(now(5, 0));
        let patience = stalls.patience(until);
        assert_eq!(stalls.woke_at(now(6, 0), 5 * S, 6 * S), None);
        // A lid was closed for an hour: the wait was over in time by the monotonic clock.
        let missed = stalls.woke_at(now(7, 3_600), 6 * S, 7 * S).expect("seen");
        assert_eq!(missed.suspended, Duration::from_secs(3_600));
        assert_eq!((missed.stood_still, missed.all()), (Duration::ZERO, missed.suspended));
        // The clock that others are waited for by has not gone on, either.
        assert_eq!(stalls.end_of(patience), until);
        assert_eq!(stalls.woke_at(now(8, 3_600), 7 * S, 8 * S), None, "told once");
        // Suspended, and then without a CPU.
        let both = stalls.woke_at(now(20, 3_610), 8 * S, 9 * S).expect("seen");
        assert_eq!(both.suspended, Duration::from_secs(10));
        assert_eq!(both.stood_still, Duration::from_secs(11));
    }
}
