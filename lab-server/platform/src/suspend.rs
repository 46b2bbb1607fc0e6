//! Whether the machine was suspended: CLOCK_MONOTONIC stands still meanwhile, and CLOCK_BOOTTIME
//! goes on. Must not know: who stood still with it.

use std::time::Duration;

/// Less than this is not told by itself: one clock is read after the other, and a process may have
/// no CPU in between.
const LEAST: Duration = Duration::from_secs(1);

/// Compares the two clocks.
#[derive(Clone, Copy, Debug)]
pub struct SuspendWatch {
    /// By how much CLOCK_BOOTTIME is ahead, as far as that was told, in nanoseconds.
    ahead_ns: u64,
}

impl SuspendWatch {
    /// From these readings on, in nanoseconds.
    pub fn new(monotonic_ns: u64, boottime_ns: u64) -> Self {
        Self { ahead_ns: boottime_ns.saturating_sub(monotonic_ns) }
    }

    /// How long the machine was suspended since that was told last, if it was. What is too short to
    /// be told adds up.
    pub fn look(&mut self, monotonic_ns: u64, boottime_ns: u64) -> Option<Duration> {
        let ahead_ns = boottime_ns.saturating_sub(monotonic_ns);
        let suspended = Duration::from_nanos(ahead_ns.saturating_sub(self.ahead_ns));
        if suspended < LEAST {
            return None;
        }
        self.ahead_ns = ahead_ns;
        Some(suspended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn time_that_one_clock_alone_counts_was_a_suspend() {
        // Suspended for an hour before this process began.
        let mut watch = SuspendWatch::new(100 * S, 3_700 * S);
        for (monotonic_s, boottime_s, suspended_s) in [
            (101, 3_701, None),
            // Without a CPU, both go on.
            (161, 3_761, None),
            (162, 3_767, Some(5)),
            (163, 3_768, None),
            (164, 3_770, Some(1)),
            (165, 90_171, Some(86_400)),
        ] {
            let suspended = watch.look(monotonic_s * S, boottime_s * S);
            assert_eq!(suspended, suspended_s.map(Duration::from_secs), "at {monotonic_s} s");
        }
        // A reading that was held up, and short suspends, of which each is none.
        let mut watch = SuspendWatch::new(0, 0);
        assert_eq!(watch.look(S, S + S / 3), None);
        assert_eq!(watch.look(2 * S, 2 * S), None);
        assert_eq!(watch.look(3 * S, 3 * S + S / 2), None);
        assert_eq!(watch.look(4 * S, 5 * S), Some(Duration::from_secs(1)));
        // A clock that reads less than before is none of this.
        assert_eq!(watch.look(9 * S, S), None);
    }
}
