//! Requests of the sample whose other end another host's kernel has seen: as they are passed on to
//! where all hosts report to, and recorded there like those that a client attributes itself.

use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::attribute::{Attributed, Evidence, attribute};
use crate::histograms::SegmentRecorder;
use crate::join::ServerSide;
use crate::request::Request;
use crate::row::row;
use crate::spent::Spent;
use crate::sums::{CauseRecorder, Seconds};

/// The client's end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSide {
    /// What the client's kernel saw.
    pub request: Request,
    /// What the client's thread did.
    pub evidence: Evidence,
}

/// A request of the sample, as the client's host saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SampledRow", from = "SampledRow")]
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
    pub seconds: Seconds,
    /// The client's end.
    pub client_side: ClientSide,
}

impl Sampled {
    /// Whether this is a shake that could not start, and the request is what its user waited for.
    fn waits_for_it(&self) -> bool {
        self.client_side.request.sent_ns < self.due_ns
    }
}

row! {
    /// A request on its way between hosts, as short as can be.
    struct SampledRow {
        from: SocketAddrV4,
        phase: u16,
        time: TimeRow,
        seconds: SecondsRow,
        stretch: StretchRow,
        after_due: AfterDueRow,
        losses: u32,
        send_lag: Spent,
        client_receive: Spent,
    }
}

row! {
    struct TimeRow {
        due_ns: u64,
        latency_ns: u64,
    }
}

row! {
    struct SecondsRow {
        due: u64,
        over: u64,
    }
}

row! {
    /// Numbers of bytes in the stream.
    struct StretchRow {
        sequence: u32,
        end: u32,
        answer: u32,
    }
}

row! {
    /// Instants, in nanoseconds after the one at which the request was due.
    struct AfterDueRow {
        sent_ns: u64,
        ready_ns: Option<u64>,
        read_ns: Option<u64>,
    }
}

impl From<Sampled> for SampledRow {
    fn from(sampled: Sampled) -> Self {
        let Sampled { from, phase, due_ns, latency_ns, seconds, client_side } = sampled;
        let ClientSide { request, evidence } = client_side;
        let after = |ns: u64| ns.wrapping_sub(due_ns);
        Self {
            from,
            phase,
            time: TimeRow { due_ns, latency_ns },
            seconds: SecondsRow { due: seconds.due, over: seconds.over },
            stretch: StretchRow {
                sequence: request.sequence,
                end: request.end,
                answer: request.answer,
            },
            after_due: AfterDueRow {
                sent_ns: after(request.sent_ns),
                ready_ns: request.ready_ns.map(after),
                read_ns: request.read_ns.map(after),
            },
            losses: request.losses,
            send_lag: evidence.send_lag,
            client_receive: evidence.client_receive,
        }
    }
}

impl From<SampledRow> for Sampled {
    fn from(row: SampledRow) -> Self {
        let TimeRow { due_ns, latency_ns } = row.time;
        let at = |after_ns: u64| due_ns.wrapping_add(after_ns);
        let request = Request {
            sequence: row.stretch.sequence,
            end: row.stretch.end,
            answer: row.stretch.answer,
            sent_ns: at(row.after_due.sent_ns),
            server_ready_ns: None,
            server_read_ns: None,
            answered_ns: None,
            ready_ns: row.after_due.ready_ns.map(at),
            read_ns: row.after_due.read_ns.map(at),
            losses: row.losses,
            mixed: false,
            beside: false,
            unread_ns: None,
            client_slot: 0,
            server_slot: 0,
        };
        let (send_lag, client_receive) = (row.send_lag, row.client_receive);
        let evidence = Evidence { send_lag, client_receive, ..Evidence::default() };
        Self {
            from: row.from,
            phase: row.phase,
            due_ns,
            latency_ns,
            seconds: Seconds { due: row.seconds.due, over: row.seconds.over },
            client_side: ClientSide { request, evidence },
        }
    }
}

/// Records requests of the sample, each with the server's end of it if that was found. Without
/// `sides` no host has looked for them.
pub fn record_joined(
    requests: &[Sampled],
    sides: Option<&[Option<ServerSide>]>,
    causes: &mut CauseRecorder,
    recorder: &mut SegmentRecorder,
) {
    for (place, sampled) in requests.iter().enumerate() {
        let Some(side) = sides.and_then(|sides| sides.get(place)) else {
            causes.enter_unsampled(sampled.phase, sampled.latency_ns);
            continue;
        };
        let (phase, latency_ns) = (sampled.phase, sampled.latency_ns);
        let ClientSide { request, evidence } = sampled.client_side;
        let join = |side: ServerSide| {
            let whole = request.with_server_side(&side);
            let evidence = evidence.with_server_side(&side);
            if sampled.waits_for_it() {
                (whole.since(sampled.due_ns), evidence.since(&whole, sampled.due_ns))
            } else {
                (whole, evidence)
            }
        };
        let whole = side.map(join);
        if whole.is_some_and(|(whole, _)| whole.mixed) {
            causes.enter_mixed(phase, latency_ns);
            continue;
        }
        let attributed = whole.map_or_else(
            || Attributed::unexplained(latency_ns),
            |(whole, evidence)| attribute(sampled.due_ns, latency_ns, Some(&whole), &evidence),
        );
        causes.enter(phase, latency_ns, &attributed, sampled.seconds);
        // The segments are those of the request, which counts itself.
        if let Some(segments_ns) = attributed.segments_ns
            && !sampled.waits_for_it()
        {
            recorder.record_segments(phase, segments_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::causes::{Cause, PerCause};
    use crate::spent::Doing;

    const DUE: u64 = 5_000_000_000;

    /// 100 µs until it left, 400 on the way and at the server, 50 until it was read.
    fn sampled(sequence: u32) -> Sampled {
        let row = json!([
            "10.0.0.2:1024",
            2,
            [DUE, 550_000],
            [7, 8],
            [sequence, sequence + 20, 90],
            [100_000, 500_000, 550_000],
            0,
            [20_000, 0, 0, 60_000, 0, 0, 0, 0, 10_000, 0, 10_000, 0],
            [20_000, 0, 0, 30_000, 0, 0, 0, 0, 0, 0, 0, 0],
        ]);
        serde_json::from_value(row).expect("a row")
    }

    /// 300 µs at the server, on a clock of its own.
    fn side(sequence: u32) -> ServerSide {
        let mut wait = Spent::all(Doing::WaitOther, 80_000);
        wait += Spent::all(Doing::Run, 20_000);
        ServerSide {
            ready_ns: Some(77),
            read_ns: Some(77 + 100_000),
            answered_ns: Some(77 + 300_000),
            end: sequence + 20,
            answer: 90,
            wait,
            service: Spent::all(Doing::Run, 200_000),
        }
    }

    #[test]
    fn a_request_survives_the_way_between_hosts() {
        let request = sampled(3);
        let text = serde_json::to_string(&request).expect("JSON");
        assert!(text.len() < 200, "{text}");
        assert_eq!(serde_json::from_str::<Sampled>(&text).expect("the same"), request);
        assert_eq!(request.client_side.request.read_ns, Some(DUE + 550_000));
    }

    /// A shake that was due while its user waited for the request of the fixture: 250 µs after that
    /// was due, and over when that was read.
    #[test]
    fn a_shake_that_waits_has_what_is_left_of_its_users_request() {
        let mut waits = sampled(1);
        (waits.due_ns, waits.latency_ns) = (DUE + 250_000, 300_000);
        waits.client_side.evidence.send_lag = Spent::default();
        let text = serde_json::to_string(&waits).expect("JSON");
        assert_eq!(serde_json::from_str::<Sampled>(&text).expect("the same"), waits);
        let (mut causes, mut recorder) = (CauseRecorder::default(), SegmentRecorder::default());
        let stopped = Spent::all(Doing::Stopped, 100_000);
        let sides = [Some(ServerSide { wait: stopped, ..side(1) })];
        record_joined(&[waits], Some(&sides), &mut causes, &mut recorder);
        let all: Vec<_> = causes.take().collect();
        let [(2, rows)] = &all[..] else { panic!("{all:?}") };
        let mut us = PerCause::default();
        // The server read the request at that instant: what it did before is not this one's.
        for (cause, time) in [
            (Cause::ServerBusy, 200),
            (Cause::NetworkDelay, 50),
            (Cause::ClientBusy, 20),
            (Cause::ClientRunqueue, 30),
        ] {
            us[cause] = time;
        }
        let [sum] = rows.sums[..] else { panic!("{rows:?}") };
        assert_eq!((rows.requests, rows.unsampled, sum.causes_us), (1, 0, us));
        assert_eq!(recorder.take().count(), 0);
    }

    #[test]
    fn joined_requests_are_accounted_for_and_the_others_are_not_guessed() {
        let requests: Vec<Sampled> = [1, 2, 3].map(sampled).to_vec();
        // The second was not found; the third was read in pieces.
        let sides = [Some(side(1)), None, Some(ServerSide { end: 10, ..side(3) })];
        let (mut causes, mut recorder) = (CauseRecorder::default(), SegmentRecorder::default());
        record_joined(&requests, Some(&sides), &mut causes, &mut recorder);
        record_joined(&requests, None, &mut causes, &mut recorder);
        // A host that has no probes answers, but for none of them.
        record_joined(&requests, Some(&[]), &mut causes, &mut recorder);
        let all: Vec<_> = causes.take().collect();
        let [(2, rows)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((rows.requests, rows.mixed, rows.incomplete, rows.unsampled), (2, 1, 1, 6));
        let mut us = PerCause::default();
        for (cause, time) in [
            (Cause::ClientRunqueue, 60 + 30),
            (Cause::ClientBusy, 20 + 20),
            (Cause::ClientPacing, 10),
            (Cause::NetworkDelay, 100),
            (Cause::ServerRunqueue, 80),
            (Cause::ServerBusy, 20 + 200),
            (Cause::Unexplained, 10 + 550),
        ] {
            us[cause] = time;
        }
        let [sum] = rows.sums[..] else { panic!("{rows:?}") };
        assert_eq!((sum.requests, sum.causes_us), (2, us));
        assert_eq!(rows.moved.len(), 1);
        let recorded: Vec<u64> = recorder.take().map(|filled| filled.values.max()).collect();
        assert_eq!(recorded, [100, 100, 200, 50]);
    }
}
