//! Time in which CPUs stood still: they ran nothing, though something was due on them.
//!
//! Owns: intervals by CPU, bounded, for whoever asks what of a wait fell into one. Must not know:
//! how a CPU is watched.

use std::collections::BTreeMap;

/// Intervals on the monotonic clock in which CPUs stood still, in nanoseconds; those of a CPU are
/// apart and in order. Beyond a bound the shortest of a CPU is forgotten, and counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    by_cpu: BTreeMap<u32, Vec<(u64, u64)>>,
    most: usize,
    forgotten: u64,
}

impl Stalls {
    /// None yet, and at most so many of a CPU.
    pub fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// A CPU stood still from one instant to another. One that touches others is one with them.
    pub fn add(&mut self, cpu: u32, (from_ns, until_ns): (u64, u64)) {
        if from_ns >= until_ns {
            return;
        }
        let all = self.by_cpu.entry(cpu).or_default();
        let first = all.partition_point(|(_, until)| *until < from_ns);
        let end = all.partition_point(|(from, _)| *from <= until_ns);
        let touched = &all[first..end];
        let from_ns = touched.first().map_or(from_ns, |it| it.0.min(from_ns));
        let until_ns = touched.last().map_or(until_ns, |it| it.1.max(until_ns));
        all.splice(first..end, [(from_ns, until_ns)]);
        if all.len() > self.most {
            let lengths = all.iter().map(|(from, until)| until - from).enumerate();
            if let Some((shortest, _)) = lengths.min_by_key(|(_, length)| *length) {
                all.remove(shortest);
                self.forgotten += 1;
            }
        }
    }

    /// The intervals of a CPU, in order.
    pub fn of(&self, cpu: u32) -> &[(u64, u64)] {
        self.by_cpu.get(&cpu).map_or(&[], Vec::as_slice)
    }

    /// How many are not here because they found no room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How long a CPU stood still between two instants.
    pub fn within(&self, cpu: u32, (from_ns, until_ns): (u64, u64)) -> u64 {
        let all = self.of(cpu);
        let first = all.partition_point(|(_, until)| *until <= from_ns);
        let touched = all[first..].iter().take_while(|(from, _)| *from < until_ns);
        touched.map(|(from, until)| until_ns.min(*until) - from_ns.max(*from)).sum()
    }

    /// Whether any CPU stood still between two instants.
    pub fn touch(&self, span: (u64, u64)) -> bool {
        self.by_cpu.keys().any(|cpu| self.within(*cpu, span) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_into_a_stall_is_counted_once() {
        let mut stalls = Stalls::new(10);
        for span in [(100, 200), (400, 500), (150, 250), (250, 260), (300, 300), (600, 590)] {
            stalls.add(1, span);
        }
        assert_eq!(stalls.of(1), [(100, 260), (400, 500)]);
        for (span, expected) in [
            ((0, 1000), 260),
            ((0, 100), 0),
            ((0, 101), 1),
            ((260, 400), 0),
            ((200, 450), 110),
            ((450, 460), 10),
            ((500, 900), 0),
            ((300, 300), 0),
        ] {
            assert_eq!(stalls.within(1, span), expected, "{span:?}");
            assert_eq!(stalls.touch(span), expected > 0, "{span:?}");
        }
        assert_eq!((stalls.within(0, (0, 1000)), stalls.of(0)), (0, &[][..]));
    }

    /// The same as a clock that is asked at every instant, in whatever order stalls are told.
    #[test]
    fn stalls_come_in_any_order() {
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let mut stalls = Stalls::new(100);
            let mut still = [false; 128];
            for _ in 0..draw(20) {
                let from = draw(120);
                let until = from + draw(8);
                stalls.add(0, (from, until));
                still[from as usize..until as usize].fill(true);
            }
            let (from, until) = (draw(60), 60 + draw(68));
            let expected = still[from as usize..until as usize].iter().filter(|it| **it).count();
            assert_eq!(stalls.within(0, (from, until)), expected as u64, "{stalls:?}");
            let apart = stalls.of(0).windows(2).all(|two| two[0].1 < two[1].0);
            assert!(apart, "{stalls:?}");
        }
    }

    #[test]
    fn beyond_the_bound_the_shortest_is_forgotten() {
        let mut stalls = Stalls::new(2);
        for span in [(0, 50), (100, 110), (200, 290), (300, 320)] {
            stalls.add(3, span);
        }
        assert_eq!(stalls.of(3), [(0, 50), (200, 290)]);
        assert_eq!(stalls.forgotten(), 2);
    }
}
