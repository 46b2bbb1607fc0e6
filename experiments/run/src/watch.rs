//! The conditions that abort a run.

use attribution::{Percentile, Tally};

use record::Second;
use spec::Abort;

/// Watches the seconds of one phase.
#[derive(Debug)]
pub(crate) struct AbortWatch {
    conditions: Vec<(Abort, u32)>,
    total: Tally,
}

impl AbortWatch {
    /// Watches for these conditions.
    pub(crate) fn new(conditions: &[Abort]) -> Self {
        Self {
            conditions: conditions.iter().map(|condition| (*condition, 0)).collect(),
            total: Tally::default(),
        }
    }

    /// Looks at a second of the phase; the sentence that says why the run must end, if it must.
    pub(crate) fn on_second(&mut self, second: &Second) -> Option<String> {
        self.total.add(&second.clients);
        let total = self.total;
        let p99 = second.p99().map(Percentile::least);
        let mut broken = None;
        for (condition, seconds_on_end) in &mut self.conditions {
            let (holds, why) = match *condition {
                Abort::LostConnections(most) => (
                    total.connections_lost > most,
                    format!("{} connections lost, more than {most}", total.connections_lost),
                ),
                Abort::TimedOutShare(most) => {
                    let share = total.timed_out as f64 / total.sent.max(1) as f64;
                    let most = most.get();
                    (share > most, format!("{share:.4} of the shakes timed out, more than {most}"))
                }
                Abort::P99Above { us, seconds } => {
                    let above = p99.is_some_and(|p99| p99 > us);
                    *seconds_on_end = if above { *seconds_on_end + 1 } else { 0 };
                    let long = *seconds_on_end >= seconds.max(1);
                    (long, format!("p99 above {us} µs for {seconds_on_end} s"))
                }
                Abort::AnsweredBelow { share, seconds } => {
                    let wanted = second.clients.offered as f64 * share.get();
                    let below =
                        second.clients.offered > 0 && (second.clients.answered as f64) < wanted;
                    *seconds_on_end = if below { *seconds_on_end + 1 } else { 0 };
                    let long = *seconds_on_end >= seconds.max(1);
                    let share = share.get();
                    (long, format!("less than {share} answered for {seconds_on_end} s"))
                }
            };
            if holds && broken.is_none() {
                broken = Some(why);
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use attribution::{Segment, empty};

    use super::*;
    use spec::Share;

    fn second(offered: u64, answered: u64, timed_out: u64, lost: u64, p99_us: u64) -> Second {
        let mut values = empty();
        values.saturating_record(p99_us);
        let clients = Tally {
            offered,
            sent: offered,
            answered,
            timed_out,
            connections_lost: lost,
            ..Tally::default()
        };
        Second { clients, histograms: vec![(0, Segment::Latency, values)], ..Second::default() }
    }

    #[test]
    fn conditions_hold_when_they_should() {
        let share = |share| Share::try_from(share).expect("a share");
        let good = || second(100, 100, 0, 0, 10);
        let cases = [
            (Abort::LostConnections(5), vec![second(1, 1, 0, 5, 1), second(1, 1, 0, 1, 1)]),
            (Abort::TimedOutShare(share(0.1)), vec![good(), second(100, 70, 30, 0, 10)]),
            (
                Abort::P99Above { us: 50, seconds: 2 },
                vec![
                    second(1, 1, 0, 0, 60),
                    good(),
                    second(1, 1, 0, 0, 60),
                    second(1, 1, 0, 0, 60),
                ],
            ),
            (
                Abort::AnsweredBelow { share: share(0.9), seconds: 2 },
                vec![
                    second(100, 80, 0, 0, 1),
                    good(),
                    second(100, 80, 0, 0, 1),
                    second(100, 89, 0, 0, 1),
                ],
            ),
        ];
        for (condition, seconds) in cases {
            let mut watch = AbortWatch::new(&[condition]);
            let last = seconds.len() - 1;
            for (place, second) in seconds.iter().enumerate() {
                let broken = watch.on_second(second);
                assert_eq!(broken.is_some(), place == last, "{condition:?} at {place}: {broken:?}");
            }
        }
    }
}
