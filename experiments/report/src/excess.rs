//! What each cause took of the slow requests of each second, beyond its median in their phase: the
//! attribution of a phase, second by second.

use std::collections::BTreeMap;

use attribution::{LatencySum, PerCause};
use record::CausesRow;

use analysis::summary::{CauseTotals, beyond_usual, slow_from};

/// Seconds and phases by their buckets of latency: requests, and the sums of each cause.
type Sums = BTreeMap<(u64, String), Vec<LatencySum>>;

/// The slow requests of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlowOfSecond {
    /// How many there were.
    pub(super) requests: u64,
    /// What each cause took of them beyond its median, in microseconds.
    pub(super) us: PerCause<u64>,
}

/// Causes by second.
#[derive(Debug)]
pub(super) struct Excess {
    /// Faster requests are never slow, in microseconds.
    pub(super) slow_us: u64,
    phases: BTreeMap<String, CauseTotals>,
    sums: Sums,
}

impl Default for Excess {
    fn default() -> Self {
        let slow_us = spec::AttributionSpec::default().slow_us.into();
        Self { slow_us, phases: BTreeMap::new(), sums: Sums::new() }
    }
}

impl Excess {
    /// Adds the causes of a second of a shard.
    pub(super) fn add(&mut self, row: CausesRow) {
        let CausesRow { t, phase, rows } = row;
        let phase = phase.unwrap_or_default();
        self.phases.entry(phase.clone()).or_default().add(t, &rows);
        let least = slow_from(self.slow_us, self.slow_us);
        let slow = rows.sums.into_iter().filter(|sum| usize::from(sum.bucket) >= least);
        self.sums.entry((t, phase)).or_default().extend(slow);
    }

    /// Whether there were no probes.
    pub(super) fn is_empty(&self) -> bool {
        self.phases.is_empty()
    }

    /// The seconds from `from` on. A request is slow from the 99th percentile of its phase on, as
    /// `p99_us` knows it, and never below [`Excess::slow_us`].
    pub(super) fn seconds(
        &self,
        from: u64,
        p99_us: impl Fn(&str) -> Option<u64>,
    ) -> BTreeMap<u64, SlowOfSecond> {
        let medians: BTreeMap<&str, (PerCause<u64>, usize)> = self
            .phases
            .iter()
            .map(|(phase, causes)| {
                let from_us = p99_us(phase).unwrap_or(0).max(self.slow_us);
                (phase.as_str(), (causes.medians_us(), slow_from(from_us, self.slow_us)))
            })
            .collect();
        let mut seconds: BTreeMap<u64, SlowOfSecond> = BTreeMap::new();
        for ((t, phase), sums) in self.sums.range((from, String::new())..) {
            let second = seconds.entry(*t).or_default();
            let Some((medians, least)) = medians.get(phase.as_str()) else { continue };
            for sum in sums.iter().filter(|sum| usize::from(sum.bucket) >= *least) {
                second.requests = second.requests.saturating_add(sum.requests);
                second.us += beyond_usual(&sum.causes_us, sum.requests, medians);
            }
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use attribution::{Cause, bucket};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_slow_and_beyond_the_median_counts() {
        let mut excess = Excess::default();
        let at = |us: u64| bucket(us) as u16;
        let mut usual = PerCause::<u64>::default();
        usual[Cause::ServerBusy] = 100;
        let mut late = usual;
        late[Cause::NetworkLoss] = 200_000;
        let line = json!({
            "t": 7, "phase": "60k", "requests": 101, "mixed": 0, "incomplete": 0, "moved": [],
            "sums": [[at(100), 100, usual.map(|us| us * 100)], [at(200_100), 1, late]],
            "times": [["server_busy", at(100), 101], ["network_loss", 0, 100]],
        });
        let line = line.to_string();
        excess.add(record::parse(line.as_bytes()).expect("a row"));
        let second = excess.seconds(0, |_| Some(900))[&7];
        assert_eq!(second.requests, 1);
        assert_eq!(second.us[Cause::NetworkLoss], 200_000);
        assert!(second.us[Cause::ServerBusy] < 10, "{second:?}");
        assert_eq!(excess.seconds(0, |_| Some(10_000_000))[&7], SlowOfSecond::default());
        assert!(excess.seconds(8, |_| None).is_empty());
        assert!(record::parse::<CausesRow>(b"{\"t\":8}").is_err());
    }
}
