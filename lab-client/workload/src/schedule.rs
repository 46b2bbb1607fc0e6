//! Which user shakes at which instant: a pure function of seed, rate, users and second.
//!
//! Every client computes the whole schedule and carries out what belongs to its own users. So one
//! machine and eighteen make the same load, without a message between them.

use platform::splitmix64;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::permutation::Permutation;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How the shakes of a second are spread over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pacing {
    /// Evenly: the k-th is due ceil(k · 10⁹ / rate) ns after the second begins, computed and never
    /// accumulated. Each user shakes again after all others have.
    #[default]
    Even,
    /// As a Poisson process: exponential gaps, and each shake by a user drawn at random.
    Poisson,
    /// As the prototype's clients: `time() % k == user % k`, with k the seconds in which every user
    /// comes round, and all who are due in a second shake at its start.
    Prototype,
}

/// Shakes per second as a phase goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rate {
    /// The same all the time.
    Fixed(u32),
    /// From one to the other in a straight line over so many seconds, and then the latter.
    Ramp {
        /// In the first second.
        from: u32,
        /// From second `seconds` on.
        to: u32,
        /// How long it takes.
        seconds: u32,
    },
    /// Up by a step every so many seconds.
    Staircase {
        /// On the first step.
        from: u32,
        /// What each step adds.
        step: u32,
        /// How long a step is, in seconds.
        every: u32,
        /// The highest step.
        to: u32,
    },
}

impl Rate {
    /// The rate in a second of the phase, from 0.
    pub fn at(self, second: u64) -> u32 {
        match self {
            Rate::Fixed(rate) => rate,
            Rate::Ramp { from, to, seconds } => {
                let seconds = u64::from(seconds).max(1);
                let gone = second.min(seconds);
                let (from, to) = (u64::from(from), u64::from(to));
                // The weighted mean of both ends, rounded to the nearest.
                let rate = (from * (seconds - gone) + to * gone + seconds / 2) / seconds;
                u32::try_from(rate).unwrap_or(u32::MAX)
            }
            Rate::Staircase { from, step, every, to } => {
                let steps = second / u64::from(every).max(1);
                let rate = u64::from(from).saturating_add(steps.saturating_mul(u64::from(step)));
                u32::try_from(rate.min(u64::from(to))).unwrap_or(u32::MAX)
            }
        }
    }

    /// Shakes in the first `seconds` seconds.
    pub fn total(self, seconds: u64) -> u64 {
        (0..seconds).map(|second| u64::from(self.at(second))).sum()
    }

    /// The highest rate there will be.
    pub fn highest(self) -> u32 {
        match self {
            Rate::Fixed(rate) => rate,
            Rate::Ramp { from, to, .. } => from.max(to),
            Rate::Staircase { from, to, .. } => to.max(from),
        }
    }
}

/// A second of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// The Unix second.
    pub unix: u64,
    /// Which second of the phase, from 0.
    pub of_phase: u64,
    /// Shakes in it (for Poisson arrivals: on average).
    pub rate: u32,
    /// Shakes of the phase before it: where the round of users goes on.
    pub before: u64,
}

/// The schedule of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    users: u32,
    seed: u64,
    pacing: Pacing,
    order: Permutation,
}

/// The shakes of one second, in order of time: nanoseconds after it began, and the user.
#[derive(Clone, Debug)]
pub struct Arrivals {
    schedule: Schedule,
    second: Second,
    next: u64,
    random: Pcg64Mcg,
    elapsed_ns: f64,
}

impl Schedule {
    /// A schedule over the users `0..users`. `users` must not be 0.
    pub fn new(users: u32, seed: u64, pacing: Pacing) -> Self {
        Self { users, seed, pacing, order: Permutation::new(users, seed) }
    }

    /// In prototype pacing, the seconds in which every user comes round at this rate.
    pub fn round_seconds(users: u32, rate: u32) -> u32 {
        let (users, rate) = (u64::from(users), u64::from(rate).max(1));
        u32::try_from((users + rate / 2) / rate).unwrap_or(u32::MAX).max(1)
    }

    /// The shakes of a second.
    pub fn arrivals(&self, second: Second) -> Arrivals {
        let random = Pcg64Mcg::seed_from_u64(splitmix64(self.seed ^ splitmix64(second.of_phase)));
        Arrivals { schedule: *self, second, next: 0, random, elapsed_ns: 0.0 }
    }
}

impl Iterator for Arrivals {
    type Item = (u64, u32);

    #[inline]
    fn next(&mut self) -> Option<(u64, u32)> {
        let Schedule { users, pacing, ref order, .. } = self.schedule;
        let rate = u64::from(self.second.rate);
        let k = self.next;
        if rate == 0 {
            return None;
        }
        self.next += 1;
        match pacing {
            Pacing::Even => {
                let place = (self.second.before + k) % u64::from(users);
                (k < rate).then(|| ((k * NANOS_PER_SECOND).div_ceil(rate), order.at(place as u32)))
            }
            Pacing::Poisson => {
                // Inverse of the exponential distribution; 1 - u is never 0.
                let uniform: f64 = self.random.random();
                self.elapsed_ns -= (1.0 - uniform).ln() * NANOS_PER_SECOND as f64 / rate as f64;
                let at_ns = self.elapsed_ns as u64;
                let user = self.random.random_range(0..users);
                (at_ns < NANOS_PER_SECOND).then_some((at_ns, user))
            }
            Pacing::Prototype => {
                let round = u64::from(Schedule::round_seconds(users, self.second.rate));
                let user = k * round + self.second.unix % round;
                u32::try_from(user).ok().filter(|user| *user < users).map(|user| (0, user))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(unix: u64, of_phase: u64, rate: u32) -> Second {
        Second { unix, of_phase, rate, before: of_phase * u64::from(rate) }
    }

    proptest! {
        /// Even pacing: exact count, exact instants, and no user twice before all once.
        #[test]
        fn even_pacing_is_exact(
            users in 1u32..3_000, rate in 1u32..5_000, seed in any::<u64>(), start in 0u64..1_000,
        ) {
            let schedule = Schedule::new(users, seed, Pacing::Even);
            let mut order = Vec::new();
            for number in 0..3 {
                let all: Vec<_> =
                    schedule.arrivals(second(start + number, number, rate)).collect();
                prop_assert_eq!(all.len(), rate as usize);
                for (k, (at_ns, user)) in all.iter().enumerate() {
                    let due_ns = (k as u64 * NANOS_PER_SECOND).div_ceil(u64::from(rate));
                    prop_assert_eq!(*at_ns, due_ns);
                    prop_assert!(*at_ns < NANOS_PER_SECOND && *user < users);
                }
                order.extend(all.into_iter().map(|(_, user)| user));
            }
            let round = users as usize;
            for (place, user) in order.iter().enumerate().skip(round) {
                prop_assert_eq!(*user, order[place - round]);
            }
            let mut first: Vec<_> = order.iter().take(round).collect();
            first.sort_unstable();
            first.dedup();
            prop_assert_eq!(first.len(), order.len().min(round));
        }

        /// The same second gives the same shakes, in whatever order they are asked for.
        #[test]
        fn the_schedule_is_a_function(
            users in 1u32..2_000, rate in 0u32..2_000, seed in any::<u64>(), unix in 0u64..100_000,
        ) {
            for pacing in [Pacing::Even, Pacing::Poisson, Pacing::Prototype] {
                let schedule = Schedule::new(users, seed, pacing);
                let later: Vec<_> = schedule.arrivals(second(unix + 1, 1, rate)).collect();
                let again = Schedule::new(users, seed, pacing);
                let _: Vec<_> = again.arrivals(second(unix, 0, rate)).collect();
                let same: Vec<_> = again.arrivals(second(unix + 1, 1, rate)).collect();
                prop_assert!(later.is_sorted_by_key(|(at_ns, _)| *at_ns));
                prop_assert_eq!(later, same);
            }
        }

        /// Prototype pacing: time() % k == user % k, all at the start, each user once in k seconds.
        #[test]
        fn prototype_pacing_is_the_articles_rule(
            users in 1u32..2_000, rate in 1u32..2_500, unix in 0u64..1_000_000,
        ) {
            let schedule = Schedule::new(users, 7, Pacing::Prototype);
            let round = Schedule::round_seconds(users, rate);
            let mut count = vec![0; users as usize];
            for number in 0..u64::from(round) {
                for (at_ns, user) in schedule.arrivals(second(unix + number, number, rate)) {
                    prop_assert_eq!(at_ns, 0);
                    prop_assert_eq!((unix + number) % u64::from(round), u64::from(user % round));
                    count[user as usize] += 1;
                }
            }
            prop_assert!(count.iter().all(|times| *times == 1));
        }
    }

    /// Poisson arrivals: counts have mean and variance of the rate, gaps are exponential.
    /// Kolmogorov-Smirnov at 20,000 gaps: 1.63/sqrt(n) is the 1% point; the seed is fixed.
    #[test]
    fn poisson_pacing_is_poisson() {
        let schedule = Schedule::new(1_000_000, 2015, Pacing::Poisson);
        let rate = 1_000;
        let counts: Vec<f64> = (0..200)
            .map(|number| schedule.arrivals(second(number, number, rate)).count() as f64)
            .collect();
        let mean = counts.iter().sum::<f64>() / 200.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 199.0;
        assert!((mean - 1_000.0).abs() < 10.0, "mean {mean}");
        assert!((0.7..1.4).contains(&(variance / 1_000.0)), "variance {variance}");
        let mut gaps = Vec::new();
        for number in 0..25 {
            let mut last = 0;
            for (at_ns, _) in schedule.arrivals(second(number, number, rate)) {
                gaps.push((at_ns - last) as f64 / NANOS_PER_SECOND as f64 * f64::from(rate));
                last = at_ns;
            }
        }
        gaps.truncate(20_000);
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len() as f64;
        let distance = gaps
            .iter()
            .enumerate()
            .map(|(at, gap)| ((1.0 - (-gap).exp()) - at as f64 / n).abs())
            .fold(0.0, f64::max);
        assert!(distance < 1.63 / n.sqrt(), "distance {distance} of {n} gaps");
    }

    #[test]
    fn rates_over_time() {
        let ramp = Rate::Ramp { from: 100, to: 200, seconds: 4 };
        assert_eq!(
            (0..6).map(|at| ramp.at(at)).collect::<Vec<_>>(),
            [100, 125, 150, 175, 200, 200]
        );
        let down = Rate::Ramp { from: 10, to: 0, seconds: 2 };
        assert_eq!((0..4).map(|at| down.at(at)).collect::<Vec<_>>(), [10, 5, 0, 0]);
        let stairs = Rate::Staircase { from: 10, step: 5, every: 2, to: 22 };
        let steps: Vec<_> = (0..8).map(|at| stairs.at(at)).collect();
        assert_eq!(steps, [10, 10, 15, 15, 20, 20, 22, 22]);
        assert_eq!(stairs.total(8), 134);
        assert_eq!((ramp.highest(), stairs.highest(), Rate::Fixed(7).highest()), (200, 22, 7));
        assert_eq!(Rate::Ramp { from: 1, to: 2, seconds: 0 }.at(0), 1);
    }
}
