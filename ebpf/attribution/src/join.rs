//! The two ends of a request that ran on two hosts, joined by connection and sequence number: each
//! kernel has stamped its own end on its own clock, and only differences of one clock are taken.
//!
//! The sample of requests that are joined is [`events::JOINED_ONE_IN`]: a hash of connection and
//! sequence number, which both ends know, chooses it.

use std::net::SocketAddrV4;

use events::{ServerPart, is_joined, key_v4, request_hash, server};
use serde::{Deserialize, Serialize};

use crate::attribute::Evidence;
use crate::request::Request;
use crate::spent::Spent;

/// The server's end of a request, on the monotonic clock of the server's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSide {
    /// T2: ready at the server.
    pub ready_ns: Option<u64>,
    /// T3: read by the server.
    pub read_ns: Option<u64>,
    /// T4: the server's send began.
    pub answered_ns: Option<u64>,
    /// The first byte of the stream that was not read at T3.
    pub end: u32,
    /// The answer's first byte.
    pub answer: u32,
    /// What its thread did from T2 to T3.
    pub wait: Spent,
    /// The same from T3 to T4.
    pub service: Spent,
}

impl ServerSide {
    /// The end of the request whose first byte has this number; `None` when the server's kernel has
    /// not seen that it was read. `spent` says what the thread of a slot did between two instants.
    pub fn of(
        part: &ServerPart,
        sequence: u32,
        spent: impl Fn(u16, u64, u64) -> Spent,
    ) -> Option<Self> {
        if part.sequence != sequence || part.flags & server::READ == 0 {
            return None;
        }
        let has = |bit: u16| part.flags & bit != 0;
        let from_ready = |ready_ns: u64| spent(part.slot, ready_ns, part.read_ns);
        let to_answer = |answered_ns: u64| spent(part.slot, part.read_ns, answered_ns);
        let ready_ns = has(server::READY).then_some(part.ready_ns);
        let answered_ns = has(server::ANSWERED).then_some(part.answered_ns);
        Some(Self {
            ready_ns,
            read_ns: Some(part.read_ns),
            answered_ns,
            end: part.end,
            answer: part.answer,
            wait: ready_ns.map(from_ready).unwrap_or_default(),
            service: answered_ns.map(to_answer).unwrap_or_default(),
        })
    }
}

/// Whether a shake of a client's connection that was due at an instant, and never sent, is in the
/// sample.
#[must_use]
pub fn is_joined_at(client: SocketAddrV4, due_ns: u64) -> bool {
    let key = key_v4(u32::from(*client.ip()), client.port());
    // In microseconds: an instant of a schedule may be a multiple of many nanoseconds.
    is_joined(request_hash(key, (due_ns / 1000) as u32))
}

impl Evidence {
    /// With what the server's thread did.
    #[must_use]
    pub fn with_server_side(self, side: &ServerSide) -> Self {
        Self { server_wait: side.wait, server_service: side.service, ..self }
    }

    /// With what the server's thread did of a request from an instant on. What it did when, the
    /// other kernel does not say: each counts in proportion.
    #[must_use]
    pub(crate) fn since(self, request: &Request, from_ns: u64) -> Self {
        let rest = |spent: Spent, begin: Option<u64>, end: Option<u64>| match (begin, end) {
            (Some(begin), Some(end)) => {
                let left_ns = end.saturating_sub(begin.max(from_ns));
                spent.part(left_ns, end.saturating_sub(begin))
            }
            _ => Spent::default(),
        };
        let [_, t2, t3, t4, ..] = request.instants_ns();
        Self {
            server_wait: rest(self.server_wait, t2, t3),
            server_service: rest(self.server_service, t3, t4),
            ..self
        }
    }
}

impl Request {
    /// Whether this request of a client's connection is in the sample that is joined between hosts.
    pub fn is_joined(&self, client: SocketAddrV4) -> bool {
        let key = key_v4(u32::from(*client.ip()), client.port());
        is_joined(request_hash(key, self.sequence))
    }

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
            // More may have been read with it; not less, and its answer must be what came.
            mixed: self.mixed
                || side.end.wrapping_sub(self.end).cast_signed() < 0
                || side.answer != self.answer,
            beside: self.beside || side.end != self.end,
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
            end: 27,
            answer: 90,
            sent_ns: 1_000,
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: Some(1_900),
            read_ns: Some(2_000),
            losses: 0,
            mixed: false,
            beside: false,
            unread_ns: None,
            client_slot: 1,
            server_slot: 0,
        };
        assert!(half.is_half() && half.segments().is_none());
        for clock in [0, 5_000_000, u64::MAX - 200] {
            let at = |ns: u64| Some(clock.wrapping_add(ns));
            let (ready_ns, read_ns, answered_ns) = (at(100), at(250), at(600));
            let side = ServerSide { ready_ns, read_ns, answered_ns, ..ANSWERED };
            let whole = half.with_server_side(&side);
            assert!(!whole.mixed);
            let segments = whole.segments().expect("all instants");
            // 900 ns away from the client, 500 of them at the server.
            assert_eq!(
                (segments.network_ns, segments.server_wait_ns, segments.server_service_ns),
                (400, 150, 350)
            );
            assert_eq!(segments.client_receive_lag_ns, 100);
            assert_eq!(whole.server_ready_ns, Some(1_200));
        }
        let unanswered = ServerSide { answered_ns: None, ..ANSWERED };
        assert_eq!(half.with_server_side(&unanswered), half);
        // It was read in pieces, or something else came before the answer.
        for other in [ServerSide { end: 20, ..ANSWERED }, ServerSide { answer: 99, ..ANSWERED }] {
            assert!(half.with_server_side(&other).mixed, "{other:?}");
        }
        // What was read beside it came after it.
        let beside = half.with_server_side(&ServerSide { end: 47, ..ANSWERED });
        assert!(beside.beside && !beside.mixed, "{beside:?}");
    }

    const ANSWERED: ServerSide = ServerSide {
        ready_ns: Some(1),
        read_ns: Some(2),
        answered_ns: Some(3),
        end: 27,
        answer: 90,
        wait: Spent::NOTHING,
        service: Spent::NOTHING,
    };

    #[test]
    fn one_request_in_64_is_joined() {
        let (mut joined, mut unsent) = (0, 0);
        for number in 0..640_000_u32 {
            // Users ask in turn, each in a stream of its own that grows by 20 bytes.
            let (port, sequence) = (1024 + number % 1000, number / 1000 * 20);
            let key = key_v4(0x0a00_0001, port as u16);
            joined += u32::from(is_joined(request_hash(key, sequence)));
            let client = SocketAddrV4::new(0x0a00_0001.into(), port as u16);
            unsent += u32::from(is_joined_at(client, u64::from(number) * 16_666));
        }
        // Four standard deviations of such a sample are 400.
        assert!((9_600..=10_400).contains(&joined), "{joined}");
        assert!((9_600..=10_400).contains(&unsent), "{unsent}");
    }
}
