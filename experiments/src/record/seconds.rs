//! Seconds put together from what shards and processes say of them, a little later.

use std::collections::BTreeMap;

use lab_client::latency::{Latencies, Segment, empty};
use lab_client::report::Sample as ClientSample;
use lab_client::tally::Tally;
use lab_server::counters::Counters;
use lab_server::report::Sample as ServerSample;

/// A second is complete when this many have begun after it: shards report when the next one begins.
const BEHIND: u64 = 2;

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
}

impl Second {
    /// All latencies of the second, whatever phase their shakes were due in.
    pub fn latency(&self) -> Option<Latencies> {
        let mut all: Option<Latencies> = None;
        for (_, segment, values) in &self.histograms {
            if *segment == Segment::Latency {
                // Histograms of the same bounds always add up.
                let _ = all.get_or_insert_with(empty).add(values);
            }
        }
        all
    }
}

/// Seconds that are being put together.
#[derive(Debug, Default)]
pub struct Seconds {
    open: BTreeMap<u64, Second>,
    newest: u64,
}

impl Seconds {
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
        (all || t + BEHIND <= self.newest).then(|| self.open.remove(&t)).flatten()
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
        assert_eq!(second.latency().map(|all| all.len()), Some(3));
        assert!(seconds.next(false).is_none());
        assert_eq!(seconds.next(true).map(|second| second.t), Some(6));
        assert_eq!(seconds.next(true).map(|second| second.t), Some(7));
        assert!(seconds.next(true).is_none());
    }
}
