//! The sums of a second: how many requests took how long, and what each cause took of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::attribute::Attributed;
use crate::causes::{Cause, PerCause};
use crate::contradictions::Contradictions;
use crate::row::row;

/// Buckets of an octave: values within one differ by an eighth at most.
const STEPS: u64 = 8;

/// Buckets in all: up to 2^27 µs, two minutes.
pub const BUCKETS: usize = 200;

/// The bucket of a duration in microseconds: exact below 8, then eight to an octave.
#[inline]
pub fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let octave = u64::from(us.ilog2()) - 3;
    let step = (us >> octave) - STEPS;
    ((octave + 1) * STEPS + step).min(BUCKETS as u64 - 1) as usize
}

/// The least duration in a bucket, in microseconds.
pub fn bucket_floor(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (octave, step) = (bucket / STEPS - 1, bucket % STEPS);
    (STEPS + step) << octave
}

row! {
    /// The requests whose latencies fall in one bucket.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LatencySum {
        /// The bucket of their latency.
        pub bucket: u16,
        /// How many.
        pub requests: u64,
        /// What each cause took of all of them, in microseconds.
        pub causes_us: PerCause<u64>,
    }
}

row! {
    /// The requests of which a cause took a time that falls in one bucket.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CauseCount {
        /// The cause.
        pub cause: Cause,
        /// The bucket of its time.
        pub bucket: u16,
        /// How many.
        pub requests: u64,
    }
}

row! {
    /// The requests that were due in one second and over in another.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MovedCount {
        /// The Unix second in which they were due.
        pub due: u64,
        /// How many of them had each cause for their dominant one.
        pub dominant: PerCause<u64>,
    }
}

row! {
    /// The requests that were left out, whose latencies fall in one bucket.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LeftOut {
        /// The bucket of their latency.
        pub bucket: u16,
        /// Their frame shared its stretch of the stream with another.
        pub mixed: u64,
        /// Their connection was not in the sample.
        pub unsampled: u64,
    }
}

/// The Unix seconds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds {
    /// In which it was due.
    pub due: u64,
    /// In which it was over.
    pub over: u64,
}

/// What a second of a shard adds to the sums of a phase. Sparse: most buckets are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseRows {
    /// Requests whose time was attributed.
    pub requests: u64,
    /// Requests left out, because their frame shared its stretch of the stream with another.
    pub mixed: u64,
    /// Requests left out, because their connection was not in the sample.
    #[serde(default)]
    pub unsampled: u64,
    /// Attributed requests of which an instant is missing: all of their time is unexplained.
    pub incomplete: u64,
    /// By bucket of latency.
    pub sums: Vec<LatencySum>,
    /// By cause and bucket of its time.
    pub times: Vec<CauseCount>,
    /// By second in which they were due, if they were over in another.
    pub moved: Vec<MovedCount>,
    /// Those left out, by bucket of latency; `None` in files that do not tell.
    #[serde(default)]
    pub left_out: Option<Vec<LeftOut>>,
    /// Those whose evidence contradicts itself, by how; `None` in files that do not tell.
    #[serde(default)]
    pub contradictions: Option<Contradictions>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    requests: u64,
    causes_ns: PerCause<u64>,
}

/// The sums of a phase in the second under way.
struct PhaseSums {
    phase: u16,
    requests: u64,
    mixed: u64,
    unsampled: u64,
    incomplete: u64,
    sums: Box<[Sum]>,
    /// By cause and bucket; requests on which a cause spent no time at all are not entered.
    times: PerCause<Box<[u32]>>,
    moved: BTreeMap<u64, PerCause<u64>>,
    left_out: Box<[LeftOut]>,
    contradictions: Contradictions,
}

impl PhaseSums {
    fn new(phase: u16) -> Self {
        Self {
            phase,
            requests: 0,
            mixed: 0,
            unsampled: 0,
            incomplete: 0,
            sums: vec![Sum::default(); BUCKETS].into_boxed_slice(),
            times: PerCause::from_fn(|_| vec![0; BUCKETS].into_boxed_slice()),
            moved: BTreeMap::new(),
            left_out: vec![LeftOut::default(); BUCKETS].into_boxed_slice(),
            contradictions: Contradictions::default(),
        }
    }

    fn take(&mut self) -> CauseRows {
        let sums = self.sums.iter_mut().enumerate().filter(|(_, sum)| sum.requests > 0);
        let sums = sums.map(|(bucket, sum)| {
            let sum = std::mem::take(sum);
            LatencySum {
                bucket: bucket as u16,
                requests: sum.requests,
                causes_us: sum.causes_ns.map(|ns| ns / 1000),
            }
        });
        let mut times = Vec::new();
        for (cause, counts) in self.times.iter_mut() {
            let entered: u64 = counts.iter().map(|count| u64::from(*count)).sum();
            counts[0] += u32::try_from(self.requests - entered).unwrap_or(u32::MAX);
            let counts = counts.iter_mut().enumerate().filter(|(_, count)| **count > 0);
            times.extend(counts.map(|(bucket, count)| CauseCount {
                cause,
                bucket: bucket as u16,
                requests: u64::from(std::mem::take(count)),
            }));
        }
        let moved = std::mem::take(&mut self.moved).into_iter();
        let moved = moved.map(|(due, dominant)| MovedCount { due, dominant });
        let left_out = self.left_out.iter_mut().enumerate().filter_map(|(bucket, left_out)| {
            let LeftOut { mixed, unsampled, .. } = std::mem::take(left_out);
            let bucket = bucket as u16;
            (mixed + unsampled > 0).then_some(LeftOut { bucket, mixed, unsampled })
        });
        CauseRows {
            requests: std::mem::take(&mut self.requests),
            mixed: std::mem::take(&mut self.mixed),
            unsampled: std::mem::take(&mut self.unsampled),
            incomplete: std::mem::take(&mut self.incomplete),
            sums: sums.collect(),
            times,
            moved: moved.collect(),
            left_out: Some(left_out.collect()),
            contradictions: Some(std::mem::take(&mut self.contradictions)),
        }
    }
}

/// The sums of the second under way, phase by phase.
#[derive(Default)]
pub struct CauseRecorder {
    phases: Vec<PhaseSums>,
}

impl CauseRecorder {
    #[inline]
    fn of_phase(&mut self, phase: u16) -> &mut PhaseSums {
        let place = self.phases.iter().position(|sums| sums.phase == phase);
        let place = place.unwrap_or_else(|| {
            self.phases.push(PhaseSums::new(phase));
            self.phases.len() - 1
        });
        &mut self.phases[place]
    }

    /// Enters a request.
    #[inline]
    pub fn enter(
        &mut self,
        phase: u16,
        latency_ns: u64,
        attributed: &Attributed,
        seconds: Seconds,
    ) {
        let sums = self.of_phase(phase);
        sums.requests += 1;
        sums.incomplete += u64::from(attributed.segments_ns.is_none());
        sums.contradictions += attributed.contradictions;
        let sum = &mut sums.sums[bucket(latency_ns / 1000)];
        sum.requests += 1;
        for (cause, ns) in attributed.causes_ns.iter().filter(|(_, ns)| **ns > 0) {
            sum.causes_ns[cause] += *ns;
            sums.times[cause][bucket(*ns / 1000)] += 1;
        }
        if seconds.due != seconds.over {
            sums.moved.entry(seconds.due).or_default()[attributed.dominant()] += 1;
        }
    }

    /// Counts a request whose time cannot be attributed, because another frame was in its way.
    pub fn enter_mixed(&mut self, phase: u16, latency_ns: u64) {
        let sums = self.of_phase(phase);
        sums.mixed += 1;
        sums.left_out[bucket(latency_ns / 1000)].mixed += 1;
    }

    /// Counts a request whose connection is not in the sample.
    pub fn enter_unsampled(&mut self, phase: u16, latency_ns: u64) {
        let sums = self.of_phase(phase);
        sums.unsampled += 1;
        sums.left_out[bucket(latency_ns / 1000)].unsampled += 1;
    }

    /// What the second that ends adds to each phase.
    pub fn take(&mut self) -> impl Iterator<Item = (u16, CauseRows)> + '_ {
        let used = self.phases.iter_mut().filter(|it| it.requests + it.mixed + it.unsampled > 0);
        used.map(|sums| (sums.phase, sums.take()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::attribute;
    use crate::fixtures::{DUE, evidence, request};

    const SAME: Seconds = Seconds { due: 7, over: 7 };

    #[test]
    fn buckets_keep_order_and_eighths() {
        for us in (0..5_000).chain([1 << 20, (1 << 26) + 12_345, 119_000_000]) {
            let at = bucket(us);
            assert!(bucket_floor(at) <= us && us < bucket_floor(at + 1), "{us} in {at}");
        }
        assert!((1..BUCKETS).all(|at| bucket(bucket_floor(at)) == at));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_second_is_accounted_for_and_the_next_begins_empty() {
        let mut causes = CauseRecorder::default();
        let attributed = attribute(DUE, 210_000, Some(&request()), &evidence());
        causes.enter(1, 210_000, &attributed, SAME);
        causes.enter(1, 212_000, &attributed, Seconds { due: 7, over: 8 });
        causes.enter(2, 3_000_000, &Attributed::unexplained(3_000_000), SAME);
        causes.enter_mixed(2, 5_000_000);
        // Over before its answer was there.
        let odd = attribute(DUE, 200_000, Some(&request()), &evidence());
        causes.enter(3, 200_000, &odd, SAME);
        let all: Vec<_> = causes.take().collect();
        let [(1, one), (2, two), (3, three)] = &all[..] else { panic!("{all:?}") };
        let none = Contradictions::default();
        assert_eq!((one.contradictions, two.contradictions), (Some(none), Some(none)));
        assert_eq!(three.contradictions, Some(Contradictions { order: 1, ..none }));
        assert_eq!((one.requests, one.mixed, one.incomplete), (2, 0, 0));
        assert_eq!((two.requests, two.mixed, two.incomplete), (1, 1, 1));
        let left_out = LeftOut { bucket: bucket(5_000) as u16, mixed: 1, unsampled: 0 };
        assert_eq!(
            (one.left_out.as_deref(), two.left_out.as_deref()),
            (Some(&[][..]), Some(&[left_out][..]))
        );
        let mut causes_us = PerCause::default();
        for (cause, us) in [
            (Cause::ClientBusy, 280),
            (Cause::NetworkDelay, 40),
            (Cause::ServerRunqueue, 30),
            (Cause::ServerBusy, 70),
        ] {
            causes_us[cause] = us;
        }
        assert_eq!(one.sums, [LatencySum { bucket: bucket(210) as u16, requests: 2, causes_us }]);
        let dominant = PerCause::from_fn(|cause| u64::from(cause == Cause::ClientBusy));
        assert_eq!(one.moved, [MovedCount { due: 7, dominant }]);
        assert_eq!(two.sums[0].causes_us[Cause::Unexplained], 3_000);
        assert_eq!(
            one.times.iter().map(|row| row.requests).sum::<u64>(),
            2 * Cause::ALL.len() as u64
        );
        assert!(causes.take().next().is_none());
    }
}
