//! The slowest requests of a second, as records.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use ebpf::{Request, ServerSide};
use serde::{Deserialize, Serialize};

use crate::causes::{BeforeSend, Cause, Explained, explain};
use crate::witness::{SeenThread, Witness};

/// Records of a second and shard unless told otherwise: the worst are kept, so that a bad second
/// costs no more to record than a good one.
pub const KEPT: usize = 8;

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
    /// What the kernel saw of it; null when nobody looked, or when it saw nothing.
    pub seen: Option<Seen>,
    /// What is needed to join it with the server's end, when that is on another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half: Option<Half>,
}

/// The client's end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Half {
    /// What the client's kernel saw.
    pub request: Request,
    /// What the client's thread did before it sent it.
    pub before: BeforeSend,
}

impl SlowRequest {
    /// Joins it with the server's end of it, by what its time is then explained once more.
    pub fn join(&mut self, side: &ServerSide) {
        let (Some(half), Some(seen)) = (self.half.take(), &mut self.seen) else { return };
        let request = half.request.with_server_side(side);
        let latency_ns = self.latency_us * 1000;
        let explained = explain(self.due_ns, latency_ns, Some(&request), half.before);
        let due_ns = self.due_ns;
        seen.explain_with(due_ns, &request, &explained);
    }
}

/// A slow request as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// T1 to T6 as offsets from T0, the instant at which it was due, in microseconds.
    pub instants_us: [Option<i64>; 6],
    /// Network, server wait, server service and client receive lag, in microseconds; null when an
    /// instant is missing.
    pub segments_us: Option<[u64; 4]>,
    /// Its time by cause, in microseconds.
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
    /// Who held the client's CPU during that thread's last long wait.
    pub client_held_by: Option<String>,
    /// Who held the server's.
    pub server_held_by: Option<String>,
}

impl Seen {
    /// Puts a record together.
    pub fn of(
        due_ns: u64,
        request: &Request,
        explained: &Explained,
        witness: &dyn Witness,
    ) -> Self {
        let [client, server] =
            [request.client_slot, request.server_slot].map(|slot| witness.thread(slot));
        let held_by = |thread: &Option<SeenThread>| thread.as_ref()?.held_by.clone();
        Self {
            instants_us: instants_us(due_ns, request),
            segments_us: explained.segments.map(|it| it.map(|ns| ns / 1000)),
            causes_us: causes_us(explained),
            blamed: explained.dominant(),
            losses: request.losses,
            mixed: request.mixed,
            client_held_by: held_by(&client),
            server_held_by: held_by(&server),
            client_thread: client.map(|thread| thread.tid),
            server_thread: server.map(|thread| thread.tid),
        }
    }

    /// Takes another explanation in the place of what there is.
    fn explain_with(&mut self, due_ns: u64, request: &Request, explained: &Explained) {
        self.instants_us = instants_us(due_ns, request);
        self.segments_us = explained.segments.map(|it| it.map(|ns| ns / 1000));
        self.causes_us = causes_us(explained);
        self.blamed = explained.dominant();
    }
}

fn instants_us(due_ns: u64, request: &Request) -> [Option<i64>; 6] {
    let offset_us = |ns: u64| ns.wrapping_sub(due_ns).cast_signed() / 1000;
    request.instants_ns().map(|ns| ns.map(offset_us))
}

fn causes_us(explained: &Explained) -> BTreeMap<Cause, u64> {
    Cause::ALL.into_iter().zip(explained.causes.map(|ns| ns / 1000)).collect()
}

/// The slowest requests of the second under way.
#[derive(Debug)]
pub struct Slow {
    /// With what the kernel saw of each; the record of that is made when it is taken, since in a
    /// stall every request is slower than the ones before and takes the place of one of them.
    kept: Vec<(SlowRequest, Option<(Request, Explained)>)>,
    most: usize,
    /// Once all places are taken, the latency of the fastest kept, in nanoseconds.
    least_ns: u64,
}

impl Slow {
    /// Keeps so many of a second.
    pub fn new(most: usize) -> Self {
        Self { kept: Vec::with_capacity(most), most, least_ns: 0 }
    }

    /// Whether a request with this latency would be kept.
    pub fn wants(&self, latency_ns: u64) -> bool {
        self.most > 0 && latency_ns >= SLOW_NS && latency_ns > self.least_ns
    }

    /// Keeps a request in the place of a faster one.
    pub fn enter(&mut self, request: SlowRequest, seen: Option<(Request, Explained)>) {
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

    /// The requests kept; the next second begins with none.
    pub fn take(&mut self, witness: Option<&dyn Witness>) -> Vec<SlowRequest> {
        self.least_ns = 0;
        let with_seen = |(request, seen): (SlowRequest, Option<(Request, Explained)>)| {
            let seen = seen.zip(witness).map(|((kernel, explained), witness)| {
                Seen::of(request.due_ns, &kernel, &explained, witness)
            });
            SlowRequest { seen, ..request }
        };
        self.kept.drain(..).map(with_seen).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_kept() {
        let mut slow = Slow::new(KEPT);
        for latency_us in (0..100).map(|n| 500 + n * 37 % 100 * 100) {
            let request = SlowRequest {
                user: 1,
                from: "127.0.0.1:1".parse().unwrap(),
                phase: 0,
                due_ns: 0,
                send_lag_us: 0,
                latency_us,
                seen: None,
                half: None,
            };
            if slow.wants(latency_us * 1000) {
                slow.enter(request, None);
            }
        }
        let mut kept: Vec<_> = slow.take(None).iter().map(|request| request.latency_us).collect();
        kept.sort_unstable();
        assert_eq!(kept, (92..100).map(|n| 500 + n * 100).collect::<Vec<_>>());
        assert!(!slow.wants(999_999) && slow.wants(1_000_000));
    }
}
