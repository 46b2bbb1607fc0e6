//! What must be blamed: shares computed from the truth that injectors wrote, and from nothing that
//! the probes say.
//!
//! The slow requests of the phase are those of the client's own record: when each was due, how long
//! it took, whose it was. What a fault took of one is how long the fault's intervals overlap it.

use std::collections::HashMap;

use lab_client::causes::{Cause, PerCause};
use serde::Deserialize;

/// A line of `truth.jsonl`, as far as it is needed here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Truth {
    /// What kind of fault.
    kind: String,
    /// When it began, on the monotonic clock in nanoseconds.
    t: u64,
    /// When it ended; drops have only a beginning.
    #[serde(default)]
    end_ns: Option<u64>,
    /// The CPU that a hog had.
    #[serde(default)]
    cpu: Option<usize>,
    /// The client's end of the connection that a packet was dropped or held of.
    #[serde(default)]
    flow: Option<String>,
}

/// A line of `slow.jsonl`, as far as it is needed here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SlowLine {
    due_ns: u64,
    latency_us: u64,
    from: String,
}

/// On which CPUs the two programs run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) server_cpu: usize,
    pub(super) client_cpu: usize,
}

/// Intervals in order that do not overlap.
#[derive(Clone, Debug, Default)]
struct Spans(Vec<(u64, u64)>);

impl Spans {
    fn new(mut spans: Vec<(u64, u64)>) -> Self {
        spans.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
        for (start, end) in spans {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    /// How long they overlap an interval.
    fn overlap(&self, start: u64, end: u64) -> u64 {
        let first = self.0.partition_point(|span| span.1 <= start);
        let overlapping = self.0[first..].iter().take_while(|span| span.0 < end);
        overlapping.map(|span| span.1.min(end) - span.0.max(start)).sum()
    }

    /// What is left of them without others.
    fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for (start, end) in &self.0 {
            let mut from = *start;
            let first = others.0.partition_point(|span| span.1 <= *start);
            for other in others.0[first..].iter().take_while(|span| span.0 < *end) {
                if other.0 > from {
                    left.push((from, other.0));
                }
                from = from.max(other.1);
            }
            if from < *end {
                left.push((from, *end));
            }
        }
        Self(left)
    }
}

/// The truth of a run, ready to be asked.
pub(super) struct Told {
    spans: [(Cause, Spans); 4],
    drops: HashMap<String, Vec<u64>>,
    holds: HashMap<String, Spans>,
}

impl Told {
    pub(super) fn new(lines: &[Truth], places: Places) -> Self {
        let of = |kind: &str, cpu: Option<usize>| {
            let lines =
                lines.iter().filter(|it| it.kind == kind && (cpu.is_none() || it.cpu == cpu));
            Spans::new(lines.filter_map(|it| Some((it.t, it.end_ns?))).collect())
        };
        let server_hog = of("hog", Some(places.server_cpu));
        let client_hog = of("hog", Some(places.client_cpu));
        // While a hog had the CPU, whoever spun there did not.
        let slow_handler = of("slow_handler", None).without(&server_hog);
        let slow_client = of("slow_client", None).without(&client_hog);
        let mut drops: HashMap<String, Vec<u64>> = HashMap::new();
        let mut held: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for line in lines {
            let Some(flow) = &line.flow else { continue };
            match (line.kind.as_str(), line.end_ns) {
                ("loss", _) => drops.entry(flow.clone()).or_default().push(line.t),
                ("delay", Some(end)) => held.entry(flow.clone()).or_default().push((line.t, end)),
                _ => {}
            }
        }
        Self {
            spans: [
                (Cause::ServerRunqueue, server_hog),
                (Cause::ClientRunqueue, client_hog),
                (Cause::ServerBusy, slow_handler),
                (Cause::ClientBusy, slow_client),
            ],
            drops,
            holds: held.into_iter().map(|(flow, spans)| (flow, Spans::new(spans))).collect(),
        }
    }

    /// What each cause took of a request, in nanoseconds.
    fn of_request(&self, slow: &SlowLine) -> PerCause<u64> {
        let mut causes = [0; 7];
        let (start, end) = (slow.due_ns, slow.due_ns + slow.latency_us * 1000);
        let lost = self
            .drops
            .get(&slow.from)
            .is_some_and(|drops| drops.iter().any(|at| (start..end).contains(at)));
        if lost {
            // What it waited for was the retransmission, whatever else happened meanwhile.
            causes[Cause::NetworkLoss as usize] = end - start;
            return causes;
        }
        for (cause, spans) in &self.spans {
            causes[*cause as usize] = spans.overlap(start, end);
        }
        if let Some(held) = self.holds.get(&slow.from) {
            causes[Cause::NetworkDelay as usize] = held.overlap(start, end);
        }
        causes
    }

    /// The share of each cause among requests that took at least so long; `None` when no fault
    /// touched any of them.
    pub(super) fn shares(&self, slow: &[SlowLine], from_us: u64) -> Option<PerCause<f64>> {
        let mut sums = [0_u64; 7];
        for line in slow.iter().filter(|line| line.latency_us >= from_us) {
            for (sum, ns) in sums.iter_mut().zip(self.of_request(line)) {
                *sum += ns;
            }
        }
        let all: u64 = sums.iter().sum();
        (all > 0).then(|| sums.map(|sum| sum as f64 / all as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, t: u64, end_ns: Option<u64>, cpu: usize, flow: Option<&str>) -> Truth {
        Truth { kind: kind.to_owned(), t, end_ns, cpu: Some(cpu), flow: flow.map(str::to_owned) }
    }

    #[test]
    fn spans_overlap_and_leave_each_other_out() {
        let spans = Spans::new(vec![(30, 40), (10, 20), (18, 25)]);
        assert_eq!(spans.0, [(10, 25), (30, 40)]);
        assert_eq!(spans.overlap(0, 100), 25);
        assert_eq!(spans.overlap(20, 35), 10);
        assert_eq!(spans.overlap(25, 30), 0);
        let left = spans.without(&Spans::new(vec![(12, 14), (20, 32), (39, 50)]));
        assert_eq!(left.0, [(10, 12), (14, 20), (32, 39)]);
    }

    #[test]
    fn shares_come_from_the_truth_alone() {
        let places = Places { server_cpu: 0, client_cpu: 1 };
        let lines = [
            line("hog", 1_000_000, Some(4_000_000), 0, None),
            line("slow_handler", 3_000_000, Some(5_000_000), 0, None),
            line("loss", 9_000_000, None, 0, Some("a")),
            line("delay", 20_000_000, Some(21_000_000), 0, Some("b")),
        ];
        let told = Told::new(&lines, places);
        let slow =
            |due_ns, latency_us, from: &str| SlowLine { due_ns, latency_us, from: from.into() };
        // 3 ms behind the hog and 1 of the spin, of which the hog took the other one.
        let one = told.shares(&[slow(1_000_000, 4_000, "c")], 1_000).expect("touched");
        assert!((one[Cause::ServerRunqueue as usize] - 0.75).abs() < 1e-9, "{one:?}");
        assert!((one[Cause::ServerBusy as usize] - 0.25).abs() < 1e-9, "{one:?}");
        let lost = told.shares(&[slow(8_000_000, 200_000, "a")], 1_000).expect("touched");
        assert_eq!(lost[Cause::NetworkLoss as usize], 1.0);
        let held = told.shares(&[slow(19_000_000, 5_000, "b")], 1_000).expect("touched");
        assert_eq!(held[Cause::NetworkDelay as usize], 1.0);
        assert_eq!(told.shares(&[slow(1_000_000, 4_000, "c")], 5_000), None);
    }
}
