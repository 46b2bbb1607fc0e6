//! Slow requests of a fleet, of which each kernel saw one end: the client names them by connection
//! and sequence number, the server's host looks them up, and they are recorded when it has
//! answered, or without it after a while.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use ebpf::ServerSide;
use lab_client::slow::SlowRequest;
use serde::{Deserialize, Serialize};

use crate::fleet::protocol::What;

use super::Run;
use super::child::Who;

/// An answer of the server's host is waited for so many seconds.
const WAIT_S: u64 = 4;

/// The slow requests of a second of a client that wait for the server's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    t: u64,
    client: u32,
    requests: Vec<SlowRequest>,
    /// When they were heard of.
    since: u64,
}

/// What waits to be joined, by number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Joining {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
}

impl Joining {
    /// The halves among some requests.
    fn halves(requests: &[SlowRequest]) -> Vec<(SocketAddrV4, u32)> {
        let halves = requests.iter().filter_map(|it| Some((it.from, it.half?.request.sequence)));
        halves.collect()
    }

    /// Puts the server's ends to the requests with a number; `None` when nobody waits for them.
    fn joined(&mut self, number: u64, sides: &[Option<ServerSide>]) -> Option<Waiting> {
        let mut waiting = self.waiting.remove(&number)?;
        let halves = waiting.requests.iter_mut().filter(|it| it.half.is_some());
        for (request, side) in halves.zip(sides) {
            if let Some(side) = side {
                request.join(side);
            }
        }
        Some(waiting)
    }
}

impl Run {
    /// Records slow requests, or has the server's host look for its end of them first.
    pub(super) fn slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
    ) -> anyhow::Result<()> {
        let halves = Joining::halves(&requests);
        let since = self.now();
        if let Some(fleet) = &mut self.fleet
            && !halves.is_empty()
        {
            fleet.joining.last += 1;
            let number = fleet.joining.last;
            fleet.joining.waiting.insert(number, Waiting { t, client, requests, since });
            let server = &fleet.hosts.assignment.server;
            fleet.link.orders(server).give(What::Look { number, requests: halves });
            return Ok(());
        }
        self.record_slow(t, client, requests)
    }

    /// The server's host has looked.
    pub(super) fn looked(
        &mut self,
        number: u64,
        sides: &[Option<ServerSide>],
    ) -> anyhow::Result<()> {
        let joined = self.fleet.as_mut().and_then(|fleet| fleet.joining.joined(number, sides));
        let Some(Waiting { t, client, requests, .. }) = joined else { return Ok(()) };
        self.record_slow(t, client, requests)
    }

    /// Records what has waited for too long; with `all` everything.
    pub(super) fn record_waiting(&mut self, all: bool) -> anyhow::Result<()> {
        let now = self.now();
        loop {
            let Some(fleet) = &mut self.fleet else { return Ok(()) };
            let oldest = fleet.joining.waiting.first_entry();
            let Some(entry) = oldest.filter(|it| all || it.get().since + WAIT_S < now) else {
                return Ok(());
            };
            let Waiting { t, client, requests, .. } = entry.remove();
            self.record_slow(t, client, requests)?;
        }
    }

    fn record_slow(
        &mut self,
        t: u64,
        client: u32,
        requests: Vec<SlowRequest>,
    ) -> anyhow::Result<()> {
        for request in requests {
            let mut request = serde_json::to_value(SlowRequest { half: None, ..request })?;
            request["client"] = client.into();
            for (key, host) in self.host_of(Who::Client(client)) {
                request[key] = host;
            }
            self.files.slow(t, &request)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lab_client::causes::{BeforeSend, Cause, Explained};
    use lab_client::slow::{Half, Seen};

    use super::*;

    fn request(sequence: u32, half: bool) -> SlowRequest {
        let request = ebpf::Request {
            sequence,
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
        struct Nobody;
        impl lab_client::witness::Witness for Nobody {
            fn looks_at(&self, _: SocketAddrV4, _: u64) -> bool {
                true
            }
            fn prepare(&self, _: SocketAddrV4) {}
            fn request(&self, _: SocketAddrV4, _: u64) -> Option<ebpf::Request> {
                None
            }
            fn waited(&self, _: &ebpf::Request, _: u64, _: u64) -> ebpf::CpuWait {
                ebpf::CpuWait::default()
            }
            fn thread(&self, _: u16) -> Option<lab_client::witness::SeenThread> {
                None
            }
        }
        SlowRequest {
            user: 1,
            from: "10.0.0.1:1".parse().expect("an address"),
            phase: 0,
            due_ns: 1_000_000,
            send_lag_us: 0,
            latency_us: 8_000,
            seen: Some(Seen::of(1_000_000, &request, &Explained::not(8_000_000), &Nobody)),
            half: half.then_some(Half { request, before: BeforeSend::default() }),
        }
    }

    #[test]
    fn ends_are_joined_by_their_place_among_the_halves() {
        let requests = vec![request(1, true), request(2, false), request(3, true)];
        let from = requests[0].from;
        assert_eq!(Joining::halves(&requests), [(from, 1), (from, 3)]);
        let mut joining = Joining::default();
        joining.waiting.insert(5, Waiting { t: 1, client: 0, requests, since: 1 });
        // Another kernel's clock: 6 of the 8 ms passed at the server, 1 of them before it read.
        let side = ServerSide {
            ready_ns: Some(500_000_000),
            read_ns: Some(501_000_000),
            answered_ns: Some(506_000_000),
            wait: Some(ebpf::CpuWait { foreign_ns: 1_000_000, own_ns: 0 }),
            service: Some(ebpf::CpuWait::default()),
        };
        assert!(joining.joined(4, &[]).is_none());
        let joined = joining.joined(5, &[None, Some(side)]).expect("it waits");
        let causes = |place: usize| joined.requests[place].seen.clone().expect("seen").causes_us;
        assert_eq!(causes(0)[&Cause::Unexplained], 8_000);
        assert_eq!(causes(1)[&Cause::Unexplained], 8_000);
        let third = causes(2);
        assert_eq!(third[&Cause::ServerRunqueue], 1_000);
        assert_eq!(third[&Cause::ServerBusy], 5_000);
        assert_eq!(third[&Cause::NetworkDelay], 2_000);
        assert!(joining.joined(5, &[]).is_none(), "once");
    }
}
