//! How late a shake's turn came by the client's own doing. Must not know: what is done with it.

use workload::Pacing;

/// A turn that comes later than this is late, whatever an experiment allows.
pub(super) const LATE_NS: u64 = 1_000_000;

/// With all shakes of a second due at one instant, they wait for each other: that is the schedule's
/// doing. A poll of 256 sends, and the answers to as many, is 3 ms' work; a gap of more than this
/// between two turns is the client's.
const LONGEST_GAP_NS: u64 = 10_000_000;

/// Tells lateness that the client made from lateness that the schedule made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Punctuality {
    /// Whether shakes of one instant wait for each other.
    together: bool,
    /// The instant of the last turn's shakes, and that of the turn.
    due_ns: u64,
    turn_ns: u64,
    /// How late the client itself made the shakes of that instant.
    own_ns: u64,
}

impl Punctuality {
    pub(super) fn new(pacing: Pacing) -> Self {
        Self { together: pacing == Pacing::Prototype, ..Self::default() }
    }

    /// How late a turn comes by the client's own doing: that of a shake that was due at `due_ns`.
    #[inline]
    pub(super) fn own_lag_ns(&mut self, due_ns: u64, now_ns: u64) -> u64 {
        if !self.together {
            return now_ns.saturating_sub(due_ns);
        }
        if self.due_ns == due_ns {
            let gap_ns = now_ns.saturating_sub(self.turn_ns);
            self.own_ns += if gap_ns > LONGEST_GAP_NS { gap_ns } else { 0 };
        } else {
            self.due_ns = due_ns;
            self.own_ns = now_ns.saturating_sub(due_ns);
        }
        self.turn_ns = now_ns;
        self.own_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn shakes_that_wait_for_each_other_are_not_late_by_the_clients_doing() {
        let mut own = Punctuality::new(Pacing::Prototype);
        let mut lag_ms = |due, now| own.own_lag_ns(due * MS, now * MS) / MS;
        // 300 ms' work of one instant.
        assert!((0..100).all(|turn| lag_ms(1_000, 1_000 + 3 * turn) == 0));
        // The client was stopped for 200 ms: all that follow are late.
        assert_eq!((lag_ms(1_000, 1_500), lag_ms(1_000, 1_503)), (203, 203));
        // It does not get round to the next second in time.
        assert_eq!((lag_ms(2_000, 2_040), lag_ms(2_000, 2_043)), (40, 40));
        assert_eq!(lag_ms(3_000, 3_000), 0);
    }

    #[test]
    fn with_any_other_pacing_all_lateness_is_the_clients() {
        for pacing in [Pacing::Even, Pacing::Poisson] {
            let mut own = Punctuality::new(pacing);
            assert_eq!(own.own_lag_ns(5 * MS, 5 * MS), 0);
            assert_eq!(own.own_lag_ns(5 * MS, 7 * MS), 2 * MS);
        }
    }
}
