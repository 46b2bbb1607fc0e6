//! The two ends of a request that ran on two hosts, joined by connection and sequence number: each
//! kernel has stamped its own end on its own clock, and only differences of one clock are taken.
//!
//! The entry of a connection keeps the server's end of its latest request until the next one
//! comes, which is the ring of the last seconds that the join needs.

use std::net::SocketAddrV4;

use events::server;
use serde::{Deserialize, Serialize};

use crate::flows::{CpuWait, FlowTable, Request};

/// The server's end of a request, on the monotonic clock of the server's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSide {
    /// T2: ready at the server.
    pub ready_ns: Option<u64>,
    /// T3: read by the server.
    pub read_ns: Option<u64>,
    /// T4: the server's send began.
    pub answered_ns: Option<u64>,
    /// Waiting for a CPU from T2 to T3.
    pub wait: Option<CpuWait>,
    /// The same from T3 to T4.
    pub service: Option<CpuWait>,
}

impl FlowTable {
    /// The server's end of the request of a connection whose first byte has this number; `None`
    /// when it was not seen, or a later request has taken its place.
    pub fn server_side(&self, client: SocketAddrV4, sequence: u32) -> Option<ServerSide> {
        let it = self.entry(client)?.server;
        if it.sequence != sequence || it.flags & server::READ == 0 {
            return None;
        }
        let has = |bit: u16| it.flags & bit != 0;
        let wait = |bit: u16, foreign: u32, own: u32| {
            has(bit).then_some(CpuWait { foreign_ns: foreign.into(), own_ns: own.into() })
        };
        Some(ServerSide {
            ready_ns: has(server::READY).then_some(it.ready_ns),
            read_ns: Some(it.read_ns),
            answered_ns: has(server::ANSWERED).then_some(it.answered_ns),
            wait: wait(server::WAIT_SPLIT, it.wait_foreign, it.wait_own),
            service: wait(server::SERVICE_SPLIT, it.service_foreign, it.service_own),
        })
    }
}

impl Request {
    /// Whether only the client's end was seen.
    pub fn is_half(&self) -> bool {
        [self.server_ready_ns, self.server_read_ns, self.answered_ns].iter().all(Option::is_none)
    }

    /// The request with the server's end of it, in which half of the time on the way is taken to
    /// have passed before T2: where on the way cannot be told without a shared clock, and no
    /// segment depends on it.
    pub fn with_server_side(self, side: &ServerSide) -> Self {
        let (Some(t2), Some(t4), Some(t5)) = (side.ready_ns, side.answered_ns, self.ready_ns)
        else {
            return self;
        };
        let way = t5.wrapping_sub(self.sent_ns).wrapping_sub(t4.wrapping_sub(t2)).cast_signed();
        let ours = self.sent_ns.saturating_add_signed(way / 2);
        let moved = |ns: u64| ours.wrapping_add(ns.wrapping_sub(t2));
        Self {
            server_ready_ns: Some(ours),
            server_read_ns: side.read_ns.map(moved),
            answered_ns: Some(moved(t4)),
            server_wait: side.wait,
            server_service: side.service,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_segment_depends_on_the_other_hosts_clock() {
        let half = Request {
            sequence: 7,
            sent_ns: 1_000,
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: Some(1_900),
            read_ns: Some(2_000),
            server_wait: None,
            server_service: None,
            client_receive: None,
            losses: 0,
            mixed: false,
            client_slot: 1,
            server_slot: 0,
            sent_totals: None,
            ready_totals: None,
        };
        assert!(half.is_half() && half.segments().is_none());
        for clock in [0, 5_000_000, u64::MAX - 200] {
            let at = |ns: u64| Some(clock.wrapping_add(ns));
            let (ready_ns, read_ns, answered_ns) = (at(100), at(250), at(600));
            let side = ServerSide { ready_ns, read_ns, answered_ns, wait: None, service: None };
            let whole = half.with_server_side(&side);
            let it = whole.segments().expect("all instants");
            // 900 ns away from the client, 500 of them at the server.
            assert_eq!((it.network_ns, it.server_wait_ns, it.server_service_ns), (400, 150, 350));
            assert_eq!(it.client_receive_lag_ns, 100);
            assert_eq!(whole.server_ready_ns, Some(1_200));
        }
        let unanswered = ServerSide {
            ready_ns: Some(1),
            read_ns: Some(2),
            answered_ns: None,
            wait: None,
            service: None,
        };
        assert_eq!(half.with_server_side(&unanswered), half);
    }
}
