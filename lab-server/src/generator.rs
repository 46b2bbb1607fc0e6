//! Red packets at a rate: when each is due, for which SET, worth how much.
//!
//! Pure: time and the users online come in as arguments, the amounts from a seed.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Amounts in cents, as the prototype draws them: `rand.Intn(300) + 10`.
pub const AMOUNTS: std::ops::RangeInclusive<u32> = 10..=309;

/// Packets that a generator makes up for when it is late, by a stall or because it cannot keep up:
/// a tenth of a second of the highest rate. What was due before them is skipped.
const MOST_ARREARS: u64 = 100_000;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// What a generator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// Packets for users who shake.
    Shaken,
    /// Packets sent to users.
    Sent {
        /// The first user that may be named.
        first_user: u32,
        /// Their exclusive end.
        end_user: u32,
    },
}

/// What a generator is to make, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneratorSpec {
    /// Its id, for stopping it.
    pub id: u64,
    /// What it makes.
    pub kind: PacketKind,
    /// Packets per second.
    pub rate: u32,
    /// How many in all; no end when `None`.
    pub total: Option<u64>,
    /// What the amounts (and named users) come from.
    pub seed: u64,
    /// When the first packet is due on the monotonic clock, in nanoseconds; at once when `None`.
    pub from_ns: Option<u64>,
    /// Packets due from this instant on are not made any more.
    pub until_ns: Option<u64>,
}

/// A running generator.
#[derive(Debug)]
pub(crate) struct Generator {
    spec: GeneratorSpec,
    start_ns: u64,
    made: u64,
    random: Pcg64Mcg,
}

impl Generator {
    /// A generator that is started at `now_ns`.
    pub(crate) fn new(spec: GeneratorSpec, now_ns: u64) -> Self {
        let start_ns = spec.from_ns.unwrap_or(now_ns);
        Self { spec, start_ns, made: 0, random: Pcg64Mcg::seed_from_u64(spec.seed) }
    }

    /// What it was asked for.
    pub(crate) fn spec(&self) -> GeneratorSpec {
        self.spec
    }

    /// Whether all of a total were made: nothing will come any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.spec.total.is_some_and(|total| self.made >= total)
    }

    /// Whether it makes no more packets, because all are made or its time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.next_ns().is_none()
    }

    /// When the next packet is due: the k-th at ceil(k · 10⁹ / rate) after the start, computed and
    /// never accumulated. `None` when no more will be made.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        if self.is_finished() || self.spec.rate == 0 {
            return None;
        }
        let offset =
            (u128::from(self.made) * NANOS_PER_SECOND).div_ceil(u128::from(self.spec.rate));
        let due_ns = self.start_ns.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX));
        Some(due_ns).filter(|due_ns| self.spec.until_ns.is_none_or(|until| *due_ns < until))
    }

    /// How many packets are due by `now_ns`, those made among them.
    fn due_by(&self, now_ns: u64) -> u64 {
        let last_ns =
            self.spec.until_ns.map_or(now_ns, |until| now_ns.min(until.saturating_sub(1)));
        let Some(passed_ns) = last_ns.checked_sub(self.start_ns) else { return 0 };
        let due = u128::from(passed_ns) * u128::from(self.spec.rate) / NANOS_PER_SECOND + 1;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.spec.total.map_or(due, |total| due.min(total))
    }

    /// Skips what is due by `now_ns` beyond the arrears that are made up for; returns how many that
    /// are. They count in the total.
    pub(crate) fn skip_arrears(&mut self, now_ns: u64) -> u64 {
        let arrears = self.due_by(now_ns).saturating_sub(self.made);
        let skipped = arrears.saturating_sub(MOST_ARREARS);
        self.made += skipped;
        skipped
    }

    /// The amount of the next packet if it is due at `now_ns`.
    pub(crate) fn make(&mut self, now_ns: u64) -> Option<u32> {
        self.next_ns().filter(|due| *due <= now_ns)?;
        self.made += 1;
        Some(self.random.random_range(AMOUNTS))
    }

    /// Three users of a range for a sent packet, different ones when the range has three.
    pub(crate) fn recipients(&mut self, first: u32, end: u32) -> [u32; 3] {
        let mut pick = || self.random.random_range(first..end.max(first + 1));
        let mut users = [pick(), pick(), pick()];
        if end.saturating_sub(first) >= 3 {
            while users[1] == users[0] {
                users[1] = pick();
            }
            while users[2] == users[0] || users[2] == users[1] {
                users[2] = pick();
            }
        }
        users
    }
}

/// Spreads packets over SETs in proportion to their users online.
///
/// Smooth weighted round robin: with each packet every SET earns its share of one packet, and the
/// SET that is owed most gets it. Some SET is owed more than nothing then, so that none is ever
/// more than one packet ahead of its share, however the weights change.
#[derive(Debug)]
pub(crate) struct Spread {
    /// What each SET is owed, in packets; the sum is 0 between packets.
    owed: Vec<f64>,
    weights: Vec<f64>,
}

impl Spread {
    /// No SET is owed anything.
    pub(crate) fn new(sets: usize) -> Self {
        Self { owed: vec![0.0; sets], weights: vec![1.0; sets] }
    }

    /// The users online in each SET from now on. While no user is online, all SETs count the same.
    pub(crate) fn weigh(&mut self, users: impl Iterator<Item = u32>) {
        for (weight, users) in self.weights.iter_mut().zip(users) {
            *weight = f64::from(users);
        }
        if self.weights.iter().all(|weight| *weight == 0.0) {
            self.weights.fill(1.0);
        }
    }

    /// The SET that gets the next packet.
    pub(crate) fn pick(&mut self) -> usize {
        let sum: f64 = self.weights.iter().sum();
        let mut most = 0;
        for set in 0..self.owed.len() {
            self.owed[set] += self.weights[set] / sum;
            if self.owed[set] > self.owed[most] {
                most = set;
            }
        }
        self.owed[most] -= 1.0;
        most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn spec(rate: u32, total: Option<u64>) -> GeneratorSpec {
        GeneratorSpec {
            id: 1,
            kind: PacketKind::Shaken,
            rate,
            total,
            seed: 42,
            from_ns: None,
            until_ns: None,
        }
    }

    #[test]
    fn packets_are_spread_evenly_over_the_second() {
        for rate in [1, 3, 7, 200, 60_000] {
            let mut generator = Generator::new(spec(rate, None), 5 * SECOND);
            assert_eq!(generator.make(5 * SECOND - 1), None);
            let mut due = Vec::new();
            while let Some(at) = generator.next_ns().filter(|at| *at < 7 * SECOND) {
                assert_eq!(generator.make(at - 1), None, "early");
                assert!(generator.make(at).is_some());
                due.push(at);
            }
            assert_eq!(due.len() as u32, 2 * rate);
            let step = SECOND / u64::from(rate);
            assert!(due.windows(2).all(|pair| (step..=step + 1).contains(&(pair[1] - pair[0]))));
        }
    }

    #[test]
    fn what_fell_due_during_a_stall_is_made_up_and_the_total_is_kept() {
        let mut generator = Generator::new(spec(200, Some(500)), 0);
        let mut made = 0;
        while generator.make(10 * SECOND).is_some() {
            made += 1;
        }
        assert_eq!(made, 500);
        assert!(generator.is_finished() && generator.next_ns().is_none());
        assert!(Generator::new(spec(0, None), 0).is_over());
    }

    #[test]
    fn arrears_beyond_the_bound_are_skipped_and_counted() {
        let far = 1_800_000_000 * SECOND;
        for (rate, total, until_ns) in [
            (1_000_000, None, None),
            (1_000_000, Some(u64::MAX), None),
            (7, None, Some(far - 3)),
            (u32::MAX, Some(1 << 40), Some(u64::MAX)),
        ] {
            let spec = GeneratorSpec { from_ns: Some(SECOND), until_ns, ..spec(rate, total) };
            let mut generator = Generator::new(spec, far);
            let due = generator.due_by(far);
            assert_eq!(generator.skip_arrears(far), due - MOST_ARREARS, "{spec:?}");
            assert_eq!(generator.skip_arrears(far), 0);
            let made = std::iter::from_fn(|| generator.make(far)).count() as u64;
            assert_eq!((made, generator.made), (MOST_ARREARS, due));
        }
        // Within the bound none is.
        let mut generator = Generator::new(spec(200, None), 0);
        assert_eq!(generator.skip_arrears(400 * SECOND), 0);
    }

    proptest! {
        /// What is due is counted as it is made.
        #[test]
        fn as_many_are_due_as_are_made(
            rate in 1u32..5_000, total in proptest::option::of(0u64..2_000),
            until_ns in proptest::option::of(0u64..2 * SECOND), start in 0u64..SECOND,
            now_ns in 0u64..3 * SECOND,
        ) {
            let spec = GeneratorSpec { until_ns, from_ns: Some(start), ..spec(rate, total) };
            let mut generator = Generator::new(spec, 0);
            let due = generator.due_by(now_ns);
            prop_assert_eq!(std::iter::from_fn(|| generator.make(now_ns)).count() as u64, due);
        }
    }

    #[test]
    fn a_generator_begins_and_ends_as_specified() {
        let timed = GeneratorSpec {
            from_ns: Some(5 * SECOND),
            until_ns: Some(7 * SECOND),
            ..spec(3, None)
        };
        let mut generator = Generator::new(timed, SECOND);
        assert_eq!(generator.make(5 * SECOND - 1), None);
        let made = std::iter::from_fn(|| generator.make(20 * SECOND)).count();
        assert_eq!(made, 6);
        assert!(generator.is_over() && !generator.is_finished());
    }

    #[test]
    fn amounts_come_from_the_seed_and_stay_in_bounds() {
        let amounts = |seed| {
            let mut generator =
                Generator::new(GeneratorSpec { seed, ..spec(1_000_000, Some(10_000)) }, 0);
            std::iter::from_fn(|| generator.make(SECOND)).collect::<Vec<_>>()
        };
        assert_eq!(amounts(1), amounts(1));
        assert_ne!(amounts(1), amounts(2));
        let all = amounts(3);
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&10), Some(&309)));
    }

    #[test]
    fn recipients_differ_when_they_can() {
        let mut generator = Generator::new(spec(1, None), 0);
        for _ in 0..1_000 {
            let mut users = generator.recipients(5, 8);
            users.sort_unstable();
            assert_eq!(users, [5, 6, 7]);
        }
        assert_eq!(generator.recipients(9, 9), [9; 3]);
        assert!(generator.recipients(0, 2).iter().all(|user| *user < 2));
    }

    proptest! {
        /// Weights change at will; no SET is ever more than one packet ahead of its share, and
        /// together they get every packet.
        #[test]
        fn no_set_is_more_than_one_packet_ahead(
            rounds in proptest::collection::vec(
                (proptest::collection::vec(0u32..5_000, 16), 1usize..300), 1..20),
        ) {
            let mut spread = Spread::new(16);
            let mut share = [0.0; 16];
            let mut given = [0u64; 16];
            for (users, packets) in &rounds {
                spread.weigh(users.iter().copied());
                let sum: u32 = users.iter().sum();
                for _ in 0..*packets {
                    for (share, users) in share.iter_mut().zip(users) {
                        let part = f64::from(*users) / f64::from(sum);
                        let one = if sum == 0 { 1.0 / 16.0 } else { part };
                        *share += one;
                    }
                    given[spread.pick()] += 1;
                    for (given, share) in given.iter().zip(share) {
                        prop_assert!(*given as f64 <= share + 1.0 + 1e-6, "{given} of {share}");
                    }
                }
            }
            let total: usize = rounds.iter().map(|(_, packets)| packets).sum();
            prop_assert_eq!(given.iter().sum::<u64>(), total as u64);
        }
    }
}
