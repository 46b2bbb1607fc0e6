//! Requests of the sample whose other end the server's host has seen: passed on to where all hosts
//! report to, joined there, and accounted for like those that a client explains itself.

use std::net::SocketAddrV4;

use ebpf::{CpuWait, Request, ServerSide};
use serde::{Deserialize, Serialize};

use crate::causes::{BeforeSend, Causes, Explained, explain};
use crate::latency::Recorder;
use crate::slow::Half;

/// Requests of a second and shard that are passed on: at one in 64, more than a shard can make.
pub const MOST: usize = 4096;

/// A request of the sample, as the client's host saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Row", from = "Row")]
pub struct Sampled {
    /// The client's end of the connection.
    pub from: SocketAddrV4,
    /// The phase in which it was due.
    pub phase: u16,
    /// When it was due, on the client's monotonic clock in nanoseconds.
    pub due_ns: u64,
    /// From that instant to the answer, in nanoseconds.
    pub latency_ns: u64,
    /// The Unix seconds in which it was due and over.
    pub seconds: (u64, u64),
    /// The client's end.
    pub half: Half,
}

/// A request on its way between hosts, as short as can be: address, phase, due and latency,
/// seconds, stretch of the stream, instants after due, receiving, losses, before the send.
type Row = (
    SocketAddrV4,
    u16,
    (u64, u64),
    (u64, u64),
    (u32, u32, u32),
    (u64, Option<u64>, Option<u64>),
    Option<(u64, u64)>,
    u32,
    (u64, u64, u64, u64),
);

impl From<Sampled> for Row {
    fn from(it: Sampled) -> Self {
        let Half { request, before } = it.half;
        let after = |ns: u64| ns.wrapping_sub(it.due_ns);
        (
            it.from,
            it.phase,
            (it.due_ns, it.latency_ns),
            it.seconds,
            (request.sequence, request.end, request.answer),
            (after(request.sent_ns), request.ready_ns.map(after), request.read_ns.map(after)),
            request.client_receive.map(|it| (it.foreign_ns, it.own_ns)),
            request.losses,
            (before.asleep_ns, before.waited.foreign_ns, before.waited.own_ns, before.unknown_ns),
        )
    }
}

impl From<Row> for Sampled {
    fn from(row: Row) -> Self {
        let (from, phase, (due_ns, latency_ns), seconds, stretch, instants, receive, losses, lag) =
            row;
        let (sequence, end, answer) = stretch;
        let (sent, ready, read) = instants;
        let at = |after: u64| due_ns.wrapping_add(after);
        let wait = |(foreign_ns, own_ns)| CpuWait { foreign_ns, own_ns };
        let (asleep_ns, foreign_ns, own_ns, unknown_ns) = lag;
        let request = Request {
            sequence,
            end,
            answer,
            sent_ns: at(sent),
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: ready.map(at),
            read_ns: read.map(at),
            server_wait: None,
            server_service: None,
            client_receive: receive.map(wait),
            losses,
            mixed: false,
            client_slot: 0,
            server_slot: 0,
            ready_totals: None,
            sent_totals: None,
        };
        let before = BeforeSend { asleep_ns, waited: wait((foreign_ns, own_ns)), unknown_ns };
        Self { from, phase, due_ns, latency_ns, seconds, half: Half { request, before } }
    }
}

/// Accounts for requests of the sample, to each of which the server's host has found its end, or
/// not; with `None` nobody has looked.
pub fn account(
    requests: &[Sampled],
    sides: Option<&[Option<ServerSide>]>,
    causes: &mut Causes,
    recorder: &mut Recorder,
) {
    for (place, sampled) in requests.iter().enumerate() {
        let Some(side) = sides.and_then(|sides| sides.get(place)) else {
            causes.enter_unsampled(sampled.phase);
            continue;
        };
        let (phase, latency_ns) = (sampled.phase, sampled.latency_ns);
        let Half { request, before } = sampled.half;
        let whole = side.map(|side| request.with_server_side(&side));
        if whole.is_some_and(|whole| whole.mixed) {
            causes.enter_mixed(phase);
            continue;
        }
        let explained = whole.map_or_else(
            || Explained::not(latency_ns),
            |whole| explain(sampled.due_ns, latency_ns, Some(&whole), before),
        );
        causes.enter(phase, latency_ns, &explained, sampled.seconds);
        if let Some(segments) = explained.segments {
            recorder.record_segments(phase, segments);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::Cause;

    const DUE: u64 = 5_000_000_000;

    /// 100 µs until it left, 400 on the way and at the server, 50 until it was read.
    fn sampled(sequence: u32) -> Sampled {
        Sampled::from((
            "10.0.0.2:1024".parse().expect("an address"),
            2,
            (DUE, 550_000),
            (7, 8),
            (sequence, sequence + 20, 90),
            (100_000, Some(500_000), Some(550_000)),
            Some((30_000, 0)),
            0,
            (0, 60_000, 0, 10_000),
        ))
    }

    /// 300 µs at the server, on a clock of its own.
    fn side(sequence: u32) -> ServerSide {
        ServerSide {
            ready_ns: Some(77),
            read_ns: Some(77 + 100_000),
            answered_ns: Some(77 + 300_000),
            end: sequence + 20,
            answer: 90,
            wait: Some(CpuWait { foreign_ns: 80_000, own_ns: 0 }),
            service: Some(CpuWait::default()),
        }
    }

    #[test]
    fn a_request_survives_the_way_between_hosts() {
        let request = sampled(3);
        let text = serde_json::to_string(&request).expect("JSON");
        assert!(text.len() < 200, "{text}");
        assert_eq!(serde_json::from_str::<Sampled>(&text).expect("the same"), request);
        assert_eq!(request.half.request.read_ns, Some(DUE + 550_000));
    }

    #[test]
    fn joined_requests_are_accounted_for_and_the_others_are_not_guessed() {
        let requests: Vec<Sampled> = [1, 2, 3].map(sampled).to_vec();
        // The second was not found; the third was read together with something else.
        let sides = [Some(side(1)), None, Some(side(4))];
        let (mut causes, mut recorder) = (Causes::default(), Recorder::default());
        account(&requests, Some(&sides), &mut causes, &mut recorder);
        account(&requests, None, &mut causes, &mut recorder);
        // A host that has no probes answers, but for none of them.
        account(&requests, Some(&[]), &mut causes, &mut recorder);
        let all: Vec<_> = causes.take().collect();
        let [(2, rows)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((rows.requests, rows.mixed, rows.incomplete, rows.unsampled), (2, 1, 1, 6));
        let mut us = [0; 7];
        for (cause, time) in [
            (Cause::ClientRunqueue, 60 + 30),
            (Cause::ClientBusy, 30 + 20),
            (Cause::NetworkDelay, 100),
            (Cause::ServerRunqueue, 80),
            (Cause::ServerBusy, 20 + 200),
            (Cause::Unexplained, 10 + 550),
        ] {
            us[cause as usize] = time;
        }
        let [(_, 2, sums)] = rows.sums[..] else { panic!("{rows:?}") };
        assert_eq!(sums, us);
        assert_eq!(rows.moved.len(), 1);
        let recorded: Vec<u64> = recorder.take().map(|filled| filled.values.max()).collect();
        assert_eq!(recorded, [100, 100, 200, 50]);
    }
}
