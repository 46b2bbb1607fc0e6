//! What must be blamed: shares computed from the truth that injectors wrote, and from nothing that
//! the probes say.
//!
//! The slow requests of the phase are those of the client's own record: when each was due, how long
//! it took, whose it was. What a fault took of one is how long the fault's intervals overlap it.
//! When both ends are held up at once, it is the end at which the request is: with the client until
//! it was sent, then with the server until that could answer it, then with the client.

use std::collections::HashMap;

use attribution::{Cause, PerCause};
use record::{SlowRow, TruthRow};

/// A slow request, as the client alone measured it.
#[derive(Clone, Debug)]
pub(super) struct SlowRequest {
    due_ns: u64,
    latency_us: u64,
    send_lag_us: u64,
    /// The client's end of the connection.
    from: String,
}

impl SlowRequest {
    /// A request of `slow.jsonl`; `None` when its line has no instant or no connection.
    pub(super) fn of(row: SlowRow) -> Option<Self> {
        let SlowRow { due_ns, latency_us, send_lag_us, from, .. } = row;
        Some(Self { due_ns: due_ns?, latency_us, send_lag_us: send_lag_us?, from: from? })
    }
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

/// A hog that is away for less was interrupted; for more, and what waited for its CPU had it.
const GAP_NS: u64 = 50_000;

/// Who spun has requests from before to answer, and may spin again over one of them: 0.03 ms each,
/// one in a millisecond, and as much again for what is left over from the time before.
const CATCHING_UP: u64 = 15;

/// What held up one end.
struct End {
    /// Another program that had its CPU.
    hog: (Cause, Spans),
    /// Its own spinning, while it had the CPU.
    spin: (Cause, Spans),
    /// Both.
    both: Spans,
}

impl End {
    fn new(hog: (Cause, Spans), (spinning, spin): (Cause, Spans)) -> Self {
        // While a hog had the CPU, what spun there did not.
        let spin = (spinning, spin.without(&hog.1));
        let both = Spans::new(hog.1.0.iter().chain(&spin.1.0).copied().collect());
        Self { hog, spin, both }
    }

    /// The first instant from `at` on at which something can be done here.
    fn free_from(&self, at: u64) -> u64 {
        let first = self.both.0.partition_point(|span| span.1 <= at);
        let spins = !self.spin.1.0.is_empty();
        let mut free = at;
        for (start, end) in &self.both.0[first..] {
            let catching_up = if spins { (free - at) / CATCHING_UP } else { 0 };
            let gap_ns = if free == at { 0 } else { GAP_NS + catching_up };
            if *start > free + gap_ns {
                break;
            }
            free = *end;
        }
        free
    }

    /// What its causes take of an interval, less the time in which another end is what matters.
    fn take(&self, start: u64, end: u64, but: &Spans, causes: &mut PerCause<u64>) {
        let here = Spans(if start < end { vec![(start, end)] } else { Vec::new() }).without(but);
        for (cause, spans) in [&self.hog, &self.spin] {
            let each = here.0.iter().map(|(start, end)| spans.overlap(*start, *end));
            causes[*cause] += each.sum::<u64>();
        }
    }
}

/// The truth of a run, ready to be asked.
pub(super) struct Told {
    server: End,
    client: End,
    drops: HashMap<String, Vec<u64>>,
    holds: HashMap<String, Spans>,
}

impl Told {
    pub(super) fn new(lines: &[TruthRow], places: Places) -> Self {
        let of = |kind: &str, cpu: Option<usize>| {
            let lines =
                lines.iter().filter(|it| it.kind == kind && (cpu.is_none() || it.cpu == cpu));
            Spans::new(lines.filter_map(|it| Some((it.t, it.end_ns?))).collect())
        };
        let end = |cpu, runqueue, spinning, busy| {
            End::new((runqueue, of("hog", Some(cpu))), (busy, of(spinning, None)))
        };
        let Places { server_cpu, client_cpu } = places;
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
            server: end(server_cpu, Cause::ServerRunqueue, "slow_handler", Cause::ServerBusy),
            client: end(client_cpu, Cause::ClientRunqueue, "slow_client", Cause::ClientBusy),
            drops,
            holds: held.into_iter().map(|(flow, spans)| (flow, Spans::new(spans))).collect(),
        }
    }

    /// What each cause took of a request, in nanoseconds.
    fn of_request(&self, slow: &SlowRequest) -> PerCause<u64> {
        let mut causes = PerCause::default();
        let (start, end) = (slow.due_ns, slow.due_ns + slow.latency_us * 1000);
        let lost = self
            .drops
            .get(&slow.from)
            .is_some_and(|drops| drops.iter().any(|at| (start..end).contains(at)));
        if lost {
            // What it waited for was the retransmission, whatever else happened meanwhile.
            causes[Cause::NetworkLoss] = end - start;
            return causes;
        }
        // While its packet was held back, neither end had the request to be slow with.
        let held = self.holds.get(&slow.from);
        causes[Cause::NetworkDelay] = held.map_or(0, |held| held.overlap(start, end));
        let sent = (start + slow.send_lag_us * 1000).min(end);
        let answered = self.server.free_from(sent).min(end);
        let mut take = |at: &End, from, until, elsewhere: Option<&End>| {
            let elsewhere = elsewhere.map(|it| it.both.0.as_slice()).unwrap_or_default();
            let held = held.map(|held| held.0.as_slice()).unwrap_or_default();
            let but = Spans::new([elsewhere, held].concat());
            at.take(from, until, &but, &mut causes);
        };
        take(&self.client, start, sent, None);
        take(&self.server, sent, answered, None);
        take(&self.client, sent, answered, Some(&self.server));
        take(&self.client, answered, end, None);
        take(&self.server, answered, end, Some(&self.client));
        causes
    }

    /// The share of each cause among requests that took at least so long; `None` when no fault
    /// touched any of them.
    pub(super) fn shares(&self, slow: &[SlowRequest], from_us: u64) -> Option<PerCause<f64>> {
        let mut sums = PerCause::<u64>::default();
        for line in slow.iter().filter(|line| line.latency_us >= from_us) {
            sums += self.of_request(line);
        }
        let all: u64 = sums.values().sum();
        (all > 0).then(|| sums.map(|sum| sum as f64 / all as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, t: u64, end_ns: Option<u64>, cpu: usize, flow: Option<&str>) -> TruthRow {
        TruthRow { kind: kind.to_owned(), t, end_ns, cpu: Some(cpu), flow: flow.map(str::to_owned) }
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
        let slow = |due_ns, latency_us, from: &str| SlowRequest {
            due_ns,
            latency_us,
            send_lag_us: 0,
            from: from.into(),
        };
        // 3 ms behind the hog and 1 of the spin, of which the hog took the other one.
        let one = told.shares(&[slow(1_000_000, 4_000, "c")], 1_000).expect("touched");
        assert!((one[Cause::ServerRunqueue] - 0.75).abs() < 1e-9, "{one:?}");
        assert!((one[Cause::ServerBusy] - 0.25).abs() < 1e-9, "{one:?}");
        let lost = told.shares(&[slow(8_000_000, 200_000, "a")], 1_000).expect("touched");
        assert_eq!(lost[Cause::NetworkLoss], 1.0);
        let held = told.shares(&[slow(19_000_000, 5_000, "b")], 1_000).expect("touched");
        assert_eq!(held[Cause::NetworkDelay], 1.0);
        assert_eq!(told.shares(&[slow(1_000_000, 4_000, "c")], 5_000), None);
    }

    #[test]
    fn a_request_waits_only_where_it_is() {
        let places = Places { server_cpu: 0, client_cpu: 1 };
        let ms = 1_000_000;
        let lines = [
            line("slow_client", 10 * ms, Some(20 * ms), 1, None),
            line("hog", 12 * ms, Some(18 * ms), 0, None),
            line("hog", 18 * ms + 10_000, Some(25 * ms), 0, None),
            line("slow_client", 22 * ms, Some(30 * ms), 1, None),
        ];
        let told = Told::new(&lines, places);
        // With the client until 20, with the server until 25, with the client until 30.
        let line_of = |due_ns, send_lag_us, latency_us| SlowRequest {
            due_ns,
            latency_us,
            send_lag_us,
            from: "a".to_owned(),
        };
        let request = line_of(11 * ms, 9_000, 19_000);
        let causes = told.of_request(&request);
        assert_eq!(causes[Cause::ClientBusy], 14 * ms);
        assert_eq!(causes[Cause::ServerRunqueue], 5 * ms);
        // One that was answered before anything began waits for the client, as long as that spins.
        let request = line_of(9 * ms, 0, 14_000);
        let causes = told.of_request(&request);
        assert_eq!(causes[Cause::ServerRunqueue], 2 * ms);
        assert_eq!(causes[Cause::ClientBusy], 11 * ms);
    }
}
