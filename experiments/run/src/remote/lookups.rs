//! Requests of a fleet, of which each kernel saw one end.
//!
//! The client names them by connection and sequence number, and the server's host looks them up.
//! They are recorded when it has answered, or without its end after a while. There are two kinds:
//! the slow ones, for their records, and a sample of all, from which the phase's causes and
//! segments come.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use attribution::{
    CauseRecorder, Sampled, SegmentRecorder, ServerSide, SlowRequest, record_joined,
};
use fleet::protocol::What;
use serde::{Deserialize, Serialize};

use crate::records::{CausesOf, Records};

/// How long an answer of the server's host is waited for, in seconds.
const WAIT_S: u64 = 4;

/// Requests in one lookup: the answer, 300 bytes each, is one message.
const MOST_REQUESTS: usize = 512;

/// Requests that wait for the server's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Requests {
    /// Records of slow ones.
    Slow(Vec<SlowRequest>),
    /// Some of the sample.
    Sampled(Vec<Sampled>),
}

impl Requests {
    /// The client's end of the connection and the first byte of each that is to be looked up.
    fn names(&self) -> Vec<(SocketAddrV4, u32)> {
        match self {
            Self::Slow(all) => {
                let name =
                    |slow: &SlowRequest| Some((slow.from, slow.client_side?.request.sequence));
                all.iter().filter_map(name).collect()
            }
            Self::Sampled(all) => {
                all.iter().map(|it| (it.from, it.client_side.request.sequence)).collect()
            }
        }
    }
}

/// Requests of a second of a client that wait for the server's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lookup {
    t: u64,
    client: u32,
    requests: Requests,
    /// The Unix second at which the client told of them.
    since: u64,
}

/// Lookups that the server's host has not answered, by number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Lookups {
    waiting: BTreeMap<u64, Lookup>,
    /// The number of the last one.
    last: u64,
}

impl Lookups {
    /// Has slow requests of a second of a client looked up: what to ask the server's host.
    pub(super) fn add_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
        now: u64,
    ) -> What {
        self.add(Lookup { t, client, requests: Requests::Slow(requests), since: now })
    }

    /// Has requests of the sample looked up: what to ask the server's host, in so many lookups.
    pub(super) fn add_sampled(
        &mut self,
        t: u64,
        client: u32,
        requests: &[Sampled],
        now: u64,
    ) -> Vec<What> {
        let lookup = |some: &[Sampled]| Lookup {
            t,
            client,
            requests: Requests::Sampled(some.to_vec()),
            since: now,
        };
        requests.chunks(MOST_REQUESTS).map(|some| self.add(lookup(some))).collect()
    }

    fn add(&mut self, lookup: Lookup) -> What {
        self.last = self.last.saturating_add(1);
        let (number, requests) = (self.last, lookup.requests.names());
        self.waiting.insert(number, lookup);
        What::Look { number, requests }
    }

    /// The lookup that is answered, unless it was recorded already.
    pub(super) fn take(&mut self, number: u64) -> Option<Lookup> {
        self.waiting.remove(&number)
    }

    /// Nobody could answer for so many seconds.
    pub(super) fn put_off(&mut self, seconds: u64) {
        self.waiting.values_mut().for_each(|lookup| {
            lookup.since = lookup.since.saturating_add(seconds);
        });
    }

    /// The oldest lookup that has waited for too long.
    pub(super) fn take_old(&mut self, now: u64) -> Option<Lookup> {
        let oldest = self.waiting.first_entry()?;
        (oldest.get().since.saturating_add(WAIT_S) < now).then(|| oldest.remove())
    }

    /// The oldest lookup.
    pub(super) fn take_any(&mut self) -> Option<Lookup> {
        self.waiting.pop_first().map(|(_, lookup)| lookup)
    }
}

impl Lookup {
    /// Whose requests they are.
    pub(super) fn client(&self) -> u32 {
        self.client
    }

    /// Records requests with the server's end of each, as far as it was found; without any if it
    /// was not looked for.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn record(
        self,
        sides: Option<&[Option<ServerSide>]>,
        host: Option<&str>,
        records: &mut Records,
    ) -> anyhow::Result<()> {
        let Self { t, client, requests, .. } = self;
        match requests {
            Requests::Slow(mut requests) => {
                join(&mut requests, sides.unwrap_or_default());
                records.slow(t, host, client, requests)
            }
            Requests::Sampled(requests) => {
                let (mut causes, mut recorder) =
                    (CauseRecorder::default(), SegmentRecorder::default());
                record_joined(&requests, sides, &mut causes, &mut recorder);
                for (phase, rows) in causes.take() {
                    records.causes(CausesOf { t, host, client, shard: None, phase }, &rows)?;
                }
                for filled in recorder.take() {
                    let seconds = &mut records.seconds;
                    seconds.histogram(t, filled.phase, filled.segment, &filled.values);
                }
                Ok(())
            }
        }
    }
}

/// Puts the server's ends to the slow requests that wait for them.
fn join(requests: &mut [SlowRequest], sides: &[Option<ServerSide>]) {
    let halves = requests.iter_mut().filter(|it| it.client_side.is_some());
    for (request, side) in halves.zip(sides) {
        if let Some(side) = side {
            request.join(side);
        }
    }
}

#[cfg(test)]
mod tests {
    use attribution::{Attributed, Cause, ClientSide, Doing, Evidence, Request, Spent, Trace};

    use super::*;

    fn request(sequence: u32, half: bool) -> SlowRequest {
        let request = Request {
            sequence,
            end: sequence + 20,
            answer: 90,
            sent_ns: 1_000_000,
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: Some(9_000_000),
            read_ns: Some(9_000_000),
            losses: 0,
            mixed: false,
            beside: false,
            unread_ns: None,
            client_slot: 0,
            server_slot: 0,
        };
        SlowRequest {
            user: 1,
            from: "10.0.0.1:1".parse().expect("an address"),
            phase: 0,
            due_ns: 1_000_000,
            send_lag_us: 0,
            latency_us: 8_000,
            trace: Some(Trace::new(
                1_000_000,
                &request,
                &Attributed::unexplained(8_000_000),
                |_, _, _| None,
            )),
            client_side: half.then_some(ClientSide { request, evidence: Evidence::default() }),
        }
    }

    #[test]
    fn ends_are_joined_by_their_place_among_the_halves() {
        let requests = vec![request(1, true), request(2, false), request(3, true)];
        let from = requests[0].from;
        let mut waiting = Requests::Slow(requests);
        assert_eq!(waiting.names(), [(from, 1), (from, 3)]);
        // Another kernel's clock: 6 of the 8 ms passed at the server, 1 of them before it read.
        let side = ServerSide {
            ready_ns: Some(500_000_000),
            read_ns: Some(501_000_000),
            answered_ns: Some(506_000_000),
            end: 23,
            answer: 90,
            wait: Spent::all(Doing::WaitOther, 1_000_000),
            service: Spent::all(Doing::Run, 5_000_000),
        };
        let Requests::Slow(requests) = &mut waiting else { unreachable!() };
        join(requests, &[]);
        assert!(requests[2].client_side.is_some(), "no host has looked");
        join(requests, &[None, Some(side)]);
        let causes = |place: usize| requests[place].trace.clone().expect("a trace").causes_us;
        assert_eq!(causes(0)[&Cause::Unexplained], 8_000);
        assert_eq!(causes(1)[&Cause::Unexplained], 8_000);
        let third = causes(2);
        assert_eq!(third[&Cause::ServerRunqueue], 1_000);
        assert_eq!(third[&Cause::ServerBusy], 5_000);
        assert_eq!(third[&Cause::NetworkDelay], 2_000);
    }
}
