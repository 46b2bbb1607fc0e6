//! Why a request took its time: read from the traces when the request is over.

use std::net::SocketAddrV4;

use attribution::{
    Attributed, Cause, ClientSide, Evidence, Request, Sampled, Seconds, SlowRequest, attribute,
};
use shard::ConnId;

use crate::load::state::LoadGenerator;
use crate::traces::{TraceReader, evidence};

/// Requests of a second and shard that are passed on: at one in 64, more than a shard can make.
const MOST_SAMPLED: usize = 4096;

/// A request that is over.
#[derive(Clone, Copy)]
struct Over {
    phase: u16,
    from: SocketAddrV4,
    due_ns: u64,
    latency_ns: u64,
}

/// What the traces have of a request.
struct Traced {
    request: Option<Request>,
    evidence: Evidence,
    attributed: Attributed,
}

impl Over {
    /// Looks the request up. `answered`: the calling thread has just read its answer.
    fn look_up(&self, traces: &dyn TraceReader, answered: bool) -> Traced {
        let end_ns = self.due_ns + self.latency_ns;
        let mut request = traces.request(self.from);
        if let Some(request) = request.as_mut().filter(|_| answered) {
            request.read_at(end_ns);
        }
        let evidence = request
            .as_ref()
            .map(|request| evidence(traces, request, self.due_ns, end_ns))
            .unwrap_or_default();
        let attributed = attribute(self.due_ns, self.latency_ns, request.as_ref(), &evidence);
        Traced { request, evidence, attributed }
    }

    /// What the traces have, if it is of this request and not of an earlier one.
    fn own<'a>(&self, request: Option<&'a Request>) -> Option<&'a Request> {
        request.filter(|request| request.sent_ns >= self.due_ns)
    }
}

impl LoadGenerator {
    /// The client's end of a user's connection.
    fn flow_of(&self, user: u32) -> SocketAddrV4 {
        let flow = self.share.global(user) - self.rules.first_flow;
        self.rules.flows.of(flow, u32::from(self.users[user as usize].ports))
    }

    /// Bytes are there for a connection, and will be read next.
    pub(crate) fn prefetch(&self, conn: ConnId) {
        if let (Some(traces), Some(user)) = (&self.traces, self.user_of(conn)) {
            traces.prepare(self.flow_of(user));
        }
    }

    /// An answer has come: attributes its time, and keeps a record of it when it is among the
    /// slowest.
    pub(super) fn attribute_answer(&mut self, user: u32, due_ns: u64, latency_ns: u64) {
        let wanted = self.slow.wants(latency_ns);
        if self.traces.is_none() && !wanted {
            return;
        }
        let at = &self.users[user as usize];
        let lag_us = at.lag_us;
        let over = Over { phase: at.phase, from: self.flow_of(user), due_ns, latency_ns };
        let (mut seen, mut client_side) = (None, None);
        if let Some(traces) = &self.traces {
            if !traces.has(over.from, due_ns) {
                self.causes.enter_unsampled(over.phase, over.latency_ns);
                return;
            }
            let traced = over.look_up(traces.as_ref(), true);
            client_side = self.record_traced(&over, &traced);
            seen = traced.request.map(|request| (request, traced.attributed));
        }
        if wanted {
            let request = SlowRequest {
                user: self.share.global(user),
                from: over.from,
                phase: over.phase,
                due_ns,
                send_lag_us: u64::from(lag_us),
                latency_us: latency_ns / 1000,
                trace: None,
                client_side,
            };
            self.slow.enter(request, seen);
        }
    }

    /// Enters a request into the sums of its second. Returns the client's end of it, if the other
    /// end is to be joined elsewhere.
    fn record_traced(&mut self, over: &Over, traced: &Traced) -> Option<ClientSide> {
        let own = over.own(traced.request.as_ref());
        let client_side = own
            .filter(|request| self.rules.join && request.is_half())
            .map(|request| ClientSide { request: *request, evidence: traced.evidence });
        if !self.is_in_sample(over.from, traced.request.as_ref()) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
        } else if own.is_some_and(|request| request.mixed) {
            self.causes.enter_mixed(over.phase, over.latency_ns);
        } else if let Some(client_side) = client_side {
            self.pass_on(over, client_side);
        } else {
            self.record(over, &traced.attributed);
        }
        client_side
    }

    /// A shake has timed out: explained as far as its instants go. Where the server's end is
    /// another host's, only a loss is known.
    pub(super) fn attribute_timeout(&mut self, user: u32, due_ns: u64) {
        let Some(traces) = &self.traces else { return };
        let over = Over {
            phase: self.users[user as usize].phase,
            from: self.flow_of(user),
            due_ns,
            latency_ns: self.rules.timeout_ns,
        };
        if !traces.has(over.from, due_ns) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
            return;
        }
        let traced = over.look_up(traces.as_ref(), false);
        let request = traced.request.as_ref();
        if !self.is_in_sample(over.from, request) {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
            return;
        }
        let attributed = if self.rules.join {
            let lost = over.own(request).is_some_and(|request| request.losses > 0);
            let cause = if lost { Cause::NetworkLoss } else { Cause::Unexplained };
            Attributed::to_one(cause, over.latency_ns)
        } else {
            traced.attributed
        };
        self.record(&over, &attributed);
    }

    fn record(&mut self, over: &Over, attributed: &Attributed) {
        self.causes.enter(over.phase, over.latency_ns, attributed, self.seconds(over));
        if let Some(segments_ns) = attributed.segments_ns {
            self.recorder.record_segments(over.phase, segments_ns);
        }
    }

    fn seconds(&self, over: &Over) -> Seconds {
        let second = |ns| self.clock.unix_second(ns);
        Seconds { due: second(over.due_ns), over: second(over.due_ns + over.latency_ns) }
    }

    /// Whether a request counts: all do, unless they are joined with the server's ends elsewhere.
    fn is_in_sample(&self, from: SocketAddrV4, request: Option<&Request>) -> bool {
        !self.rules.join || request.is_none_or(|request| request.is_joined(from))
    }

    /// Passes a request on to where it is joined with the server's end of it.
    fn pass_on(&mut self, over: &Over, client_side: ClientSide) {
        if self.sampled.len() < MOST_SAMPLED {
            let Over { phase, from, due_ns, latency_ns } = *over;
            let seconds = self.seconds(over);
            let sampled = Sampled { from, phase, due_ns, latency_ns, seconds, client_side };
            self.sampled.push(sampled);
        } else {
            self.causes.enter_unsampled(over.phase, over.latency_ns);
        }
    }
}
