//! What is to blame: from the sums that clients keep by cause to shares and a sentence.
//!
//! The method is that of the design: of the slow requests of a phase, what each cause took beyond
//! its median is compared with what all took beyond theirs; of the seconds whose answers were off,
//! the requests that were answered in another second than they were due in are counted by their
//! dominant cause. What is usual is told beside it: a constant queue is in no excess. Below a
//! stated excess there is no verdict, and a cause of which the counters show nothing is
//! unexplained.

use std::collections::BTreeSet;

use attribution::{
    BUCKETS, Cause, CauseRows, Contradictions, LeftOut, PerCause, bucket, bucket_floor,
};

use super::blamed::{Attribution, Jitter, LeftOutOfTail, PhaseEvidence, Shares, Tail, Typical};
use super::off::seconds_off;
use super::sentences::{contradicted, verdict};
use spec::AttributionSpec;

/// On average a slow request must have taken so much of `slow_us` beyond what is usual, or there is
/// no verdict on why.
const LEAST_EXCESS: f64 = 0.5;

/// A smaller share of the excess needs no evidence.
const NEEDS_EVIDENCE: f64 = 0.01;

/// What each cause took in a phase, over all clients, shards and seconds.
#[derive(Clone, Debug)]
pub struct CauseTotals {
    /// Requests that were explained.
    pub requests: u64,
    /// Requests left out, because another frame was in their way.
    pub mixed: u64,
    /// Requests left out, because only a sample of the connections was looked at.
    pub unsampled: u64,
    /// Requests of which an instant is missing.
    pub incomplete: u64,
    /// By bucket of latency: requests, and the sum of each cause in microseconds.
    sums: Vec<(u64, PerCause<u64>)>,
    /// By cause and bucket of its time: requests.
    times: PerCause<Vec<u64>>,
    /// By second in which they were due and second in which they were over.
    moved: Vec<(u64, u64, PerCause<u64>)>,
    /// By bucket of latency, those left out; `None` when a shard did not tell.
    left_out: Option<Vec<LeftOut>>,
    /// Those whose evidence contradicts itself; `None` likewise.
    contradictions: Option<Contradictions>,
}

impl Default for CauseTotals {
    fn default() -> Self {
        Self {
            requests: 0,
            mixed: 0,
            unsampled: 0,
            incomplete: 0,
            sums: vec![(0, PerCause::default()); BUCKETS],
            times: PerCause::from_fn(|_| vec![0; BUCKETS]),
            moved: Vec::new(),
            left_out: Some(vec![LeftOut::default(); BUCKETS]),
            contradictions: Some(Contradictions::default()),
        }
    }
}

impl CauseTotals {
    /// Adds what a shard wrote down in the second `t`.
    pub fn add(&mut self, t: u64, rows: &CauseRows) {
        for (mine, theirs) in [
            (&mut self.requests, rows.requests),
            (&mut self.mixed, rows.mixed),
            (&mut self.unsampled, rows.unsampled),
            (&mut self.incomplete, rows.incomplete),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        for row in &rows.sums {
            let Some(sum) = self.sums.get_mut(usize::from(row.bucket)) else { continue };
            sum.0 = sum.0.saturating_add(row.requests);
            sum.1 += row.causes_us;
        }
        for row in &rows.times {
            if let Some(count) = self.times[row.cause].get_mut(usize::from(row.bucket)) {
                *count = count.saturating_add(row.requests);
            }
        }
        match (&mut self.left_out, &rows.left_out) {
            (Some(all), Some(rows)) => {
                for row in rows {
                    let Some(sum) = all.get_mut(usize::from(row.bucket)) else { continue };
                    sum.mixed = sum.mixed.saturating_add(row.mixed);
                    sum.unsampled = sum.unsampled.saturating_add(row.unsampled);
                }
            }
            _ => self.left_out = None,
        }
        match (&mut self.contradictions, rows.contradictions) {
            (Some(all), Some(more)) => *all += more,
            _ => self.contradictions = None,
        }
        self.moved.extend(rows.moved.iter().map(|row| (row.due, t, row.dominant)));
    }

    /// The median time of a cause in microseconds: the middle of its bucket.
    fn median_us(&self, cause: Cause) -> u64 {
        let counts = &self.times[cause];
        let half = counts.iter().copied().fold(0, u64::saturating_add).div_ceil(2);
        let mut below: u64 = 0;
        let at = counts.iter().position(|count| {
            below = below.saturating_add(*count);
            below >= half
        });
        at.map_or(0, |at| u64::midpoint(bucket_floor(at), bucket_floor(at + 1) - 1))
    }

    /// The median time of each cause in microseconds.
    pub fn medians_us(&self) -> PerCause<u64> {
        PerCause::from_fn(|cause| self.median_us(cause))
    }

    /// Requests from a bucket of latency on, and what each cause took of them beyond its median.
    fn beyond(&self, first: usize) -> (u64, PerCause<u64>) {
        let medians = self.medians_us();
        let mut all = (0, PerCause::<u64>::default());
        for (requests, us) in &self.sums[first..] {
            all.0 = u64::saturating_add(all.0, *requests);
            all.1 += beyond_usual(us, *requests, &medians);
        }
        all
    }

    /// Where the slowest hundredth begins. That of a small sample may begin earlier, and without it
    /// there may be nobody of the sample in the tail.
    fn tail_from_us(&self, p99_us: Option<u64>) -> u64 {
        let p99_us = p99_us.unwrap_or(0);
        if self.unsampled == 0 {
            return p99_us;
        }
        let mut left = self.requests.div_ceil(100);
        let first = self.sums.iter().rposition(|(requests, _)| {
            left = left.saturating_sub(*requests);
            left == 0
        });
        first.map_or(p99_us, |first| p99_us.min(bucket_floor(first)))
    }

    /// What half of the requests took.
    fn typical(&self) -> Typical {
        let half = self.requests.div_ceil(2);
        let mut below: u64 = 0;
        let at = self.sums.iter().find(|(requests, _)| {
            below = below.saturating_add(*requests);
            *requests > 0 && below >= half
        });
        let Some((requests, us)) = at else { return Typical::default() };
        let each = us.map(|us| us / requests);
        Typical { latency_us: Some(sum(us) / requests), causes_us: Some(each.named().collect()) }
    }

    /// Those left out whose latency is in a bucket or a later one.
    fn left_out(&self, first: usize) -> LeftOutOfTail {
        let tail = self.left_out.as_ref().map(|all| &all[first..]);
        let count = |of: fn(&LeftOut) -> u64| {
            tail.map(|tail| tail.iter().map(of).fold(0, u64::saturating_add))
        };
        LeftOutOfTail { mixed: count(|it| it.mixed), unsampled: count(|it| it.unsampled) }
    }

    /// What is to blame, from the totals and what else is known of the phase.
    pub fn attribution(&self, spec: &AttributionSpec, evidence: &PhaseEvidence) -> Attribution {
        if self.requests == 0 {
            return Attribution::default();
        }
        let least_us = u64::from(spec.slow_us);
        let first = slow_from(self.tail_from_us(evidence.p99_us).max(least_us), least_us);
        let (requests, mut excess) = self.beyond(first);
        let without_evidence = without_evidence(&mut excess, &evidence.bare);
        let late_share = evidence.late_share.unwrap_or_else(|| {
            let (over, _) = self.beyond(slow_from(least_us, least_us));
            over as f64 / self.requests as f64
        });
        let off = seconds_off(evidence.seconds.iter().copied(), spec.off_share.get());
        let quiet = late_share < spec.quiet_share.get() && off.is_empty();
        let least_excess_us = LEAST_EXCESS * least_us as f64 * requests as f64;
        let enough = sum(&excess) as f64 >= least_excess_us;
        let shares = shares(&excess).filter(|_| !quiet && enough);
        let (moved, jitter_shares) = self.jitter(&off);
        let mut attribution = Attribution {
            tail: Tail {
                requests: Some(requests),
                from_us: Some(bucket_floor(first)),
                excess_us: Some(sum(&excess)),
                shares,
                part: Some(requests as f64 / self.requests as f64),
            },
            jitter: Jitter {
                seconds_off: Some(off.len() as u64),
                requests: Some(moved),
                shares: jitter_shares,
            },
            typical: self.typical(),
            left_out: self.left_out(first),
            contradictions: self.contradictions,
            contradicted: self.contradictions.and_then(|it| contradicted(&it)),
            without_evidence,
            ..Attribution::default()
        };
        let mut verdict = verdict((spec.slow_us, late_share), quiet, &attribution, evidence);
        if self.unsampled > 0 {
            let all = self.requests.saturating_add(self.mixed).saturating_add(self.unsampled);
            let share = 100.0 * self.requests as f64 / all as f64;
            verdict.push_str(&format!(" (from a sample: {share:.0}% of the requests)"));
        }
        attribution.verdict = Some(verdict);
        attribution
    }

    fn jitter(&self, off: &[u64]) -> (u64, Option<Shares>) {
        let mut sums = PerCause::<u64>::default();
        for (due, over, causes) in &self.moved {
            if off.contains(due) || off.contains(over) {
                sums += *causes;
            }
        }
        (sum(&sums), shares(&sums))
    }
}

/// What each cause took of so many requests beyond what is usual for one.
pub fn beyond_usual(us: &PerCause<u64>, requests: u64, usual_us: &PerCause<u64>) -> PerCause<u64> {
    PerCause::from_fn(|cause| us[cause].saturating_sub(usual_us[cause].saturating_mul(requests)))
}

/// Makes unexplained what looked like causes of which the counters show nothing; their shares.
fn without_evidence(excess: &mut PerCause<u64>, bare: &BTreeSet<Cause>) -> Shares {
    let all = sum(excess);
    let mut shares = Shares::new();
    for cause in bare {
        let us = std::mem::take(&mut excess[*cause]);
        excess[Cause::Unexplained] = excess[Cause::Unexplained].saturating_add(us);
        let share = us as f64 / all.max(1) as f64;
        if share >= NEEDS_EVIDENCE {
            shares.insert(*cause, share);
        }
    }
    shares
}

fn sum(parts: &PerCause<u64>) -> u64 {
    parts.values().copied().fold(0, u64::saturating_add)
}

/// The bucket of a latency, or the next one when it begins below the least.
pub fn slow_from(us: u64, least_us: u64) -> usize {
    let at = bucket(us);
    if bucket_floor(at) < least_us { (at + 1).min(BUCKETS - 1) } else { at }
}

fn shares(parts: &PerCause<u64>) -> Option<Shares> {
    let all = sum(parts);
    let share = |part: &u64| *part as f64 / all as f64;
    (all > 0).then(|| parts.named().map(|(cause, part)| (cause, share(&part))).collect())
}

#[cfg(test)]
mod tests {
    use attribution::{CauseCount, LatencySum, MovedCount};

    use super::*;

    /// 10,000 requests of 100 µs (50 client busy, 50 server busy), and `slow` more with a cause.
    fn totals(slow: u64, slow_us: u64, cause: Cause) -> CauseTotals {
        let mut usual = PerCause::<u64>::default();
        usual[Cause::ClientBusy] = 50;
        usual[Cause::ServerBusy] = 50;
        let mut late = usual;
        late[cause] += slow_us - 100;
        let mut rows = CauseRows { requests: 10_000 + slow, ..CauseRows::default() };
        for (count, us) in [(10_000, usual), (slow, late)] {
            if count > 0 {
                let total: u64 = us.values().sum();
                let causes_us = us.map(|us| us * count);
                let bucket = bucket(total) as u16;
                rows.sums.push(LatencySum { bucket, requests: count, causes_us });
            }
            for (cause, us) in us.iter() {
                rows.times.push(CauseCount { cause, bucket: bucket(*us) as u16, requests: count });
            }
        }
        rows.moved =
            vec![MovedCount { due: 5, dominant: late.map(|us| u64::from(us > 1000) * slow) }];
        let mut totals = CauseTotals::default();
        totals.add(6, &rows);
        totals
    }

    fn evidence(answered: u64) -> PhaseEvidence {
        PhaseEvidence {
            seconds: vec![(4, 100, 100), (5, 100, answered)],
            p99_us: Some(900),
            ..PhaseEvidence::default()
        }
    }

    #[test]
    fn the_cause_of_the_excess_is_blamed_and_what_is_usual_is_not() {
        let spec = AttributionSpec::default();
        let blamed = totals(200, 5_000, Cause::ServerRunqueue).attribution(&spec, &evidence(90));
        let shares = blamed.tail.shares.clone().expect("shares");
        assert_eq!(blamed.tail.requests, Some(200));
        // Where the bucket of a millisecond begins is below a millisecond: the next one.
        assert_eq!(blamed.tail.from_us, Some(1024));
        assert!(shares[&Cause::ServerRunqueue] > 0.99, "{shares:?}");
        assert!((shares.values().sum::<f64>() - 1.0).abs() < 1e-9);
        assert_eq!(blamed.jitter.seconds_off, Some(1));
        let jitter = blamed.jitter.shares.clone().expect("moved");
        assert!(jitter[&Cause::ServerRunqueue] > 0.99, "{jitter:?}");
        let verdict = blamed.verdict.expect("a sentence");
        assert!(verdict.contains("server_runqueue") && verdict.contains("1 second"), "{verdict}");
    }

    #[test]
    fn a_constant_queue_is_told_though_it_is_in_no_excess() {
        let mut rows = CauseRows { requests: 1_000, ..CauseRows::default() };
        let mut queue = PerCause::<u64>::default();
        (queue[Cause::NetworkDelay], queue[Cause::ServerBusy]) = (94_000, 1_000);
        let mut late = queue;
        late[Cause::ClientStopped] = 30_000;
        for (count, us) in [(990, queue), (10, late)] {
            let total: u64 = us.values().sum();
            let causes_us = us.map(|us| us * count);
            let at = bucket(total) as u16;
            rows.sums.push(LatencySum { bucket: at, requests: count, causes_us });
            for (cause, us) in us.iter() {
                rows.times.push(CauseCount { cause, bucket: bucket(*us) as u16, requests: count });
            }
        }
        let mut totals = CauseTotals::default();
        totals.add(6, &rows);
        let evidence = PhaseEvidence { p99_us: Some(115_000), ..PhaseEvidence::default() };
        let blamed = totals.attribution(&AttributionSpec::default(), &evidence);
        assert_eq!(blamed.typical.latency_us, Some(95_000));
        let verdict = blamed.verdict.expect("a sentence");
        assert!(verdict.contains("half of the requests took 95 ms, of it 94 ms network_delay"));
        assert!(
            verdict.contains("the slowest 1.0%") && verdict.contains("client_stopped"),
            "{verdict}"
        );
        // The queue alone, without those: hardly an excess, and no verdict on it.
        let mut totals = CauseTotals::default();
        rows.sums.pop();
        rows.requests = 990;
        totals.add(6, &rows);
        let evidence = PhaseEvidence { p99_us: Some(95_000), ..PhaseEvidence::default() };
        let even = totals.attribution(&AttributionSpec::default(), &evidence);
        assert_eq!(even.tail.shares, None);
        let verdict = even.verdict.expect("a sentence");
        assert!(
            verdict.contains("94 ms network_delay") && verdict.contains("too little"),
            "{verdict}"
        );
    }

    #[test]
    fn a_cause_without_evidence_is_unexplained() {
        let spec = AttributionSpec::default();
        let mut evidence = evidence(100);
        evidence.bare.insert(Cause::NetworkLoss);
        let blamed = totals(200, 5_000, Cause::NetworkLoss).attribution(&spec, &evidence);
        let shares = blamed.tail.shares.expect("shares");
        assert!(
            shares[&Cause::Unexplained] > 0.99 && shares[&Cause::NetworkLoss] == 0.0,
            "{shares:?}"
        );
        assert!(blamed.without_evidence[&Cause::NetworkLoss] > 0.99);
        assert!(blamed.verdict.expect("a sentence").contains("the counters show nothing"));
    }

    #[test]
    fn a_tail_that_is_left_out_is_told() {
        let spec = AttributionSpec::default();
        let mut totals = totals(200, 5_000, Cause::ServerBusy);
        let at = bucket(5_000) as u16;
        let left_out = vec![LeftOut { bucket: at, mixed: 300, unsampled: 2 }];
        totals.add(7, &CauseRows { mixed: 300, left_out: Some(left_out), ..CauseRows::default() });
        // The rows of the fixture do not tell.
        totals.left_out.get_or_insert_with(|| vec![LeftOut::default(); BUCKETS])[usize::from(at)] =
            LeftOut { bucket: at, mixed: 300, unsampled: 2 };
        let blamed = totals.attribution(&spec, &evidence(100));
        assert_eq!(blamed.left_out, LeftOutOfTail { mixed: Some(300), unsampled: Some(2) });
        let verdict = blamed.verdict.expect("a sentence");
        assert!(verdict.contains("60% of the slow ones are left out"), "{verdict}");
        assert!(!verdict.contains("sample"), "{verdict}");
    }

    #[test]
    fn a_sample_has_a_tail_of_its_own() {
        let spec = AttributionSpec::default();
        let mut totals = totals(200, 500_000, Cause::ServerStopped);
        // All of the slowest hundredth were outside of the sample.
        let evidence = PhaseEvidence { p99_us: Some(900_000), ..evidence(50) };
        assert_eq!(totals.attribution(&spec, &evidence).tail.requests, Some(0));
        totals.add(7, &CauseRows { unsampled: 640_000, ..CauseRows::default() });
        let blamed = totals.attribution(&spec, &evidence);
        assert_eq!(blamed.tail.requests, Some(200));
        assert_eq!(blamed.tail.from_us, Some(bucket_floor(bucket(500_000))));
        assert!(blamed.tail.shares.expect("shares")[&Cause::ServerStopped] > 0.99);
        assert!(blamed.verdict.expect("a sentence").contains("from a sample"));
    }

    #[test]
    fn evidence_that_contradicts_itself_is_counted_by_kind_and_told() {
        let spec = AttributionSpec::default();
        let mut totals = CauseTotals::default();
        let counts = Contradictions { order: 3, too_long: 0, clocks: 1 };
        let mut rows = CauseRows { requests: 10, ..CauseRows::default() };
        rows.contradictions = Some(counts);
        totals.add(7, &rows);
        totals.add(8, &rows);
        let blamed = totals.attribution(&spec, &evidence(100));
        assert_eq!(
            blamed.contradictions,
            Some(Contradictions { order: 6, too_long: 0, clocks: 2 })
        );
        let said = blamed.contradicted.expect("a sentence");
        assert!(said.contains("6 instants out of order") && !said.contains("waits"), "{said}");
        // A file of an earlier version does not tell, and none is not said.
        rows.contradictions = Some(Contradictions::default());
        let mut none = CauseTotals::default();
        none.add(7, &rows);
        assert_eq!(none.attribution(&spec, &evidence(100)).contradicted, None);
        rows.contradictions = None;
        totals.add(9, &rows);
        let blamed = totals.attribution(&spec, &evidence(100));
        assert_eq!((blamed.contradictions, blamed.contradicted), (None, None));
    }

    #[test]
    fn a_quiet_phase_gets_no_blame() {
        let spec = AttributionSpec::default();
        let quiet = totals(5, 5_000, Cause::NetworkDelay).attribution(&spec, &evidence(100));
        assert_eq!(quiet.tail.shares, None);
        assert_eq!(quiet.jitter.shares, None);
        assert!(quiet.verdict.expect("a sentence").starts_with("quiet: 0.05%"));
        assert_eq!(CauseTotals::default().attribution(&spec, &evidence(3)), Attribution::default());
    }
}
