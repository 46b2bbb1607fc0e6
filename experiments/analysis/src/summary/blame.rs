//! What is to blame: from the sums that clients keep by cause to shares and a sentence.
//!
//! The method is that of the design: of the slow requests of a phase, what each cause took beyond
//! its median is compared with what all took beyond theirs; of the seconds whose answers were off,
//! the requests that were answered in another second than they were due in are counted by their
//! dominant cause. Below a stated excess there is no verdict.

use std::collections::BTreeMap;

use attribution::{BUCKETS, Cause, CauseRows, PerCause, bucket, bucket_floor};
use serde::{Deserialize, Serialize};

use super::off::seconds_off;
use spec::AttributionSpec;

/// A share for each cause; a cause that took nothing may be missing.
pub type Shares = BTreeMap<Cause, f64>;

/// Of the slow requests of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tail {
    /// How many there were; null without probes.
    pub requests: Option<u64>,
    /// From which latency on a request was slow, in microseconds.
    pub from_us: Option<u64>,
    /// What all causes took beyond their medians, in microseconds.
    pub excess_us: Option<u64>,
    /// The part of each; null without probes, or when the phase was quiet.
    pub shares: Option<Shares>,
}

/// Of the seconds that were off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jitter {
    /// Seconds whose answers differed from what was due by more than the experiment allows.
    pub seconds_off: Option<u64>,
    /// Requests due in such a second and answered in another, or the other way round.
    pub requests: Option<u64>,
    /// The part of each dominant cause among them; null when there are none.
    pub shares: Option<Shares>,
}

/// What is to blame in a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attribution {
    /// Of the slow requests.
    pub tail: Tail,
    /// Of the seconds that were off.
    pub jitter: Jitter,
    /// A sentence for a person.
    pub verdict: Option<String>,
}

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
        }
    }
}

/// What else is known of a phase that says why its requests were slow.
#[derive(Clone, Debug, Default)]
pub struct PhaseEvidence {
    /// By second: shakes due, and answers.
    pub seconds: Vec<(u64, u64, u64)>,
    /// The phase's 99th percentile, in microseconds.
    pub p99_us: Option<u64>,
    /// The part of the requests that were slow, as the clients themselves measured it.
    pub late_share: Option<f64>,
    /// By blamed cause, the program that most often held the CPUs that others waited for.
    pub holders: BTreeMap<Cause, String>,
    /// Packets dropped, and segments sent again.
    pub drops: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u64>,
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

    /// What is to blame, from the totals and what else is known of the phase.
    pub fn attribution(&self, spec: &AttributionSpec, evidence: &PhaseEvidence) -> Attribution {
        if self.requests == 0 {
            return Attribution::default();
        }
        let least_us = u64::from(spec.slow_us);
        let first = slow_from(evidence.p99_us.unwrap_or(0).max(least_us), least_us);
        let (requests, excess) = self.beyond(first);
        let late_share = evidence.late_share.unwrap_or_else(|| {
            let (over, _) = self.beyond(slow_from(least_us, least_us));
            over as f64 / self.requests as f64
        });
        let off = seconds_off(evidence.seconds.iter().copied(), spec.off_share.get());
        let quiet = late_share < spec.quiet_share.get() && off.is_empty();
        let shares = shares(&excess).filter(|_| !quiet);
        let (moved, jitter_shares) = self.jitter(&off);
        let mut attribution = Attribution {
            tail: Tail {
                requests: Some(requests),
                from_us: Some(bucket_floor(first)),
                excess_us: Some(sum(&excess)),
                shares,
            },
            jitter: Jitter {
                seconds_off: Some(off.len() as u64),
                requests: Some(moved),
                shares: jitter_shares,
            },
            verdict: None,
        };
        let mut verdict = sentence(spec, late_share, &attribution, evidence);
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

/// The cause with the largest share, and that share.
pub fn dominant(shares: &Shares) -> Option<(Cause, f64)> {
    shares.iter().map(|(cause, share)| (*cause, *share)).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn sentence(
    spec: &AttributionSpec,
    late_share: f64,
    attribution: &Attribution,
    evidence: &PhaseEvidence,
) -> String {
    let ms = |us: u64| us as f64 / 1000.0;
    let late = format!(
        "{:.2}% of the requests took more than {} ms",
        late_share * 100.0,
        ms(spec.slow_us.into())
    );
    let off = attribution.jitter.seconds_off.unwrap_or(0);
    let seconds = match off {
        0 => String::new(),
        1 => ", and 1 second was off".to_owned(),
        off => format!(", and {off} seconds were off"),
    };
    let Some((cause, share)) = attribution.tail.shares.as_ref().and_then(dominant) else {
        return format!("quiet: {late}{seconds}");
    };
    let from = ms(attribution.tail.from_us.unwrap_or(0));
    let what = advice(cause, evidence);
    format!(
        "{late}{seconds}; of the slowest (from {from:.1} ms), {:.0}% of the excess is {}: {what}",
        share * 100.0,
        cause.name()
    )
}

fn advice(cause: Cause, evidence: &PhaseEvidence) -> String {
    let holder = evidence.holders.get(&cause);
    let held = holder.map_or_else(String::new, |name| format!(" (mostly {name})"));
    match cause {
        Cause::ClientRunqueue => {
            format!(
                "other programs{held} held the clients' CPUs; give the clients CPUs of their own"
            )
        }
        Cause::ClientBusy => {
            "the clients' threads had too much to do; give them more CPUs or machines".to_owned()
        }
        Cause::NetworkLoss => {
            let count = |count: Option<u64>| {
                count.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
            };
            format!(
                "packets were lost ({} drops seen here, {} segments sent again); kernel.drops says \
                 where",
                count(evidence.drops),
                count(evidence.retransmits)
            )
        }
        Cause::NetworkDelay => "the path was slow without losing anything".to_owned(),
        Cause::ServerRunqueue => {
            format!("other programs{held} held the server's CPUs; give the server CPUs of its own")
        }
        Cause::ServerBusy => {
            "the server's threads had too much to do; give it more shards on more CPUs".to_owned()
        }
        Cause::Unexplained => "and nothing that the probes see explains it".to_owned(),
        Cause::ClientThrottled => {
            "the clients' cgroup had used up its CPU quota; raise it or take it away".to_owned()
        }
        Cause::ServerThrottled => {
            "the server's cgroup had used up its CPU quota; raise it or take it away".to_owned()
        }
        Cause::ClientStopped => "the clients were stopped, traced or frozen".to_owned(),
        Cause::ServerStopped => "the server was stopped, traced or frozen".to_owned(),
        Cause::ClientBlocked => {
            "the clients' threads waited in the kernel, for a disk, memory or a lock".to_owned()
        }
        Cause::ServerBlocked => {
            "the server's threads waited in the kernel, for a disk, memory or a lock".to_owned()
        }
        Cause::ClientInterrupts => {
            "interrupts had the clients' CPUs; steer them to other CPUs".to_owned()
        }
        Cause::ServerInterrupts => {
            "interrupts had the server's CPUs; steer them to other CPUs".to_owned()
        }
        Cause::ClientStalled => "the clients' CPUs stood still or were slow to wake".to_owned(),
        Cause::ServerStalled => "the server's CPUs stood still or were slow to wake".to_owned(),
        Cause::ClientPacing => "the clients' loops slept past the instant".to_owned(),
    }
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
    fn a_quiet_phase_gets_no_blame() {
        let spec = AttributionSpec::default();
        let quiet = totals(5, 5_000, Cause::NetworkDelay).attribution(&spec, &evidence(100));
        assert_eq!(quiet.tail.shares, None);
        assert_eq!(quiet.jitter.shares, None);
        assert!(quiet.verdict.expect("a sentence").starts_with("quiet: 0.05%"));
        assert_eq!(CauseTotals::default().attribution(&spec, &evidence(3)), Attribution::default());
    }
}
