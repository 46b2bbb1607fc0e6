//! How long the polls of a shard take, and how long peers that were quiet wait for their answers;
//! from instants that the loop reads anyway. Must not know: what is polled and answered.

use crate::durations::Durations;

/// A wait for readiness that is shorter than this may not have been one: what it found may have
/// been there before. A thread that sleeps and is woken takes longer.
const NO_SLEEP_NS: u64 = 20_000;

/// How long polls and answers of a shard took since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Polls in which something happened: from one look at readiness to the next, sleep left out.
    pub polls: Durations,
    /// Answers to peers that were quiet, from when their requests can have been ready at the
    /// earliest: the look at readiness before the one that found them, or the end of a sleep. So
    /// it is what an answer can have taken at most, but for a thread that was late to wake.
    pub answers: Durations,
    /// When readiness was last looked at.
    looked_ns: u64,
    /// When what is served now can have become ready at the earliest.
    ready_ns: u64,
}

impl Timing {
    /// Readiness is looked at: when the shard last slept, and the clock now. With `counts` the poll
    /// that ends is one in which something happened; with `all_seen` nobody of it waits any more
    /// who was quiet.
    pub(crate) fn looked(
        &mut self,
        (began_ns, woke_ns): (u64, u64),
        now_ns: u64,
        counts: bool,
        all_seen: bool,
    ) {
        let slept = woke_ns > self.looked_ns;
        if counts && self.looked_ns != 0 {
            let ended_ns = if slept { began_ns.max(self.looked_ns) } else { now_ns };
            self.polls.record(ended_ns - self.looked_ns, 1);
        }
        if all_seen {
            let soundly = slept && woke_ns.saturating_sub(began_ns) >= NO_SLEEP_NS;
            self.ready_ns = if soundly || self.looked_ns == 0 { now_ns } else { self.looked_ns };
        }
        self.looked_ns = now_ns;
    }

    /// Answers have left by now.
    pub(crate) fn answered(&mut self, now_ns: u64, answers: usize) {
        self.answers.record(now_ns.saturating_sub(self.ready_ns), answers as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// The upper bound of what was counted last, in microseconds.
    fn counted(durations: &Durations, before: &Durations) -> Option<u64> {
        durations.since(before).per_mille_ns(1000).map(|ns| ns / US)
    }

    #[test]
    fn who_was_quiet_may_have_been_ready_since_the_look_before() {
        let mut timing = Timing::default();
        timing.looked((0, 0), 1_000 * US, true, true);
        let begun = timing.clone();
        assert_eq!(begun.polls.count(), 0, "the first has nothing before it");
        // Busy all along: what was found at 1,100 may have been there since 1,000.
        timing.looked((0, 0), 1_100 * US, true, true);
        timing.answered(1_130 * US, 3);
        assert_eq!(counted(&timing.polls, &begun.polls), Some(114), "100 and a bucket");
        assert_eq!(counted(&timing.answers, &begun.answers), Some(131), "130");
        assert_eq!(timing.answers.count(), 3);
        // It slept from 1,200 to 1,500, and the poll before has ended then.
        let before = timing.clone();
        timing.looked((1_200 * US, 1_500 * US), 1_500 * US, true, true);
        timing.answered(1_510 * US, 1);
        assert_eq!(counted(&timing.polls, &before.polls), Some(114));
        assert_eq!(counted(&timing.answers, &before.answers), Some(10));
        // It was ready to sleep at 1,600, and found something at once.
        let before = timing.clone();
        timing.looked((1_600 * US, 1_601 * US), 1_601 * US, false, true);
        timing.answered(1_621 * US, 1);
        assert_eq!(timing.polls, before.polls, "nothing happened");
        assert_eq!(counted(&timing.answers, &before.answers), Some(131), "since 1,500: 121");
        // Some were seen and not served: they wait since then.
        let before = timing.clone();
        timing.looked((0, 0), 1_700 * US, true, false);
        timing.answered(1_701 * US, 1);
        assert_eq!(counted(&timing.answers, &before.answers), Some(229), "since 1,500: 201");
    }
}
