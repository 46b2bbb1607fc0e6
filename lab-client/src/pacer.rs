//! The schedule of a phase as one shard carries it out: its own users' shakes, a little ahead of
//! time.

use std::collections::VecDeque;

use platform::Clock;
use workload::{Arrivals, Pacing, Rate, Schedule, Second, Share};

/// How far ahead the schedule is worked out, in nanoseconds: longer than a poll takes, so that a
/// poll rarely has to stop for it, and short enough to hold a few hundred shakes.
const AHEAD_NS: u64 = 10_000_000;

/// Shakes of all clients that are worked out at a time: under a millisecond's work. A client that
/// was stopped for a while catches up in as many turns as that takes, and reads answers in between.
const WORKED_OUT_AT_A_TIME: usize = 65_536;

/// Shakes to come, of the users of one shard.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    share: Share,
    clock: Clock,
    rate: Rate,
    /// Takes the place of the phase's rate from a Unix second on.
    changed: Option<(u64, u32)>,
    start: u64,
    /// The exclusive end of the phase, a Unix second.
    end: u64,
    /// The second that is worked out next.
    next: Second,
    /// What is left of the second being worked out, when it began, and its first shake left.
    arrivals: Option<(Arrivals, u64, (u64, u32))>,
    /// Everything due before this instant has been worked out.
    ready_ns: u64,
    due: VecDeque<(u64, u32)>,
}

impl Pacer {
    /// The shakes of a phase from Unix second `start` to `end`, which is not part of it.
    pub fn new(
        share: Share,
        clock: Clock,
        seed: u64,
        rate: Rate,
        pacing: Pacing,
        start: u64,
        end: Option<u64>,
    ) -> Self {
        Self {
            schedule: Schedule::new(share.total_users, seed, pacing),
            share,
            clock,
            rate,
            changed: None,
            start,
            end: end.unwrap_or(u64::MAX),
            next: Second { unix: start, of_phase: 0, rate: rate.at(0), before: 0 },
            arrivals: None,
            ready_ns: clock.start_of(start),
            due: VecDeque::new(),
        }
    }

    /// Ends the phase before this second.
    pub(crate) fn end_at(&mut self, end: u64) {
        self.end = self.end.min(end);
        let end_ns = self.clock.start_of(self.end);
        self.due.retain(|(due_ns, _)| *due_ns < end_ns);
        // A second that was begun ahead of time.
        self.arrivals = self.arrivals.take().filter(|(_, began_ns, _)| *began_ns < end_ns);
    }

    /// Changes the rate from a Unix second on; all shards of all clients must be told in time.
    pub fn change_rate(&mut self, from: u64, rate: u32) {
        self.changed = Some((from, rate));
    }

    /// Whether shakes that are due before `end_ns`, the end of the phase, are left, or may be.
    pub(crate) fn has_more(&mut self, end_ns: u64) -> bool {
        self.next(end_ns).is_some() || self.ready_ns < end_ns
    }

    /// The next shake: its instant and its user, by the number within the shard. `None` when none
    /// is near, or none of so many that were worked out is this shard's.
    pub fn next(&mut self, now_ns: u64) -> Option<(u64, u32)> {
        if self.due.is_empty() && self.ready_ns <= now_ns + AHEAD_NS / 2 {
            self.work_out(now_ns + AHEAD_NS);
        }
        self.due.front().copied()
    }

    /// Takes the next shake off the schedule.
    pub fn pop(&mut self) {
        self.due.pop_front();
    }

    /// When the schedule should be looked at again, in nanoseconds; `u64::MAX` when it has ended.
    pub fn wake_ns(&self) -> u64 {
        let ended = self.arrivals.is_none() && self.next.unix >= self.end;
        match self.due.front() {
            Some((due_ns, _)) => *due_ns,
            None if ended => u64::MAX,
            None => self.ready_ns.saturating_sub(AHEAD_NS / 2),
        }
    }

    fn work_out(&mut self, until_ns: u64) {
        let mut room = WORKED_OUT_AT_A_TIME;
        while self.ready_ns < until_ns && room > 0 {
            let Some((mut arrivals, began_ns, mut first)) =
                self.arrivals.take().or_else(|| self.begin())
            else {
                // Nothing in this second: on to the next, or the end.
                if self.next.unix >= self.end {
                    self.ready_ns = u64::MAX;
                    return;
                }
                self.ready_ns = self.clock.start_of(self.next.unix);
                room -= 1;
                continue;
            };
            loop {
                let (offset_ns, user) = first;
                let due_ns = began_ns + offset_ns;
                if due_ns >= until_ns || room == 0 {
                    self.ready_ns = due_ns.min(until_ns);
                    self.arrivals = Some((arrivals, began_ns, first));
                    return;
                }
                room -= 1;
                if let Some(mine) = self.share.local(user) {
                    self.due.push_back((due_ns, mine));
                }
                match arrivals.next() {
                    Some(next) => first = next,
                    None => break,
                }
            }
            self.ready_ns = self.clock.start_of(self.next.unix);
        }
    }

    /// Begins the next second; `None` when it has no shakes or the phase has ended.
    fn begin(&mut self) -> Option<(Arrivals, u64, (u64, u32))> {
        if self.next.unix >= self.end {
            return None;
        }
        let changed = self.changed.filter(|(from, _)| *from <= self.next.unix);
        let rate = changed.map_or_else(|| self.rate.at(self.next.of_phase), |(_, rate)| rate);
        let second = Second { rate, ..self.next };
        let began_ns = self.clock.start_of(second.unix);
        self.next = Second {
            unix: second.unix + 1,
            of_phase: second.unix + 1 - self.start,
            rate: 0,
            before: second.before + u64::from(rate),
        };
        let mut arrivals = self.schedule.arrivals(second);
        let first = arrivals.next()?;
        Some((arrivals, began_ns, first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn share(shard: usize, shards: usize) -> Share {
        Share { total_users: 1_000, first: 100, end: 900, shard, shards }
    }

    fn carry_out(shard: usize, shards: usize, rate: Rate, pacing: Pacing) -> Vec<(u64, u32)> {
        let clock = Clock::with_offset(0);
        let mut pacer = Pacer::new(share(shard, shards), clock, 3, rate, pacing, 50, Some(53));
        let mut all = Vec::new();
        let mut now_ns = 49 * SECOND;
        while now_ns < 54 * SECOND {
            while let Some((due_ns, user)) = pacer.next(now_ns).filter(|(due, _)| *due <= now_ns) {
                all.push((due_ns, share(shard, shards).global(user)));
                pacer.pop();
            }
            let wake_ns = pacer.wake_ns();
            assert!(wake_ns > now_ns, "would spin at {now_ns}");
            now_ns = wake_ns.min(now_ns + 100 * SECOND);
        }
        all
    }

    #[test]
    fn shards_together_carry_out_what_is_theirs_and_nothing_twice() {
        for pacing in [Pacing::Even, Pacing::Poisson, Pacing::Prototype] {
            let rate = Rate::Staircase { from: 0, step: 400, every: 1, to: 900 };
            let mut together: Vec<_> =
                (0..3).flat_map(|shard| carry_out(shard, 3, rate, pacing)).collect();
            together.sort_unstable();
            let schedule = Schedule::new(1_000, 3, pacing);
            let mut expected = Vec::new();
            let mut before = 0;
            for of_phase in 0..3 {
                let unix = 50 + of_phase;
                let second = Second { unix, of_phase, rate: rate.at(of_phase), before };
                before += u64::from(second.rate);
                let mine = schedule.arrivals(second).filter(|(_, user)| (100..900).contains(user));
                expected.extend(mine.map(|(offset, user)| (unix * SECOND + offset, user)));
            }
            expected.sort_unstable();
            assert_eq!(together, expected, "{pacing:?}");
            assert!(!expected.is_empty());
        }
    }

    /// However far behind, little is worked out at a time, and nothing is left out.
    #[test]
    fn arrears_are_worked_out_bit_by_bit() {
        const RATE: u32 = 1_000_000;
        let clock = Clock::with_offset(0);
        for (shard, shards) in [(0, 1), (1, 2), (9, 10)] {
            let share = Share { total_users: 10, first: 0, end: 10, shard, shards };
            let (rate, pacing) = (Rate::Fixed(RATE), Pacing::Even);
            let mut pacer = Pacer::new(share, clock, 3, rate, pacing, 50, None);
            let now_ns = 50 * SECOND + SECOND / 2;
            let (mut shakes, mut turns) = (0, 0);
            while pacer.wake_ns() <= now_ns {
                while pacer.next(now_ns).is_some_and(|(due_ns, _)| due_ns <= now_ns) {
                    assert!(pacer.due.len() <= WORKED_OUT_AT_A_TIME);
                    pacer.pop();
                    shakes += 1;
                }
                turns += 1;
                assert!(turns < 1_000, "it gets nowhere");
            }
            // Every user shakes as often; one is due at the instant itself.
            let due = u64::from(RATE) / 2 / shards as u64;
            assert!(shakes == due || shakes == due + 1, "{shakes} of {due}");
            pacer.end_at(51);
            assert!(pacer.has_more(51 * SECOND));
            while pacer.has_more(51 * SECOND) {
                while pacer.next(51 * SECOND).is_some() {
                    pacer.pop();
                    shakes += 1;
                }
            }
            assert_eq!(shakes, u64::from(RATE) / shards as u64);
        }
    }

    #[test]
    fn a_second_worked_out_ahead_ends_with_the_phase() {
        let clock = Clock::with_offset(0);
        let all = Share { total_users: 1_000, first: 0, end: 1_000, shard: 0, shards: 1 };
        let mut pacer = Pacer::new(all, clock, 3, Rate::Fixed(1_000), Pacing::Even, 50, None);
        let now_ns = 51 * SECOND - SECOND / 1_000;
        while pacer.next(now_ns).is_some_and(|(due_ns, _)| due_ns < 51 * SECOND) {
            pacer.pop();
        }
        assert!(pacer.next(now_ns).is_some(), "the next second was begun");
        pacer.end_at(51);
        assert!(!pacer.has_more(51 * SECOND));
        assert_eq!(pacer.wake_ns(), u64::MAX);
    }

    #[test]
    fn a_changed_rate_counts_from_its_second_on_and_an_early_end_cuts_off() {
        let clock = Clock::with_offset(0);
        let all = Share { total_users: 1_000, first: 0, end: 1_000, shard: 0, shards: 1 };
        let mut pacer = Pacer::new(all, clock, 3, Rate::Fixed(100), Pacing::Even, 50, None);
        let mut per_second = [0; 5];
        let mut now_ns = 50 * SECOND;
        while now_ns < 55 * SECOND {
            if now_ns == 51 * SECOND {
                pacer.change_rate(52, 300);
            }
            if now_ns == 53 * SECOND + SECOND / 2 {
                pacer.end_at(54);
            }
            while let Some((due_ns, _)) = pacer.next(now_ns).filter(|(due, _)| *due <= now_ns) {
                per_second[(due_ns / SECOND - 50) as usize] += 1;
                pacer.pop();
            }
            now_ns += SECOND / 100;
        }
        assert_eq!(per_second, [100, 100, 300, 300, 0]);
        assert_eq!(pacer.wake_ns(), u64::MAX);
    }
}
