//! Reading clocks. Logic elsewhere takes time as an argument and never calls these itself.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The last Unix second with nanoseconds of its own that fit the clocks, in the year 2262. Later
/// ones, which only a mistake can name, begin at the end of time.
pub const LAST_SECOND: u64 = i64::MAX as u64 / NANOS_PER_SECOND;

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both fields of a running clock are non-negative.
    time.tv_sec.cast_unsigned() * NANOS_PER_SECOND + time.tv_nsec.cast_unsigned()
}

/// CLOCK_MONOTONIC in nanoseconds: what `bpf_ktime_get_ns` reads in the kernel.
#[inline]
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// CLOCK_BOOTTIME in nanoseconds: it goes on while the machine is suspended.
pub fn boottime_ns() -> u64 {
    read(ClockId::Boottime)
}

/// CLOCK_REALTIME in nanoseconds since 1970. Only for agreeing on the second a phase starts.
pub fn realtime_ns() -> u64 {
    read(ClockId::Realtime)
}

/// The monotonic clock, with what it takes to name Unix seconds on it.
///
/// The offset to wall time is read once: a clock that is stepped during a run moves no boundary.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Wall time less monotonic time, in nanoseconds.
    offset_ns: i64,
}

impl Clock {
    /// Reads both clocks. The wall clock is read between two readings of the monotonic one, and
    /// the closest of eight tries counts, so that a preemption in between does not shift seconds.
    pub fn read() -> Self {
        let mut best = (u64::MAX, 0);
        for _ in 0..8 {
            let before = monotonic_ns();
            let wall = realtime_ns();
            let after = monotonic_ns();
            let offset = wall.cast_signed() - (before + (after - before) / 2).cast_signed();
            best = best.min((after - before, offset));
        }
        Self { offset_ns: best.1 }
    }

    /// Reads both clocks of a machine whose wall clock is `ahead_ns` before the one that Unix
    /// seconds are agreed on with other machines.
    pub fn read_ahead(ahead_ns: i64) -> Self {
        Self { offset_ns: Self::read().offset_ns - ahead_ns }
    }

    /// The same after the machine was suspended for so long, while the monotonic clock stood still.
    #[must_use]
    pub fn after_suspend(self, suspended: Duration) -> Self {
        let suspended_ns = i64::try_from(suspended.as_nanos()).unwrap_or(i64::MAX);
        Self { offset_ns: self.offset_ns.saturating_add(suspended_ns) }
    }

    /// A clock whose wall time is `offset_ns` ahead of its monotonic time, for simulations.
    pub const fn with_offset(offset_ns: i64) -> Self {
        Self { offset_ns }
    }

    /// The Unix second that contains this monotonic instant.
    #[inline]
    pub const fn unix_second(self, monotonic_ns: u64) -> u64 {
        self.unix_ns(monotonic_ns) / NANOS_PER_SECOND
    }

    /// The Unix time of this monotonic instant, in nanoseconds.
    #[inline]
    pub const fn unix_ns(self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add_signed(self.offset_ns)
    }

    /// The monotonic instant of this Unix time; 0 for one before the clock began.
    pub const fn at_unix_ns(self, unix_ns: u64) -> u64 {
        unix_ns.saturating_add_signed(-self.offset_ns)
    }

    /// The monotonic instant at which a Unix second begins.
    #[inline]
    pub const fn start_of(self, unix_second: u64) -> u64 {
        unix_second.saturating_mul(NANOS_PER_SECOND).saturating_add_signed(-self.offset_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_begin_where_they_are_said_to_begin() {
        for offset in [0, 1, 999_999_999, -5, 1_795_300_000_123_456_789] {
            let clock = Clock::with_offset(offset);
            let second = clock.unix_second(50 * NANOS_PER_SECOND) + 1;
            let start = clock.start_of(second);
            assert_eq!(clock.unix_second(start), second);
            assert_eq!(clock.unix_second(start - 1), second - 1);
            let later = clock.after_suspend(Duration::from_secs(30));
            assert_eq!(later.unix_second(start), second + 30);
        }
    }

    #[test]
    fn seconds_that_do_not_fit_begin_at_the_end_of_time() {
        let clock = Clock::with_offset(1_795_300_000_000_000_000);
        let last = clock.start_of(LAST_SECOND);
        assert_eq!(clock.unix_second(last), LAST_SECOND);
        for second in [99_999_999_999_999, u64::MAX] {
            assert!(clock.start_of(second) > last, "{second}");
        }
    }

    #[test]
    fn the_offset_read_is_the_offset() {
        let clock = Clock::read();
        let (mono, wall) = (monotonic_ns(), realtime_ns());
        let said = mono.saturating_add_signed(clock.offset_ns);
        // The two readings above are at most a preemption apart.
        assert!(said.abs_diff(wall) < NANOS_PER_SECOND, "{said} {wall}");
    }
}
