//! The slowest requests of a second, as records.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::attribute::{Attributed, attribute};
use crate::causes::Cause;
use crate::join::ServerSide;
use crate::request::Request;
use crate::sampled::ClientSide;
use crate::segments::PerSegment;

/// Faster requests are never recorded.
const SLOW_NS: u64 = 1_000_000;

/// A slow request, as the client alone sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowRequest {
    /// Who shook.
    pub user: u32,
    /// The client's end of the connection.
    pub from: SocketAddrV4,
    /// The phase in which it was due.
    pub phase: u16,
    /// When it was due, on the monotonic clock in nanoseconds.
    pub due_ns: u64,
    /// How late it left, in microseconds.
    pub send_lag_us: u64,
    /// From the intended instant to the answer, in microseconds.
    pub latency_us: u64,
    /// What the kernel saw of it; null without probes, or when they saw nothing of it.
    #[serde(rename = "seen")]
    pub trace: Option<Trace>,
    /// What is needed to join it with the server's end, when that is on another host.
    #[serde(rename = "half", default, skip_serializing_if = "Option::is_none")]
    pub client_side: Option<ClientSide>,
}

impl SlowRequest {
    /// Joins it with the server's end of it, and attributes its time once more.
    pub fn join(&mut self, side: &ServerSide) {
        let (Some(half), Some(trace)) = (self.client_side.take(), &mut self.trace) else { return };
        let request = half.request.with_server_side(side);
        let latency_ns = self.latency_us * 1000;
        let evidence = half.evidence.with_server_side(side);
        let attributed = attribute(self.due_ns, latency_ns, Some(&request), &evidence);
        trace.set_times(self.due_ns, &request, &attributed);
    }
}

/// A thread, for the record of a slow request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedThread {
    /// Its number.
    pub tid: u32,
    /// Who else had its CPU meanwhile, the longest first.
    pub turns: Vec<Turn>,
}

/// How long a program had a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The name of its thread.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// The end of the run that it belongs to; `None` for every other program.
    pub of: Option<End>,
    /// How long.
    pub ns: u64,
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

/// Who had the CPU that a request waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The end whose thread waited.
    pub end: End,
    /// The name of the thread that had the CPU.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// The end of the same run that it belongs to; null for every other program.
    #[serde(default)]
    pub of: Option<End>,
    /// For how much of the wait, in microseconds.
    pub us: u64,
}

/// A slow request as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// T1 to T6 as offsets from T0, the instant at which it was due, in microseconds.
    pub instants_us: [Option<i64>; 6],
    /// Network, server wait, server service and client receive lag, in microseconds; null when an
    /// instant is missing.
    pub segments_us: Option<PerSegment<u64>>,
    /// Its time by cause, in microseconds; a cause that took nothing may be missing.
    pub causes_us: BTreeMap<Cause, u64>,
    /// The cause that took most.
    pub blamed: Cause,
    /// Retransmissions and drops of the connection meanwhile.
    pub losses: u32,
    /// Whether another frame was in its way, which leaves it out of the shares.
    pub mixed: bool,
    /// The client's thread.
    pub client_thread: Option<u32>,
    /// The server's thread.
    pub server_thread: Option<u32>,
    /// Who had the client's CPU longest while the client had to act.
    pub client_held_by: Option<String>,
    /// The same at the server.
    pub server_held_by: Option<String>,
    /// Who had the CPUs during its waits, the longest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// The process of `client_held_by`.
    #[serde(default)]
    pub client_holder_pid: Option<u32>,
    /// The process of `server_held_by`.
    #[serde(default)]
    pub server_holder_pid: Option<u32>,
}

impl Trace {
    /// Puts a record together; `thread` knows the thread behind a slot of the request, and who else
    /// had its CPU between two instants.
    pub fn new(
        due_ns: u64,
        request: &Request,
        attributed: &Attributed,
        thread: impl Fn(u16, u64, u64) -> Option<TracedThread>,
    ) -> Self {
        let (from_ns, to_ns) = client_acts(due_ns, request);
        let client = thread(request.client_slot, from_ns, to_ns);
        let ready_ns = request.server_ready_ns.unwrap_or_default();
        let done_ns = request.answered_ns.or(request.ready_ns).unwrap_or(u64::MAX);
        let server = thread(request.server_slot, ready_ns, done_ns);
        let held_by =
            |thread: &Option<TracedThread>| Some(thread.as_ref()?.turns.first()?.name.clone());
        let holder_pid = |thread: &Option<TracedThread>| Some(thread.as_ref()?.turns.first()?.pid);
        let mut trace = Self {
            instants_us: [None; 6],
            segments_us: None,
            causes_us: BTreeMap::new(),
            blamed: Cause::Unexplained,
            losses: request.losses,
            mixed: request.mixed,
            client_held_by: held_by(&client),
            server_held_by: held_by(&server),
            holders: holders([(End::Client, &client), (End::Server, &server)]),
            client_holder_pid: holder_pid(&client),
            server_holder_pid: holder_pid(&server),
            client_thread: client.map(|thread| thread.tid),
            server_thread: server.map(|thread| thread.tid),
        };
        trace.set_times(due_ns, request, attributed);
        trace
    }

    /// Enters what depends on the instants of both ends.
    fn set_times(&mut self, due_ns: u64, request: &Request, attributed: &Attributed) {
        self.instants_us = instants_us(due_ns, request);
        self.segments_us = attributed.segments_ns.map(|segments| segments.map(|ns| ns / 1000));
        self.causes_us = attributed.causes_ns.map(|ns| ns / 1000).named().collect();
        self.blamed = attributed.dominant();
    }
}

/// When the client's thread had to act: before the send or at the end, whichever took longer.
fn client_acts(due_ns: u64, request: &Request) -> (u64, u64) {
    let lag = (due_ns, request.sent_ns.max(due_ns));
    match (request.ready_ns, request.read_ns) {
        (Some(ready_ns), Some(read_ns)) if read_ns.saturating_sub(ready_ns) > lag.1 - lag.0 => {
            (ready_ns, read_ns)
        }
        _ => lag,
    }
}

/// Holders of a record: those beyond had the CPU for less than any of these.
const MOST_HOLDERS: usize = 4;

/// Who had the CPUs of both threads, the longest first.
fn holders(threads: [(End, &Option<TracedThread>); 2]) -> Vec<Holder> {
    let turns = threads
        .into_iter()
        .filter_map(|(end, thread)| Some((end, thread.as_ref()?)))
        .flat_map(|(end, thread)| thread.turns.iter().map(move |turn| (end, turn)));
    let mut holders: Vec<Holder> = turns
        .map(|(end, turn)| {
            let Turn { name, pid, of, ns } = turn.clone();
            Holder { end, name, pid, of, us: ns / 1000 }
        })
        .collect();
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.us));
    holders.truncate(MOST_HOLDERS);
    holders
}

fn instants_us(due_ns: u64, request: &Request) -> [Option<i64>; 6] {
    let offset_us = |ns: u64| ns.wrapping_sub(due_ns).cast_signed() / 1000;
    request.instants_ns().map(|ns| ns.map(offset_us))
}

/// A request with what the kernel saw of it. Its [`Trace`] is made when the second ends, since in
/// a stall every request is slower than the ones before and takes the place of one of them.
type Kept = (SlowRequest, Option<(Request, Attributed)>);

/// The slowest requests of the second under way.
#[derive(Debug)]
pub struct Slowest {
    kept: Vec<Kept>,
    most: usize,
    /// Once all places are taken, the latency of the fastest kept, in nanoseconds.
    least_ns: u64,
}

impl Slowest {
    /// Keeps so many of a second.
    pub fn new(most: usize) -> Self {
        Self { kept: Vec::with_capacity(most), most, least_ns: 0 }
    }

    /// Whether a request with this latency would be kept.
    #[inline]
    pub fn wants(&self, latency_ns: u64) -> bool {
        self.most > 0 && latency_ns >= SLOW_NS && latency_ns > self.least_ns
    }

    /// Keeps a request in the place of a faster one.
    pub fn enter(&mut self, request: SlowRequest, seen: Option<(Request, Attributed)>) {
        if self.kept.len() < self.most {
            self.kept.push((request, seen));
        } else if let Some(fastest) = self.kept.iter_mut().min_by_key(|kept| kept.0.latency_us) {
            *fastest = (request, seen);
        }
        if self.kept.len() == self.most {
            let least_us = self.kept.iter().map(|kept| kept.0.latency_us).min();
            self.least_ns = least_us.unwrap_or_default() * 1000;
        }
    }

    /// The requests kept; the next second begins with none. `thread` knows the threads behind
    /// slots.
    pub fn take(
        &mut self,
        thread: impl Fn(u16, u64, u64) -> Option<TracedThread>,
    ) -> Vec<SlowRequest> {
        self.least_ns = 0;
        let with_trace = |(request, seen): Kept| {
            let trace = seen.map(|(kernel, attributed)| {
                Trace::new(request.due_ns, &kernel, &attributed, &thread)
            });
            SlowRequest { trace, ..request }
        };
        self.kept.drain(..).map(with_trace).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_kept() {
        let mut slow = Slowest::new(8);
        for latency_us in (0..100).map(|n| 500 + n * 37 % 100 * 100) {
            let request = SlowRequest {
                user: 1,
                from: "127.0.0.1:1".parse().unwrap(),
                phase: 0,
                due_ns: 0,
                send_lag_us: 0,
                latency_us,
                trace: None,
                client_side: None,
            };
            if slow.wants(latency_us * 1000) {
                slow.enter(request, None);
            }
        }
        let mut kept: Vec<_> =
            slow.take(|_, _, _| None).iter().map(|request| request.latency_us).collect();
        kept.sort_unstable();
        assert_eq!(kept, (92..100).map(|n| 500 + n * 100).collect::<Vec<_>>());
        assert!(!slow.wants(999_999) && slow.wants(1_000_000));
    }
}
