//! Seconds put together from what shards and processes say of them, a little later.

use std::collections::BTreeMap;

use accounting::server::Counters;
use accounting::server::Sample as ServerSample;
use attribution::{Encoded, Latencies, Percentile, Sample as ClientSample, Segment, Tally, empty};
use serde::{Deserialize, Serialize};

/// A second is complete when this many have begun after it: shards report when the next one begins.
const BEHIND: u64 = 2;

/// The same where what shards report crosses a network and a stream.
const BEHIND_ON_FLEET: u64 = 3;

/// A second over all shards.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// The Unix second.
    pub t: u64,
    /// What the clients counted.
    pub clients: Tally,
    /// What the server counted.
    pub server: Counters,
    /// Users logged in at its end, as clients see it.
    pub online: u64,
    /// Shakes under way at its end.
    pub in_flight: u64,
    /// Histograms by phase and segment.
    pub histograms: Vec<(u16, Segment, Latencies)>,
    /// Whether it was complete before, and this is what came afterwards, of a host that was cut
    /// off.
    pub late: bool,
}

/// A second that is being put together, as it is kept over the end of a recorder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSecond {
    t: u64,
    clients: Tally,
    server: Counters,
    online: u64,
    in_flight: u64,
    histograms: Vec<(u16, Segment, Encoded)>,
}

impl Second {
    /// The 99th percentile of all latencies of the second in microseconds, whatever phase their
    /// shakes were due in.
    pub fn p99(&self) -> Option<Percentile> {
        let bounds = self.all_of(Segment::LatencyAtLeast);
        Percentile::of(&self.all_of(Segment::Latency)?, bounds.as_ref(), 0.99)
    }

    fn all_of(&self, wanted: Segment) -> Option<Latencies> {
        let mut all: Option<Latencies> = None;
        for (_, segment, values) in &self.histograms {
            if *segment == wanted {
                // Histograms of the same bounds always add up.
                let _ = all.get_or_insert_with(empty).add(values);
            }
        }
        all
    }
}

/// Seconds that are being put together.
#[derive(Debug)]
pub struct Seconds {
    open: BTreeMap<u64, Second>,
    newest: u64,
    behind: u64,
    /// The first second that was not complete yet.
    complete_until: u64,
}

impl Default for Seconds {
    fn default() -> Self {
        Self { open: BTreeMap::new(), newest: 0, behind: BEHIND, complete_until: 0 }
    }
}

impl Seconds {
    /// Seconds of a fleet, whose reports cross a network.
    pub fn of_fleet() -> Self {
        Self { behind: BEHIND_ON_FLEET, ..Self::default() }
    }

    /// Seconds of a fleet, those being put together by an earlier recorder included.
    pub fn restore(open: Vec<OpenSecond>, newest: u64, complete_until: u64) -> Self {
        let second = |open: OpenSecond| {
            let OpenSecond { t, clients, server, online, in_flight, histograms } = open;
            let histograms = histograms.into_iter().map(|(p, s, values)| (p, s, values.0));
            let histograms = histograms.collect();
            (t, Second { t, clients, server, online, in_flight, histograms, late: false })
        };
        let open = open.into_iter().map(second).collect();
        Self { open, newest, complete_until, ..Self::of_fleet() }
    }

    /// The seconds being put together, the newest second, and the first that was not complete.
    pub fn open(&self) -> (Vec<OpenSecond>, u64, u64) {
        let second = |second: &Second| OpenSecond {
            t: second.t,
            clients: second.clients,
            server: second.server,
            online: second.online,
            in_flight: second.in_flight,
            histograms: second
                .histograms
                .iter()
                .map(|(phase, segment, values)| (*phase, *segment, Encoded(values.clone())))
                .collect(),
        };
        (self.open.values().map(second).collect(), self.newest, self.complete_until)
    }

    fn at(&mut self, t: u64) -> &mut Second {
        self.newest = self.newest.max(t);
        self.open.entry(t).or_insert_with(|| Second { t, ..Second::default() })
    }

    /// A second of a shard of a client.
    pub fn client(&mut self, sample: &ClientSample) {
        let second = self.at(sample.t);
        second.clients.add(&sample.tally);
        second.online += u64::from(sample.online);
        second.in_flight += sample.in_flight;
    }

    /// A second of a shard of the server.
    pub fn server(&mut self, sample: &ServerSample) {
        self.at(sample.t).server.add(&sample.counters);
    }

    /// A histogram of a second of a shard.
    pub fn histogram(&mut self, t: u64, phase: u16, segment: Segment, values: &Latencies) {
        let histograms = &mut self.at(t).histograms;
        let known = histograms.iter_mut().find(|(p, s, _)| (*p, *s) == (phase, segment));
        match known {
            // Histograms of the same bounds always add up.
            Some((_, _, sum)) => drop(sum.add(values)),
            None => histograms.push((phase, segment, values.clone())),
        }
    }

    /// The oldest second that is complete, or with `all` the oldest.
    pub fn next(&mut self, all: bool) -> Option<Second> {
        let (&t, _) = self.open.first_key_value()?;
        if !all && self.newest.saturating_sub(t) < self.behind {
            return None;
        }
        let mut second = self.open.remove(&t)?;
        second.late = t < self.complete_until;
        self.complete_until = self.complete_until.max(t.saturating_add(1));
        Some(second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_complete_when_the_next_but_one_has_begun() {
        let mut seconds = Seconds::default();
        let mut values = empty();
        values.saturating_record(100);
        seconds.histogram(5, 1, Segment::Latency, &values);
        seconds.histogram(5, 1, Segment::Latency, &values);
        seconds.histogram(5, 2, Segment::Latency, &values);
        seconds.histogram(5, 1, Segment::SendLag, &values);
        seconds.histogram(6, 1, Segment::Latency, &values);
        assert!(seconds.next(false).is_none());
        seconds.histogram(7, 1, Segment::Latency, &values);
        let second = seconds.next(false).expect("complete");
        assert_eq!((second.t, second.histograms.len()), (5, 3));
        assert_eq!(second.p99(), Some(Percentile::Exactly(100)));
        assert!(seconds.next(false).is_none());
        assert_eq!(seconds.next(true).map(|second| second.t), Some(6));
        assert_eq!(seconds.next(true).map(|second| second.t), Some(7));
        assert!(seconds.next(true).is_none());
    }

    /// What a program or a checkpoint says is not always true.
    #[test]
    fn the_last_second_that_there_can_be_ends_nothing() {
        let mut seconds = Seconds::default();
        seconds.histogram(u64::MAX, 1, Segment::Latency, &empty());
        assert!(seconds.next(false).is_none());
        assert_eq!(seconds.next(true).map(|it| (it.t, it.late)), Some((u64::MAX, false)));
    }

    #[test]
    fn what_comes_after_its_second_is_late_and_what_is_open_can_be_kept() {
        let mut values = empty();
        values.saturating_record(100);
        let mut seconds = Seconds::of_fleet();
        for t in 5..=9 {
            seconds.histogram(t, 1, Segment::Latency, &values);
        }
        assert_eq!(seconds.next(false).map(|it| (it.t, it.late)), Some((5, false)));
        let (open, newest, complete_until) = seconds.open();
        let text = serde_json::to_string(&open).expect("JSON");
        let open = serde_json::from_str(&text).expect("the same");
        let mut restored = Seconds::restore(open, newest, complete_until);
        restored.histogram(5, 1, Segment::Latency, &values);
        assert_eq!(restored.next(false).map(|it| (it.t, it.late)), Some((5, true)));
        let six = restored.next(false).expect("complete");
        assert_eq!((six.t, six.late, six.histograms[0].2.len()), (6, false, 1));
        assert!(restored.next(false).is_none());
    }
}
