//! Requests of a fleet, of which each kernel saw one end: the client names them by connection and
//! sequence number, the server's host looks them up, and they are recorded when it has answered, or
//! without it after a while. Two kinds: the slow ones, for their records, and a sample of all, from
//! which the phase's causes and segments come.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use attribution::{
    CauseRecorder, CauseRows, Sampled, SegmentRecorder, ServerSide, SlowRequest, record_joined,
};
use serde::{Deserialize, Serialize};

use fleet::protocol::What;

use crate::Run;
use host::program::Who;

/// An answer of the server's host is waited for so many seconds.
const WAIT_S: u64 = 4;

/// Requests in one question: the answer, 300 bytes each, is one message.
const ASKED: usize = 512;

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
                let name = |it: &SlowRequest| Some((it.from, it.client_side?.request.sequence));
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
pub(crate) struct Waiting {
    t: u64,
    client: u32,
    requests: Requests,
    /// When they were heard of.
    since: u64,
}

/// What waits to be joined, by number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Joining {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

impl Run {
    /// Records slow requests, or has the server's host look for its end of them first.
    pub(crate) fn slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
    ) -> anyhow::Result<()> {
        if self.fleet.is_none() || requests.iter().all(|it| it.client_side.is_none()) {
            return self.record_slow(t, client, requests);
        }
        self.look_up(t, client, Requests::Slow(requests));
        Ok(())
    }

    /// Has the server's host look for its end of requests of the sample.
    pub(crate) fn sampled(&mut self, t: u64, client: u32, requests: &[Sampled]) {
        for some in requests.chunks(ASKED) {
            self.look_up(t, client, Requests::Sampled(some.to_vec()));
        }
    }

    fn look_up(&mut self, t: u64, client: u32, requests: Requests) {
        let since = self.now();
        let Some(fleet) = &mut self.fleet else { return };
        fleet.joining.last += 1;
        let number = fleet.joining.last;
        let what = What::Look { number, requests: requests.names() };
        fleet.joining.waiting.insert(number, Waiting { t, client, requests, since });
        fleet.link.orders(&fleet.hosts.assignment.server).give(what);
    }

    /// The server's host has looked.
    pub(crate) fn looked(
        &mut self,
        number: u64,
        sides: &[Option<ServerSide>],
    ) -> anyhow::Result<()> {
        let waiting = self.fleet.as_mut().and_then(|it| it.joining.waiting.remove(&number));
        waiting.map_or(Ok(()), |waiting| self.record_joined(waiting, Some(sides)))
    }

    /// Records what has waited for too long; with `all` everything.
    pub(crate) fn record_waiting(&mut self, all: bool) -> anyhow::Result<()> {
        let now = self.now();
        loop {
            let Some(fleet) = &mut self.fleet else { return Ok(()) };
            let oldest = fleet.joining.waiting.first_entry();
            let Some(entry) = oldest.filter(|it| all || it.get().since + WAIT_S < now) else {
                return Ok(());
            };
            let waiting = entry.remove();
            self.record_joined(waiting, None)?;
        }
    }

    /// Records requests with the server's end of each, as far as it was found, or without.
    fn record_joined(
        &mut self,
        waiting: Waiting,
        sides: Option<&[Option<ServerSide>]>,
    ) -> anyhow::Result<()> {
        let Waiting { t, client, requests, .. } = waiting;
        match requests {
            Requests::Slow(mut requests) => {
                join(&mut requests, sides.unwrap_or_default());
                self.record_slow(t, client, requests)
            }
            Requests::Sampled(requests) => {
                let (mut causes, mut recorder) =
                    (CauseRecorder::default(), SegmentRecorder::default());
                record_joined(&requests, sides, &mut causes, &mut recorder);
                for (phase, rows) in causes.take() {
                    self.causes(t, client, None, phase, &rows)?;
                }
                for filled in recorder.take() {
                    self.seconds.histogram(t, filled.phase, filled.segment, &filled.values);
                }
                Ok(())
            }
        }
    }

    /// Records why requests of a second of a client took their time: those of a shard, or those
    /// that were joined here.
    pub(crate) fn causes(
        &mut self,
        t: u64,
        client: u32,
        shard: Option<usize>,
        phase: u16,
        rows: &CauseRows,
    ) -> anyhow::Result<()> {
        let mut who = self.host_of(Who::Client(client));
        who.extend([
            ("phase", self.name_of(phase).into()),
            ("client", client.into()),
            ("shard", shard.into()),
        ]);
        let mut line = serde_json::to_value(rows)?;
        line["t"] = t.into();
        Ok(self.files.sample("causes", &who, &line)?)
    }

    fn record_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
    ) -> anyhow::Result<()> {
        for request in requests {
            let mut request = serde_json::to_value(SlowRequest { client_side: None, ..request })?;
            request["client"] = client.into();
            for (key, host) in self.host_of(Who::Client(client)) {
                request[key] = host;
            }
            self.files.slow(t, &request)?;
        }
        Ok(())
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
    use attribution::{Attributed, BeforeSend, Cause, ClientSide, CpuWait, Request, Trace};

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
            server_wait: None,
            server_service: None,
            client_receive: None,
            losses: 0,
            mixed: false,
            client_slot: 0,
            server_slot: 0,
            sent_totals: None,
            ready_totals: None,
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
                |_| None,
            )),
            client_side: half.then_some(ClientSide { request, before: BeforeSend::default() }),
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
            wait: Some(CpuWait { foreign_ns: 1_000_000, own_ns: 0 }),
            service: Some(CpuWait::default()),
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
